// Configurations of packed integers as they are read: a scheme for the model, rules for single layers, and which tensors that means.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "export/export_int_layout.hpp"
#include "export/export_name_patterns.hpp"
#include "export/export_packed_model.hpp"

namespace auto_round::exporting {

/// True for "model.layers.0.mlp.up_proj", "lm_head" and the like.
bool is_linear_layer(const model::model_spec& spec, const std::string& name);

/// GPTQ and AWQ words, in the folders of auto-round, AutoGPTQ, GPTQModel and AutoAWQ.
class int_packing final : public packing {
 public:
  int_packing(std::string name, std::string file, int_layout layout) : name_(std::move(name)), file_(std::move(file)), layout_(layout) {}

  /// bits, group_size, sym and desc_act of an object; what it does not say is as before. error_kind::input for values that are none.
  result<void> set_model_scheme(const io::json& config);
  /// A rule for one layer, or for all whose names the pattern is found in. A layer's own rule is taken, else the first pattern's. `entry` has the
  /// same keys as the model's; 9 bits or more: not packed.
  result<void> add_rule(const std::string& name_or_pattern, bool is_name, const io::json& entry);
  void match_at_start() { at_start_ = true; }

  std::string name() const override { return name_; }
  result<std::unique_ptr<packed_layer>> find(const io::checkpoint_dir& dir, const std::string& layer, std::uint64_t rows,
                                             std::uint64_t cols) const override;
  result<std::optional<bool>> promises(const std::string& layer) const override;
  bool is_part(std::string_view tensor) const override { return tensor.ends_with(".qweight") || tensor.ends_with(".qzeros"); }

 private:
  struct rule {
    ar::scheme_fields scheme;
    bool any_order = false;
  };
  result<void> read_rule(const io::json& config, rule& to) const;
  result<rule> rule_of(const std::string& layer) const;

  std::string name_, file_;
  int_layout layout_;
  rule model_;
  std::map<std::string, rule> layers_;
  std::vector<rule> pattern_rules_;
  name_patterns patterns_;
  bool at_start_ = false;
};

/// What to say before asymmetric weights are written with zero points less one.
std::string asymmetric_gptq_warning(std::string_view format);

}  // namespace auto_round::exporting
