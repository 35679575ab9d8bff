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
