#!/bin/sh
# A real browser for tests/browser: Debian's Chromium and its driver, installed when root; otherwise those tests say why they skip.
set -eu
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    printf '\033[2m-- installing Debian packages chromium and chromium-driver for the browser tests\033[0m\n'
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core fonts-noto-color-emoji; } >/dev/null 2>&1 ||
        echo "-- could not install them: the browser tests are skipped"
else
    echo "-- no chromium and chromedriver here: the browser tests are skipped (Debian: apt-get install chromium chromium-driver)"
fi
