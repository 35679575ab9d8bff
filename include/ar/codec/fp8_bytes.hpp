// fp8_bytes: compressed-tensors' float-quantized and naive-quantized layouts, and auto-round's fp8_static. E4M3 codes [out x in] are the bytes of
// weight[out x in]; scales per row or group [out x groups], or one for the tensor.
// Source: compressed-tensors 0.20.0, compressors/naive_quantized; auto-round 0.16.1, export_to_fp8; equal byte for byte.
#pragma once

#include "ar/config.hpp"
#include "ar/detail/byte_rows.hpp"

namespace ar {
inline namespace AR_ABI {

struct fp8_bytes : bits::byte_rows<0, scale_order::rows_by_groups> {
  static constexpr const char* name = "fp8_bytes";
};
static_assert(Codec<fp8_bytes>);

}  // namespace AR_ABI
}  // namespace ar
