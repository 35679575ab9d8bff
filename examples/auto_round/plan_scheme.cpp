// Resolving and checking schemes, formats and sizes that a user typed.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <set>

#include "ar/resolve.hpp"
#include "plan.hpp"
#include "plan_scheme.hpp"

namespace auto_round::plan {
namespace {

// Order matters for prefix tests.
constexpr std::array<std::string_view, 5> families = {"int", "mx_fp", "fp", "nv_fp", "mx_int"};

std::string lower(std::string s) {
  std::transform(s.begin(), s.end(), s.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return s;
}

std::string without_blanks(const std::string& text, std::string_view also = "") {
  std::string s;
  for (const char c : text) {
    if (std::isspace(static_cast<unsigned char>(c)) == 0 && also.find(c) == std::string_view::npos) s += c;
  }
  return s;
}

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == at) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

result<int> checked_int(const char* option, std::int64_t value, std::int64_t low) {
  if (value < low || value > 1 << 30) return fail(error_kind::usage, fmt::format("--{} {} is out of range", option, value));
  return static_cast<int>(value);
}

/// A type that names its width ("mx_fp4", "fp8", "nv_fp4_with_static_gs") decides over `bits`, and if it says nothing else, only its family is kept.
void reconcile(std::string_view type, std::optional<int>& bits, std::optional<std::string_view>& to) {
  const auto named = bits_in_name(type);
  if (named && *named < 16) bits = *named;
  std::string_view family = type;
  for (const std::string_view f : families) {
    if (named && type == fmt::format("{}{}", f, *named)) family = f;
  }
  to = kept(family);
}

/// Is there a quantizer for weights and activations?
result<void> refuse_what_has_no_quantizer(const ar::scheme_fields& s) {
  const auto check = [](std::string_view what, const ar::quantizer_request& q) -> result<void> {
    ar::quantizer_choice found;
    if (ar::resolve_quantizer(q, found) == ar::errc::ok && !found.data_type.empty()) return {};
    return fail(error_kind::unsupported, fmt::format("there is no quantizer for {} of data type \"{}\" with {} bits{}", what, q.data_type, q.bits, q.sym ? "" : ", asymmetric"));
  };
  if (s.bits < 16) {
    if (auto r = check("weights", {.data_type = s.data_type, .bits = s.bits, .sym = s.sym, .tiles = s.group_rows > 0}); !r) return r;
  }
  if (s.act_bits.value_or(16) <= 8) {
    if (auto r = check("activations", {.data_type = s.act_data_type.value_or("float"), .bits = *s.act_bits, .sym = s.act_sym.value_or(true)}); !r) return r;
  }
  if (s.data_type == "int" && (s.bits < 1 || (s.bits > 8 && s.bits != 16 && s.bits != 32)))
    return fail(error_kind::unsupported, fmt::format("{} bits: integer weights have 1 to 8, and 16 mean that layers stay as they are", s.bits));
  return {};
}

}  // namespace

std::optional<int> bits_in_name(std::string_view type) {
  for (const std::string_view family : families) {
    if (!type.starts_with(family) || type.size() == family.size()) continue;
    const std::string_view rest = type.substr(family.size(), 2);
    const auto digit = [](char c) { return c >= '0' && c <= '9'; };
    if (rest.size() == 2 && digit(rest[0]) && digit(rest[1])) return (rest[0] - '0') * 10 + (rest[1] - '0');
    if (digit(rest[0])) return rest[0] - '0';
  }
  return std::nullopt;
}

std::string_view kept(std::string_view text) {
  static std::set<std::string, std::less<>> all;
  const auto known = all.find(text);
  return known != all.end() ? *known : *all.emplace(text).first;
}

result<ar::scheme_fields> with_known_types(ar::scheme_fields s) {
  std::optional<int> bits = s.bits;
  std::optional<std::string_view> type;
  reconcile(s.data_type, bits, type);
  s.bits = *bits;
  s.data_type = *type;
  if (s.act_data_type && s.act_bits.value_or(16) <= 8) reconcile(*s.act_data_type, s.act_bits, s.act_data_type);
  if (auto r = refuse_what_has_no_quantizer(s); !r) return forward_error(r);
  return s;
}

std::optional<ar::real> real_named(std::string_view name) {
  if (name.starts_with("torch.")) name.remove_prefix(6);
  if (name == "fp16" || name == "float16") return ar::real::f16;
  if (name == "bf16" || name == "bfloat16") return ar::real::bf16;
  if (name == "fp32" || name == "float32") return ar::real::f32;
  return std::nullopt;
}

bool allows_asymmetric_bytes(const std::vector<std::string>& formats) {
  const bool can_hold = !formats.empty() && std::all_of(formats.begin(), formats.end(), [](const std::string& f) {
    const std::vector<std::string> parts = split(f, ':');
    return std::any_of(parts.begin(), parts.end(), [](const std::string& part) { return part == "fake" || part == "llm_compressor"; });
  });
  const char* allow = std::getenv("AR_ALLOW_W8_ASYM");
  return can_hold || (allow != nullptr && std::string_view(allow) != "0");
}

std::vector<std::string> nearest_names(std::string_view text, const std::vector<std::string>& names, std::size_t most) {
  std::vector<std::pair<std::size_t, std::string>> near;
  for (const std::string& name : names) near.emplace_back(edit_distance(lower(std::string(text)), lower(name)), name);
  std::stable_sort(near.begin(), near.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> out;
  for (const auto& [distance, name] : near) {
    if (out.size() < most && std::find(out.begin(), out.end(), name) == out.end()) out.push_back(name);
  }
  return out;
}

result<ar::scheme_fields> resolve_scheme(const std::string& preset, const scheme_overrides& o, const std::vector<std::string>& formats) {
  const std::string name = without_blanks(preset, "'\"");
  const ar::scheme_fields* base = ar::find_preset(name);
  if (base == nullptr) {
    std::vector<std::string> names;
    for (const ar::preset& p : ar::presets) names.emplace_back(p.name);
    return fail(error_kind::usage, fmt::format("unknown scheme \"{}\"; near names are {}; `auto-round list schemes` prints all", preset,
                                               fmt::join(nearest_names(name, names), ", ")));
  }
  if (o.data_type && o.data_type->ends_with("_dq") && !lower(name).starts_with("gguf:")) {
    if (!o.bits) return fail(error_kind::usage, fmt::format("--data_type {} needs --bits: it names a GGUF type by them", *o.data_type));
    base = ar::find_preset(fmt::format("GGUF:Q{}_K{}", *o.bits, *o.bits == 6 ? "" : "_S"));
    if (base == nullptr) return fail(error_kind::usage, fmt::format("--bits {}: there are K types of 2 to 6 bits", *o.bits));
  }
  ar::scheme_fields s = *base;
  if (!lower(name).starts_with("gguf:")) {  // a GGUF preset means its block layout: nothing in it can be changed
    const auto integer = [](const char* option, const std::optional<std::int64_t>& value, std::int64_t low, auto& to) -> result<void> {
      if (!value) return {};
      auto v = checked_int(option, *value, low);
      if (!v) return forward_error(v);
      to = *v;
      return {};
    };
    if (auto r = integer("bits", o.bits, 1, s.bits); !r) return forward_error(r);
    if (auto r = integer("group_size", o.group_size, -1, s.group_size); !r) return forward_error(r);
    if (o.group_size) s.group_rows = 0;
    if (auto r = integer("group_size", o.group_rows, 1, s.group_rows); !r) return forward_error(r);
    if (s.group_rows > 0 && s.group_size < 1) return fail(error_kind::usage, fmt::format("--group_size {},{}: tiles have positive sides", s.group_rows, s.group_size));
    if (auto r = integer("act_bits", o.act_bits, 1, s.act_bits); !r) return forward_error(r);
    if (auto r = integer("act_group_size", o.act_group_size, -1, s.act_group_size); !r) return forward_error(r);
    if (auto r = integer("super_bits", o.super_bits, 1, s.super_bits); !r) return forward_error(r);
    if (auto r = integer("super_group_size", o.super_group_size, 1, s.super_group_size); !r) return forward_error(r);
    if (o.sym) s.sym = *o.sym;
    if (o.act_sym) s.act_sym = *o.act_sym;
    if (o.act_dynamic) s.act_dynamic = *o.act_dynamic;
    if (o.data_type) {
      std::optional<int> bits = s.bits;
      std::optional<std::string_view> type;
      reconcile(*o.data_type, bits, type);
      s.bits = *bits;
      s.data_type = *type;
    }
    if (o.act_data_type) reconcile(*o.act_data_type, s.act_bits, s.act_data_type);
  }
  if (!s.act_dynamic) s.act_dynamic = true;
  if (!s.act_group_size) s.act_group_size = s.group_size;
  if (!s.act_bits) s.act_bits = 16;
  if (!s.act_sym) s.act_sym = s.sym;
  const bool is_family = std::find(families.begin(), families.end(), s.data_type) != families.end();
  if (!s.act_data_type) s.act_data_type = *s.act_bits < 16 && is_family ? s.data_type : "float";
  if (*s.act_bits <= 8) reconcile(std::string(*s.act_data_type), s.act_bits, s.act_data_type);
  if (s.group_rows > 0 && !(s.data_type.starts_with("fp") && s.bits == 8 && *s.act_dynamic && s.act_data_type->starts_with("fp") && *s.act_bits == 8)) {
    return fail(error_kind::unsupported, "blocks that span rows are for FP8 weights with dynamic FP8 activations only");
  }
  if (auto r = refuse_what_has_no_quantizer(s); !r) return forward_error(r);
  if (s.data_type == "int" && s.bits == 8 && !s.sym) {
    if (!allows_asymmetric_bytes(formats)) {
      return fail(error_kind::usage, "8-bit asymmetric weights lose quality in most engines; drop --asym, or set AR_ALLOW_W8_ASYM=1 to insist");
    }
  }
  return s;
}

result<std::vector<std::string>> parse_formats(const std::string& text, std::optional<int> bits) {
  std::vector<std::string> formats;
  for (std::string name : split(lower(without_blanks(text)), ',')) {
    if (const std::size_t star = name.find("q*_"); star != std::string::npos) {
      if (!bits) return fail(error_kind::usage, fmt::format("--format {}: the star stands for the number of bits; write --bits", name));
      name.replace(star + 1, 1, fmt::format("{}", *bits));
    }
    if (name.empty()) return fail(error_kind::usage, fmt::format("--format \"{}\": a name is empty", text));
    if (exporting::find(name) == nullptr) {
      std::string known;
      for (const exporting::export_format* f : exporting::all()) {
        for (const std::string_view s : f->spellings) known += fmt::format("{}{}", known.empty() ? "" : ", ", s);
      }
      return fail(error_kind::unsupported, fmt::format("format {} is not supported; these are: {}", name, known));
    }
    if (std::find(formats.begin(), formats.end(), name) == formats.end()) formats.push_back(name);
  }
  std::size_t gguf = 0;
  for (const std::string& f : formats) gguf += f.starts_with("gguf:");
  if (gguf > 1) return fail(error_kind::usage, "each gguf format has its own mix of types, so only one can be written in a run; start one run for each");
  if (gguf == 1 && std::any_of(formats.begin(), formats.end(), [](const std::string& f) { return !f.starts_with("gguf:") && f != "fake"; })) {
    return fail(error_kind::usage, "a gguf format can be combined with fake only: the other formats hold other schemes");
  }
  return formats;
}

result<std::uint64_t> parse_bytes(const std::string& text) {
  const std::string s = without_blanks(text);
  std::uint64_t number = 0;
  const auto [end, ec] = std::from_chars(s.data(), s.data() + s.size(), number);
  std::string unit = lower(s.substr(static_cast<std::size_t>(end - s.data())));
  if (unit.size() == 3 && unit[1] == 'i') unit.erase(1, 1);  // all units are binary
  int shift = 0;
  if (unit == "kb") shift = 10;
  if (unit == "mb") shift = 20;
  if (unit == "gb") shift = 30;
  if (unit == "tb") shift = 40;
  const bool known = unit.empty() || unit == "b" || shift != 0;
  if (ec != std::errc() || !known || number == 0 || number > (UINT64_MAX >> shift)) {
    return fail(error_kind::usage, fmt::format("\"{}\" is no size; write a number with B, KB, MB or GB (KiB, MiB, GiB are the same), for instance 5GB", text));
  }
  return number << shift;
}

}  // namespace auto_round::plan
