// A GGUF file of a LLaMA-like model as weight source. What config.json says elsewhere is read from the metadata.
#include "export/export_gguf_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <span>
#include <unordered_map>
#include <unordered_set>

#include "arch/architecture.hpp"
#include "export/export_gguf_blocks.hpp"
#include "export/export_gguf_types.hpp"
#include "export/export_inventory.hpp"
#include "io/file.hpp"

namespace auto_round::exporting {
namespace {

std::optional<double> number(const io::gguf_contents& c, const std::string& key) {
  const io::gguf_value* v = c.find(key);
  if (v == nullptr) return std::nullopt;
  return std::visit(
      [](const auto& x) -> std::optional<double> {
        if constexpr (std::is_arithmetic_v<std::decay_t<decltype(x)>>) {
          return static_cast<double>(x);
        } else {
          return std::nullopt;
        }
      },
      *v);
}

std::string text(const io::gguf_contents& c, const std::string& key) {
  const io::gguf_value* v = c.find(key);
  return v != nullptr && std::holds_alternative<std::string>(*v) ? std::get<std::string>(*v) : std::string();
}

/// The frequency factors that a tensor of this name holds; empty if there is no such tensor.
result<std::vector<double>> factors_in(const io::gguf_contents& c, std::string_view name, const std::string& file) {
  const auto at = std::ranges::find(c.tensors, name, &io::gguf_tensor_ref::name);
  if (at == c.tensors.end()) return std::vector<double>();
  if (at->type != io::gguf_type::f32 || at->ne.size() != 1) return fail(error_kind::input, "the rope factors have an unexpected type or shape", file, at->name);
  std::vector<float> factors(at->data.size() / sizeof(float));
  if (auto r = decode_gguf(at->type, at->data.pin(), 1, factors.size(), factors); !r) return forward_error(r);
  for (const float f : factors) {
    if (!(f > 0) || !std::isfinite(f)) return fail(error_kind::input, "the rope factors are not positive numbers", file, at->name);
  }
  return std::vector<double>(factors.begin(), factors.end());
}

io::json list_of(const std::vector<double>& values) { return io::json::array(values.begin(), values.end()); }

/// The keys of rope.scaling as `rope_scaling`.
result<void> add_rope_scaling(const io::gguf_contents& c, const std::string& name, const std::string& file, io::json& config) {
  const std::string type = text(c, name + ".rope.scaling.type");
  const auto factor = number(c, name + ".rope.scaling.factor"), original = number(c, name + ".rope.scaling.original_context_length");
  const auto sensible = [](const std::optional<double>& v) { return v && *v >= 1 && *v < 1e15; };
  io::json scaling = io::json::object{};
  auto longer = factors_in(c, "rope_factors_long.weight", file), shorter = factors_in(c, "rope_factors_short.weight", file);
  if (!longer) return forward_error(longer);
  if (!shorter) return forward_error(shorter);
  if (!longer->empty() || !shorter->empty()) {
    if (!sensible(original)) return fail(error_kind::input, fmt::format("the GGUF file lacks the number {}.rope.scaling.original_context_length", name), file);
    config.set("original_max_position_embeddings", static_cast<std::int64_t>(*original));
    scaling.set("type", "longrope").set("long_factor", list_of(*longer)).set("short_factor", list_of(*shorter));
    if (const auto attention = number(c, name + ".rope.scaling.attn_factor")) scaling.set("attention_factor", *attention);
  } else if (type == "linear" || type == "yarn") {
    if (!factor || !(*factor > 0) || !std::isfinite(*factor)) return fail(error_kind::input, fmt::format("the GGUF file lacks the number {}.rope.scaling.factor", name), file);
    scaling.set("rope_type", type).set("factor", *factor);
    if (type == "yarn") {
      if (!sensible(original)) return fail(error_kind::input, fmt::format("the GGUF file lacks the number {}.rope.scaling.original_context_length", name), file);
      scaling.set("original_max_position_embeddings", static_cast<std::int64_t>(*original));
    }
  } else {
    return {};
  }
  config.set("rope_scaling", std::move(scaling));
  return {};
}

/// The metadata in the words of config.json, so that the architecture's own reader checks it.
result<io::json> config_from_metadata(const io::gguf_contents& c, const std::string& file) {
  const std::string name = text(c, "general.architecture");
  const auto in_file = [&](std::string_view key) { return number(c, fmt::format("{}.{}", name, key)); };
  const arch::architecture* const found = arch::find_gguf(name, in_file("expert_count").value_or(0) > 0);
  if (found == nullptr) return fail(error_kind::unsupported, fmt::format("the GGUF file holds architecture \"{}\", which cannot be run", name), file);
  io::json config = io::json::object{};
  config.set("architectures", io::json::array{found->model_classes.front()}).set("model_type", found->name);
  for (const std::span<const arch::gguf_key> keys : {found->gguf.early_keys, found->gguf.keys, found->gguf.more_keys}) {
    for (const arch::gguf_key& key : keys) {
      using enum arch::gguf_key::back;
      const auto v = in_file(key.name);
      if (key.read == none || (key.read == optional && !v) || (key.read == unless_zero && !(v.value_or(0) > 0))) continue;
      if (!v || !std::isfinite(*v)) return fail(error_kind::input, fmt::format("the GGUF file lacks the number {}.{}", name, key.name), file);
      if (key.integer && (std::abs(*v) > 1e15 || *v != std::floor(*v))) return fail(error_kind::input, fmt::format("{}.{} is no sensible integer", name, key.name), file);
      config.set(std::string(key.config), key.integer ? io::json(static_cast<std::int64_t>(*v)) : io::json(*v));
    }
  }
  if (auto r = add_rope_scaling(c, name, file, config); !r) return forward_error(r);
  if (found->gguf.complete != nullptr) found->gguf.complete(in_file, config);
  for (const io::gguf_tensor_ref& t : c.tensors)
    if (t.name == "token_embd.weight" && t.ne.size() == 2 && config.at("vocab_size").is_null()) config.set("vocab_size", static_cast<std::int64_t>(t.ne[1]));
  config.set("hidden_act", "silu");
  bool has_head = false, attention_bias = false, mlp_bias = false;
  for (const io::gguf_tensor_ref& t : c.tensors) {
    has_head |= t.name == "output.weight";
    attention_bias |= t.name == "blk.0.attn_q.bias";
    mlp_bias |= t.name == "blk.0.ffn_up.bias";
  }
  for (const char* which : {"bos", "eos"}) {
    if (const auto id = number(c, fmt::format("tokenizer.ggml.{}_token_id", which)); id && *id >= 0 && *id < 1e9) config.set(fmt::format("{}_token_id", which), static_cast<std::int64_t>(*id));
  }
  config.set("torch_dtype", "float16");  // the file does not say what the model was trained in
  config.set("tie_word_embeddings", !has_head).set("attention_bias", attention_bias).set("mlp_bias", mlp_bias);
  return config;
}

bool is_float(io::gguf_type t) { return t == io::gguf_type::f32 || t == io::gguf_type::f16 || t == io::gguf_type::bf16; }

class gguf_model final : public stored_model {
 public:
  explicit gguf_model(io::tensor_file file) : file_(std::move(file)) {}

  result<void> open() {
    auto contents = io::parse_gguf(file_.bytes(), file_.path());
    if (!contents) return forward_error(contents);
    contents_ = std::move(*contents);
    auto config = config_from_metadata(contents_, file_.path());
    if (!config) return forward_error(config);
    auto spec = arch::read_spec(*config, file_.path());
    if (!spec) return forward_error(spec);
    config_ = std::move(*config);
    spec_ = std::move(*spec);
    for (const io::gguf_tensor_ref& t : contents_.tensors) by_name_[t.name] = &t;
    if (auto r = read_rope_factors(); !r) return r;
    std::uint64_t matrices = 0;  // those of experts lie in one tensor
    for (const io::gguf_tensor_ref& t : contents_.tensors) matrices += t.ne.size() == 3 ? t.ne[2] : 1;
    if (auto r = check_count(matrices, spec_, file_.path()); !r) return r;
    for (const required_tensor& need : required_tensors(spec_)) {
      const gguf_place place = place_in_gguf(spec_, need.name);
      const auto at = by_name_.find(place.name);
      if (at == by_name_.end()) return fail(error_kind::input, "a tensor that the metadata calls for is missing", file_.path(), place.name);
      const io::gguf_tensor_ref* t = at->second;
      std::vector<std::uint64_t> shape(t->ne.rbegin(), t->ne.rend()), wanted = need.shape;
      if (place.count > 1) wanted.insert(wanted.begin(), place.count);
      if (shape != wanted) {
        return fail(error_kind::input, fmt::format("the tensor has shape {}, but the metadata calls for {}", shape_text(shape), shape_text(wanted)),
                    file_.path(), t->name);
      }
      io::gguf_tensor_ref part = *t;
      if (place.count > 1) {
        part.ne.pop_back();
        const std::size_t bytes = t->data.size() / static_cast<std::size_t>(place.count);
        part.data = t->data.subspan(static_cast<std::size_t>(place.index) * bytes, bytes);
      }
      auto factor = factor_of(*t, place);
      if (!factor) return forward_error(factor);
      if (*factor != 1.0f) factors_.emplace(need.name, *factor);
      parts_.emplace(need.name, std::move(part));
      if (!can_decode(t->type)) {
        return fail(error_kind::unsupported,
                    fmt::format("tensor type {} cannot be read so far", io::gguf_type_info(static_cast<std::uint32_t>(t->type)).name), file_.path(), t->name);
      }
    }
    return {};
  }

  const model::model_spec& spec() const override { return spec_; }
  bool has(const std::string& name) const override { return find(name) != nullptr; }

  result<void> read(const std::string& name, std::span<float> out) const override {
    const io::gguf_tensor_ref* t = find(name);
    if (t == nullptr) return fail(error_kind::input, "the GGUF file has no such tensor", file_.path(), name);
    const std::size_t cols = static_cast<std::size_t>(t->ne.empty() ? 0 : t->ne[0]);
    if (cols == 0 || out.size() % cols != 0) return fail(error_kind::input, "the tensor has an unexpected number of values", file_.path(), t->name);
    const std::size_t rows = out.size() / cols;
    const std::uint64_t heads = permuted_heads(spec_, name);
    if (heads == 0) {
      if (auto r = decode_gguf(t->type, t->data.pin(), rows, cols, out); !r) return r;
    } else {
      std::vector<float> stored(out.size());
      if (auto r = decode_gguf(t->type, t->data.pin(), rows, cols, stored); !r) return r;
      // A bias is one row of "cols" values; its elements are the rows that are permuted.
      const std::size_t n = t->ne.size() == 1 ? cols : rows, width = t->ne.size() == 1 ? 1 : cols;
      for (std::size_t i = 0; i < n; ++i) {
        const std::size_t to = static_cast<std::size_t>(permuted_row(i, n, heads));
        std::copy_n(stored.begin() + static_cast<std::ptrdiff_t>(i * width), width, out.begin() + static_cast<std::ptrdiff_t>(to * width));
      }
    }
    file_.release(t->data);
    scale(name, out);
    if (const float offset = gguf_offset(spec_, name); offset != 0)
      for (float& v : out) v -= offset;
    return check_finite(out, *t);
  }

  /// By rows where they lie as they are read.
  result<void> read_part(const std::string& name, std::uint64_t elements, std::uint64_t first, std::span<float> out) const override {
    const io::gguf_tensor_ref* t = find(name);
    const std::uint64_t cols = t == nullptr || t->ne.empty() ? 0 : t->ne[0];
    const bool rows = cols != 0 && first % cols == 0 && out.size() % cols == 0 && elements % cols == 0 && permuted_heads(spec_, name) == 0 && gguf_offset(spec_, name) == 0;
    if (!rows || first > elements || out.size() > elements - first || t->data.size() % (elements / cols) != 0) return stored_model::read_part(name, elements, first, out);
    const auto row_bytes = static_cast<std::size_t>(t->data.size() / (elements / cols)), n = static_cast<std::size_t>(out.size() / cols);
    const auto part = t->data.subspan(static_cast<std::size_t>(first / cols) * row_bytes, n * row_bytes);
    if (auto r = decode_gguf(t->type, part.pin(), n, static_cast<std::size_t>(cols), out); !r) return r;
    file_.release(part);
    scale(name, out);
    return check_finite(out, *t);
  }

  result<tune::quantized_layer> stored_layer(const std::string& weight) const override {
    const io::gguf_tensor_ref* t = find(weight);
    if (t == nullptr || t->ne.size() != 2) return stored_model::stored_layer(weight);
    const auto rows = static_cast<std::size_t>(t->ne[1]), cols = static_cast<std::size_t>(t->ne[0]);
    auto layer = unpack_gguf(t->type, t->data.pin(), rows, cols, permuted_heads(spec_, weight));
    if (!layer) return fail(layer.error().kind, layer.error().message, file_.path(), t->name);
    layer->name = weight.substr(0, weight.rfind('.'));
    layer->weight.resize(rows * cols);
    if (layer->scheme.data_type.starts_with("nv_fp")) layer->global_scale = 1;
    if (const auto factor = factors_.find(weight); factor != factors_.end()) {
      if (!layer->scheme.data_type.starts_with("nv_fp")) return fail(error_kind::unsupported, "the file has a scale for the whole of a tensor of this type, which no format of this program writes; format fake can hold it", file_.path(), t->name);
      layer->tensor_factor = factor->second;
      layer->global_scale = factor->second == 0 ? 0 : 1 / factor->second;
    }
    if (auto r = read(weight, layer->weight); !r) return forward_error(r);
    return layer;
  }

  io::json config() const override { return config_; }
  std::string given_name() const override { return std::string(text(contents_, "general.name")); }
  std::string location() const override { return file_.path(); }

  /// What does not consist of finite numbers is left to read(), which names it.
  result<model::packed_pointer> packed(const std::string& name, std::uint64_t rows, std::uint64_t cols) const override {
    const io::gguf_tensor_ref* t = find(name);
    if (t == nullptr || t->ne != std::vector<std::uint64_t>{cols, rows}) return model::packed_pointer();
    const auto n = static_cast<std::size_t>(rows), width = static_cast<std::size_t>(cols);
    model::packed_pointer found;
    if (const std::uint64_t heads = permuted_heads(spec_, name); heads == 0) {
      found = stored_rows(t->type, t->data.pin(), n, width);
    } else if (n != 0 && t->data.size() % n == 0) {
      const io::pinned_bytes stored = t->data.pin();
      std::vector<std::byte> ordered(stored.size());
      const std::size_t row = ordered.size() / n;
      for (std::size_t i = 0; i < n; ++i) std::copy_n(stored.data() + i * row, row, ordered.data() + static_cast<std::size_t>(permuted_row(i, n, heads)) * row);
      file_.release(t->data);
      found = stored_rows(t->type, std::move(ordered), n, width);
    }
    if (const auto factor = factors_.find(name); found != nullptr && factor != factors_.end()) found = model::scaled_matrix(std::move(found), factor->second);
    return found != nullptr && model::all_finite(*found) ? found : model::packed_pointer();
  }

  void done_with_block(std::int64_t layer) const override {
    if (layer == -1) {
      for (const std::string& name : {spec_.embed_name, spec_.head_name})
        if (const io::gguf_tensor_ref* t = find(name)) file_.release(t->data);
      return;
    }
    const std::string block = spec_.block_name(layer);
    for (const auto& [name, part] : parts_)
      if (name.starts_with(block)) file_.release(part.data);
  }

  std::string format() const override { return "gguf"; }
  std::string tokenizer_directory() const override {
    const std::filesystem::path folder = std::filesystem::path(file_.path()).parent_path();
    return folder.empty() ? "." : folder.string();
  }
  std::uint64_t file_bytes() const override { return file_.bytes().size(); }

  std::vector<entry> entries() const override {
    std::unordered_map<std::string, std::vector<std::string>> source_names;
    std::unordered_set<std::string> factors;  // parts of the tensors that they multiply
    for (const required_tensor& need : required_tensors(spec_)) {
      const std::string name = place_in_gguf(spec_, need.name).name;
      factors.insert(gguf_factor_name(name));
      source_names[name].push_back(need.name);
    }
    std::vector<entry> all;
    for (const io::gguf_tensor_ref& t : contents_.tensors) {
      if (factors.contains(t.name)) continue;
      const auto known = source_names.find(t.name);
      const auto add = [&](const std::string& name, const io::gguf_tensor_ref& part) {
        all.push_back({name, io::gguf_type_info(static_cast<std::uint32_t>(t.type)).name, {part.ne.rbegin(), part.ne.rend()}, part.data.size(), !is_float(t.type), file_.path()});
      };
      if (known == source_names.end()) add(t.name, t);
      else for (const std::string& name : known->second) add(name, *find(name));
    }
    return all;
  }

  result<void> check() const override { return {}; }  // the header was checked in full when the file was opened

 private:
  result<void> check_finite(std::span<const float> values, const io::gguf_tensor_ref& t) const {
    if (io::all_finite(values)) return {};
    return fail(error_kind::input, "the tensor holds NaN or infinity; the file is damaged", file_.path(), t.name);
  }

  static model::packed_pointer stored_rows(io::gguf_type type, io::pinned_bytes bytes, std::size_t rows, std::size_t cols) {
    if (type == io::gguf_type::f16) return model::number_matrix(io::dtype::f16, std::move(bytes), rows, cols);
    if (type == io::gguf_type::bf16) return model::number_matrix(io::dtype::bf16, std::move(bytes), rows, cols);
    return model::block_matrix(static_cast<std::uint32_t>(type), std::move(bytes), rows, cols);
  }

  /// What llama.cpp multiplies the products of a tensor by, or of one expert's part of it (NVFP4). Biases are added behind that.
  result<float> factor_of(const io::gguf_tensor_ref& t, const gguf_place& place) const {
    const auto at = by_name_.find(gguf_factor_name(t.name));
    if (at == by_name_.end() || !t.name.ends_with(".weight")) return 1.0f;
    const io::gguf_tensor_ref& scales = *at->second;
    if (scales.type != io::gguf_type::f32 || scales.ne != std::vector<std::uint64_t>{place.count})
      return fail(error_kind::input, fmt::format("the scale of a tensor must be {} numbers of type F32", place.count), file_.path(), scales.name);
    std::vector<float> values(static_cast<std::size_t>(place.count));
    if (auto r = decode_gguf(scales.type, scales.data.pin(), 1, values.size(), values); !r) return forward_error(r);
    const float factor = values[static_cast<std::size_t>(place.index)];
    if (!std::isfinite(factor)) return fail(error_kind::input, "the scale of a tensor is no finite number", file_.path(), scales.name);
    return factor;
  }

  void scale(const std::string& name, std::span<float> values) const {
    const auto factor = factors_.find(name);
    if (factor == factors_.end()) return;
    for (float& v : values) v *= factor->second;
  }

  const io::gguf_tensor_ref* find(const std::string& name) const {
    if (const auto part = parts_.find(name); part != parts_.end()) return &part->second;
    const gguf_place place = place_in_gguf(spec_, name);
    const auto at = by_name_.find(place.name);
    return at == by_name_.end() || place.count > 1 ? nullptr : at->second;
  }

  /// rope_freqs.weight divides each frequency: the same as longrope with one list for all lengths and no attention factor.
  result<void> read_rope_factors() {
    constexpr const char* name = "rope_freqs.weight";
    auto factors = factors_in(contents_, name, file_.path());
    if (!factors) return forward_error(factors);
    if (factors->empty()) return {};
    if (factors->size() != static_cast<std::size_t>(spec_.head_dim / 2)) return fail(error_kind::input, "the rope factors have an unexpected length", file_.path(), name);
    spec_.rope.type = model::rope_spec::kind::longrope;
    spec_.rope.short_factor = spec_.rope.long_factor = *factors;
    spec_.rope.attention_factor = 1.0;
    spec_.rope.original_max_position = spec_.max_position_embeddings;
    io::json scaling = io::json::object{};
    scaling.set("rope_type", "longrope").set("factor", 1.0).set("attention_factor", 1.0).set("original_max_position_embeddings", spec_.max_position_embeddings);
    scaling.set("short_factor", list_of(*factors)).set("long_factor", list_of(*factors));
    config_.set("rope_scaling", std::move(scaling));
    return {};
  }

  io::tensor_file file_;
  io::gguf_contents contents_;
  io::json config_;
  model::model_spec spec_;
  std::unordered_map<std::string, const io::gguf_tensor_ref*> by_name_;
  std::unordered_map<std::string, io::gguf_tensor_ref> parts_;  ///< what the model consists of, by the checkpoint's names; experts are parts of tensors
  std::unordered_map<std::string, float> factors_;              ///< what some of them are multiplied by, by the same names
};

}  // namespace

result<std::unique_ptr<stored_model>> open_gguf(const std::string& path) {
  std::string file = path;
  std::error_code ec;
  if (std::filesystem::is_directory(path, ec)) {
    file.clear();
    for (const auto& e : std::filesystem::directory_iterator(path, ec)) {
      if (e.path().extension() != ".gguf") continue;
      if (!file.empty()) return fail(error_kind::usage, "the folder holds several GGUF files; name one of them", path);
      file = e.path().string();
    }
    if (file.empty()) return std::unique_ptr<stored_model>();
  } else if (!path.ends_with(".gguf")) {
    return std::unique_ptr<stored_model>();
  }
  auto mapped = io::tensor_file::open(file);
  if (!mapped) return forward_error(mapped);
  auto model = std::make_unique<gguf_model>(std::move(*mapped));
  if (auto r = model->open(); !r) return forward_error(r);
  return std::unique_ptr<stored_model>(std::move(model));
}

}  // namespace auto_round::exporting
