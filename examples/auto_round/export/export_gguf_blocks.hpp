// One tensor in GGUF blocks: between quantized layers or floats and the bytes of a file. The block layouts are the library's.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "error.hpp"
#include "io/gguf.hpp"
#include "io/tensor.hpp"
#include "tune/layer.hpp"

namespace auto_round::exporting {

/// True if this program reads the type.
bool can_decode(io::gguf_type type);

/// Rows x blocks of `type` from the weight and parameters of the layer, whose scheme must be that of the type. As the original does, the weight is
/// rounded to the checkpoint's type `source` first. Rows come out in the order permuted_row(i, rows, heads). error_kind::verification if decoding
/// the bytes does not give the layer's weight back within a tenth of its norm, or if a scale overflows half precision.
result<std::vector<std::byte>> pack_gguf(const tune::quantized_layer& layer, io::gguf_type type, io::dtype source, std::uint64_t heads);

/// Floats of rows x cols stored values.
result<void> decode_gguf(io::gguf_type type, std::span<const std::byte> bytes, std::size_t rows, std::size_t cols, std::span<float> out);

/// The 64-bit digest (export_digest.hpp) of bytes decoded and put back into the source's row order.
result<std::uint64_t> decoded_digest(io::gguf_type type, std::span<const std::byte> bytes, std::size_t rows, std::size_t cols, std::uint64_t heads);

}  // namespace auto_round::exporting
