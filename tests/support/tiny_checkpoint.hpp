// Checkpoints of tests/data that are open for the length of a test.
#pragma once

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "arch/architecture.hpp"
#include "io/checkpoint_dir.hpp"
#include "support/float_source.hpp"

namespace support {

struct checkpoint {
  explicit checkpoint(const std::filesystem::path& folder) : dir(open(folder)), source(dir, spec_of(dir)) {}

  static auto_round::io::checkpoint_dir open(const std::filesystem::path& folder) {
    auto d = auto_round::io::checkpoint_dir::open(folder.string());
    if (!d) throw std::runtime_error(describe(d.error()));
    return std::move(*d);
  }
  static auto_round::model::model_spec spec_of(const auto_round::io::checkpoint_dir& d) {
    auto s = auto_round::arch::read_spec(d.config(), d.path() + "/config.json");
    if (!s) throw std::runtime_error(describe(s.error()));
    return *s;
  }

  auto_round::io::checkpoint_dir dir;
  float_source source;
};

inline std::filesystem::path architecture_folder(const std::string& name) { return std::filesystem::path(AR_TEST_DATA) / "architectures" / name; }

/// Names of the tiny models, one or two for each architecture.
inline std::vector<std::string> architectures() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(architecture_folder({})))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace support
