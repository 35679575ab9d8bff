#include "export/export_imatrix.hpp"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "export/export_gguf_types.hpp"
#include "io/imatrix_file.hpp"

namespace auto_round::exporting {

result<tune::importance_matrix> read_importance(const std::string& path, const model::model_spec& spec) {
  auto file = io::read_imatrix(path);
  if (!file) return forward_error(file);
  std::map<std::string, const io::imatrix_entry*> by_name;
  for (const io::imatrix_entry& e : file->entries) by_name[e.name] = &e;
  tune::importance_matrix all;
  for (std::int64_t b = 0; b < spec.num_layers; ++b) {
    for (std::size_t i = 0; i < spec.linears.size(); ++i) {
      if (!spec.has_linear(b, static_cast<int>(i))) continue;
      const std::string layer = spec.linear_name(b, static_cast<int>(i)), name = gguf_name(spec, layer + ".weight");
      if (name.empty()) return fail(error_kind::unsupported, fmt::format("layers of a {} have no names in importance matrices", spec.model_class), path, layer);
      const auto found = by_name.find(name);
      if (found == by_name.end()) {
        return fail(error_kind::input, fmt::format("the importance matrix has no entry for {}; was it made from this model?", layer), path, name);
      }
      const io::imatrix_entry& e = *found->second;
      const auto cols = static_cast<std::uint64_t>(spec.linears[i].in_features);
      if (e.cols != cols || e.counts.size() != 1) {
        return fail(error_kind::input, fmt::format("the entry has {} values, but the layer has {} columns", e.sums.size(), cols), path, name);
      }
      // Only ratios matter: the mean over tokens, as if of one sequence.
      all[layer] = {e.mean(), 1, 1};
    }
  }
  return all;
}

result<void> write_importance(const std::string& path, const model::model_spec& spec, const tune::importance_matrix& importance, std::int64_t seqlen,
                              const std::string& dataset) {
  io::imatrix_file file;
  file.datasets = {dataset};
  file.chunk_size = static_cast<std::uint32_t>(seqlen);
  for (const auto& [layer, c] : importance) {
    if (gguf_name(spec, layer + ".weight").empty()) return fail(error_kind::unsupported, fmt::format("layers of a {} have no names in importance matrices", spec.model_class), path, layer);
    file.entries.push_back({gguf_name(spec, layer + ".weight"), c.sum.size(), c.sum, {static_cast<float>(c.tokens)}});
    file.chunk_count = static_cast<std::uint32_t>(c.sequences);
  }
  return io::write_imatrix(path, std::move(file));
}

}  // namespace auto_round::exporting
