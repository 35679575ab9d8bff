#!/usr/bin/env bash
# The single header (CMake target single_header) stands alone: examples/hello_quantize.cpp with it in place of the doors says the same, with Highway
# and without; a copy that is included twice does no harm.
set -eu
cxx=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cmake -DINCLUDE_DIR="$root/include" -DOUT="$tmp/alone/ar.hpp" -P "$root/cmake/single_header.cmake"
echo "$(wc -lc < "$tmp/alone/ar.hpp" | xargs) lines and bytes"
sed 's|#include <ar/[a-z]*\.hpp>|#include "ar.hpp"|' "$root/examples/hello_quantize.cpp" > "$tmp/hello.cpp"
if grep -n 'include.*"ar/' "$tmp/alone/ar.hpp"; then echo "the single header includes a part of the library"; exit 1; fi
flags="-std=c++20 -O0 -ffp-contract=off -Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Werror"
# shellcheck disable=SC2086
"$cxx" $flags -I"$root/include" "$root/examples/hello_quantize.cpp" -o "$tmp/expected"
"$tmp/expected" > "$tmp/expected.txt"
for option in "" -DAR_NO_HIGHWAY; do
  # shellcheck disable=SC2086
  "$cxx" $flags $option -I"$tmp/alone" "$tmp/hello.cpp" -o "$tmp/hello"
  "$tmp/hello" | diff "$tmp/expected.txt" - && echo "$cxx $option: hello_quantize says the same"
done
