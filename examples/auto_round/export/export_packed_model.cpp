// Float and packed folders as weight sources.
#include "export/export_packed_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <optional>
#include <unordered_map>

#include "arch/architecture.hpp"
#include "export/export_gptq_words.hpp"
#include "export/export_inventory.hpp"

namespace auto_round::exporting {
namespace {

/// Where packed words of a layer lie and how to read them.
struct packed_layer {
  std::string name;
  ar::scheme_fields scheme;
  gptq_shape shape;
  const io::tensor_ref *qweight = nullptr, *qzeros = nullptr, *scales = nullptr;
};

template <class T>
std::vector<T> copy_of(const io::tensor_ref& t) {
  std::vector<T> v(t.bytes.size() / sizeof(T));
  std::memcpy(v.data(), t.bytes.data(), v.size() * sizeof(T));  // safetensors data need not be aligned
  return v;
}

class folder_model final : public stored_model {
 public:
  explicit folder_model(io::checkpoint_dir dir) : dir_(std::move(dir)) {}

  result<void> open_layers() {
    auto spec = arch::read_spec(dir_.config(), dir_.path() + "/config.json");
    if (!spec) return forward_error(spec);
    spec_ = std::move(*spec);
    const io::json& config = dir_.config().at("quantization_config");
    if (config.is_object()) {
      if (auto r = read_quantization(config); !r) return r;
    }
    if (auto r = check_inventory(dir_, spec_, config.is_object()); !r) return r;
    auto rotation = transform::find_rotation(dir_, spec_);
    if (!rotation) return forward_error(rotation);
    rotation_ = std::move(*rotation);
    return {};
  }

  const model::model_spec& spec() const override { return spec_; }
  bool has(const std::string& name) const override { return dir_.find(name) != nullptr || packed_.contains(name); }

  result<void> read(const std::string& name, std::span<float> out) const override {
    if (const auto at = packed_.find(name); at != packed_.end()) return read_packed(at->second, out);
    const io::tensor_ref* t = dir_.find(name);
    if (t == nullptr) return fail(error_kind::input, "the checkpoint has no such tensor", dir_.path(), name);
    if (t->elements() != out.size()) return fail(error_kind::input, "the tensor has an unexpected number of values", file_of(*t), name);
    if (auto r = io::read_f32(*t, 0, out); !r) return r;
    if (auto r = check_finite(out, *t); !r) return r;
    dir_.release(*t);
    return {};
  }

  std::string format() const override { return packed_.empty() ? "safetensors" : "auto_round (GPTQ words, " + packing_ + ")"; }
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
      const std::string layer = t.name.substr(0, t.name.rfind('.'));
      const auto at = packed_.find(layer + ".weight");
      const bool part = at != packed_.end() && (t.name.ends_with(".qzeros") || t.name.ends_with(".scales") || t.name.ends_with(".g_idx"));
      if (part) continue;
      if (at != packed_.end() && t.name.ends_with(".qweight")) {
        const packed_layer& p = at->second;
        all.push_back({at->first, describe_int_scheme(p.scheme), {p.shape.rows, p.shape.cols},
                       p.qweight->bytes.size() + p.qzeros->bytes.size() + p.scales->bytes.size(), true, file_of(t)});
      } else {
        all.push_back({t.name, std::string(io::name_of(t.type)), t.shape, t.bytes.size(), false, file_of(t)});
      }
    }
    return all;
  }

  result<void> check() const override {
    for (const auto& [name, p] : packed_) {
      if (dir_.find(name) != nullptr) {
        return fail(error_kind::verification, "the layer is stored twice, packed and as plain weight", file_of(*dir_.find(name)), name);
      }
    }
    const io::json& config = dir_.config().at("quantization_config");
    if (!config.is_object()) return {};
    if (packed_.empty()) return fail(error_kind::verification, "config.json says that the model is quantized, but no layer is", dir_.path() + "/config.json");
    for (const io::tensor_ref& t : dir_.tensors()) {
      const std::string layer = t.name.substr(0, t.name.rfind('.'));
      if (t.name.ends_with(".qweight") && !packed_.contains(layer + ".weight")) {
        return fail(error_kind::verification, "packed words that belong to no layer of the model", file_of(t), t.name);
      }
    }
    for (const auto& need : required_tensors(spec_)) {
      if (!need.linear || need.name == spec_.head_name) continue;
      const std::string layer = need.name.substr(0, need.name.size() - std::strlen(".weight"));
      const io::json& extra = config.at("extra_config").at(layer);
      const bool promised = (extra.find("bits") != nullptr ? extra.at("bits").as_int() : config.at("bits").as_int(16)) <= 8;
      if (promised != packed_.contains(need.name)) {
        return fail(error_kind::verification, promised ? "config.json says that the layer is quantized, but it is not" :
                                                         "the layer is quantized, but config.json says that it is not",
                    dir_.path() + "/config.json", need.name);
      }
    }
    return {};
  }

 private:
  const std::string& file_of(const io::tensor_ref& t) const { return dir_.files()[t.file]; }

  result<void> check_finite(std::span<const float> values, const io::tensor_ref& t) const {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!std::isfinite(values[i])) {
        return fail(error_kind::input, fmt::format("the tensor holds NaN or infinity (first at value {}); the checkpoint is damaged", i), file_of(t), t.name);
      }
    }
    return {};
  }

  result<void> read_packed(const packed_layer& p, std::span<float> out) const {
    if (out.size() != p.shape.rows * p.shape.cols) {
      return fail(error_kind::input, "the packed layer has an unexpected number of values", file_of(*p.qweight), p.name);
    }
    const auto qweight = copy_of<std::uint32_t>(*p.qweight), qzeros = copy_of<std::uint32_t>(*p.qzeros);
    const auto scales = copy_of<std::uint16_t>(*p.scales);
    if (auto r = unpack_gptq(p.shape, qweight, qzeros, scales, out); !r) return r;
    if (auto r = check_finite(out, *p.scales); !r) return r;
    for (const io::tensor_ref* t : {p.qweight, p.qzeros, p.scales}) dir_.release(*t);
    return {};
  }

  result<void> read_quantization(const io::json& config) {
    const std::string file = dir_.path() + "/config.json";
    const std::string& method = config.at("quant_method").as_string();
    packing_ = config.at("packing_format").as_string();
    if (method != "auto-round") {
      return fail(error_kind::unsupported, fmt::format("the checkpoint is quantized by method \"{}\"; only auto-round's own can be read so far", method), file);
    }
    if (packing_ != "auto_round" && packing_ != "auto_round:auto_gptq" && packing_ != "auto_round:gptqmodel") {
      return fail(error_kind::unsupported, fmt::format("packing_format \"{}\" cannot be read so far; auto_round and auto_round:auto_gptq can", packing_), file);
    }
    for (const auto& need : required_tensors(spec_)) {
      if (!need.linear) continue;
      const std::string layer = need.name.substr(0, need.name.size() - std::strlen(".weight"));
      if (dir_.find(layer + ".qweight") == nullptr) continue;
      if (auto r = read_layer(config, layer, need.shape, file); !r) return r;
    }
    return {};
  }

  result<void> read_layer(const io::json& config, const std::string& layer, const std::vector<std::uint64_t>& shape, const std::string& file) {
    const io::json& extra = config.at("extra_config").at(layer);
    const auto field = [&](const char* key) -> const io::json& { return extra.find(key) != nullptr ? extra.at(key) : config.at(key); };
    packed_layer p;
    p.name = layer;
    p.scheme.bits = static_cast<int>(std::clamp<std::int64_t>(field("bits").as_int(), 0, 64));
    p.scheme.group_size = static_cast<int>(std::clamp<std::int64_t>(field("group_size").as_int(), -1, 1 << 30));
    p.scheme.sym = field("sym").as_bool(true);
    p.scheme.act_bits = 16;
    if (p.scheme.bits < 2 || p.scheme.bits > 8) {
      return fail(error_kind::input, fmt::format("a packed layer cannot have {} bits; 2 to 8 are possible", p.scheme.bits), file, layer);
    }
    if (p.scheme.group_size == 0 || shape[0] % 32 != 0 || shape[1] % 32 != 0) {
      return fail(error_kind::input, "group_size or the shape does not fit packed words", file, layer);
    }
    p.shape = gptq_shape_of(p.scheme, shape[0], shape[1]);
    p.shape.zero_minus_one = packing_ == "auto_round:auto_gptq";
    const auto find = [&](const char* suffix, io::dtype type, std::vector<std::uint64_t> expected, const io::tensor_ref*& out) -> result<void> {
      out = dir_.find(layer + suffix);
      if (out == nullptr) return fail(error_kind::input, "a part of a packed layer is missing", dir_.path(), layer + suffix);
      if (out->type != type || out->shape != expected) {
        return fail(error_kind::input,
                    fmt::format("a part of a packed layer is {} {}, but config.json calls for {} {}", io::name_of(out->type), shape_text(out->shape),
                                io::name_of(type), shape_text(expected)),
                    file_of(*out), layer + suffix);
      }
      return {};
    };
    if (auto r = find(".qweight", io::dtype::i32, {p.shape.qweight_rows(), p.shape.rows}, p.qweight); !r) return r;
    if (auto r = find(".qzeros", io::dtype::i32, {p.shape.groups, p.shape.qzeros_cols()}, p.qzeros); !r) return r;
    if (auto r = find(".scales", io::dtype::f16, {p.shape.groups, p.shape.rows}, p.scales); !r) return r;
    packed_.emplace(layer + ".weight", std::move(p));
    return {};
  }

  io::checkpoint_dir dir_;
  model::model_spec spec_;
  std::string packing_;
  std::optional<transform::found_rotation> rotation_;
  std::unordered_map<std::string, packed_layer> packed_;
};

result<std::unique_ptr<stored_model>> open_folder(const std::string& path, bool packed) {
  std::error_code ec;
  if (!std::filesystem::exists(path + "/config.json", ec)) return std::unique_ptr<stored_model>();
  auto dir = io::checkpoint_dir::open(path);
  if (!dir) return forward_error(dir);
  if (dir->config().at("quantization_config").is_object() != packed) return std::unique_ptr<stored_model>();
  auto model = std::make_unique<folder_model>(std::move(*dir));
  if (auto r = model->open_layers(); !r) return forward_error(r);
  return std::unique_ptr<stored_model>(std::move(model));
}

}  // namespace

std::string describe_int_scheme(const ar::scheme_fields& s) {
  const std::string group = s.group_size > 0 ? fmt::format("g{}", s.group_size) : s.group_size == 0 ? "per tensor" : "per row";
  return fmt::format("W{} {} {}", s.bits, group, s.sym ? "sym" : "asym");
}

result<std::unique_ptr<stored_model>> open_packed_folder(const std::string& path) { return open_folder(path, true); }
result<std::unique_ptr<stored_model>> open_float_folder(const std::string& path) { return open_folder(path, false); }

}  // namespace auto_round::exporting
