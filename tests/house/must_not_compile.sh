#!/usr/bin/env bash
# Wrong static schemes are compile errors: each block of must_not_compile.txt (separated by lines of dashes) has to fail, and the same text
# with its WRONG macro undefined has to compile, so that a typing mistake cannot pass for a refusal. What refuses does not depend on lanes: without
# Highway, whose headers would be most of the time.
set -u
cxx=$1
cd "$(dirname "$0")" || exit 2
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
csplit -s -z -f "$tmp/case" -b '%02d.cpp' must_not_compile.txt '/^----/' '{*}'
bad=0 n=0
for file in "$tmp"/case*.cpp; do
  sed -i '/^----/d' "$file"
  grep -q WRONG "$file" || continue
  title=$(head -1 "$file")
  if ! "$cxx" -std=c++20 -DAR_NO_HIGHWAY -I../../include -fsyntax-only "$file" 2> "$tmp/log"; then echo "does not compile even when right: $title"; head -5 "$tmp/log"; bad=1; fi
  if "$cxx" -std=c++20 -DAR_NO_HIGHWAY -I../../include -fsyntax-only -DWRONG "$file" 2> "$tmp/log"; then echo "compiles but must not: $title"; bad=1; fi
  n=$((n + 1))
done
echo "$n wrong programs are refused by the compiler"
[ $n -gt 0 ] || bad=1
exit $bad
