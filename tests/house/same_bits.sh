#!/usr/bin/env bash
# g++ and clang++ at -O0 to -O3 give the same bits for every data type: one hash of codes, scales, blocks, weights and packed words. Takes minutes (label nightly).
# Arguments: compilers. AR_TARGETS=all compiles every SIMD target of the machine family instead of one with vectors and one without.
set -u
cd "$(dirname "$0")/../.." || exit 2
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
[ $# -gt 0 ] || set -- g++ clang++
configurations=("-DHWY_COMPILE_ONLY_STATIC")
grep -qw avx2 /proc/cpuinfo && configurations+=("-DHWY_COMPILE_ONLY_STATIC -mavx2 -mfma -mbmi -mbmi2 -mf16c -maes -mpclmul")
[ "${AR_TARGETS:-}" = all ] && configurations=("")
for cxx; do
  for level in 0 1 2 3; do
    for configuration in "${configurations[@]}"; do
      flags="-std=c++20 -O$level -ffp-contract=off -Iinclude $configuration"
      for unit in cmake/dispatch*_unit.cpp; do
        # shellcheck disable=SC2086
        "$cxx" $flags -c "$unit" -o "$tmp/$(basename "$unit" .cpp).o" &
      done
      for job in $(jobs -p); do wait "$job" || exit 1; done
      # shellcheck disable=SC2086
      "$cxx" $flags tests/house/same_bits.cpp "$tmp"/dispatch*_unit.o -lhwy -o "$tmp/same_bits" || exit 1
      hash=$("$tmp/same_bits" 2> "$tmp/targets") || { echo "the targets of $cxx -O$level differ:$(cat "$tmp/targets")"; exit 1; }
      echo "$hash $cxx -O$level$(cat "$tmp/targets")" | tee -a "$tmp/all"
    done
  done
done
[ "$(cut -d' ' -f1 "$tmp/all" | sort -u | wc -l)" = 1 ] || { echo "the results differ"; exit 1; }
