// Float and packed folders as weight sources.
#include "export/export_packed_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <optional>
#include <unordered_map>

#include "arch/architecture.hpp"
#include "export/export_inventory.hpp"

namespace auto_round::exporting {
namespace {

std::string layer_of(const std::string& weight) { return weight.substr(0, weight.rfind('.')); }

class folder_model final : public stored_model {
 public:
  explicit folder_model(io::checkpoint_dir dir) : dir_(std::move(dir)) {}

  result<void> open_layers(const found_quantization* found, const packing_maker& make) {
    auto spec = arch::read_spec(dir_.config(), dir_.path() + "/config.json");
    if (!spec) return forward_error(spec);
    spec_ = std::move(*spec);
    if (spec_.mixture.experts > 0)
      if (auto r = arch::unfuse_experts(dir_, spec_); !r) return r;
    if (auto r = check_count(dir_.tensors().size(), spec_, dir_.path() + "/config.json"); !r) return r;
    if (found != nullptr) {
      auto packing = make(*found, dir_, spec_);
      if (!packing) return forward_error(packing);
      packing_ = std::move(*packing);
      for (const required_tensor& need : required_tensors(spec_)) {
        if (need.shape.size() != 2) continue;
        auto layer = packing_->find(dir_, layer_of(need.name), need.shape[0], need.shape[1]);
        if (!layer) return forward_error(layer);
        if (*layer == nullptr) continue;
        for (const io::tensor_ref* t : (*layer)->parts()) part_of_[t->name] = need.name;
        packed_.emplace(need.name, stored{std::move(*layer), need.shape});
      }
    }
    if (auto r = check_inventory(dir_, spec_, [this](const std::string& name) { return packed_.contains(name); }); !r) return r;
    auto rotation = transform::find_rotation(dir_, spec_);
    if (!rotation) return forward_error(rotation);
    rotation_ = std::move(*rotation);
    return {};
  }

  const model::model_spec& spec() const override { return spec_; }
  bool has(const std::string& name) const override { return packed_.contains(name) || (dir_.find(name) != nullptr && !part_of_.contains(name)); }

  result<void> read(const std::string& name, std::span<float> out) const override { return read_part(name, out.size(), 0, out); }
  result<void> read_part(const std::string& name, std::uint64_t elements, std::uint64_t first, std::span<float> out) const override {
    if (const auto at = packed_.find(name); at != packed_.end()) {
      if (first == 0 && out.size() == elements) return read_packed(name, at->second, out);
      return stored_model::read_part(name, elements, first, out);
    }
    const io::tensor_ref* t = dir_.find(name);
    if (t == nullptr) return fail(error_kind::input, "the checkpoint has no such tensor", dir_.path(), name);
    if (t->elements() != elements || first > elements || out.size() > elements - first)
      return fail(error_kind::input, "the tensor has an unexpected number of values", file_of(*t), name);
    if (auto r = io::read_f32(*t, first, out); !r) return r;
    if (auto r = check_finite(out, *t); !r) return r;
    dir_.release(*t);
    return {};
  }

  void done_with_block(std::int64_t layer) const override {  // packed layers are released as they are read, others stay where they lie
    if (layer == -1) {
      for (const std::string& name : {spec_.embed_name, spec_.head_name})
        if (const io::tensor_ref* t = dir_.find(name)) dir_.release(*t);
      return;
    }
    for (int i = 0; i < static_cast<int>(spec_.linears.size()); ++i)
      if (const io::tensor_ref* t = dir_.find(spec_.linear_name(layer, i) + ".weight")) dir_.release(*t);
  }

  result<model::block_runner::input_filters> input_filters(std::int64_t layer) const override {
    if (packing_ == nullptr || float_inputs_) return model::block_runner::input_filters();
    return make_input_filters(spec_, layer, [&](const std::string& name) -> result<input_scheme> {
      if (!packed_.contains(name + ".weight")) return input_scheme{};
      return packing_->inputs(dir_, name);
    });
  }

  void read_float_inputs() override { float_inputs_ = true; }
  result<tune::quantized_layer> stored_layer(const std::string& weight) const override {
    const auto at = packed_.find(weight);
    if (at == packed_.end()) return stored_model::stored_layer(weight);
    auto layer = at->second.layer->stored();
    if (!layer) return forward_error(layer);
    layer->name = layer_of(weight);
    if (auto r = check_finite(layer->weight, *at->second.layer->parts().front()); !r) return forward_error(r);
    return layer;
  }

  /// What does not consist of finite numbers is left to read(), which names it.
  result<model::packed_pointer> packed(const std::string& name, std::uint64_t rows, std::uint64_t cols) const override {
    const std::vector<std::uint64_t> shape = {rows, cols};
    model::packed_pointer found;
    if (const auto at = packed_.find(name); at != packed_.end()) {
      if (at->second.shape != shape) return model::packed_pointer();
      auto layer = at->second.layer->packed();
      if (!layer) return forward_error(layer);
      found = std::move(*layer);
    } else if (const io::tensor_ref* t = dir_.find(name); t != nullptr && t->shape == shape) {
      if (!exporting::check_finite(dir_, *t)) return model::packed_pointer();
      return model::number_matrix(t->type, t->bytes.pin(), static_cast<std::size_t>(rows), static_cast<std::size_t>(cols));
    }
    return found != nullptr && model::all_finite(*found) ? found : model::packed_pointer();
  }

  std::string format() const override { return packing_ == nullptr ? "safetensors" : packing_->name(); }
  std::string tokenizer_directory() const override { return dir_.path(); }
  const io::checkpoint_dir* directory() const override { return &dir_; }
  const transform::found_rotation* rotation() const override { return rotation_ ? &*rotation_ : nullptr; }
  std::shared_ptr<const model::block_rotations> rotations(std::int64_t) const override { return rotation_ ? rotation_->online : nullptr; }

  std::uint64_t file_bytes() const override {
    std::uint64_t n = 0;
    for (const std::string& file : dir_.files()) {
      std::error_code ec;
      const std::uint64_t bytes = std::filesystem::file_size(file, ec);
      n += ec ? 0 : bytes;
    }
    return n;
  }

  std::vector<entry> entries() const override {
    std::vector<entry> all;
    for (const io::tensor_ref& t : dir_.tensors()) {
      const auto at = part_of_.find(t.name);
      if (at == part_of_.end()) {
        all.push_back({t.name, std::string(io::name_of(t.type)), t.shape, t.bytes.size(), false, file_of(t)});
        continue;
      }
      const auto& [layer, shape] = packed_.at(at->second);
      if (layer->parts().front()->name != t.name) continue;
      std::uint64_t bytes = 0;
      for (const io::tensor_ref* part : layer->parts()) bytes += part->bytes.size();
      all.push_back({at->second, layer->type(), shape, bytes, true, file_of(t)});
    }
    return all;
  }

  result<void> check() const override {
    if (packing_ == nullptr) return {};
    for (const auto& [name, layer] : packed_) {
      const io::tensor_ref* plain = dir_.find(name);
      if (plain != nullptr && !part_of_.contains(name)) {
        return fail(error_kind::verification, "the layer is stored twice, packed and as plain weight", file_of(*plain), name);
      }
    }
    const std::string config = dir_.path() + "/config.json";
    if (packed_.empty()) return fail(error_kind::verification, "config.json says that the model is quantized, but no layer is", config);
    for (const io::tensor_ref& t : dir_.tensors()) {
      if (packing_->is_part(t.name) && !part_of_.contains(t.name)) {
        return fail(error_kind::verification, "packed words that belong to no layer of the model", file_of(t), t.name);
      }
    }
    for (const auto& need : required_tensors(spec_)) {
      if (!need.linear || need.name == spec_.head_name) continue;
      auto promised = packing_->promises(layer_of(need.name));
      if (!promised) return forward_error(promised);
      if (*promised && **promised != packed_.contains(need.name)) {
        return fail(error_kind::verification, **promised ? "the configuration says that the layer is quantized, but it is not" :
                                                           "the layer is quantized, but the configuration says that it is not",
                    config, need.name);
      }
    }
    return {};
  }

 private:
  struct stored {
    std::unique_ptr<packed_layer> layer;
    std::vector<std::uint64_t> shape;
  };

  const std::string& file_of(const io::tensor_ref& t) const { return dir_.files()[t.file]; }

  result<void> check_finite(std::span<const float> values, const io::tensor_ref& t) const {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!std::isfinite(values[i])) {
        return fail(error_kind::input, fmt::format("the tensor holds NaN or infinity (first at value {}); the checkpoint is damaged", i), file_of(t), t.name);
      }
    }
    return {};
  }

  result<void> read_packed(const std::string& name, const stored& p, std::span<float> out) const {
    if (out.size() != p.shape[0] * p.shape[1]) return fail(error_kind::input, "the packed layer has an unexpected number of values", dir_.path(), name);
    if (auto r = p.layer->read(out); !r) return r;
    return check_finite(out, *p.layer->parts().front());
  }

  io::checkpoint_dir dir_;
  model::model_spec spec_;
  std::unique_ptr<packing> packing_;
  bool float_inputs_ = false;
  std::optional<transform::found_rotation> rotation_;
  std::unordered_map<std::string, stored> packed_;        // by name of the weight
  std::unordered_map<std::string, std::string> part_of_;  // name of the weight, by that of the tensor
};

/// null: no model folder.
result<std::optional<io::checkpoint_dir>> open_directory(const std::string& path) {
  std::error_code ec;
  if (!std::filesystem::exists(path + "/config.json", ec)) return std::optional<io::checkpoint_dir>();
  auto dir = io::checkpoint_dir::open(path);
  if (!dir) return forward_error(dir);
  return std::optional<io::checkpoint_dir>(std::move(*dir));
}

std::string lower(std::string s) {
  std::transform(s.begin(), s.end(), s.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return s;
}

}  // namespace

std::string describe_int_scheme(const ar::scheme_fields& s) {
  const std::string group = s.group_size > 0 ? fmt::format("g{}", s.group_size) : s.group_size == 0 ? "per tensor" : "per row";
  return fmt::format("W{} {} {}", s.bits, group, s.sym ? "sym" : "asym");
}

namespace {

/// Keys that all readers of configurations share are of the kind that is written there: a value of another one must not be taken for the default.
result<found_quantization> of_right_kinds(found_quantization found) {
  struct kind {
    const char* name;
    bool (io::json::*is)() const;
    std::initializer_list<const char*> keys;
  };
  const kind kinds[] = {
      {"true or false", &io::json::is_bool, {"sym", "desc_act", "zero_point", "is_marlin_format"}},
      {"a name", &io::json::is_string, {"format", "checkpoint_format", "packing_format", "version", "pack_dtype", "data_type"}},
      {"a list", &io::json::is_array, {"modules_to_not_convert", "ignore"}},
      {"an object", &io::json::is_object, {"dynamic", "extra_config", "config_groups"}},
  };
  for (const kind& k : kinds) {
    for (const char* key : k.keys) {
      const io::json& value = found.config.at(key);
      if (!value.is_null() && !(value.*k.is)()) return fail(error_kind::input, fmt::format("\"{}\" of the quantization must be {}", key, k.name), found.file);
    }
  }
  return found;
}

/// Takes blocks away behind the first ones.
void keep_first_blocks(io::checkpoint_dir& dir, const model::model_spec& spec, std::int64_t blocks) {
  std::vector<io::tensor_ref> kept;
  for (const io::tensor_ref& t : dir.tensors()) {
    std::int64_t block = -1;
    if (t.name.starts_with(spec.block_prefix)) std::from_chars(t.name.data() + spec.block_prefix.size(), t.name.data() + t.name.size(), block);
    if (block < blocks) kept.push_back(t);
  }
  io::json config = dir.config();
  config.set("num_hidden_layers", blocks);
  if (const io::json& kinds = config.at("layer_types"); kinds.is_array()) {
    io::json::array first(kinds.items().begin(), kinds.items().begin() + std::min(blocks, static_cast<std::int64_t>(kinds.items().size())));
    config.set("layer_types", std::move(first));
  }
  dir.present(std::move(kept), std::move(config));
}

result<std::unique_ptr<stored_model>> float_model(io::checkpoint_dir dir) {
  auto model = std::make_unique<folder_model>(std::move(dir));
  if (auto r = model->open_layers(nullptr, {}); !r) return forward_error(r);
  return std::unique_ptr<stored_model>(std::move(model));
}

}  // namespace

result<found_quantization> find_quantization(const io::checkpoint_dir& dir) {
  const std::string file = dir.path() + "/config.json";
  const io::json& config = dir.config();
  const io::json& own = config.at("quantization_config");
  const bool mlx = config.at("quantization").is_object();
  if (own.is_object() && own.find("quant_method") != nullptr && !(mlx && own.at("packing_format").as_string() == "mlx")) {
    const std::string method = lower(own.at("quant_method").as_string());
    if (method.empty()) return fail(error_kind::input, "quant_method is no name", file);
    return of_right_kinds({method, own, file});
  }
  if (mlx) return of_right_kinds({"mlx", config.at("quantization"), file});
  if (own.is_object()) return fail(error_kind::input, "quantization_config does not say quant_method", file);
  const auto packed = [](const io::tensor_ref& t) { return t.name.ends_with(".qweight"); };
  if (std::none_of(dir.tensors().begin(), dir.tensors().end(), packed)) return found_quantization{};
  for (const auto& [name, method] : {std::pair{"quantize_config.json", "gptq"}, std::pair{"quant_config.json", "awq"}}) {
    if (std::find(dir.side_files().begin(), dir.side_files().end(), name) == dir.side_files().end()) continue;
    const std::string beside = dir.path() + "/" + name;
    auto read = io::read_json(beside);
    if (!read) return forward_error(read);
    const std::string& said = read->at("quant_method").as_string();
    std::string named = said.empty() ? method : lower(said);
    return of_right_kinds({std::move(named), std::move(*read), beside});
  }
  return fail(error_kind::input, "the folder holds packed layers, but no configuration that says how", file);
}

result<std::unique_ptr<stored_model>> open_packed_folder(const std::string& path, std::span<const std::string_view> methods, const packing_maker& make) {
  auto dir = open_directory(path);
  if (!dir) return forward_error(dir);
  if (!*dir) return std::unique_ptr<stored_model>();
  auto found = find_quantization(**dir);
  if (!found) return forward_error(found);
  if (std::find(methods.begin(), methods.end(), found->method) == methods.end()) return std::unique_ptr<stored_model>();
  auto model = std::make_unique<folder_model>(std::move(**dir));
  if (auto r = model->open_layers(&*found, make); !r) return forward_error(r);
  return std::unique_ptr<stored_model>(std::move(model));
}

result<std::unique_ptr<stored_model>> open_float_folder(const std::string& path) {
  auto dir = open_directory(path);
  if (!dir) return forward_error(dir);
  if (!*dir) return std::unique_ptr<stored_model>();
  auto found = find_quantization(**dir);
  if (!found) return forward_error(found);
  if (!found->method.empty()) return std::unique_ptr<stored_model>();
  return float_model(std::move(**dir));
}

result<std::unique_ptr<stored_model>> open_first_blocks(const std::string& path, std::int64_t blocks) {
  auto dir = open_directory(path);
  if (!dir) return forward_error(dir);
  if (!*dir) return fail(error_kind::unsupported, "--num_hidden_layers needs a model folder with config.json and safetensors", path);
  auto found = find_quantization(**dir);
  if (!found) return forward_error(found);
  if (!found->method.empty()) return fail(error_kind::unsupported, "--num_hidden_layers is for float models; this one is quantized already", found->file);
  const std::string config = (*dir)->path() + "/config.json";
  auto spec = arch::read_spec((*dir)->config(), config);
  if (!spec) return forward_error(spec);
  if (blocks < 1 || blocks > spec->num_layers)
    return fail(error_kind::usage, fmt::format("--num_hidden_layers {}: the model has {} blocks", blocks, spec->num_layers), config);
  keep_first_blocks(**dir, *spec, blocks);
  return float_model(std::move(**dir));
}

}  // namespace auto_round::exporting
