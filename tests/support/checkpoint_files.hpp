// What tests do with the safetensors files of a folder: compare two, or lay one out in two files.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "support/golden.hpp"
#include "support/tiny_model.hpp"

namespace support {

/// Same names, and for each the same bytes.
inline void expect_same_tensors(const std::filesystem::path& a, const std::filesystem::path& b, const std::string& about = {}) {
  const golden::file x(a), y(b);
  ASSERT_EQ(x.tensors().size(), y.tensors().size()) << about;
  for (const auto& [name, t] : x.tensors()) {
    ASSERT_TRUE(y.has(name)) << about << ": " << name;
    EXPECT_EQ(t.as<unsigned char>(), y[name].as<unsigned char>()) << about << ": " << name;
  }
}

/// The tensors in two files with an index, those for which `early` is true in the first, in place of the folder's model.safetensors.
template <class Early>
void write_two_files(const std::filesystem::path& folder, const std::map<std::string, tiny_tensor>& tensors, const Early& early) {
  const std::string names[] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
  std::map<std::string, tiny_tensor> parts[2];
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  for (const auto& [name, t] : tensors) {
    const std::size_t at = early(name) ? 0 : 1;
    parts[at][name] = t;
    map[name] = names[at];
  }
  std::filesystem::remove(folder / "model.safetensors");
  for (std::size_t i = 0; i < 2; ++i) tiny_model::put(folder / names[i], tiny_model::safetensors(parts[i]));
  tiny_model::put(folder / "model.safetensors.index.json", nlohmann::ordered_json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump());
}

}  // namespace support
