#!/bin/sh
# Fail when the committed generated code is not what tools/generate.sh makes of the .proto files.
set -eu
cd "$(dirname "$0")/.."
fresh="$(mktemp -d "${TMPDIR:-/tmp}/moorage-drift-XXXXXX")"
trap 'rm -rf "$fresh"' EXIT
tools/generate.sh "$fresh"
status=0
for root in protos tools; do
    generated="$(cd "$fresh/$root" && find . -name '*_pb2*' | sort)"
    committed="$(cd "$root" && find . -name '*_pb2*.py*' ! -path '*/__pycache__/*' ! -path './importroot/*' | sort)"
    [ "$generated" = "$committed" ] || { echo "drift: $root holds other generated files than its .proto files make" >&2; status=1; }
    for file in $generated; do
        diff -u "$root/$file" "$fresh/$root/$file" || status=1
    done
done
[ $status -eq 0 ] || echo "drift: run 'make generate' and commit what it changes" >&2
exit $status
