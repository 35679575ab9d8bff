#include "tune/quantizer.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "ar/calibrate.hpp"
#include "ar/dispatch.hpp"
#include "ar/resolve.hpp"
#include "tune/pieces.hpp"
#include "tune/tuned_layer.hpp"

namespace auto_round::tune {
namespace {

constexpr std::size_t rows_at_once = 32;  // the unit of work of a thread

result<void> explain(ar::errc e, const std::string& name) {
  switch (e) {
    case ar::errc::ok: return {};
    case ar::errc::non_finite: return fail(error_kind::input, "the weight holds NaN or infinity; the checkpoint is damaged", {}, name + ".weight");
    case ar::errc::not_representable:
      return fail(error_kind::input, "the weight is so large that its scale overflows half precision; leave this layer in float", {}, name + ".weight");
    default: return fail(error_kind::unsupported, std::string("this scheme cannot quantize the layer: ") + ar::message(e), {}, name + ".weight");
  }
}

/// Which type of the library the scheme means, and how it is quantized.
result<ar::quantizer_choice> choose(const ar::scheme_fields& scheme, const rounding& how, const std::string& name) {
  const ar::quantizer_request wanted{.data_type = scheme.data_type, .bits = scheme.bits, .sym = scheme.sym, .tiles = scheme.group_rows > 0,
                                     .search = how.search, .neuqi = how.search && !how.reference && !scheme.sym, .reference = how.reference};
  ar::quantizer_choice found;
  if (ar::resolve_quantizer(wanted, found) == ar::errc::ok && !found.data_type.empty()) return found;
  return fail(error_kind::unsupported,
              "no quantizer for data type " + std::string(scheme.data_type) + " with " + std::to_string(scheme.bits) + " bits", {}, name);
}

const ar::range_kernels* range_kernels_of(const ar::quantizer_choice& c, const rounding& how) {
  // The reference searches integers in the arithmetic of the weights, scales included.
  const bool all_in_weight_type = how.search && how.reference && c.search && c.data_type == "int_sym";
  const auto find = [&](ar::real weight_type) {
    return ar::kernels().range_type(c.data_type, weight_type, all_in_weight_type ? weight_type : how.scale_type);
  };
  const ar::range_kernels* k = find(how.weight_type);
  return k != nullptr ? k : find(ar::real::f32);
}

/// The kernels of the scheme's type if it has a scale of the whole tensor, else null.
const ar::range_kernels* two_level_kernels(const ar::scheme_fields& scheme) {
  const auto choice = choose(scheme, {}, {});
  const ar::range_kernels* k = choice ? range_kernels_of(*choice, {}) : nullptr;
  return k != nullptr && k->two_level() ? k : nullptr;
}

result<void> round_groups(const ar::range_kernels& k, const ar::quantizer_choice& choice, const float* weight, const rounding& how, quantized_layer& out) {
  const ar::scheme_fields& s = out.scheme;
  const ar::group_shape shape(s.group_size, std::max(1, s.group_rows));
  const bool whole = s.group_size == 0;
  const std::size_t high = static_cast<std::size_t>(shape.rows);
  const std::size_t groups = whole ? 1 : ar::ceil_div(out.cols, resolve_group_size(s.group_size, out.cols));
  // The reference searches with the global scale of all that it is given.
  const bool at_once = whole || (k.two_level() && how.search && how.reference);
  const std::size_t step = at_once ? out.rows : high * std::max<std::size_t>(1, rows_at_once / high);
  out.code.resize(out.rows * out.cols);
  out.scale.resize(whole ? 1 : ar::ceil_div(out.rows, high) * groups);
  if (k.has_zero_point) out.zero_point.resize(out.scale.size());
  ar::type_values type(s.bits);
  if (k.two_level()) {
    const std::span all(weight, out.rows * out.cols);
    out.global_scale = type.tensor.global_scale = how.global_scale >= 0 ? how.global_scale : own_global_scale(s, all);
  }
  ar::search_options options;
  options.importance = how.importance.empty() ? nullptr : how.importance.data();
  options.neuqi = choice.neuqi;
  options.reference = how.reference;
  if (how.reference && choice.data_type == "int_sym") options.least_scale = how.scale_type == ar::real::f32 ? 1e-8f : 1e-5f;
  const auto piece = [&](std::size_t first, std::size_t n) {
    const ar::matrix_view<const float> w(weight + first * out.cols, n, out.cols);
    const ar::matrix_view<std::uint8_t> code(out.code.data() + first * out.cols, n, out.cols);
    const std::size_t bands = whole ? 1 : ar::ceil_div(n, high), at = first / high * groups;
    const ar::matrix_view<float> scale(out.scale.data() + at, bands, groups);
    const ar::matrix_view<float> q = out.weight.empty() ? ar::matrix_view<float>() : ar::matrix_view<float>(out.weight.data() + first * out.cols, n, out.cols);
    ar::matrix_view<float> zero;
    if (k.has_zero_point) zero = {out.zero_point.data() + at, bands, groups};
    if (how.search) return k.search(type, shape, w, options, {.scale = scale, .zero_point = zero, .code = code, .weight = q});
    if (const ar::errc e = k.quantize(type, shape, w, code, scale, zero); e != ar::errc::ok || how.codes_only) return e;
    if (k.facts != nullptr) return k.qdq(type, shape, w, q);
    if (const ar::errc e = k.dequantize(type, shape, code, scale, zero, q); e != ar::errc::ok) return e;
    // Codes cannot say it, but the reference keeps the sign of weights that symmetric types round to zero.
    if (!k.has_zero_point)
      for (std::size_t i = 0; i < n * out.cols; ++i) q.data[i] = q.data[i] == 0.0f ? std::copysign(0.0f, w.data[i]) : q.data[i];
    return ar::errc::ok;
  };
  return explain(for_pieces(out.rows, step, piece), out.name);
}

result<void> round_blocks(const ar::gguf_kernels& k, const float* weight, const rounding& how, quantized_layer& out) {
  if (k.search == nullptr || out.cols % k.block_elements != 0) return explain(ar::errc::bad_shape, out.name);
  const std::size_t groups = out.cols / k.group_size, blocks = k.superblock ? out.cols / k.block_elements : 0;
  out.scale.resize(out.rows * groups);
  out.d_scale.resize(out.rows * blocks);
  if (k.asymmetric) {
    out.wmin.resize(out.rows * groups);
    out.d_wmin.resize(out.rows * blocks);
  }
  // The K types search always; what OPT-RTN adds is the importance. Q4_1 and Q5_1 have a variant of their own instead.
  const std::span<const float> importance = how.search ? how.importance : std::span<const float>{};
  const ar::gguf_variant variant{.bf16 = how.reference && how.weight_type == ar::real::bf16, .reciprocal = how.reference && how.search,
                                 .magnitude = !how.reference};
  const auto from = [](std::vector<float>& x, std::size_t at) { return x.empty() ? nullptr : x.data() + at; };
  const auto piece = [&](std::size_t first, std::size_t n) {
    const ar::gguf_parameters<float> p{from(out.scale, first * groups), from(out.wmin, first * groups), from(out.d_scale, first * blocks),
                                       from(out.d_wmin, first * blocks)};
    const ar::matrix_view<const float> w(weight + first * out.cols, n, out.cols);
    if (const ar::errc e = k.search(w, importance, {}, variant, p); e != ar::errc::ok) return e;
    return k.qdq(w, {}, variant, {p.scale, p.offset, p.d_scale, p.d_offset}, {out.weight.data() + first * out.cols, n, out.cols});
  };
  return explain(for_pieces(out.rows, rows_at_once, piece), out.name);
}

}  // namespace

bool searches_by_default(const ar::scheme_fields& s, bool reference) {
  if (s.super_bits) return true;
  const int act_bits = s.act_bits.value_or(16);
  if (s.data_type == "int_asym_float_zp") return reference;  // a variant of rounding, no search
  if (s.data_type == "int") return s.sym ? s.bits < 8 : !reference && s.bits < 8;
  if (s.data_type.starts_with("mx_")) return s.bits <= 8;
  if (s.data_type == "nv_fp") return s.bits == 4;
  return !reference && s.group_rows == 0 && s.bits == 8 && s.data_type.starts_with("fp") && act_bits >= 8;
}

const ar::range_kernels* tuned_kernels(std::string_view data_type, int bits, bool sym, bool tiles, ar::real scale_type) {
  // All names that the reference would try are compared, which takes some 50 us; plans ask the same for each of many thousand layers.
  struct answer {
    std::string data_type;
    int bits;
    bool sym, tiles;
    ar::real scale_type;
    const ar::range_kernels* kernels;
  };
  constexpr std::size_t most_answers = 64;  // names may come from files
  thread_local std::vector<answer> known;
  for (const answer& a : known)
    if (a.data_type == data_type && a.bits == bits && a.sym == sym && a.tiles == tiles && a.scale_type == scale_type) return a.kernels;
  const ar::quantizer_request wanted{.data_type = data_type, .bits = bits, .sym = sym, .tiles = tiles, .tuning = true};
  ar::quantizer_choice found;
  const bool exists = ar::resolve_quantizer(wanted, found) == ar::errc::ok && !found.data_type.empty();
  const ar::range_kernels* const kernels = exists ? ar::kernels().range_type(found.data_type, ar::real::f32, scale_type) : nullptr;
  if (known.size() < most_answers) known.push_back({std::string(data_type), bits, sym, tiles, scale_type, kernels});
  return kernels;
}

result<void> fake_quantize_activations(float* x, const ar::scheme_fields& s, std::size_t tokens, std::size_t cols, ar::real scale_type) {
  if (!quantizes_activations(s)) return {};
  const int bits = *s.act_bits;
  const std::string_view data_type = s.act_data_type.value_or(s.data_type);
  const ar::range_kernels* const k = tuned_kernels(data_type, bits, s.act_sym.value_or(s.sym), false, scale_type);
  if (k == nullptr) return fail(error_kind::unsupported, "no quantizer for activations of type " + std::string(data_type) + " with " + std::to_string(bits) + " bits");
  ar::type_values type(bits);
  if (k->two_level()) {
    float largest = 0;
    for (std::size_t i = 0; i < tokens * cols; ++i) largest = std::max(largest, std::abs(x[i]));
    type.tensor.maximum = largest;
  }
  const int group = s.act_group_size.value_or(s.group_size);
  const ar::errc e = for_pieces(tokens, group == 0 ? tokens : rows_at_once, [&](std::size_t at, std::size_t n) {
    const ar::matrix_view<float> rows(x + at * cols, n, cols);
    return k->qdq(type, group, rows, rows);
  });
  if (e == ar::errc::ok) return {};
  const bool input = e == ar::errc::non_finite || e == ar::errc::not_representable;
  return fail(input ? error_kind::input : error_kind::unsupported, std::string("activations cannot be quantized: ") + ar::message(e));
}

bool has_global_scale(const ar::scheme_fields& scheme) { return two_level_kernels(scheme) != nullptr; }

float own_global_scale(const ar::scheme_fields& scheme, std::span<const float> weight) {
  const ar::range_kernels* k = two_level_kernels(scheme);
  if (k == nullptr) return -1;
  float largest = 0;
  for (const float w : weight) largest = std::max(largest, std::abs(w));
  return k->global_scale(largest);
}

void share_global_scales(const model::model_spec& spec, std::span<float> scales, bool reference) {
  const auto share = [&](const std::vector<int>& members) {
    std::array<float, 3> given{};
    std::size_t n = 0;
    for (const int i : members)
      if (scales[static_cast<std::size_t>(i)] >= 0) given[n++] = scales[static_cast<std::size_t>(i)];
    const float common = ar::shared_global_scale(std::span(given.data(), n), reference);
    for (const int i : members)
      if (scales[static_cast<std::size_t>(i)] >= 0) scales[static_cast<std::size_t>(i)] = common;
  };
  for (const std::vector<int>& group : spec.fused_groups()) share(group);
}

result<quantized_layer> quantize_layer(const float* weight, const std::string& name, const ar::scheme_fields& scheme, std::size_t rows, std::size_t cols,
                                       const rounding& how) {
  quantized_layer out;
  out.name = name;
  out.scheme = scheme;
  out.rows = rows;
  out.cols = cols;
  if (rows == 0 || cols == 0) return fail(error_kind::unsupported, "an empty layer", {}, name);
  if (!how.importance.empty() && how.importance.size() != cols) return fail(error_kind::input, "the importance matrix has another number of columns", {}, name);
  auto choice = choose(scheme, how, name);
  if (!choice) return forward_error(choice);
  result<void> done;
  const ar::range_kernels* const k = range_kernels_of(*choice, how);
  if (!how.codes_only || how.search || k == nullptr) out.weight.resize(rows * cols);
  if (k != nullptr) {
    done = round_groups(*k, *choice, weight, how, out);
  } else if (const ar::gguf_kernels* block = ar::kernels().gguf_type(choice->data_type);
             block != nullptr && block->group_size == static_cast<std::uint32_t>(scheme.group_size)) {
    done = round_blocks(*block, weight, how, out);
  } else {
    done = explain(ar::errc::unsupported, name);
  }
  if (!done) return forward_error(done);
  return out;
}

result<quantized_layer> quantize_layer(const model::weight_source& source, const std::string& name, const ar::scheme_fields& scheme, std::size_t rows,
                                       std::size_t cols, const rounding& how) {
  auto weight = model::read_tensor(source, name + ".weight", {rows, cols});
  if (!weight) return forward_error(weight);
  return quantize_layer(weight->data(), name, scheme, rows, cols, how);
}

}  // namespace auto_round::tune
