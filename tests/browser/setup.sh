#!/usr/bin/env bash
# Find or install what the browser tests need, all in .browser/ but Debian's packages; .browser/env exports where it is.
# Without a browser the tests skip, or fail under REPORT_TEST=required.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p .browser
cd .browser
here=$PWD
AXE_VERSION=4.14.1

find_browser() {
  local name
  for name in ${CHROMIUM:-} chromium chromium-headless-shell google-chrome "$here/root/usr/lib/chromium/chromium"; do
    command -v "$name" && return
  done
  return 1
}

install_unpacked() {  # without root: what apt would install, unpacked here, with lists and caches of our own
  local options=(-o Dir::State="$here/apt" -o Dir::Cache="$here/apt" -o Dir::State::status=/var/lib/dpkg/status
                 -o APT::Sandbox::User="$(id -un)")
  mkdir -p apt/lists/partial apt/archives/partial debs root
  apt-get -qq "${options[@]}" update
  local names
  names=$(apt-get "${options[@]}" --simulate --no-install-recommends install chromium | sed -n 's/^Inst \([^ ]*\).*/\1/p')
  # shellcheck disable=SC2086  # one word per package
  (cd debs && apt-get -qq "${options[@]}" download $names)
  for deb in debs/*.deb; do dpkg -x "$deb" root; done
  rm -rf debs apt
}

if ! browser=$(find_browser); then
  echo "installing Chromium" >&2
  if [ "$(id -u)" = 0 ]; then
    { apt-get -qq update && apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends chromium; } > apt.log 2>&1
  else
    install_unpacked > apt.log 2>&1
  fi || echo "no Chromium: see $here/apt.log, or set CHROMIUM=PATH" >&2
  browser=$(find_browser) || browser=
fi

if [ ! -f axe.min.js ]; then
  if command -v npm > npm.log; then
    npm pack --silent "axe-core@$AXE_VERSION" > npm.log 2>&1 && tar -xzf axe-core-*.tgz --strip-components=1 package/axe.min.js
  else
    "${PY:-python3}" -m pip download --quiet --no-deps --dest . axe-playwright-python
    unzip -p axe_playwright_python-*.whl '*/axe.min.js' > axe.min.js
  fi || echo "no axe-core: see $here/npm.log" >&2
fi

{
  printf 'export CHROMIUM=%q AXE=%q\n' "$browser" "$here/axe.min.js"
  if [ "$browser" = "$here/root/usr/lib/chromium/chromium" ]; then
    printf 'export LD_LIBRARY_PATH=%q\n' "$(find "$here/root" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)"
    if [ -d root/etc/fonts ]; then
      printf 'export FONTCONFIG_PATH=%q XDG_DATA_HOME=%q\n' "$here/root/etc/fonts" "$here/root/usr/share"
    fi
  fi
} > env
