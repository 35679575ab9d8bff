// fp8_block_bytes: FP8 weights with a scale for every block of 128 x 128 (DeepSeek's layout; quant_method fp8, compressed-tensors strategy block).
// E4M3 codes [out x in] are the bytes of weight[out x in]; weight_scale_inv or weight_scale is [ceil(out / 128) x ceil(in / 128)], and the blocks at
// the ends may be short. In spite of the name "inv" a weight is code times scale.
// Source: auto-round 0.16.1, export_to_fp8; compressed-tensors 0.20.0, compressors/naive_quantized; equal byte for byte.
#pragma once

#include "ar/config.hpp"
#include "ar/detail/byte_rows.hpp"

namespace ar {
inline namespace AR_ABI {

struct fp8_block_bytes : bits::byte_rows<128, scale_order::blocks> {
  static constexpr const char* name = "fp8_block_bytes";
};
static_assert(Codec<fp8_block_bytes>);

}  // namespace AR_ABI
}  // namespace ar
