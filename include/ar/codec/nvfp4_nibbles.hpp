// nvfp4_nibbles: compressed-tensors' nvfp4-pack-quantized layout. E2M1 codes [out x in] become weight_packed[out x in / 2] bytes, the first code in
// the low nibble; one scale byte (E4M3, or UE5M3 in nvfp4-e5m3-pack-quantized) for 16 codes in weight_scale[out x in / 16].
// Source: compressed-tensors 0.20.0, compressors/nvfp4; auto-round 0.16.1, export/utils and qlinear_fp; equal byte for byte.
#pragma once

#include "ar/config.hpp"
#include "ar/detail/byte_rows.hpp"

namespace ar {
inline namespace AR_ABI {

struct nvfp4_nibbles : bits::nibble_rows<16> {
  static constexpr const char* name = "nvfp4_nibbles";
};
static_assert(Codec<nvfp4_nibbles>);

}  // namespace AR_ABI
}  // namespace ar
