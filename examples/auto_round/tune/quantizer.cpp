#include "tune/quantizer.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ar/dispatch.hpp"
#include "tune/tuned_layer.hpp"

namespace auto_round::tune {
namespace {

constexpr std::size_t rows_at_once = 32;  // the unit of work of a thread

/// f(first row, rows) -> errc in parallel; the first error by row, or ok.
template <class F>
ar::errc for_rows(std::size_t rows, const F& f) {
  const std::size_t pieces = ar::ceil_div(rows, rows_at_once);
  std::vector<ar::errc> outcome(pieces, ar::errc::ok);
#pragma omp parallel for schedule(static)
  for (std::size_t i = 0; i < pieces; ++i) outcome[i] = f(i * rows_at_once, std::min(rows_at_once, rows - i * rows_at_once));
  const auto bad = std::find_if(outcome.begin(), outcome.end(), [](ar::errc e) { return e != ar::errc::ok; });
  return bad == outcome.end() ? ar::errc::ok : *bad;
}

result<void> explain(ar::errc e, const std::string& name) {
  switch (e) {
    case ar::errc::ok: return {};
    case ar::errc::non_finite: return fail(error_kind::input, "the weight holds NaN or infinity; the checkpoint is damaged", {}, name + ".weight");
    case ar::errc::not_representable:
      return fail(error_kind::input, "the weight is so large that its scale overflows half precision; leave this layer in float", {}, name + ".weight");
    default: return fail(error_kind::unsupported, std::string("this scheme cannot quantize the layer: ") + ar::message(e), {}, name + ".weight");
  }
}

result<void> round_groups(const ar::range_kernels& k, const float* weight, std::size_t group_size, quantized_layer& out) {
  const std::size_t groups = ar::ceil_div(out.cols, group_size);
  out.code.resize(out.rows * out.cols);
  out.scale.resize(out.rows * groups);
  if (k.has_zero_point) out.zero_point.resize(out.rows * groups);
  return explain(for_rows(out.rows,
                          [&](std::size_t first, std::size_t n) {
                            const ar::matrix_view<std::uint8_t> code(out.code.data() + first * out.cols, n, out.cols);
                            const ar::matrix_view<float> scale(out.scale.data() + first * groups, n, groups);
                            ar::matrix_view<float> zero;
                            if (k.has_zero_point) zero = {out.zero_point.data() + first * groups, n, groups};
                            const int group = static_cast<int>(group_size);
                            const ar::errc e = k.quantize(out.scheme.bits, group, {weight + first * out.cols, n, out.cols}, code, scale, zero);
                            if (e != ar::errc::ok) return e;
                            float* const q = out.weight.data() + first * out.cols;
                            const ar::errc d = k.dequantize(out.scheme.bits, group, code, scale, zero, {q, n, out.cols});
                            // Codes cannot say it, but the reference keeps the sign of weights that symmetric types round to zero.
                            if (d == ar::errc::ok && !k.has_zero_point) {
                              const float* const w = weight + first * out.cols;
                              for (std::size_t i = 0; i < n * out.cols; ++i) q[i] = q[i] == 0.0f ? std::copysign(0.0f, w[i]) : q[i];
                            }
                            return d;
                          }),
                 out.name);
}

result<void> round_blocks(const ar::gguf_kernels& k, const float* weight, quantized_layer& out) {
  if (k.search == nullptr || out.cols % k.block_elements != 0) return explain(ar::errc::bad_shape, out.name);
  const std::size_t groups = out.cols / k.group_size, blocks = k.superblock ? out.cols / k.block_elements : 0;
  out.scale.resize(out.rows * groups);
  out.d_scale.resize(out.rows * blocks);
  if (k.asymmetric) {
    out.wmin.resize(out.rows * groups);
    out.d_wmin.resize(out.rows * blocks);
  }
  const auto from = [](std::vector<float>& x, std::size_t at) { return x.empty() ? nullptr : x.data() + at; };
  return explain(for_rows(out.rows,
                          [&](std::size_t first, std::size_t n) {
                            const ar::gguf_parameters<float> p{from(out.scale, first * groups), from(out.wmin, first * groups), from(out.d_scale, first * blocks),
                                                               from(out.d_wmin, first * blocks)};
                            const ar::matrix_view<const float> w(weight + first * out.cols, n, out.cols);
                            const ar::errc e = k.search(w, {}, {}, {}, p);
                            if (e != ar::errc::ok) return e;
                            return k.qdq(w, {}, {}, {p.scale, p.offset, p.d_scale, p.d_offset}, {out.weight.data() + first * out.cols, n, out.cols});
                          }),
                 out.name);
}

}  // namespace

result<quantized_layer> round_to_nearest(const float* weight, const std::string& name, const ar::scheme_fields& scheme, std::size_t rows, std::size_t cols,
                                         ar::real scale_type, ar::real weight_type) {
  quantized_layer out;
  out.name = name;
  out.scheme = scheme;
  out.rows = rows;
  out.cols = cols;
  out.weight.resize(rows * cols);
  const auto unsupported = [&] {
    return fail(error_kind::unsupported, "no quantizer for data type " + std::string(scheme.data_type) + " with " + std::to_string(scheme.bits) + " bits", {}, name);
  };
  if (scheme.bits < 2 || scheme.bits > 8 || scheme.group_rows != 0 || scheme.group_size == 0 || rows == 0 || cols == 0) return unsupported();
  result<void> done;
  if (scheme.data_type == "int") {
    const std::string type = std::string(scheme.data_type) + (scheme.sym ? "_sym" : "_asym");
    const ar::range_kernels* k = ar::kernels().range_type(type, weight_type, scale_type);
    if (k == nullptr) k = ar::kernels().range_type(type, ar::real::f32, scale_type);
    if (k == nullptr) return unsupported();
    done = round_groups(*k, weight, resolve_group_size(scheme.group_size, cols), out);
  } else {
    // The GGUF types are named after their bits and whether scales are quantized once more.
    const std::string_view kind = scheme.data_type;
    const char* suffix = kind.ends_with("_dq") ? "_k" : kind.ends_with("_float_zp") ? "_1" : nullptr;
    const ar::gguf_kernels* k = suffix == nullptr ? nullptr : ar::kernels().gguf_type("q" + std::to_string(scheme.bits) + suffix);
    if (k == nullptr || k->asymmetric == scheme.sym || k->group_size != static_cast<std::uint32_t>(scheme.group_size)) return unsupported();
    done = round_blocks(*k, weight, out);
  }
  if (!done) return forward_error(done);
  return out;
}

result<quantized_layer> round_to_nearest(const model::weight_source& source, const std::string& name, const ar::scheme_fields& scheme, std::size_t rows,
                                         std::size_t cols, ar::real scale_type, ar::real weight_type) {
  auto weight = model::read_tensor(source, name + ".weight", {rows, cols});
  if (!weight) return forward_error(weight);
  return round_to_nearest(weight->data(), name, scheme, rows, cols, scale_type, weight_type);
}

}  // namespace auto_round::tune
