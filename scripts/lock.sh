#!/bin/sh
# lock.sh BIN: resolve the dependencies anew into requirements/{platform,operator,dev}.txt: exact versions with hashes, no URLs,
# for every platform and Python >= 3.11. Needs uv beside the project's other tools (it is in the dev set).
set -eu
cd "$(dirname "$0")/.."
mkdir -p requirements
compile() {
    "$1/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
        --no-annotate --upgrade --extra "$2" --output-file "requirements/$2.txt" pyproject.toml requirements/build.in
}
compile "$1" platform
compile "$1" operator
compile "$1" dev
if grep -nE 'https?://' requirements/*.txt; then
    echo "a lock holds a URL" >&2
    exit 1
fi
