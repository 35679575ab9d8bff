// Finds the architecture of a checkpoint in the generated list.
#include "arch/architecture.hpp"

#include <array>

namespace auto_round::arch {

#define AR_ARCH(name) extern const architecture arch_##name;
#include "arch_registry.inc"
#undef AR_ARCH

namespace {

#define AR_ARCH(name) &arch_##name,
constexpr auto registry = std::to_array<const architecture*>({
#include "arch_registry.inc"
});
#undef AR_ARCH

std::string supported() {
  std::string list;
  for (const architecture* a : registry)
    for (const std::string_view c : a->model_classes) list += (list.empty() ? "" : ", ") + std::string(c);
  return list;
}

}  // namespace

std::span<const architecture* const> all() { return registry; }

const architecture* find(std::string_view name) {
  for (const architecture* a : registry)
    if (a->name == name) return a;
  return nullptr;
}

const architecture* find_gguf(std::string_view name, bool experts) {
  const architecture* found = nullptr;
  for (const architecture* a : registry)
    if (!name.empty() && a->gguf.name == name && (found == nullptr || (experts && a->gguf.with_experts))) found = a;
  return found;
}

result<void> unfuse_experts(io::checkpoint_dir& dir, const model::model_spec& spec) {
  return dir.split([&](const io::tensor_ref& t) -> std::vector<std::string> {
    constexpr std::string_view mark = ".experts.", suffix = ".weight";
    const std::size_t at = t.name.rfind(mark);
    // Without bytes a line of the header could name any number of pieces.
    if (t.shape.size() != 3 || at == std::string::npos || t.bytes.empty() || t.shape[0] != static_cast<std::uint64_t>(spec.mixture.experts)) return {};
    std::string_view last = std::string_view(t.name).substr(at + mark.size());
    if (last.ends_with(suffix)) last.remove_suffix(suffix.size());
    if (last.find('.') != std::string_view::npos) return {};
    std::vector<std::string_view> members = {last};
    if (last == "gate_up_proj") members = {"gate_proj", "up_proj"};
    if (last == "w13") members = {"w1", "w3"};
    std::vector<std::string> names;
    for (std::uint64_t e = 0; e < t.shape[0]; ++e)
      for (const std::string_view m : members) names.push_back(t.name.substr(0, at + mark.size()) + std::to_string(e) + "." + std::string(m) + std::string(suffix));
    return names;
  });
}

result<model::model_spec> read_spec(const io::json& config, const std::string& file) {
  const auto& classes = config.at("architectures").items();
  std::string wanted = classes.empty() ? std::string() : classes.front().as_string();
  const architecture* found = nullptr;
  for (const architecture* a : registry)
    for (const std::string_view c : a->model_classes)
      if (c == wanted) found = a;
  if (found == nullptr && wanted.empty()) {
    wanted = config.at("model_type").as_string();
    found = find(wanted);
  }
  if (found == nullptr)
    return fail(error_kind::unsupported,
                "the architecture " + (wanted.empty() ? std::string("is not named in config.json") : "'" + wanted + "' is not supported") +
                    "; supported: " + supported(),
                file);
  result<model::model_spec> spec = found->read(config);
  if (!spec) {
    error e = spec.error();
    if (e.file.empty()) e.file = file;
    return tl::unexpected<error>(std::move(e));
  }
  return spec;
}

}  // namespace auto_round::arch
