// What formats of packed integers share: which schemes they hold, and the exporter itself. They differ in layout and configuration.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "export/export_format.hpp"
#include "export/export_int_layout.hpp"

namespace auto_round::exporting {

/// Which integers a format holds.
struct int_limits {
  unsigned widths = 0;       ///< bit b is set: layers of b bits
  bool short_groups = true;  ///< the last group of a row may be short
  bool one_scheme = false;   ///< a layer has the scheme of the model, or is not quantized
  bool falls_back = true;    ///< quantized activations and MX integers are written as `fake`
};
constexpr unsigned bit_widths(std::initializer_list<int> bits) {
  unsigned set = 0;
  for (const int b : bits) set |= 1u << b;
  return set;
}

/// export_format::accepts for these limits.
result<holding> accepts_int(std::string_view format, const ar::scheme_fields& scheme, const int_limits& limits);

/// export_format::decide: checks model and layers, leaves layers in 16 bits whose rows or columns are no multiple of 32, warns about short groups.
result<void> decide_int(job& run, const int_limits& limits, int_layout layout);

/// `texts` are the configuration files. Biases of packed layers become half precision, but not in the shard-wise flow.
result<std::unique_ptr<exporter>> make_int_exporter(const job& run, int_layout layout, bool g_idx,
                                                    const std::vector<std::pair<std::string, std::string>>& texts);

}  // namespace auto_round::exporting
