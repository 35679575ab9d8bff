// Layers to GGUF blocks and back through the library's kernels for this CPU.
#include "export/export_gguf_blocks.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "ar/dispatch.hpp"
#include "ar/gguf.hpp"
#include "ar/numeric/half.hpp"
#include "ar/numeric/small_float.hpp"
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

/// What the codes of a type stand for beside the step of a sub-block: step * (code - 2^(bits-1)), step * code + minimum, step * twice an E2M1 number.
enum class code_kind { none, centered, offset, e2m1 };

/// The step of a sub-block, and the weight of its code 0.
template <class T, class P>
constexpr float step_of(const P& p, std::size_t sub) {
  if constexpr (requires { T::terms(p, sub).step; }) return T::terms(p, sub).step;
  else if constexpr (requires { float{p.d}; }) return p.d;
  else return 0;
}
template <class T, class P>
constexpr float bias_of(const P& p, std::size_t sub) { return T::decode(0.0f, p, sub); }

/// Found by decoding all codes of a block that has a step of 2 and, where the type has a minimum, one of 3.
template <class T>
constexpr code_kind kind_of = [] {
  using params = typename T::template params<float>;
  if constexpr (requires(params p) { T::decode(0.0f, p, std::size_t{0}); }) {
    params p{};
    bool minimum = false;
    const auto fill = [](auto& numbers, float v) {
      for (float& n : numbers) n = v;
    };
    if constexpr (requires { float{p.d}; }) p.d = 2.0f;
    if constexpr (requires { p.scale[0]; }) fill(p.scale, 2.0f);
    if constexpr (requires { float{p.m}; }) p.m = 3.0f, minimum = true;
    if constexpr (requires { p.dmin; p.min[0]; }) p.dmin = 1.0f, fill(p.min, 3.0f), minimum = true;
    const float step = step_of<T>(p, 0), bias = bias_of<T>(p, 0);
    if (step == 0.0f) return code_kind::none;
    const auto all = [&](auto value) {
      for (int c = 0; c < 1 << T::bits(); ++c)
        if (T::decode(static_cast<float>(c), p, 0) != value(c)) return false;
      return true;
    };
    if (minimum) return all([&](int c) { return step * static_cast<float>(c) + bias; }) ? code_kind::offset : code_kind::none;
    if (all([&](int c) { return step * static_cast<float>(c - (1 << (T::bits() - 1))); })) return code_kind::centered;
    if (T::bits() == 4 && all([&](int c) { return step * 2.0f * ar::f32_from_small<ar::e2m1>(static_cast<std::uint8_t>(c)); })) return code_kind::e2m1;
  }
  return code_kind::none;
}();

/// Types whose blocks are their codes and steps, and so can be made of them: those of K types are rounded once more.
template <class T>
constexpr bool is_plain = [] {
  using params = typename T::template params<float>;
  constexpr std::size_t steps = T::block_size / T::sub_size;
  return kind_of<T> != code_kind::none && sizeof(params) == (steps + (kind_of<T> == code_kind::offset ? steps : 0)) * sizeof(float);
}();

/// Calls f.operator()<T>() for the type of blocks with this id, if its codes stand for something that scales and biases say.
template <class F, class... T>
void with_codes_of(io::gguf_type type, ar::type_list<T...>, const F& f) {
  const auto one = [&]<class U>() {
    if constexpr (kind_of<U> != code_kind::none) {
      if (static_cast<std::uint32_t>(U::id) == static_cast<std::uint32_t>(type)) f.template operator()<U>();
    }
  };
  (one.template operator()<T>(), ...);
}

/// Codes, scales and biases of the layer's blocks.
void load_blocks(io::gguf_type type, tune::quantized_layer& layer) {
  with_codes_of(type, ar::gguf::all_types{}, [&]<class T>() {
    constexpr std::size_t subs = T::block_size / T::sub_size;
    const std::size_t blocks = layer.blocks.size() / T::block_bytes;
    layer.code.resize(blocks * T::block_size);
    layer.scale.reserve(blocks * subs);
    for (std::size_t i = 0; i < blocks; ++i) {
      typename T::template params<float> p{};
      T::load(layer.blocks.data() + i * T::block_bytes, layer.code.data() + i * T::block_size, p);
      for (std::size_t j = 0; j < subs; ++j) {
        layer.scale.push_back(step_of<T>(p, j) * (kind_of<T> == code_kind::e2m1 ? 2.0f : 1.0f));
        if constexpr (kind_of<T> == code_kind::offset) layer.bias.push_back(bias_of<T>(p, j));
      }
    }
    layer.scale_type = is_plain<T> ? ar::real::f16 : ar::real::f32;  // a step of a K type is a product
  });
  if (!layer.bias.empty()) find_zero_points(layer);
}

/// False if blocks of the type cannot be made of codes, or the layer has none in its groups for it.
bool store_blocks(io::gguf_type type, const tune::quantized_layer& layer, std::vector<std::uint8_t>& blocks) {
  const float middle = static_cast<float>(1 << (layer.scheme.bits - 1));
  const bool integers = layer.scheme.data_type.starts_with("int"), symmetric = integers && is_symmetric(layer);
  bool fits = false;
  with_codes_of(type, ar::gguf::all_types{}, [&]<class T>() {
    if constexpr (is_plain<T>) {
      using params = typename T::template params<float>;
      constexpr code_kind kind = kind_of<T>;
      constexpr std::size_t subs = T::block_size / T::sub_size;
      const std::size_t n = layer.rows * layer.cols / T::block_size;
      const bool has_minimum = !layer.bias.empty() || !layer.zero_point.empty() || symmetric;
      fits = layer.cols % T::block_size == 0 && layer.code.size() == n * T::block_size && layer.scale.size() == n * subs && T::bits() == layer.scheme.bits &&
             (kind == code_kind::e2m1 ? !integers : integers && (kind == code_kind::offset ? has_minimum : symmetric));
      if (!fits) return;
      blocks.resize(n * T::block_bytes);
      std::uint8_t codes[T::block_size];
      for (std::size_t i = 0; i < n; ++i) {
        params p{}, stored{};
        std::uint8_t* const block = blocks.data() + i * T::block_bytes;
        for (std::size_t j = 0; j < subs; ++j) {
          const std::size_t g = i * subs + j;
          if (kind == code_kind::e2m1 && !(layer.scale[g] >= 0)) {  // their bytes have no sign
            fits = false;
            return;
          }
          if constexpr (kind == code_kind::e2m1 && subs > 1) p.scale[j] = layer.scale[g] * 0.5f;
          else p.d = layer.scale[g] * (kind == code_kind::e2m1 ? 0.5f : 1.0f);
          if constexpr (kind == code_kind::offset) p.m = layer.bias.empty() ? -(layer.scale[g] * (layer.zero_point.empty() ? middle : layer.zero_point[g])) : layer.bias[g];
        }
        T::store(p, layer.code.data() + i * T::block_size, block);
        if constexpr (kind != code_kind::e2m1) continue;
        // Bytes have no place for a sign, and not for every power of two.
        T::load(block, codes, stored);
        for (std::size_t j = 0; j < subs; ++j) fits = fits && step_of<T>(stored, j) == step_of<T>(p, j);
      }
    }
  });
  return fits;
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
  const ar::gguf_kernels* k = kernels_of(type);
  const std::span<const std::uint8_t> raw(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  if (k == nullptr || !k->scales_are_finite(raw)) return fail(error_kind::input, "a block's scale is no finite number; the file is damaged");
  tune::quantized_layer layer;
  layer.scheme = *scheme;
  layer.rows = rows;
  layer.cols = cols;
  layer.blocks = unpermuted(std::vector<std::uint8_t>(raw.begin(), raw.end()), rows, heads);
  load_blocks(type, layer);
  return layer;
}

result<std::vector<std::byte>> store_gguf(const tune::quantized_layer& layer, io::gguf_type type, std::uint64_t heads) {
  const io::gguf_type_facts facts = io::gguf_type_info(static_cast<std::uint32_t>(type));
  std::vector<std::uint8_t> blocks = layer.blocks;
  if (blocks.empty() && !store_blocks(type, layer, blocks))
    return fail(error_kind::unsupported, std::string("the layer cannot be stored as GGUF type ") + facts.name, {}, layer.name);
  if (blocks.size() != layer.rows * (layer.cols / facts.block_elements) * facts.block_bytes) return fail(error_kind::internal, "the layer does not fit its GGUF type", {}, layer.name);
  const ar::gguf_kernels* k = kernels_of(type);
  if (k == nullptr || !k->scales_are_finite(blocks)) return fail(error_kind::verification, "a scale of the layer is too large for its GGUF type", {}, layer.name);
  blocks = permuted(blocks, layer.rows, heads);
  const auto raw = std::as_bytes(std::span(blocks));
  return std::vector<std::byte>(raw.begin(), raw.end());
}

}  // namespace auto_round::exporting
