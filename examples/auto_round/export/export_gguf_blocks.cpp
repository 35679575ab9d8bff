// Layers to GGUF blocks and back through the library's kernels for this CPU.
#include "export/export_gguf_blocks.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "ar/dispatch.hpp"
#include "ar/gguf.hpp"
#include "ar/numeric/half.hpp"
#include "export/export_gguf_types.hpp"
#include "export/export_stored_layer.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::size_t rows_at_once = 64;        // the unit of work of a thread
constexpr double largest_packing_error = 0.10;  // relative, of the whole tensor: the original's limit

const ar::gguf_kernels* kernels_of(io::gguf_type type) { return ar::kernels().gguf_type(static_cast<std::uint32_t>(type)); }

/// `values` [rows x width] in stored order, or back in the checkpoint's.
template <class T>
std::vector<T> permuted(const std::vector<T>& values, std::size_t rows, std::uint64_t heads, bool back = false) {
  if (heads == 0 || rows == 0) return values;
  const std::size_t width = values.size() / rows;
  std::vector<T> out(values.size());
  for (std::size_t i = 0; i < rows; ++i) {
    std::size_t from = static_cast<std::size_t>(permuted_row(i, rows, heads)), to = i;
    if (back) std::swap(from, to);
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(from * width), width, out.begin() + static_cast<std::ptrdiff_t>(to * width));
  }
  return out;
}
template <class T>
std::vector<T> unpermuted(const std::vector<T>& values, std::size_t rows, std::uint64_t heads) {
  return permuted(values, rows, heads, true);
}

/// Blocks of 32 whose weights are d * (code - 2^(bits-1)) or d * code + m.
template <class T>
constexpr bool is_plain = [] {
  if constexpr (T::block_size == 32 && T::sub_size == 32) {
    using params = typename T::template params<float>;
    if constexpr (requires(params p) { p.d; }) {
      constexpr bool minimum = requires(params p) { p.m; };
      if (sizeof(params) != (minimum ? 2 : 1) * sizeof(float)) return false;
      params p{};
      p.d = 2.0f;
      float zero = -2.0f * static_cast<float>(1 << (T::bits() - 1));
      if constexpr (minimum) p.m = zero = 3.0f;
      for (int c = 0; c < 1 << T::bits(); ++c)
        if (T::decode(static_cast<float>(c), p, 0) != 2.0f * static_cast<float>(c) + zero) return false;
      return true;
    }
  }
  return false;
}();

/// Calls f.operator()<T>() for the type of blocks with this id, if it is a plain one.
template <class F, class... T>
bool with_plain_type(io::gguf_type type, ar::type_list<T...>, const F& f) {
  const auto one = [&]<class U>() {
    if constexpr (is_plain<U>) {
      if (static_cast<std::uint32_t>(U::id) != static_cast<std::uint32_t>(type)) return false;
      f.template operator()<U>();
      return true;
    }
    return false;
  };
  return (one.template operator()<T>() || ...);
}

/// Codes, scales and biases of the layer's blocks, if they are plain ones.
void load_plain_blocks(io::gguf_type type, tune::quantized_layer& layer) {
  with_plain_type(type, ar::gguf::all_types{}, [&]<class T>() {
    const std::size_t blocks = layer.blocks.size() / T::block_bytes;
    layer.code.resize(blocks * 32);
    layer.scale.resize(blocks);
    for (std::size_t i = 0; i < blocks; ++i) {
      typename T::template params<float> p{};
      T::load(layer.blocks.data() + i * T::block_bytes, layer.code.data() + i * 32, p);
      layer.scale[i] = p.d;
      if constexpr (requires { p.m; }) layer.bias.push_back(p.m);
    }
  });
  if (!layer.bias.empty()) find_zero_points(layer);
}

/// False if the type is not plain, or the layer has no codes in groups of 32 for it.
bool store_plain_blocks(io::gguf_type type, const tune::quantized_layer& layer, std::vector<std::uint8_t>& blocks) {
  const std::size_t n = layer.rows * (layer.cols / 32);
  if (layer.cols % 32 != 0 || layer.code.size() != n * 32 || layer.scale.size() != n) return false;
  const float middle = static_cast<float>(1 << (layer.scheme.bits - 1));
  const bool symmetric = is_symmetric(layer), has_minimum = !layer.bias.empty() || !layer.zero_point.empty() || symmetric;
  bool fits = true;
  const bool known = with_plain_type(type, ar::gguf::all_types{}, [&]<class T>() {
    using params = typename T::template params<float>;
    constexpr bool minimum = requires(params p) { p.m; };
    fits = T::bits() == layer.scheme.bits && (minimum ? has_minimum : symmetric);
    if (!fits) return;
    blocks.resize(n * T::block_bytes);
    for (std::size_t i = 0; i < n; ++i) {
      params p{};
      p.d = layer.scale[i];
      if constexpr (minimum) p.m = layer.bias.empty() ? -(layer.scale[i] * (layer.zero_point.empty() ? middle : layer.zero_point[i])) : layer.bias[i];
      T::store(p, layer.code.data() + i * 32, blocks.data() + i * T::block_bytes);
    }
  });
  return known && fits;
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

result<std::vector<float>> decode_rows(io::gguf_type type, std::span<const std::byte> bytes, std::size_t rows, std::size_t cols, std::uint64_t heads) {
  std::vector<float> stored(rows * cols);
  if (auto r = decode_gguf(type, bytes, rows, cols, stored); !r) return forward_error(r);
  return unpermuted(stored, rows, heads);
}

result<tune::quantized_layer> unpack_gguf(io::gguf_type type, std::span<const std::byte> bytes, std::size_t rows, std::size_t cols, std::uint64_t heads) {
  const io::gguf_type_facts facts = io::gguf_type_info(static_cast<std::uint32_t>(type));
  const ar::scheme_fields* scheme = scheme_of(type);
  if (scheme == nullptr) return fail(error_kind::unsupported, std::string("no format of this program has a place for GGUF type ") + facts.name);
  if (cols % facts.block_elements != 0 || bytes.size() != rows * (cols / facts.block_elements) * facts.block_bytes)
    return fail(error_kind::internal, "the blocks of a GGUF tensor do not fit its shape");
  tune::quantized_layer layer;
  layer.scheme = *scheme;
  layer.rows = rows;
  layer.cols = cols;
  const auto* first = reinterpret_cast<const std::uint8_t*>(bytes.data());
  layer.blocks = unpermuted(std::vector<std::uint8_t>(first, first + bytes.size()), rows, heads);
  layer.scale_type = ar::real::f16;
  load_plain_blocks(type, layer);
  return layer;
}

result<std::vector<std::byte>> store_gguf(const tune::quantized_layer& layer, io::gguf_type type, std::uint64_t heads) {
  const io::gguf_type_facts facts = io::gguf_type_info(static_cast<std::uint32_t>(type));
  std::vector<std::uint8_t> blocks = layer.blocks;
  if (blocks.empty() && !store_plain_blocks(type, layer, blocks))
    return fail(error_kind::unsupported, std::string("the layer cannot be stored as GGUF type ") + facts.name, {}, layer.name);
  if (blocks.size() != layer.rows * (layer.cols / facts.block_elements) * facts.block_bytes) return fail(error_kind::internal, "the layer does not fit its GGUF type", {}, layer.name);
  const ar::gguf_kernels* k = kernels_of(type);
  if (k == nullptr || !k->scales_are_finite(blocks)) return fail(error_kind::verification, "a scale of the layer overflows half precision", {}, layer.name);
  blocks = permuted(blocks, layer.rows, heads);
  const auto raw = std::as_bytes(std::span(blocks));
  return std::vector<std::byte>(raw.begin(), raw.end());
}

}  // namespace auto_round::exporting
