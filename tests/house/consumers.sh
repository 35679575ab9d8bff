#!/usr/bin/env bash
# The ways to take the library into a project: find_package, pkg-config, add_subdirectory, FetchContent from a local path. Each builds and runs
# tests/consumer/main.cpp.
set -eu
cxx=$1 way=$2
root=$(cd "$(dirname "$0")/../.." && pwd)
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
# What is tested is the way in, not the kernels: one instruction set, without optimization, instead of six.
export CXXFLAGS="${CXXFLAGS:-} -O0 -DHWY_COMPILE_ONLY_STATIC"
# All ways compile the same units: with ccache, once (the folder of the build, which differs, is only part of the debug information).
if command -v ccache > /dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER=ccache CCACHE_NOHASHDIR=1; fi
install_library() {
  cmake -S "$root" -B "$tmp/ar" -G Ninja -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_BUILD_TYPE=Debug -DAR_BUILD_TESTS=OFF -DAR_BUILD_EXAMPLES=OFF -DCMAKE_INSTALL_PREFIX="$tmp/prefix" > "$tmp/log"
  cmake --build "$tmp/ar" >> "$tmp/log"
  cmake --install "$tmp/ar" >> "$tmp/log"
}
case $way in
  find_package)
    install_library
    cmake -S "$root/tests/consumer" -B "$tmp/build" -G Ninja -DCMAKE_CXX_COMPILER="$cxx" -DWAY=find_package -DCMAKE_PREFIX_PATH="$tmp/prefix" > "$tmp/log2"
    cmake --build "$tmp/build" && "$tmp/build/consumer" && "$tmp/build/consumer_dispatch" ;;
  pkg_config)
    install_library
    export PKG_CONFIG_PATH="$(dirname "$(find "$tmp/prefix" -name ar.pc)")"
    # shellcheck disable=SC2046
    "$cxx" -std=c++20 $(pkg-config --cflags ar) "$root/tests/consumer/main.cpp" -o "$tmp/consumer"
    "$tmp/consumer" ;;
  add_subdirectory|fetchcontent)
    cmake -S "$root/tests/consumer" -B "$tmp/build" -G Ninja -DCMAKE_CXX_COMPILER="$cxx" -DWAY=$way -DAR_ROOT="$root" > "$tmp/log2"
    # A consumer gets the library alone: no tests, no application, no flags of ours.
    if grep -qE 'auto-round|gtest' "$tmp/build/build.ninja"; then echo "the consumer's build holds our own targets"; exit 1; fi
    cmake --build "$tmp/build" && "$tmp/build/consumer" && "$tmp/build/consumer_dispatch" ;;
esac
