#!/usr/bin/env bash
# Two units compiled for different instruction sets link into one program and each keeps its own code: the inline namespace AR_ABI.
set -eu
cxx=$1
cd "$(dirname "$0")"
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
case $(uname -m) in
  x86_64) low="" high="-mavx2 -mfma -mbmi -mbmi2 -mf16c -maes -mpclmul" widest="-march=sapphirerapids" ;;
  *) low="" high="-O3" widest="" ;;
esac
# shellcheck disable=SC2086
"$cxx" -std=c++20 -O1 -ffp-contract=off -I../../include -DUNIT=low $low -c odr_unit.cpp -o "$tmp/low.o"
# shellcheck disable=SC2086
"$cxx" -std=c++20 -O1 -ffp-contract=off -I../../include -DUNIT=high $high -c odr_unit.cpp -o "$tmp/high.o"
# Flags that reach the last target that Highway knows compile too; not every machine could run it.
# shellcheck disable=SC2086
"$cxx" -std=c++20 -ffp-contract=off -I../../include -DUNIT=widest $widest -fsyntax-only odr_unit.cpp
"$cxx" -std=c++20 -O1 -I../../include odr_main.cpp "$tmp/low.o" "$tmp/high.o" -o "$tmp/odr"
# No weak vector-code symbol of the library may be shared by both units.
shared=$(comm -12 <(nm -C "$tmp/low.o" | awk '$2=="W"||$2=="V"{$1=$2="";print}' | sort -u) <(nm -C "$tmp/high.o" | awk '$2=="W"||$2=="V"{$1=$2="";print}' | sort -u) | grep -E '\b(hwy|ar)::' || true)
if [ -n "$shared" ] && [ "$(uname -m)" = x86_64 ]; then echo "shared between units of different targets:"; echo "$shared"; exit 1; fi
"$tmp/odr"
