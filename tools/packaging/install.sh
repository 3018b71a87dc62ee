#!/bin/sh
# Put the service's files in their places below DESTDIR (nothing: the host itself). Configuration that is there already stays.
# Usage: tools/packaging/install.sh [DESTDIR]
set -eu
cd "$(dirname "$0")"
to="${1:-}"

put() {
    install -D -m 644 "$1" "$to$2"
}

put_new() {
    [ -e "$to$2" ] || put "$1" "$2"
}

put mooraged.service /etc/systemd/system/mooraged.service
put mooraged.socket /etc/systemd/system/mooraged.socket
put sysusers.conf /etc/sysusers.d/moorage.conf
put tmpfiles.conf /etc/tmpfiles.d/moorage.conf
put kubelet.conf /etc/kubernetes/kubelet.conf.d/50-moorage.conf
put_new moorage.toml /etc/moorage/moorage.toml
put_new crictl.yaml /etc/crictl.yaml
