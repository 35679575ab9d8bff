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

/// Blocks as they are in a file -> a layer: its blocks, and the same as codes, scales (of K types in float: they are products) and, where the type has them,
/// biases. Rows come out in the checkpoint's order. The layer has the scheme of the type; its `weight` is left empty. error_kind::unsupported for types that
/// have no scheme.
result<tune::quantized_layer> unpack_gguf(io::gguf_type type, std::span<const std::byte> bytes, std::size_t rows, std::size_t cols, std::uint64_t heads);

/// The inverse: the blocks of the layer, or new ones from its codes, scales and zero points or biases, in groups of the type's. error_kind::unsupported
/// if the layer has neither, or the type's blocks are more than these (K types); error_kind::verification if a scale overflows half precision.
result<std::vector<std::byte>> store_gguf(const tune::quantized_layer& layer, io::gguf_type type, std::uint64_t heads);

/// Floats of rows x cols stored values.
result<void> decode_gguf(io::gguf_type type, std::span<const std::byte> bytes, std::size_t rows, std::size_t cols, std::span<float> out);

/// The same in the checkpoint's row order.
result<std::vector<float>> decode_rows(io::gguf_type type, std::span<const std::byte> bytes, std::size_t rows, std::size_t cols, std::uint64_t heads);

}  // namespace auto_round::exporting
