// Layers to GGUF blocks and back through the library's kernels for this CPU.
#include "export/export_gguf_blocks.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ar/dispatch.hpp"
#include "ar/numeric/half.hpp"
#include "export/export_digest.hpp"
#include "export/export_gguf_types.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::size_t rows_at_once = 64;        // the unit of work of a thread
constexpr double largest_packing_error = 0.10;  // relative, of the whole tensor: the original's limit

const ar::gguf_kernels* kernels_of(io::gguf_type type) { return ar::kernels().gguf_type(static_cast<std::uint32_t>(type)); }

/// `values` [rows x width] in stored order.
std::vector<float> permuted(const std::vector<float>& values, std::size_t rows, std::uint64_t heads) {
  if (heads == 0 || rows == 0) return values;
  const std::size_t width = values.size() / rows;
  std::vector<float> out(values.size());
  for (std::size_t i = 0; i < rows; ++i) {
    const auto from = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(permuted_row(i, rows, heads)) * width);
    std::copy_n(values.begin() + from, width, out.begin() + static_cast<std::ptrdiff_t>(i * width));
  }
  return out;
}

/// The k-th row range of an array with `width` values a row; null for an array that the type does not have.
template <class T>
T* rows_from(std::vector<std::remove_const_t<T>>& values, std::size_t first_row, std::size_t rows) {
  return values.empty() ? nullptr : values.data() + values.size() / rows * first_row;
}

}  // namespace

bool can_decode(io::gguf_type type) {
  return type == io::gguf_type::f32 || type == io::gguf_type::f16 || type == io::gguf_type::bf16 || kernels_of(type) != nullptr;
}

result<std::vector<std::byte>> pack_gguf(const tune::quantized_layer& layer, io::gguf_type type, io::dtype source, std::uint64_t heads) {
  const ar::gguf_kernels* k = kernels_of(type);
  if (k == nullptr || k->pack == nullptr || layer.cols % k->block_elements != 0 || layer.weight.size() != layer.rows * layer.cols) {
    return fail(error_kind::internal, "the layer does not fit its GGUF type", {}, layer.name);
  }
  std::vector<float> weight = permuted(layer.weight, layer.rows, heads);
  if (source == io::dtype::bf16) std::transform(weight.begin(), weight.end(), weight.begin(), ar::round_to_bf16);
  if (source == io::dtype::f16) std::transform(weight.begin(), weight.end(), weight.begin(), ar::round_to_f16);
  std::vector<float> scale = permuted(layer.scale, layer.rows, heads), d_scale = permuted(layer.d_scale, layer.rows, heads);
  // Q4_1 and Q5_1 have a zero point, whichever way it came about.
  std::vector<float> offset = permuted(layer.wmin.empty() ? layer.zero_point : layer.wmin, layer.rows, heads), d_offset = permuted(layer.d_wmin, layer.rows, heads);
  const std::size_t row_bytes = layer.cols / k->block_elements * k->block_bytes;
  std::vector<std::byte> bytes(layer.rows * row_bytes);
  const std::size_t chunks = ar::ceil_div(layer.rows, rows_at_once);
  ar::errc failed = ar::errc::ok;
  double error = 0, norm = 0;
#pragma omp parallel for schedule(static)
  for (std::size_t c = 0; c < chunks; ++c) {
    const std::size_t first = c * rows_at_once, rows = std::min(rows_at_once, layer.rows - first);
    const ar::matrix_view<const float> w(weight.data() + first * layer.cols, rows, layer.cols);
    const ar::gguf_parameters<const float> parameters{rows_from<const float>(scale, first, layer.rows), rows_from<const float>(offset, first, layer.rows),
                                                      rows_from<const float>(d_scale, first, layer.rows), rows_from<const float>(d_offset, first, layer.rows)};
    const std::span<std::uint8_t> out(reinterpret_cast<std::uint8_t*>(bytes.data()) + first * row_bytes, rows * row_bytes);
    ar::errc e = k->pack(w, parameters, out);
    if (e == ar::errc::ok && !k->scales_are_finite(out)) e = ar::errc::not_representable;
    std::vector<float> decoded(w.size());
    if (e == ar::errc::ok) e = k->dequantize(out, ar::matrix_view<float>(decoded.data(), rows, layer.cols));
    double chunk_error = 0, chunk_norm = 0;
    for (std::size_t i = 0; i < decoded.size(); ++i) {
      const double d = static_cast<double>(decoded[i]) - static_cast<double>(w.data[i]);
      chunk_error += d * d;
      chunk_norm += static_cast<double>(w.data[i]) * static_cast<double>(w.data[i]);
    }
#pragma omp critical
    {
      if (e != ar::errc::ok) failed = e;
      error += chunk_error;
      norm += chunk_norm;
    }
  }
  if (failed != ar::errc::ok) return fail(error_kind::verification, std::string("the layer cannot be packed: ") + ar::message(failed), {}, layer.name);
  if (error > largest_packing_error * largest_packing_error * norm) {
    return fail(error_kind::verification, "the packed layer is more than 10 % away from the quantized weight", {}, layer.name);
  }
  return bytes;
}

result<void> decode_gguf(io::gguf_type type, std::span<const std::byte> bytes, std::size_t rows, std::size_t cols, std::span<float> out) {
  const io::gguf_type_facts facts = io::gguf_type_info(static_cast<std::uint32_t>(type));
  if (out.size() != rows * cols || facts.name == nullptr || cols % facts.block_elements != 0 ||
      bytes.size() != rows * (cols / facts.block_elements) * facts.block_bytes) {
    return fail(error_kind::internal, "the blocks of a GGUF tensor do not fit its shape");
  }
  if (type == io::gguf_type::f32) {
    std::memcpy(out.data(), bytes.data(), bytes.size());
    return {};
  }
  if (type == io::gguf_type::f16 || type == io::gguf_type::bf16) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      std::uint16_t v = 0;
      std::memcpy(&v, bytes.data() + 2 * i, 2);
      out[i] = type == io::gguf_type::f16 ? ar::f32_from_f16(v) : ar::f32_from_bf16(v);
    }
    return {};
  }
  const ar::gguf_kernels* k = kernels_of(type);
  if (k == nullptr) return fail(error_kind::unsupported, std::string("tensor type ") + facts.name + " cannot be read so far");
  const std::size_t row_bytes = cols / k->block_elements * k->block_bytes, chunks = ar::ceil_div(rows, rows_at_once);
  ar::errc failed = ar::errc::ok;
#pragma omp parallel for schedule(static)
  for (std::size_t c = 0; c < chunks; ++c) {
    const std::size_t first = c * rows_at_once, n = std::min(rows_at_once, rows - first);
    const std::span<const std::uint8_t> in(reinterpret_cast<const std::uint8_t*>(bytes.data()) + first * row_bytes, n * row_bytes);
    const ar::errc e = k->dequantize(in, ar::matrix_view<float>(out.data() + first * cols, n, cols));
    if (e != ar::errc::ok) {
#pragma omp critical
      failed = e;
    }
  }
  if (failed != ar::errc::ok) return fail(error_kind::internal, std::string("GGUF blocks cannot be decoded: ") + ar::message(failed));
  return {};
}

result<std::uint64_t> decoded_digest(io::gguf_type type, std::span<const std::byte> bytes, std::size_t rows, std::size_t cols, std::uint64_t heads) {
  std::vector<float> stored(rows * cols);
  if (auto r = decode_gguf(type, bytes, rows, cols, stored); !r) return forward_error(r);
  if (heads == 0) return digest(stored);
  std::vector<float> ordered(stored.size());
  for (std::size_t i = 0; i < rows; ++i) {
    const auto to = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(permuted_row(i, rows, heads)) * cols);
    std::copy_n(stored.begin() + static_cast<std::ptrdiff_t>(i * cols), cols, ordered.begin() + to);
  }
  return digest(ordered);
}

}  // namespace auto_round::exporting
