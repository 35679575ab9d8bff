#include "command/model_path.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace auto_round::command {
namespace {

namespace fs = std::filesystem;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// As huggingface_hub finds it.
fs::path hub_cache() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (const std::string folder = variable(name); !folder.empty()) return folder;
  }
  if (const std::string home = variable("HF_HOME"); !home.empty()) return fs::path(home) / "hub";
  if (const std::string cache = variable("XDG_CACHE_HOME"); !cache.empty()) return fs::path(cache) / "huggingface/hub";
  return fs::path(variable("HOME")) / ".cache/huggingface/hub";
}

/// "org/name": one slash inside, letters, digits, and what the hub allows between them.
bool may_be_on_hub(const std::string& name) {
  const auto allowed = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.' || c == '/'; };
  const std::size_t slash = name.find('/');
  return slash != std::string::npos && slash > 0 && slash + 1 < name.size() && name.find('/', slash + 1) == std::string::npos && name.front() != '.' && name[slash + 1] != '.' &&
         std::ranges::all_of(name, allowed);
}

}  // namespace

void take_slashes_off(std::string& folder) {
  while (folder.size() > 1 && folder.ends_with('/')) folder.pop_back();
}

result<void> find_local_model(std::string& model) {
  take_slashes_off(model);
  std::error_code ec;
  if (!may_be_on_hub(model) || fs::exists(model, ec)) return {};
  std::string folder = "models--" + model;
  folder.replace(folder.find('/'), 1, "--");
  const fs::path cache = hub_cache(), cached = cache / folder;
  std::string revision;
  std::ifstream(cached / "refs/main") >> revision;
  // A revision is hexadecimal digits; anything else might lead out of the cache.
  const bool plain = !revision.empty() && revision.find_first_not_of("0123456789abcdefABCDEF") == std::string::npos;
  if (!plain || !fs::is_directory(cached / "snapshots" / revision, ec)) {
    return fail(error_kind::input, fmt::format("there is no such folder or file, and no model of that name in the local cache of the hub ({}); this program downloads nothing: "
                                               "`hf download {}` does, where there is a network", cache.string(), model),
                model);
  }
  model = (cached / "snapshots" / revision).string();
  return {};
}

}  // namespace auto_round::command
