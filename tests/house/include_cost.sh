#!/usr/bin/env bash
# What an include costs, counted in preprocessed lines (a test must not depend on the clock). Bounds: about 1.5 times the day's value, so that a
# heavy header that slips in is seen. With a second argument, `seconds`, also the CPU seconds of the front end, best of three: docs/benchmarks.md.
set -u
cxx=$1 seconds=${2:-}
cd "$(dirname "$0")/../.." || exit 2
bad=0
bound() {
  case $1 in
    ar/scheme.hpp|ar/dispatch.hpp) echo 22000 ;;
    ar/config.hpp|ar/errc.hpp|ar/version.hpp|ar/view.hpp) echo 4000 ;;
    *) echo 90000 ;;
  esac
}
TIMEFORMAT='%U %S'
for header in $(cd include && ls ar/*.hpp); do
  lines=$(echo "#include <$header>" | "$cxx" -std=c++20 -Iinclude -E -P -x c++ - | wc -l)
  printf '%-20s %7d lines (bound %d)' "$header" "$lines" "$(bound "$header")"
  if [ -n "$seconds" ]; then
    for _ in 1 2 3; do { time echo "#include <$header>" | "$cxx" -std=c++20 -Iinclude -fsyntax-only -x c++ -; } 2>&1; done |
      awk '{s = $1 + $2; if (NR == 1 || s < best) best = s} END {printf "  %.2f s", best}'
  fi
  echo
  [ "$lines" -le "$(bound "$header")" ] || bad=1
done
exit $bad
