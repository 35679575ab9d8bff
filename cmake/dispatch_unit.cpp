// The one translation unit that holds the kernels of every SIMD target.
#define AR_DISPATCH_IMPLEMENTATION
#include <ar/dispatch.hpp>
