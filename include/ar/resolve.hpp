// Door: which quantizer a scheme's data type means. The names are those of auto-round 0.16.1, and so is the order in which they are tried
// (get_quant_func); the answer names the data type of this library, the key of kernel_table::range_type and gguf_type.
#pragma once

#include <string_view>

#include "ar/data_types.hpp"
#include "ar/detail/reference_names.hpp"
#include "ar/errc.hpp"

namespace ar {

/// What is asked. For activations: their width, symmetry and type, and search off.
struct quantizer_request {
  std::string_view data_type;  ///< as in scheme_fields: a family ("mx_fp") or a full name
  int bits = 4;                ///< width
  bool sym = true;             ///< symmetric
  bool tiles = false;          ///< groups span rows
  bool tuning = false;         ///< SignRound: names without a prefix only
  bool search = false;         ///< OPT-RTN: searches where there are some
  bool neuqi = false;          ///< of integers: NeUQI
  bool reference = false;      ///< for MX: search with the element format that the reference falls back to, mx_fp and the width
};

/// What was found.
struct quantizer_choice {
  std::string_view name;       ///< the reference's registered name, "opt_rtn_int_sym"
  std::string_view data_type;  ///< ours, "int_sym"; empty if the name exists but no element format of that width, or no type here
  bool search = false;         ///< ar::search, else quantize (or quantize_tuned)
  bool neuqi = false;          ///< with search_options::neuqi
};

namespace detail {

/// Names that are composed of two types: the caller quantizes to FP8 first and the result to integers.
inline constexpr std::string_view composed_names = "fp8_to_int_sym";

/// Calls f(name, names, bits) for every type that states reference names.
template <class F, class... T>
constexpr void each_named(type_list<T...>, const F& f) noexcept {
  [[maybe_unused]] const auto one = [&]<class U>(const U& type) {
    if constexpr (requires { U::reference_names; }) f(U::name, U::reference_names, type.bits());
  };
  (one(T{}), ...);
}
/// The types of one header.
#define AR_NAMED_TYPES(stem) each_named(stem##_types{}, f);
template <class F>
constexpr void each_named(const F& f) noexcept {
  AR_FOR_EACH_DATA_TYPE(AR_NAMED_TYPES)
}
#undef AR_NAMED_TYPES

/// The choice for a name in pieces; its `name` is empty if no type has it. Of several types with this name, the one of that width.
constexpr quantizer_choice find_quantizer(const name_pieces& pieces, int bits) noexcept {
  quantizer_choice found;
  bool several = false, fits = false;
  each_named([&](std::string_view type, std::string_view names, int width) {
    const std::string_view name = find_name(names, pieces);
    if (name.empty()) return;
    several = several || (!found.name.empty() && found.data_type != type);
    if (found.name.empty() || (width == bits && !fits)) found = {name, type};
    fits = fits || width == bits;
  });
  if (several && !fits) found.data_type = {};
  if (found.name.empty()) found.name = find_name(composed_names, pieces);
  return found;
}

}  // namespace detail

/// The quantizer for `q`; errc::unsupported if the reference has none under any of the names, `out` is not written then.
[[nodiscard]] constexpr errc resolve_quantizer(const quantizer_request& q, quantizer_choice& out) noexcept {
  const std::string_view prefixes[] = {"opt_rtn_", "rtn_", "block_", ""};
  const bool tried[] = {!q.tuning && q.search, !q.tuning, q.tiles, true};
  for (int p = 0; p < 4; ++p) {
    if (!tried[p]) continue;
    const bool searching = p == 0;
    if (searching && q.neuqi && q.sym)
      if (const quantizer_choice c = detail::find_quantizer({prefixes[p], q.data_type, -1, "_sym_neuqi"}, q.bits); !c.name.empty()) {
        out = {c.name, c.data_type, true, true};
        return errc::ok;
      }
    for (int i = 0; i < detail::name_variants; ++i) {
      // Without NeUQI there is no search for asymmetric integers.
      if (searching && i >= 2 && !q.neuqi && !q.sym) continue;
      quantizer_choice c = detail::find_quantizer(detail::variant_of_name(i, prefixes[p], q.data_type, q.bits, q.sym), q.bits);
      if (c.name.empty()) continue;
      if (searching && q.reference && q.data_type.substr(0, 3) == "mx_")
        c.data_type = detail::find_quantizer({"", "mx_fp", q.bits}, q.bits).data_type;
      c.search = searching;
      c.neuqi = searching && i >= 2 && !q.sym;
      out = c;
      return errc::ok;
    }
  }
  return errc::unsupported;
}

}  // namespace ar
