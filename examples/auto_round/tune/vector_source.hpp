// The model whose norms and biases tuning changes: what is not quantized is written from here (enable_norm_bias_tuning).
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "model/decoder.hpp"

namespace auto_round::tune {

/// The norms and biases of all blocks count as changed; until `set` gives them other values they are those of `base`, which must outlive this.
class vector_source final : public model::weight_source {
 public:
  explicit vector_source(const model::weight_source& base) : base_(base) {
    const model::model_spec& s = base.spec();
    for (std::int64_t b = 0; b < s.num_layers; ++b) {
      const std::string prefix = s.block_prefix + std::to_string(b) + ".";
      names_.insert(prefix + s.input_norm_name);
      names_.insert(prefix + s.post_attention_norm_name);
      for (std::size_t i = 0; i < s.linears.size(); ++i)
        if (s.linears[i].bias) names_.insert(s.linear_name(b, static_cast<int>(i)) + ".bias");
    }
  }
  void set(const std::string& name, std::vector<float> values) { values_[name] = std::move(values); }

  const model::model_spec& spec() const override { return base_.spec(); }
  result<void> read(const std::string& name, std::span<float> out) const override { return read_part(name, out.size(), 0, out); }
  result<void> read_part(const std::string& name, std::uint64_t elements, std::uint64_t first, std::span<float> out) const override {
    const auto known = values_.find(name);
    if (known == values_.end()) return elements == out.size() ? base_.read(name, out) : base_.read_part(name, elements, first, out);
    if (known->second.size() != elements) return fail(error_kind::internal, "a tuned vector has another length than its tensor", location(), name);
    std::copy_n(known->second.begin() + static_cast<std::ptrdiff_t>(first), out.size(), out.begin());
    return {};
  }
  bool has(const std::string& name) const override { return base_.has(name); }
  void done_with_block(std::int64_t layer) const override { base_.done_with_block(layer); }
  std::vector<std::uint64_t> shape(const std::string& name) const override { return base_.shape(name); }
  std::string location() const override { return base_.location(); }
  bool changed(const std::string& name) const override { return names_.count(name) != 0 || base_.changed(name); }
  std::shared_ptr<const model::block_rotations> rotations(std::int64_t layer) const override { return base_.rotations(layer); }

 private:
  const model::weight_source& base_;
  std::set<std::string> names_;
  std::map<std::string, std::vector<float>> values_;
};

}  // namespace auto_round::tune
