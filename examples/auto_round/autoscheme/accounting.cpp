#include "autoscheme/accounting.hpp"

#include <algorithm>
#include <string_view>

#include "ar/dispatch.hpp"
#include "ar/view.hpp"

namespace auto_round::autoscheme {
namespace {

constexpr int whole_bits = 16;  // of a weight that is not quantized

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }
bool narrow_scales(const ar::scheme_fields& s) { return contains(s.data_type, "mx_") || contains(s.data_type, "nv_fp") || contains(s.data_type, "fp4"); }

std::uint64_t groups_of(std::uint64_t rows, std::uint64_t cols, const ar::scheme_fields& s) {
  if (s.group_size == 0) return 1;
  if (s.group_size < 0) return rows;
  const auto group = static_cast<std::uint64_t>(s.group_size), high = static_cast<std::uint64_t>(std::max(1, s.group_rows));
  return (rows + high - 1) / high * ((cols + group - 1) / group);
}

std::uint64_t reference_bits(const layer& l, const ar::scheme_fields& s) {
  const auto bits = static_cast<std::uint64_t>(s.bits);
  const std::uint64_t groups = l.embedding ? groups_of(l.cols, l.rows, s) : groups_of(l.rows, l.cols, s);
  std::uint64_t each = 0, more = 0;
  if (s.super_group_size.value_or(0) != 0) {
    const auto size = static_cast<std::uint64_t>(*s.super_group_size);
    each = 2 * static_cast<std::uint64_t>(s.super_bits.value_or(0));
    more = (groups + size - 1) / size * 64;
  } else {
    each = contains(s.data_type, "mx_fp") || contains(s.data_type, "nv_fp") || contains(s.data_type, "fp4") ? 8 : 16;
    if (!s.sym || contains(s.data_type, "int")) each += bits;
  }
  return bits * l.weights() + groups * each + more;
}

/// The type of GGUF blocks that the scheme means; the types are named after their bits and what their blocks hold.
const ar::gguf_kernels* gguf_type_of(const ar::scheme_fields& s) {
  const char* const suffix = s.super_bits ? "_k" : s.sym ? "_0" : "_1";
  return ar::kernels().gguf_type("q" + std::to_string(s.bits) + suffix);
}

std::uint64_t stored_bits(const layer& l, const ar::scheme_fields& s, bool gguf) {
  const auto bits = static_cast<std::uint64_t>(s.bits);
  if (gguf) {
    if (const ar::gguf_kernels* type = gguf_type_of(s)) return l.rows * ((l.cols + type->block_elements - 1) / type->block_elements) * type->block_bytes * 8;
  }
  const std::uint64_t groups = groups_of(l.rows, l.cols, s);
  if (narrow_scales(s)) return bits * l.weights() + 8 * groups + (s.data_type == "nv_fp" ? 32 : 0);
  if (s.data_type != "int" || s.act_bits.value_or(whole_bits) < whole_bits) return bits * l.weights() + 16 * groups;
  const auto words = [&](std::uint64_t codes) { return (codes * bits + 31) / 32 * 32; };
  const std::uint64_t in_row = l.rows == 0 ? 0 : groups / l.rows;
  return words(l.cols) * l.rows + in_row * words(l.rows) + 16 * groups;
}

}  // namespace

std::uint64_t bits_of(const layer& l, const ar::scheme_fields& s, bool gguf, const accounting& how) {
  if (s.bits >= whole_bits || how.ignore_scale_zp_bits) {
    const bool odd = !how.exact && s.bits >= whole_bits && s.super_bits.has_value();
    return (odd ? 32 : static_cast<std::uint64_t>(how.exact ? std::min(s.bits, whole_bits) : s.bits)) * l.weights();
  }
  return how.exact ? stored_bits(l, s, gguf) : reference_bits(l, s);
}

ar::scheme_fields fitting(const layer& l, const ar::scheme_fields& s, bool gguf) {
  const ar::scheme_fields whole = *ar::find_preset("BF16");
  if (s.bits >= whole_bits) return s;
  if (s.super_bits) {
    if (l.cols % 256 == 0) return s;
    if (l.cols % 32 != 0) return whole;
    const std::string same_bits = "GGUF:Q" + std::to_string(s.bits) + "_";
    for (const std::string& name : {same_bits + (s.sym ? "0" : "1"), same_bits + (s.sym ? "1" : "0")})
      if (const ar::scheme_fields* found = ar::find_preset(name)) return *found;
    return *ar::find_preset(s.bits < 6 ? "GGUF:Q5_0" : "GGUF:Q8_0");
  }
  if (gguf) return l.cols % 32 == 0 ? s : whole;
  const bool grouped = contains(s.data_type, "mx_") || contains(s.data_type, "nv_fp");
  if (grouped && s.group_size > 0 && l.cols % static_cast<std::uint64_t>(s.group_size) != 0) return whole;
  const bool packed = s.data_type == "int" && s.act_bits.value_or(whole_bits) >= whole_bits;
  if (packed && (l.rows % 32 != 0 || l.cols % 32 != 0)) return whole;
  return s;
}

std::vector<option> without_duplicates(std::vector<option> options) {
  std::vector<option> kept;
  for (option& o : options)
    if (std::none_of(kept.begin(), kept.end(), [&](const option& k) { return ar::same_scheme(k.scheme, o.scheme); })) kept.push_back(std::move(o));
  return kept;
}

}  // namespace auto_round::autoscheme
