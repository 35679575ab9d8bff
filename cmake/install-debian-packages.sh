#!/usr/bin/env bash
# Installs what the build needs on Debian 12 (and Ubuntu 24.04), as root or through sudo; does nothing when everything is there.
# Arguments: further packages.
set -eu
packages="g++ cmake ninja-build pkg-config git ca-certificates libhwy-dev libeigen3-dev libxsimd-dev libdnnl-dev libfmt-dev libexpected-dev
  nlohmann-json3-dev libpcre2-dev libutf8proc-dev libzstd-dev libssl-dev $*"
missing=""
for p in $packages; do
  dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
echo "installing:$missing" >&2
sudo=""
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "these packages are missing and neither root nor sudo is at hand:$missing" >&2; exit 1; }
  sudo=sudo
fi
export DEBIAN_FRONTEND=noninteractive
# A list that is too old names versions that are gone, so it is fetched before the first try.
$sudo apt-get update -qq
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
