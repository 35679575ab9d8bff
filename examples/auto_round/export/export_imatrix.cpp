#include "export/export_imatrix.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "export/export_gguf_types.hpp"
#include "io/imatrix_file.hpp"

namespace auto_round::exporting {

result<tune::importance_matrix> read_importance(const std::string& path, const model::model_spec& spec) {
  auto file = io::read_imatrix(path);
  if (!file) return forward_error(file);
  std::map<std::string, const io::imatrix_entry*> by_name;
  for (const io::imatrix_entry& e : file->entries) by_name[e.name] = &e;
  std::map<std::string, std::vector<float>> means;  // by entry, of all its experts
  tune::importance_matrix all;
  for (std::int64_t b = 0; b < spec.num_layers; ++b) {
    for (std::size_t i = 0; i < spec.linears.size(); ++i) {
      if (!spec.has_linear(b, static_cast<int>(i))) continue;
      const std::string layer = spec.linear_name(b, static_cast<int>(i));
      const gguf_place place = place_in_gguf(spec, layer + ".weight");
      if (place.name.empty()) return fail(error_kind::unsupported, fmt::format("layers of a {} have no names in importance matrices", spec.model_class), path, layer);
      const auto found = by_name.find(place.name);
      if (found == by_name.end()) {
        return fail(error_kind::input, fmt::format("the importance matrix has no entry for {}; was it made from this model?", layer), path, place.name);
      }
      const io::imatrix_entry& e = *found->second;
      const auto cols = static_cast<std::uint64_t>(spec.linears[i].in_features);
      // The older form does not tell experts apart: it has one row of all of them.
      if (e.sums.size() != cols * place.count || (e.counts.size() != 1 && e.counts.size() != place.count)) {
        return fail(error_kind::input, fmt::format("the entry has {} values, but the layer has {} columns{}", e.sums.size(), cols, place.count > 1 ? fmt::format(" for each of {} experts", place.count) : ""),
                    path, place.name);
      }
      auto [mean, fresh] = means.try_emplace(place.name);
      if (fresh) mean->second = e.mean();
      const auto first = mean->second.begin() + static_cast<std::ptrdiff_t>(place.index * cols);
      // Only ratios matter: the mean over tokens, as if of one sequence.
      all[layer] = {std::vector<float>(first, first + static_cast<std::ptrdiff_t>(cols)), 1, 1};
    }
  }
  return all;
}

result<void> write_importance(const std::string& path, const model::model_spec& spec, const tune::importance_matrix& importance, std::int64_t seqlen,
                              const std::string& dataset) {
  io::imatrix_file file;
  file.datasets = {dataset};
  file.chunk_size = static_cast<std::uint32_t>(seqlen);
  std::map<std::string, io::imatrix_entry> entries;
  for (const auto& [layer, c] : importance) {
    const gguf_place place = place_in_gguf(spec, layer + ".weight");
    if (place.name.empty()) return fail(error_kind::unsupported, fmt::format("layers of a {} have no names in importance matrices", spec.model_class), path, layer);
    io::imatrix_entry& e = entries[place.name];
    if (e.name.empty()) e = {place.name, c.sum.size(), std::vector<float>(c.sum.size() * place.count), std::vector<float>(place.count)};
    std::copy(c.sum.begin(), c.sum.end(), e.sums.begin() + static_cast<std::ptrdiff_t>(place.index * e.cols));
    e.counts[place.index] = static_cast<float>(c.tokens);
    file.chunk_count = static_cast<std::uint32_t>(c.sequences);
  }
  for (auto& [name, e] : entries) file.entries.push_back(std::move(e));
  return io::write_imatrix(path, std::move(file));
}

}  // namespace auto_round::exporting
