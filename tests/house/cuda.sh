#!/usr/bin/env bash
# Where nvcc is: ar/cuda/kernels.cuh compiles without a word for the host and for two generations of devices, links, and starts. Kernels run if there
# is a device; without one the host emulation (library.CudaKernels) says what they compute.
set -eu
nvcc=$1
cd "$(dirname "$0")/../.."
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
"$nvcc" -std=c++20 -O1 --fmad=false --expt-relaxed-constexpr -DAR_NO_HIGHWAY -Werror all-warnings \
  -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 -Iinclude tests/house/cuda_unit.cu -o "$tmp/unit"
cuobjdump=$(dirname "$(readlink -f "$nvcc")")/cuobjdump
[ ! -x "$cuobjdump" ] || "$cuobjdump" --list-elf "$tmp/unit"
"$tmp/unit"
