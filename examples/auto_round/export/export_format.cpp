// The registry of export formats and the sums over a plan.
#include "export/export_format.hpp"

#include <algorithm>
#include <array>
#include <filesystem>

#include "export/export_packed_model.hpp"

namespace auto_round::exporting {

#define AR_EXPORT(stem) extern const export_format export_##stem;
#include "export_registry.inc"
#undef AR_EXPORT

namespace {

constexpr const export_format* registry[] = {
#define AR_EXPORT(stem) &export_##stem,
#include "export_registry.inc"
#undef AR_EXPORT
};

std::uint64_t elements_of(const tensor_plan& t) {
  std::uint64_t n = 1;
  for (const std::uint64_t d : t.shape) n *= d;
  return n;
}

}  // namespace

std::span<const export_format* const> all() { return registry; }

const export_format* find(std::string_view spelling) {
  for (const export_format* f : registry) {
    if (std::find(f->spellings.begin(), f->spellings.end(), spelling) != f->spellings.end()) return f;
  }
  return nullptr;
}

std::vector<std::string> all_spellings() {
  std::vector<std::string> all;
  for (const export_format* f : registry) all.insert(all.end(), f->spellings.begin(), f->spellings.end());
  return all;
}

std::string spellings_that_hold(const ar::scheme_fields& scheme) {
  std::string names;
  for (const export_format* f : registry) {
    for (const std::string_view spelling : f->spellings) {
      const ar::scheme_fields* own = f->own_scheme(spelling);
      if (own != nullptr && !ar::same_scheme(*own, scheme)) continue;
      const auto answer = f->accepts(spelling, scheme);
      if (answer && *answer == holding::packed) names += (names.empty() ? "" : ", ") + std::string(spelling);
    }
  }
  return names;
}

result<std::unique_ptr<stored_model>> open_model(const std::string& path) {
  std::error_code ec;
  if (path.find('\0') != std::string::npos) return fail(error_kind::input, "a path holds a zero byte", path);  // the system would see its beginning
  if (!std::filesystem::exists(path, ec)) return fail(error_kind::input, "there is no such folder or file; give a model folder or a .gguf file", path);
  for (const export_format* f : registry) {
    auto model = f->open(path);
    if (!model) return forward_error(model);
    if (*model) return model;
  }
  if (std::filesystem::exists(path + "/config.json", ec)) {
    const auto dir = io::checkpoint_dir::open(path);
    const auto found = dir ? find_quantization(*dir) : found_quantization{};
    if (found && !found->method.empty())
      return fail(error_kind::unsupported, "the checkpoint is quantized by method \"" + found->method + "\", which cannot be read so far", found->file);
  }
  return fail(error_kind::unsupported, "this is neither a model folder with config.json and safetensors nor a GGUF file", path);
}

result<tune::quantized_layer> stored_model::stored_layer(const std::string& weight) const {
  return fail(error_kind::unsupported, "the tensor is not quantized", tokenizer_directory(), weight);
}

const char* name_of(action a) {
  switch (a) {
    case action::quantize: return "quantize";
    case action::keep: return "keep";
    case action::convert: return "convert";
    case action::drop: return "drop";
  }
  return "";
}

std::uint64_t output_plan::total_bytes() const {
  std::uint64_t n = 0;
  for (const file_plan& f : files) n += f.bytes;
  return n;
}

std::uint64_t output_plan::weight_bytes() const {
  std::uint64_t n = 0;
  for (const tensor_plan& t : tensors) n += t.output_bytes;
  return n;
}

double output_plan::bits_per_weight() const {
  std::uint64_t n = 0;
  for (const tensor_plan& t : tensors) n += t.what == action::drop ? 0 : elements_of(t);
  return n == 0 ? 0 : 8.0 * static_cast<double>(weight_bytes()) / static_cast<double>(n);
}

double output_plan::bits_per_quantized_weight() const {
  std::uint64_t n = 0, bytes = 0;
  for (const tensor_plan& t : tensors) {
    if (t.what != action::quantize) continue;
    n += elements_of(t);
    bytes += t.output_bytes;
  }
  return n == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(n);
}

std::size_t output_plan::quantized_layers() const {
  return static_cast<std::size_t>(std::count_if(tensors.begin(), tensors.end(), [](const tensor_plan& t) { return t.what == action::quantize; }));
}

}  // namespace auto_round::exporting
