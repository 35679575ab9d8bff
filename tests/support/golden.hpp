// Golden data for tests: a small safetensors reader of its own (so that the reader under test is not its own judge), JSON by nlohmann, and
// the folder that holds the vectors. Throws on anything odd: a test then fails with the reason.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "ar/numeric/half.hpp"

namespace golden {

/// $AR_GOLDEN_DIR, or the part that lives in the repository. One folder a topic.
inline std::filesystem::path root() {
  const char* dir = std::getenv("AR_GOLDEN_DIR");
  return dir != nullptr && *dir != '\0' ? std::filesystem::path(dir) : std::filesystem::path(AR_TEST_DATA) / "golden";
}

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("golden file missing: " + path.string());
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

inline nlohmann::ordered_json read_json(const std::filesystem::path& path) { return nlohmann::ordered_json::parse(read_bytes(path)); }

struct tensor {
  std::string dtype;  // as safetensors spells it
  std::vector<std::size_t> shape;
  const unsigned char* data = nullptr;
  std::size_t bytes = 0;

  std::size_t size() const {
    std::size_t n = 1;
    for (std::size_t d : shape) n *= d;
    return n;
  }
  std::size_t rows() const { return shape.empty() ? 1 : size() / std::max<std::size_t>(shape.back(), 1); }
  std::size_t cols() const { return shape.empty() ? 1 : shape.back(); }

  template <class T>
  std::vector<T> as() const {
    std::vector<T> v(bytes / sizeof(T));
    if (bytes != 0) std::memcpy(v.data(), data, v.size() * sizeof(T));
    return v;
  }
  /// Any type widened to float (F64 and wide integers are rounded).
  std::vector<float> f32() const {
    std::vector<float> v(size());
    auto fill = [&](auto zero, auto convert) {
      using T = decltype(zero);
      const std::vector<T> raw = as<T>();
      for (std::size_t i = 0; i < v.size(); ++i) v[i] = convert(raw[i]);
    };
    auto plain = [](auto x) { return static_cast<float>(x); };
    if (dtype == "F32") fill(float{}, plain);
    else if (dtype == "F64") fill(double{}, plain);
    else if (dtype == "F16") fill(std::uint16_t{}, [](std::uint16_t h) { return ar::f32_from_f16(h); });
    else if (dtype == "BF16") fill(std::uint16_t{}, [](std::uint16_t h) { return ar::f32_from_bf16(h); });
    else if (dtype == "I8") fill(std::int8_t{}, plain);
    else if (dtype == "U8" || dtype == "BOOL") fill(std::uint8_t{}, plain);
    else if (dtype == "I16") fill(std::int16_t{}, plain);
    else if (dtype == "I32") fill(std::int32_t{}, plain);
    else if (dtype == "I64") fill(std::int64_t{}, plain);
    else throw std::runtime_error("golden tensor of type " + dtype);
    return v;
  }
};

class file {
 public:
  explicit file(const std::filesystem::path& path) : bytes_(read_bytes(path)) {
    std::uint64_t n = 0;
    if (bytes_.size() < 8) throw std::runtime_error("not a safetensors file: " + path.string());
    std::memcpy(&n, bytes_.data(), 8);
    const auto header = nlohmann::ordered_json::parse(bytes_.substr(8, n));
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        for (const auto& [key, value] : entry.items()) metadata_[key] = value.get<std::string>();
        continue;
      }
      tensor t;
      t.dtype = entry["dtype"].get<std::string>();
      t.shape = entry["shape"].get<std::vector<std::size_t>>();
      const auto begin = entry["data_offsets"][0].get<std::size_t>(), end = entry["data_offsets"][1].get<std::size_t>();
      t.data = reinterpret_cast<const unsigned char*>(bytes_.data()) + 8 + n + begin;
      t.bytes = end - begin;
      tensors_[name] = t;
    }
  }
  file(const std::string& topic, const std::string& name) : file(root() / topic / name) {}
  file(const file&) = delete;
  file& operator=(const file&) = delete;

  const std::map<std::string, tensor>& tensors() const { return tensors_; }
  bool has(const std::string& name) const { return tensors_.count(name) != 0; }
  const tensor& operator[](const std::string& name) const {
    const auto it = tensors_.find(name);
    if (it == tensors_.end()) throw std::runtime_error("golden tensor missing: " + name);
    read_.insert(name);
    return it->second;
  }
  /// Names of the tensors that nobody has asked for by name.
  std::vector<std::string> unread() const {
    std::vector<std::string> names;
    for (const auto& [name, t] : tensors_)
      if (read_.count(name) == 0) names.push_back(name);
    return names;
  }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  std::string bytes_;
  std::map<std::string, tensor> tensors_;
  mutable std::set<std::string> read_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace golden
