// mxfp4_nibbles: compressed-tensors' mxfp4-pack-quantized layout, and auto-round's MXINT4. Codes (sign and three bits of magnitude) [out x in]
// become weight_packed[out x in / 2] bytes, the first code in the low nibble; one E8M0 byte for 32 codes in weight_scale[out x in / 32].
// Source: compressed-tensors 0.20.0, compressors/mxfp4; auto-round 0.16.1, qlinear_fp and qlinear_int; equal byte for byte.
#pragma once

#include "ar/config.hpp"
#include "ar/detail/byte_rows.hpp"

namespace ar {
inline namespace AR_ABI {

struct mxfp4_nibbles : bits::nibble_rows<32> {
  static constexpr const char* name = "mxfp4_nibbles";
};
static_assert(Codec<mxfp4_nibbles>);

}  // namespace AR_ABI
}  // namespace ar
