// mxfp8_bytes: compressed-tensors' mxfp8-quantized layout. E4M3 (or E5M2) codes [out x in] are the bytes of weight[out x in]; one E8M0 byte for
// 32 codes in weight_scale[out x in / 32].
// Source: compressed-tensors 0.20.0, compressors/mxfp8; auto-round 0.16.1, qlinear_fp; equal byte for byte.
#pragma once

#include "ar/config.hpp"
#include "ar/detail/byte_rows.hpp"

namespace ar {
inline namespace AR_ABI {

struct mxfp8_bytes : bits::byte_rows<32, scale_order::rows_by_groups> {
  static constexpr const char* name = "mxfp8_bytes";
};
static_assert(Codec<mxfp8_bytes>);

}  // namespace AR_ABI
}  // namespace ar
