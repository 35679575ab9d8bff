#!/usr/bin/env bash
# What an include costs, counted in preprocessed lines (a test must not depend on the clock). Bounds: about 1.5 times the day's value, so that a
# heavy header that slips in is seen; seconds are in docs/benchmarks.md.
set -u
cxx=$1
cd "$(dirname "$0")/../.." || exit 2
bad=0
check() { # header bound
  local lines
  lines=$(echo "#include <$1>" | "$cxx" -std=c++20 -Iinclude -E -P -x c++ - | wc -l)
  printf '%-20s %7d lines (bound %d)\n' "$1" "$lines" "$2"
  [ "$lines" -le "$2" ] || bad=1
}
check ar/scheme.hpp 22000
check ar/dispatch.hpp 22000
check ar/quantize.hpp 90000
exit $bad
