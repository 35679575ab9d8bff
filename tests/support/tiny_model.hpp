// A float LLaMA checkpoint small enough to write for each test, with a working byte-level tokenizer.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace support {

struct tiny_tensor {
  std::string dtype = "BF16";
  std::vector<std::uint64_t> shape;
  std::string bytes;
};

/// Values as they lie in memory.
template <class T>
tiny_tensor tensor_of(const char* dtype, std::vector<std::uint64_t> shape, const std::vector<T>& values) {
  tiny_tensor t{dtype, std::move(shape), std::string(values.size() * sizeof(T), '\0')};
  std::memcpy(t.bytes.data(), values.data(), t.bytes.size());
  return t;
}

struct tiny_model {
  std::int64_t hidden = 64, intermediate = 96, layers = 2, heads = 2, kv_heads = 1, vocab = 256;
  bool tied = false, bias = false;
  std::map<std::string, tiny_tensor> tensors;
  nlohmann::ordered_json config, tokenizer, tokenizer_config;

  explicit tiny_model(std::uint64_t seed = 1, bool tie = false, bool with_bias = false, std::int64_t width = 64, std::int64_t mlp_width = 96);

  void add(const std::string& name, std::int64_t rows, std::int64_t cols);
  void add_norm(const std::string& name);
  void add_linear(const std::string& name, std::int64_t rows, std::int64_t cols, bool with_bias);

  /// Sets one value of a BF16 tensor.
  void set(const std::string& name, std::size_t index, float value);

  static std::string safetensors(const std::map<std::string, tiny_tensor>& tensors);

  /// Writes the folder; `edit` may change the bytes of model.safetensors.
  void write(const std::filesystem::path& dir, const std::function<void(std::string&)>& edit = {}) const;
  /// JSONL with `lines` records of 30 words.
  static std::string calibration(int lines);
  static void put(const std::filesystem::path& path, const std::string& bytes);

 private:
  void fill(const std::string& name, std::vector<std::uint64_t> shape, const std::function<float()>& value);
  float uniform();
  float gauss();

  std::uint64_t state_;
};

}  // namespace support
