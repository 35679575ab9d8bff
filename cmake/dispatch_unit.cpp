// The translation unit that holds the kernels of every SIMD target, but for those of GGUF types (dispatch_gguf_unit.cpp), the searches
// (dispatch_search_unit.cpp), tuning (dispatch_tune_unit.cpp) and the packed layouts (dispatch_codec_unit.cpp).
#define AR_DISPATCH_IMPLEMENTATION
#define AR_DISPATCH_WITHOUT_CODECS
#define AR_DISPATCH_WITHOUT_GGUF
#define AR_DISPATCH_WITHOUT_SEARCH
#define AR_DISPATCH_WITHOUT_TUNE
#include <ar/dispatch.hpp>
