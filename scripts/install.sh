#!/bin/sh
# install.sh PYTHON VENV SET: a virtual environment with the locked packages of SET (platform or dev) and the project.
# Says what it does; needs Python >= 3.11 and, on Debian and Ubuntu, the package python3-venv (installed when root).
set -eu
python=$1 venv=$2 set=$3
cd "$(dirname "$0")/.."

say() { printf '\033[2m-- %s\033[0m\n' "$*"; }

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "ChatCluster needs Python 3.11 or newer; \`$python\` is $("$python" --version 2>&1 || echo missing)." >&2
    echo "Name another one: make PYTHON=python3.12 ..." >&2
    exit 1
fi
if [ ! -x "$venv/bin/python" ]; then
    say "making a virtual environment in $venv"
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            say "installing Debian's python3-venv"
            apt-get update -qq >/dev/null && apt-get install -y -qq python3-venv >/dev/null
        else
            echo "Python's venv module is missing: sudo apt-get install python3-venv" >&2
            exit 1
        fi
    fi
    "$python" -m venv "$venv"
fi
say "installing the locked packages of requirements/$set.txt (hashes checked)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "requirements/$set.txt"
say "installing chatcluster from this checkout"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
touch "$venv/.platform"
[ "$set" = platform ] || touch "$venv/.dev"
