// Layers to GPTQ words and back through the library's codec.
#include "export/export_gptq_words.hpp"

#include <cmath>

#include "ar/dispatch.hpp"
#include "ar/numeric/half.hpp"
#include "ar/pack.hpp"

namespace auto_round::exporting {
namespace {

/// The layout for the instruction set of this machine.
const ar::codec_kernels& gptq_kernels() { return *ar::kernels().codec(ar::gptq_int32::name); }

ar::gptq_int32::zeros convention(const gptq_shape& s) { return s.zero_minus_one ? ar::gptq_int32::zeros::v1 : ar::gptq_int32::zeros::v2; }

/// Zero points [rows x groups] as integers.
std::vector<std::int32_t> integer_zeros(const tune::quantized_layer& layer, const gptq_shape& s) {
  std::vector<std::int32_t> zero(s.rows * s.groups, 1 << (s.bits - 1));
  if (layer.zero_point.empty()) return zero;
  for (std::size_t i = 0; i < zero.size(); ++i) zero[i] = static_cast<std::int32_t>(std::lrint(layer.zero_point[i]));
  return zero;
}

bool sizes_fit(const tune::quantized_layer& layer, const gptq_shape& s) {
  return layer.code.size() == s.rows * s.cols && layer.scale.size() == s.rows * s.groups &&
         (layer.zero_point.empty() || layer.zero_point.size() == s.rows * s.groups);
}

}  // namespace

gptq_shape gptq_shape_of(const ar::scheme_fields& scheme, std::size_t rows, std::size_t cols) {
  gptq_shape s;
  s.rows = rows;
  s.cols = cols;
  s.bits = scheme.bits;
  s.group_size = scheme.group_size <= 0 || static_cast<std::size_t>(scheme.group_size) > cols ? cols : static_cast<std::size_t>(scheme.group_size);
  s.groups = ar::ceil_div(cols, s.group_size);
  s.zero_minus_one = scheme.sym;
  return s;
}

result<gptq_tensors> pack_gptq(const tune::quantized_layer& layer) {
  const gptq_shape s = gptq_shape_of(layer.scheme, layer.rows, layer.cols);
  if (!sizes_fit(layer, s)) return fail(error_kind::internal, "codes or scales of the layer have unexpected sizes", {}, layer.name);
  gptq_tensors t;
  t.qweight.resize(s.qweight_rows() * s.rows);
  t.qzeros.resize(s.groups * s.qzeros_cols());
  t.scales.resize(s.groups * s.rows);
  const std::vector<std::int32_t> zero = integer_zeros(layer, s);
  ar::errc e = gptq_kernels().pack_words(s.bits, ar::matrix_view<const std::uint8_t>(layer.code.data(), s.rows, s.cols),
                                         ar::matrix_view<std::uint32_t>(t.qweight.data(), s.qweight_rows(), s.rows));
  if (e == ar::errc::ok) {
    e = gptq_kernels().pack_zeros(convention(s), s.bits, ar::matrix_view<const std::int32_t>(zero.data(), s.rows, s.groups),
                                  ar::matrix_view<std::uint32_t>(t.qzeros.data(), s.groups, s.qzeros_cols()));
  }
  if (e != ar::errc::ok) return fail(error_kind::internal, std::string("the layer cannot be packed: ") + ar::message(e), {}, layer.name);
  for (std::size_t r = 0; r < s.rows; ++r) {
    for (std::size_t g = 0; g < s.groups; ++g) t.scales[g * s.rows + r] = ar::f16_from_f32(layer.scale[r * s.groups + g]);
  }
  return t;
}

result<void> unpack_gptq(const gptq_shape& s, std::span<const std::uint32_t> qweight, std::span<const std::uint32_t> qzeros,
                         std::span<const std::uint16_t> scales, std::span<float> weight) {
  std::vector<std::uint8_t> code(s.rows * s.cols);
  std::vector<std::int32_t> zero(s.rows * s.groups);
  ar::errc e = qweight.size() == s.qweight_rows() * s.rows && qzeros.size() == s.groups * s.qzeros_cols() && scales.size() == zero.size() &&
                       weight.size() == code.size()
                   ? ar::errc::ok
                   : ar::errc::bad_size;
  if (e == ar::errc::ok) {
    e = gptq_kernels().unpack_words(s.bits, ar::matrix_view<const std::uint32_t>(qweight.data(), s.qweight_rows(), s.rows),
                                    ar::matrix_view<std::uint8_t>(code.data(), s.rows, s.cols));
  }
  if (e == ar::errc::ok) {
    e = gptq_kernels().unpack_zeros(convention(s), s.bits, ar::matrix_view<const std::uint32_t>(qzeros.data(), s.groups, s.qzeros_cols()),
                                    ar::matrix_view<std::int32_t>(zero.data(), s.rows, s.groups));
  }
  if (e != ar::errc::ok) return fail(error_kind::internal, std::string("packed words cannot be read: ") + ar::message(e));
#pragma omp parallel for schedule(static)
  for (std::size_t r = 0; r < s.rows; ++r) {
    for (std::size_t g = 0; g < s.groups; ++g) {
      const float scale = ar::f32_from_f16(scales[g * s.rows + r]);
      const std::int32_t z = zero[r * s.groups + g];
      const std::size_t end = std::min(s.cols, (g + 1) * s.group_size);
      for (std::size_t c = g * s.group_size; c < end; ++c) weight[r * s.cols + c] = scale * static_cast<float>(code[r * s.cols + c] - z);
    }
  }
  return {};
}

std::vector<float> stored_weight(const tune::quantized_layer& layer) {
  const gptq_shape s = gptq_shape_of(layer.scheme, layer.rows, layer.cols);
  const std::vector<std::int32_t> zero = integer_zeros(layer, s);
  std::vector<float> weight(s.rows * s.cols);
  for (std::size_t r = 0; r < s.rows; ++r) {
    for (std::size_t c = 0; c < s.cols; ++c) {
      const std::size_t g = r * s.groups + c / s.group_size;
      weight[r * s.cols + c] = ar::round_to_f16(layer.scale[g]) * static_cast<float>(layer.code[r * s.cols + c] - zero[g]);
    }
  }
  return weight;
}

}  // namespace auto_round::exporting
