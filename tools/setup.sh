#!/bin/sh
# Install the Debian packages of tools/packages.txt that are missing, and make .venv with the project in it, editable.
# Usage: tools/setup.sh [VENV]
set -eu
cd "$(dirname "$0")/.."
venv="${1:-.venv}"
python="${PYTHON:-python3}"

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing_packages() {
    sed -e 's/#.*//' -e '/^[[:space:]]*$/d' tools/packages.txt | while read -r package; do
        installed "$package" || echo "$package"
    done
}

# A package that brings a service starts it on installation. None of ours is to run by itself: the standard hook forbids it meanwhile.
install_packages() {
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 1' INT TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    # Somebody else's package source may be out of order; whether ours is, the installation tells.
    apt-get update -q || true
    # shellcheck disable=SC2086
    apt-get install -q -y --no-install-recommends $1
}

missing="$(missing_packages | tr '\n' ' ')"
if [ -n "$missing" ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "setup: not root, and these packages are missing: $missing" >&2
        exit 1
    fi
    echo "setup: installing $missing"
    install_packages "$missing"
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: $python is $("$python" -V 2>&1), 3.11 or newer is needed (set PYTHON)" >&2
    exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check -e '.[dev]'
touch "$venv/.stamp"
