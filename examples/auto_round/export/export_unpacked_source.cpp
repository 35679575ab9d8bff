#include "export/export_unpacked_source.hpp"

#include <algorithm>
#include <set>
#include <utility>

namespace auto_round::exporting {
namespace {

io::dtype model_type(const io::json& config) {
  std::string name = config.at("dtype").as_string();
  if (name.empty()) name = config.at("torch_dtype").as_string();
  return name == "float16" ? io::dtype::f16 : name == "float32" ? io::dtype::f32 : io::dtype::bf16;
}

class unpacked_model final : public stored_model {
 public:
  unpacked_model(std::unique_ptr<stored_model> packed, io::checkpoint_dir dir) : packed_(std::move(packed)), dir_(std::move(dir)) {
    const io::dtype type = model_type(dir_.config());
    std::vector<io::tensor_ref> tensors;
    for (const entry& e : packed_->entries()) {
      if (e.quantized) {
        io::tensor_ref t;
        t.name = e.name;
        t.type = type;
        t.shape = e.shape;
        tensors.push_back(std::move(t));
        computed_.insert(e.name);
      } else {
        tensors.push_back(*dir_.find(e.name));
      }
    }
    io::json config = dir_.config();
    for (const char* key : {"quantization_config", "quantization"}) config.erase(key);
    dir_.present(std::move(tensors), std::move(config));
  }

  const model::model_spec& spec() const override { return packed_->spec(); }
  result<void> read(const std::string& name, std::span<float> out) const override { return packed_->read(name, out); }
  result<void> read_part(const std::string& name, std::uint64_t elements, std::uint64_t first, std::span<float> out) const override {
    return packed_->read_part(name, elements, first, out);
  }
  bool has(const std::string& name) const override { return dir_.find(name) != nullptr; }
  bool changed(const std::string& name) const override { return computed_.contains(name); }
  void done_with_block(std::int64_t layer) const override { packed_->done_with_block(layer); }
  std::string location() const override { return dir_.path(); }

  std::string format() const override { return packed_->format(); }
  std::vector<entry> entries() const override {
    std::vector<entry> all = packed_->entries();
    for (entry& e : all) e.quantized = false;
    return all;
  }
  std::uint64_t file_bytes() const override { return packed_->file_bytes(); }
  std::string tokenizer_directory() const override { return packed_->tokenizer_directory(); }
  result<void> check() const override { return packed_->check(); }
  const io::checkpoint_dir* directory() const override { return &dir_; }

 private:
  std::unique_ptr<stored_model> packed_;
  io::checkpoint_dir dir_;
  std::set<std::string> computed_;
};

}  // namespace

bool has_packed_layers(const stored_model& model) {
  const auto entries = model.entries();
  return std::any_of(entries.begin(), entries.end(), [](const stored_model::entry& e) { return e.quantized; });
}

result<std::unique_ptr<stored_model>> unpacked_source(std::unique_ptr<stored_model> packed) {
  if (packed->directory() == nullptr) return fail(error_kind::unsupported, "only folders of safetensors can be quantized anew", packed->tokenizer_directory());
  if (packed->rotation() != nullptr) return fail(error_kind::unsupported, "the packed model is rotated; quantize the float checkpoint that it was made from", packed->tokenizer_directory());
  if (auto r = packed->check(); !r) return forward_error(r);
  auto dir = io::checkpoint_dir::open(packed->directory()->path());
  if (!dir) return forward_error(dir);
  return std::unique_ptr<stored_model>(std::make_unique<unpacked_model>(std::move(packed), std::move(*dir)));
}

}  // namespace auto_round::exporting
