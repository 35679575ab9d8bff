#!/usr/bin/env bash
# The test command: installs what is missing (Debian 12), builds, and runs all tests twice, first under AddressSanitizer and
# UndefinedBehaviorSanitizer, then as released. Ends with ctest's own summary.
set -eu
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}  # waiting threads give their core to others: much faster on a shared machine
./cmake/install-debian-packages.sh ccache clang doxygen libomp-dev libgtest-dev libgmock-dev gcc-arm-none-eabi libnewlib-arm-none-eabi libstdc++-arm-none-eabi-dev
jobs=$(nproc)
lscpu | grep -E '^(Model name|Flags)' | sed -E 's/^Flags: */SIMD: /' | awk '/^SIMD/{printf "SIMD:"; for(i=2;i<=NF;i++) if($i ~ /^(ssse3|sse4_2|avx2|avx512f|avx512bw|avx512_bf16|avx512_vnni|amx.*|f16c|fma)$/) printf " %s",$i; print ""; next}{print}'
export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1
# Without line numbers, which take an eighth of the time to compile: a finding names its function, and the preset alone gives its line.
cmake --preset asan -DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 >/dev/null
cmake --build --preset asan -j "$jobs"
ctest --preset asan -j "$jobs" --output-on-failure
cmake --preset release >/dev/null
cmake --build --preset release -j "$jobs"
ctest --preset release -j "$jobs" --output-on-failure
