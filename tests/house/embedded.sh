#!/usr/bin/env bash
# The preset embedded: a Cortex-M4 without operating system, freestanding, no exceptions, no RTTI, no Highway. Prints code size and undefined symbols.
set -eu
cd "$(dirname "$0")/../.."
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cmake --preset embedded -B "$tmp" >/dev/null
cmake --build "$tmp" | grep -A2 'text.*data.*bss'
undefined=$(arm-none-eabi-nm -u "$tmp/examples/libembedded_static.a" | sed -n 's/^ *U //p' | sort -u)
echo "undefined symbols: ${undefined:-none}"
[ -z "$undefined" ] || { echo "the object needs a run-time library"; exit 1; }
