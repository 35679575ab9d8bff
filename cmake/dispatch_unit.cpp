// The translation unit that holds the kernels of every SIMD target, but for those of GGUF types: dispatch_gguf_unit.cpp.
#define AR_DISPATCH_IMPLEMENTATION
#define AR_DISPATCH_WITHOUT_GGUF
#include <ar/dispatch.hpp>
