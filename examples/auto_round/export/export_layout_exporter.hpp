// The exporter of formats whose layers lie in a layer_layout: compressed-tensors, auto-round's floating formats, block FP8. They differ in configuration.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "export/export_format.hpp"
#include "export/export_layer_layout.hpp"

namespace auto_round::exporting {

/// export_format::accepts: whether `who` has a layout for the scheme.
result<holding> accepts_layout(std::string_view format, const ar::scheme_fields& scheme, dialect who);

/// export_format::decide: leaves layers in 16 bits that the original leaves (integers: rows or columns no multiple of 32; block scales: rows no multiple of
/// the group size) and refuses layers for which there is no layout.
result<void> decide_layout(job& run, dialect who);

/// The same for formats that hold FP8 in tiles alone.
result<holding> accepts_fp8_tiles(std::string_view format, const ar::scheme_fields& scheme);
result<void> decide_fp8_tiles(job& run);

/// `texts` are the configuration files. Biases of layers with block scales become half precision, but not in the shard-wise flow; others keep their type.
result<std::unique_ptr<exporter>> make_layout_exporter(const job& run, dialect who, const std::vector<std::pair<std::string, std::string>>& texts);

}  // namespace auto_round::exporting
