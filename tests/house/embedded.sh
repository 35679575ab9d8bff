#!/usr/bin/env bash
# The library on a Cortex-M4 without operating system: freestanding, no exceptions, no RTTI, no Highway. Prints code size and undefined symbols.
set -eu
cd "$(dirname "$0")/../.."
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
arm-none-eabi-g++ -std=c++20 -Os -mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard -ffreestanding -fno-exceptions -fno-rtti -ffp-contract=off \
  -Wall -Wextra -Werror -DAR_NO_HIGHWAY -Iinclude -c examples/embedded_static.cpp -o "$tmp/embedded.o"
arm-none-eabi-size "$tmp/embedded.o"
undefined=$(arm-none-eabi-nm -u "$tmp/embedded.o" | sed 's/^ *U //' | sort -u)
echo "undefined symbols: ${undefined:-none}"
# memcpy and memset are what a freestanding compiler may call; anything else would be a run-time dependency.
echo "$undefined" | grep -vE '^(memcpy|memset|memmove|__aeabi_mem.*|)$' && { echo "the object needs a run-time library"; exit 1; }
exit 0
