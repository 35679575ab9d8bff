# Bare metal, no operating system (preset embedded): Cortex-M4 with single-precision floating point. Debian: gcc-arm-none-eabi
# libnewlib-arm-none-eabi libstdc++-arm-none-eabi-dev.
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_CXX_COMPILER arm-none-eabi-g++)
set(CMAKE_CXX_FLAGS_INIT "-mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard -ffreestanding -fno-exceptions -fno-rtti")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)  # there is nothing to link programs with
set(AR_SIZE arm-none-eabi-size)
