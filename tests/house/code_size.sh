#!/usr/bin/env bash
# Bytes of machine code that one use of one scheme costs a Cortex-M4 (g++ -Os, float lane), alone in its unit, and the symbols that somebody else
# would have to bring. The bounds are the day's values and a little room; the promise is the first scheme: at most 512 bytes each, no symbols.
set -u
cd "$(dirname "$0")/../.." || exit 2
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
flags="-std=c++20 -Os -mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard -ffreestanding -fno-exceptions -fno-rtti -ffp-contract=off -Wno-psabi"
bad=0
printf '%-42s %10s %10s %10s   %s\n' "scheme" quantize dequantize qdq "undefined symbols"
check() { # scheme, columns, bounds of quantize, dequantize, qdq (- for none), symbols that are allowed, further flags
  local scheme=$1 cols=$2 bounds=("$3" "$4" "$5") allowed=$6 sizes=() missing="" i=0 use
  shift 6
  for use in QUANTIZE DEQUANTIZE QDQ; do
    # shellcheck disable=SC2086
    arm-none-eabi-g++ $flags -DAR_NO_HIGHWAY -Iinclude "-DSCHEME=$scheme" -DCOLS="$cols" -D$use "$@" -c tests/house/code_size.cpp -o "$tmp/use.o" || exit 1
    sizes[i]=$(arm-none-eabi-size "$tmp/use.o" | awk 'NR == 2 {print $1}')
    missing="$missing $(arm-none-eabi-nm -u "$tmp/use.o" | awk '{print $2}' | xargs)"
    [ "${sizes[i]}" -le "${bounds[i]}" ] || { echo "$scheme $use: ${sizes[i]} bytes, bound ${bounds[i]}"; bad=1; }
    i=$((i + 1))
  done
  missing=$(echo "$missing" | tr ' ' '\n' | sort -u | xargs)
  printf '%-42s %10d %10d %10d   %s\n' "${scheme//ar::/} ${*//-D/}" "${sizes[@]}" "${missing:-none}"
  for use in $missing; do
    case " $allowed " in *" $use "*) ;; *) echo "$scheme needs $use"; bad=1 ;; esac
  done
}
check 'scheme<ar::int_sym<4>,ar::group<32>>' 32 512 512 512 ''
check 'scheme<ar::int_sym<8>,ar::group<32>>' 32 540 512 512 ''
check 'scheme<ar::int_sym<4>,ar::group<32>>' 32 800 320 720 '' -DANY_SHAPE
check 'scheme<ar::int_asym<4>,ar::group<32>>' 32 720 512 700 ''
check MXFP4 32 680 512 720 ''
check NVFP4_E5M3 16 1000 512 1000 ''
check 'scheme<ar::q4_0,ar::group<32>>' 32 2300 512 2300 'memset sqrtf' -DBLOCKS
check 'scheme<ar::q8_0,ar::group<32>>' 32 1600 512 1600 'memset' -DBLOCKS
check 'scheme<ar::q4_k,ar::group<256>>' 256 4700 600 4700 'memset memcpy sqrtf __aeabi_d2f' -DBLOCKS
exit $bad
