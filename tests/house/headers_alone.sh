#!/usr/bin/env bash
# Every public header compiles alone, first in a unit, with the given compiler, without exceptions and RTTI; and twice in one unit.
set -u
cxx=$1; shift
cd "$(dirname "$0")/../.." || exit 2
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
bad=0 n=0
for header in $(cd include && find ar -name '*.hpp' | sort); do
  printf '#include <%s>\n#include <%s>\n' "$header" "$header" > "$tmp/alone.cpp"
  if ! "$cxx" -std=c++20 -Iinclude -fsyntax-only -fno-exceptions -fno-rtti -ffp-contract=off -Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Werror -fsanitize=undefined "$@" "$tmp/alone.cpp" 2> "$tmp/log"; then
    echo "$header does not compile alone with $cxx $*:"; head -20 "$tmp/log"; bad=1
  fi
  n=$((n + 1))
done
echo "$n headers compile alone with $cxx $*"
exit $bad
