// The version, in one place: CMake and the pkg-config file read it from here.
#pragma once

#define AR_VERSION_MAJOR 0
#define AR_VERSION_MINOR 1
#define AR_VERSION_PATCH 0
#define AR_VERSION_STRING "0.1.0"
