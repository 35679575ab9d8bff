// The version, in one place: CMake and the pkg-config file read it from here.
#pragma once

#define AR_VERSION_MAJOR 0         ///< changes with what is incompatible
#define AR_VERSION_MINOR 1         ///< changes with what is new
#define AR_VERSION_PATCH 0         ///< changes with what is repaired
#define AR_VERSION_STRING "0.1.0"  ///< all three
