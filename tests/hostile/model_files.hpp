// Files of models that are right, for cases to change one thing in.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "hostile/corpus.hpp"
#include "support/tiny_model.hpp"

namespace hostile {

using json = nlohmann::ordered_json;
using support::tiny_model;

inline void put(const fs::path& path, const std::string& bytes) {
  fs::create_directories(path.parent_path());
  tiny_model::put(path, bytes);
}

template <class T>
std::string bytes_of(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

inline std::string repeated(std::string_view text, std::size_t times) {
  std::string s;
  s.reserve(text.size() * times);
  for (std::size_t i = 0; i < times; ++i) s += text;
  return s;
}

/// A sound model in @/model with one file of it replaced.
inline std::function<void(const fs::path&)> model_with(std::string file, std::string bytes) {
  return [file = std::move(file), bytes = std::move(bytes)](const fs::path& dir) {
    tiny_model().write(dir / "model");
    put(dir / "model" / file, bytes);
  };
}

/// A sound model but for what `change` does to it.
inline std::function<void(const fs::path&)> changed_model(std::function<void(tiny_model&)> change) {
  return [change = std::move(change)](const fs::path& dir) {
    tiny_model m;
    change(m);
    m.write(dir / "model");
  };
}

/// A safetensors file from its header and data.
inline std::string safetensors_file(const std::string& header, const std::string& data = {}) {
  return bytes_of(static_cast<std::uint64_t>(header.size())) + header + data;
}

}  // namespace hostile
