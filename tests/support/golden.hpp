// Golden data for tests: a small safetensors reader of its own (so that the reader under test is not its own judge) and the folder that holds the
// vectors. Throws on anything odd: a test then fails with the reason. JSON is in golden_json.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "ar/numeric/half.hpp"

namespace golden {

/// $AR_GOLDEN_DIR, seen from the root of the sources, or the part that lives in the repository. One folder a topic.
std::filesystem::path root();

std::string read_bytes(const std::filesystem::path& path);

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
  std::vector<float> f32() const;
};

class file {
 public:
  explicit file(const std::filesystem::path& path);
  file(const std::string& topic, const std::string& name) : file(root() / topic / name) {}
  file(const file&) = delete;
  file& operator=(const file&) = delete;

  const std::map<std::string, tensor>& tensors() const { return tensors_; }
  bool has(const std::string& name) const { return tensors_.count(name) != 0; }
  const tensor& operator[](const std::string& name) const;
  /// Names of the tensors that nobody has asked for by name.
  std::vector<std::string> unread() const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  std::string bytes_;
  std::map<std::string, tensor> tensors_;
  mutable std::set<std::string> read_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace golden
