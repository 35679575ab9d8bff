#include "export/export_int_packing.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "export/export_inventory.hpp"

namespace auto_round::exporting {

bool is_linear_layer(const model::model_spec& spec, const std::string& name) {
  const std::vector<required_tensor> all = required_tensors(spec);
  return std::any_of(all.begin(), all.end(), [&](const required_tensor& t) {
    return t.linear && t.name.size() == name.size() + 7 && t.name.starts_with(name) && t.name.ends_with(".weight");
  });
}

result<void> int_packing::read_rule(const io::json& config, rule& to) const {
  const auto integer = [&](const char* key, std::int64_t low, std::int64_t high, int& out) -> result<void> {
    const io::json& v = config.at(key);
    if (v.is_null()) return {};
    if (!v.is_number() || v.as_int(low - 1) < low || v.as_int(low - 1) > high)
      return fail(error_kind::input, fmt::format("{} {} is none", key, io::dump(v, {.indent = -1})), file_);
    out = static_cast<int>(v.as_int());
    return {};
  };
  if (auto r = integer("bits", 1, 64, to.scheme.bits); !r) return r;
  if (auto r = integer("group_size", -1, 1 << 30, to.scheme.group_size); !r) return r;
  if (to.scheme.bits <= 8 && to.scheme.group_size == 0) return fail(error_kind::input, "group_size 0 does not go with packed words", file_);
  to.scheme.sym = config.at("sym").as_bool(to.scheme.sym);
  to.any_order = config.at("desc_act").as_bool(to.any_order);
  return {};
}

result<void> int_packing::set_model_scheme(const io::json& config) {
  model_.scheme.bits = 0;
  model_.scheme.act_bits = 16;
  if (auto r = read_rule(config, model_); !r) return r;
  if (model_.scheme.bits == 0) return fail(error_kind::input, "the configuration does not say bits", file_);
  if (config.at("group_size").is_null()) return fail(error_kind::input, "the configuration does not say group_size", file_);
  if (config.find("data_type") != nullptr && !config.at("data_type").as_string().starts_with("int")) {
    return fail(error_kind::unsupported, fmt::format("data_type \"{}\" cannot be read in this layout", config.at("data_type").as_string()), file_);
  }
  if (config.at("act_bits").as_int(16) < 16) return fail(error_kind::unsupported, "quantized activations cannot be computed so far", file_);
  return {};
}

result<void> int_packing::add_rule(const std::string& name, bool is_name, const io::json& entry) {
  if (!entry.is_object()) return fail(error_kind::input, fmt::format("the rule for \"{}\" is no object", name), file_);
  rule r = model_;
  if (auto e = read_rule(entry, r); !e) return e;
  if (is_name) {
    layers_.insert_or_assign(name, r);
    return {};
  }
  if (auto e = patterns_.add(name, file_); !e) return e;
  pattern_rules_.push_back(r);
  return {};
}

result<int_packing::rule> int_packing::rule_of(const std::string& layer) const {
  if (const auto own = layers_.find(layer); own != layers_.end()) return own->second;
  auto at = patterns_.first_found(layer, at_start_);
  if (!at) return forward_error(at);
  return *at == name_patterns::none ? model_ : pattern_rules_[*at];
}

result<std::optional<bool>> int_packing::promises(const std::string& layer) const {
  auto r = rule_of(layer);
  if (!r) return forward_error(r);
  return std::optional<bool>(r->scheme.bits <= 8);
}

result<std::unique_ptr<packed_layer>> int_packing::find(const io::checkpoint_dir& dir, const std::string& layer, std::uint64_t rows,
                                                        std::uint64_t cols) const {
  if (dir.find(layer + ".qweight") == nullptr) return std::unique_ptr<packed_layer>();
  auto r = rule_of(layer);
  if (!r) return forward_error(r);
  if (r->scheme.bits > 8) r->scheme = model_.scheme;  // said not to be packed, but it is: check() reports it
  return open_int_layer(dir, layer, layout_, r->scheme, rows, cols, r->any_order);
}

std::string asymmetric_gptq_warning(std::string_view format) {
  return fmt::format(
      "format {} stores zero points less one and cannot tell 0 from 1: asymmetric weights lose accuracy, most with 2 bits; auto_round stores them "
      "exactly",
      format);
}

}  // namespace auto_round::exporting
