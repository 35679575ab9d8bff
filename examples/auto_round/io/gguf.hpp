// GGUF files (version 3): a bounded reader and a writer with the whole header known first. Field meanings: llama.cpp's gguf.md.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "error.hpp"
#include "io/file_bytes.hpp"

namespace auto_round::io {

/// ggml type ids; block sizes and bytes are in gguf_type_info().
enum class gguf_type : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q8_1 = 9,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  q8_k = 15,
  iq2_xxs = 16,
  iq2_xs = 17,
  iq3_xxs = 18,
  iq1_s = 19,
  iq4_nl = 20,
  iq3_s = 21,
  iq2_s = 22,
  iq4_xs = 23,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  iq1_m = 29,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  mxfp4 = 39,
  nvfp4 = 40,
  q1_0 = 41,
  q2_0 = 42,
};
struct gguf_type_facts {
  const char* name;  ///< "Q4_K"; null for an unknown or removed id
  std::uint32_t block_elements;
  std::uint32_t block_bytes;
};
gguf_type_facts gguf_type_info(std::uint32_t id);

/// A metadata value. Alternatives in the order of the format's type ids, arrays last. Arrays are homogeneous and not nested.
struct gguf_array;
using gguf_value = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t, std::int32_t, float, bool, std::string,
                                std::shared_ptr<gguf_array>, std::uint64_t, std::int64_t, double>;
struct gguf_array {
  std::variant<std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::uint16_t>, std::vector<std::int16_t>, std::vector<std::uint32_t>,
               std::vector<std::int32_t>, std::vector<float>, std::vector<bool>, std::vector<std::string>, std::vector<std::uint64_t>,
               std::vector<std::int64_t>, std::vector<double>>
      values;
};
using gguf_metadata = std::vector<std::pair<std::string, gguf_value>>;  ///< in file order

struct gguf_tensor_decl {
  std::string name;
  gguf_type type = gguf_type::f32;
  std::vector<std::uint64_t> ne;  ///< fastest axis first: {columns, rows, ...}
  std::uint64_t bytes() const;
};
struct gguf_tensor_ref : gguf_tensor_decl {
  file_bytes data;
};
struct gguf_contents {
  gguf_metadata metadata;
  std::vector<gguf_tensor_ref> tensors;
  const gguf_value* find(std::string_view key) const;
};
/// Parses a whole file with every check of spec gguf-files section 1. Tensors refer into `bytes`.
result<gguf_contents> parse_gguf(const file_bytes& bytes, const std::string& file);

std::uint64_t gguf_size(const gguf_metadata& metadata, const std::vector<gguf_tensor_decl>& tensors);  ///< exact bytes of the finished file

class gguf_writer {
 public:
  static result<gguf_writer> create(const std::string& path, const gguf_metadata& metadata, std::vector<gguf_tensor_decl> tensors);
  gguf_writer(gguf_writer&&) noexcept;
  gguf_writer& operator=(gguf_writer&&) noexcept;
  ~gguf_writer();
  result<void> write(const std::string& name, std::span<const std::byte> data, std::uint64_t offset_bytes = 0);
  result<void> finish();  ///< every byte written? pad, fsync, close

 private:
  gguf_writer();
  struct impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace auto_round::io
