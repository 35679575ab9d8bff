#include "autoscheme/fake_quantizer.hpp"

#include <algorithm>
#include <cmath>

#include "ar/dispatch.hpp"
#include "ar/numeric/half.hpp"
#include "ar/resolve.hpp"
#include "tune/pieces.hpp"
#include "tune/quantizer.hpp"

namespace auto_round::autoscheme {
namespace {

constexpr std::size_t rows_at_once = 32;  // the unit of work of a thread

result<void> explain(ar::errc e, const std::string& name) {
  if (e == ar::errc::ok) return {};
  const error_kind kind = e == ar::errc::non_finite || e == ar::errc::not_representable ? error_kind::input : error_kind::unsupported;
  return fail(kind, std::string("the layer cannot be quantized to be scored: ") + ar::message(e), {}, name);
}

/// out = in rounded by the type's kernels; `in` and `out` may be the same. Groups as the scheme counts them: 0 the whole tensor, -1 a row.
ar::errc round_rows(const ar::range_kernels& k, int bits, ar::group_shape group, const float* in, std::size_t rows, std::size_t cols, float* out) {
  ar::type_values type(bits);
  if (k.two_level()) {
    float largest = 0;
    for (std::size_t i = 0; i < rows * cols; ++i) largest = std::max(largest, std::abs(in[i]));
    type.tensor.maximum = largest;
  }
  if (group.size == 0) return k.qdq(type, group, {in, rows, cols}, {out, rows, cols});
  const auto high = static_cast<std::size_t>(group.rows);
  return tune::for_pieces(rows, std::max<std::size_t>(1, rows_at_once / high) * high, [&](std::size_t at, std::size_t n) {
    return k.qdq(type, group, {in + at * cols, n, cols}, {out + at * cols, n, cols});
  });
}

/// The same for a type of GGUF blocks.
ar::errc round_blocks(const ar::gguf_kernels& k, const float* in, std::size_t rows, std::size_t cols, float* out) {
  if (k.search == nullptr || cols % k.block_elements != 0) return ar::errc::bad_shape;
  const std::size_t groups = cols / k.group_size, blocks = cols / k.block_elements;
  return tune::for_pieces(rows, rows_at_once, [&](std::size_t at, std::size_t n) {
    std::vector<float> scale(n * groups), offset(n * groups), d_scale(n * blocks), d_offset(n * blocks);
    const ar::matrix_view<const float> w(in + at * cols, n, cols);
    if (const ar::errc e = k.search(w, {}, {}, {}, {scale.data(), offset.data(), d_scale.data(), d_offset.data()}); e != ar::errc::ok) return e;
    if (!k.superblock) {  // whose scales are searched in float; these are stored in half precision, and the smallest weight stays where it is
      for (std::size_t g = 0; g < scale.size(); ++g) {
        const float stored = ar::round_to_f16(scale[g]);
        if (stored == 0.0f) continue;
        offset[g] = offset[g] * scale[g] / stored;
        scale[g] = stored;
      }
    }
    return k.qdq(w, {}, {}, {scale.data(), offset.data(), d_scale.data(), d_offset.data()}, {out + at * cols, n, cols});
  });
}

}  // namespace

result<std::vector<float>> fake_quantize_weight(const float* weight, const std::string& name, const ar::scheme_fields& s, std::size_t rows, std::size_t cols) {
  const ar::real scale_type = tune::quantizes_activations(s) ? ar::real::bf16 : ar::real::f16;
  ar::quantizer_choice choice;
  ar::errc outcome = ar::resolve_quantizer({.data_type = s.data_type, .bits = s.bits, .sym = s.sym, .tiles = s.group_rows > 0, .tuning = true}, choice);
  std::vector<float> out(rows * cols);
  if (outcome == ar::errc::ok) {
    if (const ar::range_kernels* range = ar::kernels().range_type(choice.data_type, ar::real::f32, scale_type))
      outcome = round_rows(*range, s.bits, {s.group_size, std::max(1, s.group_rows)}, weight, rows, cols, out.data());
    else if (const ar::gguf_kernels* blocks = ar::kernels().gguf_type(choice.data_type))
      outcome = round_blocks(*blocks, weight, rows, cols, out.data());
    else
      outcome = ar::errc::unsupported;
  }
  if (auto r = explain(outcome, name); !r) return forward_error(r);
  return out;
}

}  // namespace auto_round::autoscheme
