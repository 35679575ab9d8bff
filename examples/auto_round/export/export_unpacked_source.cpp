#include "export/export_unpacked_source.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "ar/numeric/half.hpp"
#include "arch/architecture.hpp"
#include "export/export_inventory.hpp"

namespace auto_round::exporting {
namespace {

io::dtype model_type(const io::json& config) {
  std::string name = config.at("dtype").as_string();
  if (name.empty()) name = config.at("torch_dtype").as_string();
  return name == "float16" ? io::dtype::f16 : name == "float32" ? io::dtype::f32 : io::dtype::bf16;
}

/// The tensors of the folder with `computed` ones in place of packed ones; those of other checkpoints are computed all.
result<io::checkpoint_dir> present(const stored_model& packed, outside_blocks outside, std::set<std::string>& computed, bool (*dropped)(std::string_view) = nullptr) {
  io::json config = packed.config();
  const io::dtype type = model_type(config);
  const auto computed_tensor = [&](const stored_model::entry& e) {
    io::tensor_ref t;
    t.name = e.name;
    t.shape = e.shape;
    const bool floats = !e.quantized && io::dtype_from_name(e.type, t.type);
    if (!floats) t.type = outside == outside_blocks::exact && !e.name.starts_with(packed.spec().block_prefix) ? io::dtype::f32 : type;
    computed.insert(e.name);
    return t;
  };
  std::vector<io::tensor_ref> tensors;
  for (const char* key : {"quantization_config", "quantization"}) config.erase(key);
  if (packed.directory() == nullptr) {
    std::set<std::string> needed;
    for (const required_tensor& need : required_tensors(packed.spec())) needed.insert(need.name);
    for (const stored_model::entry& e : packed.entries())
      if (needed.contains(e.name)) tensors.push_back(computed_tensor(e));
    return io::checkpoint_dir::presented(packed.location(), std::move(tensors), std::move(config));
  }
  auto dir = io::checkpoint_dir::open(packed.directory()->path());
  if (!dir) return forward_error(dir);
  if (packed.spec().mixture.experts > 0)
    if (auto r = arch::unfuse_experts(*dir, packed.spec()); !r) return forward_error(r);
  for (const stored_model::entry& e : packed.entries())
    if (e.quantized || dropped == nullptr || !dropped(e.name)) tensors.push_back(e.quantized ? computed_tensor(e) : *dir->find(e.name));
  dir->present(std::move(tensors), std::move(config));
  return dir;
}

class unpacked_model final : public stored_model {
 public:
  unpacked_model(const stored_model& packed, std::unique_ptr<stored_model> owned, io::checkpoint_dir dir, std::set<std::string> computed)
      : packed_(packed), owned_(std::move(owned)), dir_(std::move(dir)), computed_(std::move(computed)) {}

  const model::model_spec& spec() const override { return packed_.spec(); }
  result<void> read(const std::string& name, std::span<float> out) const override { return packed_.read(name, out); }
  result<void> read_part(const std::string& name, std::uint64_t elements, std::uint64_t first, std::span<float> out) const override {
    return packed_.read_part(name, elements, first, out);
  }
  bool has(const std::string& name) const override { return dir_.find(name) != nullptr; }
  bool changed(const std::string& name) const override { return computed_.contains(name); }
  void done_with_block(std::int64_t layer) const override { packed_.done_with_block(layer); }
  std::string location() const override { return dir_.path(); }

  std::string format() const override { return packed_.format(); }
  std::string given_name() const override { return packed_.given_name(); }
  std::vector<entry> entries() const override {
    std::vector<entry> all = packed_.entries();
    for (entry& e : all) e.quantized = false;
    return all;
  }
  std::uint64_t file_bytes() const override { return packed_.file_bytes(); }
  std::string tokenizer_directory() const override { return packed_.tokenizer_directory(); }
  result<void> check() const override { return packed_.check(); }
  const io::checkpoint_dir* directory() const override { return &dir_; }

 private:
  const stored_model& packed_;
  std::unique_ptr<stored_model> owned_;  // packed_, or null
  io::checkpoint_dir dir_;
  std::set<std::string> computed_;
};

class retyped_model final : public stored_model {
 public:
  retyped_model(std::unique_ptr<stored_model> source, io::checkpoint_dir dir, std::set<std::string> changed, io::dtype type)
      : source_(std::move(source)), dir_(std::move(dir)), changed_(std::move(changed)), type_(type) {}

  const model::model_spec& spec() const override { return source_->spec(); }
  result<void> read(const std::string& name, std::span<float> out) const override {
    if (auto r = source_->read(name, out); !r) return r;
    return rounded(name, out);
  }
  result<void> read_part(const std::string& name, std::uint64_t elements, std::uint64_t first, std::span<float> out) const override {
    if (auto r = source_->read_part(name, elements, first, out); !r) return r;
    return rounded(name, out);
  }
  bool has(const std::string& name) const override { return source_->has(name); }
  bool changed(const std::string& name) const override { return changed_.contains(name) || source_->changed(name); }
  void done_with_block(std::int64_t layer) const override { source_->done_with_block(layer); }
  std::string location() const override { return source_->location(); }

  std::string format() const override { return source_->format(); }
  std::string given_name() const override { return source_->given_name(); }
  std::vector<entry> entries() const override {
    std::vector<entry> all = source_->entries();
    for (entry& e : all) {
      if (!changed_.contains(e.name)) continue;
      e.type = io::name_of(type_);
      e.bytes = dir_.find(e.name)->elements() * io::size_of(type_);
    }
    return all;
  }
  std::uint64_t file_bytes() const override { return source_->file_bytes(); }
  std::string tokenizer_directory() const override { return source_->tokenizer_directory(); }
  result<void> check() const override { return source_->check(); }
  const io::checkpoint_dir* directory() const override { return &dir_; }

 private:
  result<void> rounded(const std::string& name, std::span<float> values) const {
    if (type_ == io::dtype::f32 || !changed_.contains(name)) return {};
    for (float& v : values) v = type_ == io::dtype::f16 ? ar::round_to_f16(v) : ar::round_to_bf16(v);
    if (io::all_finite(values)) return {};
    return fail(error_kind::input, fmt::format("a weight is too large for {}; take another --model_dtype", io::name_of(type_)), location(), name);
  }

  std::unique_ptr<stored_model> source_;
  io::checkpoint_dir dir_;
  std::set<std::string> changed_;
  io::dtype type_;
};

}  // namespace

bool has_packed_layers(const stored_model& model) {
  const auto entries = model.entries();
  return std::any_of(entries.begin(), entries.end(), [](const stored_model::entry& e) { return e.quantized; });
}

result<std::unique_ptr<stored_model>> unpacked_view(const stored_model& packed, outside_blocks outside, bool (*dropped)(std::string_view name)) {
  std::set<std::string> computed;
  auto dir = present(packed, outside, computed, dropped);
  if (!dir) return forward_error(dir);
  return std::unique_ptr<stored_model>(std::make_unique<unpacked_model>(packed, nullptr, std::move(*dir), std::move(computed)));
}

result<std::unique_ptr<stored_model>> unpacked_source(std::unique_ptr<stored_model> packed) {
  if (packed->rotation() != nullptr) return fail(error_kind::unsupported, "the packed model is rotated; quantize the float checkpoint that it was made from", packed->tokenizer_directory());
  if (auto r = packed->check(); !r) return forward_error(r);
  std::set<std::string> computed;
  auto dir = present(*packed, outside_blocks::as_model, computed);
  if (!dir) return forward_error(dir);
  const stored_model& model = *packed;
  return std::unique_ptr<stored_model>(std::make_unique<unpacked_model>(model, std::move(packed), std::move(*dir), std::move(computed)));
}

result<std::unique_ptr<stored_model>> retyped_source(std::unique_ptr<stored_model> source, io::dtype type) {
  const io::checkpoint_dir* from = source->directory();
  if (from == nullptr || !std::filesystem::exists(from->path() + "/config.json")) return fail(error_kind::unsupported, "--model_dtype is for folders of safetensors", source->location());
  auto dir = io::checkpoint_dir::open(from->path());
  if (!dir) return forward_error(dir);
  std::set<std::string> changed;
  std::vector<io::tensor_ref> tensors = from->tensors();
  for (io::tensor_ref& t : tensors) {
    if (!is_float(t.type) || t.type == type) continue;
    t.type = type;
    t.bytes = {};
    changed.insert(t.name);
  }
  io::json config = from->config();
  for (const char* key : {"dtype", "torch_dtype"})
    if (config.find(key) != nullptr) config.set(key, type == io::dtype::f16 ? "float16" : type == io::dtype::bf16 ? "bfloat16" : "float32");
  dir->present(std::move(tensors), std::move(config));
  return std::unique_ptr<stored_model>(std::make_unique<retyped_model>(std::move(source), std::move(*dir), std::move(changed), type));
}

}  // namespace auto_round::exporting
