# Cross build for 64-bit ARM Linux (preset arm64); tests run under qemu. Debian: g++-aarch64-linux-gnu qemu-user-static and, after
# `dpkg --add-architecture arm64`, libhwy-dev:arm64 libgtest-dev:arm64 libgmock-dev:arm64.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
# Highway's NEON target wants AES; the notes that -Wno-psabi turns off are about code of GCC before 10.
set(CMAKE_CXX_FLAGS_INIT "-march=armv8-a+crypto -Wno-psabi")
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64-static)
