// int8_bytes: compressed-tensors' int-quantized layout (W8A8). The bytes of weight[out x in] are signed numbers; a code is that number plus 128.
// Source: compressed-tensors 0.20.0, compressors/naive_quantized; equal byte for byte.
#pragma once

#include "ar/config.hpp"
#include "ar/detail/byte_rows.hpp"

namespace ar {
inline namespace AR_ABI {

struct int8_bytes : bits::byte_rows<0, scale_order::rows_by_groups, 0x80> {
  static constexpr const char* name = "int8_bytes";
};
static_assert(Codec<int8_bytes>);

}  // namespace AR_ABI
}  // namespace ar
