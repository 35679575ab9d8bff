// Tensors of a file: element types, shapes and spans of bytes. Meaning is not known here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"
#include "io/file_bytes.hpp"

namespace auto_round::io {

/// Element types of safetensors files.
enum class dtype : std::uint8_t { f64, f32, f16, bf16, f8_e4m3, f8_e5m2, f8_e8m0, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

std::size_t size_of(dtype t);
std::string_view name_of(dtype t);  ///< "F32", "BF16", ... as safetensors spells it
bool dtype_from_name(std::string_view name, dtype& out);

/// A tensor inside a mapped file; valid as long as the object that gave it.
struct tensor_ref {
  std::string name;
  dtype type = dtype::f32;
  std::vector<std::uint64_t> shape;  ///< row-major, slowest axis first
  file_bytes bytes;                  ///< exactly size_of(type) * product(shape), checked when the file was opened
  std::uint32_t file = 0;            ///< index into checkpoint_dir::files()

  std::uint64_t elements() const;
};

/// Name, type and shape of a tensor that is going to be written.
struct tensor_decl {
  std::string name;
  dtype type = dtype::f32;
  std::vector<std::uint64_t> shape;

  std::uint64_t bytes() const;
};

/// Widens elements [first, first + out.size()) of an F32, F16, BF16 or F64 tensor to float (F64 is rounded). error_kind::unsupported otherwise.
result<void> read_f32(const tensor_ref& t, std::uint64_t first, std::span<float> out);
/// The whole tensor.
result<std::vector<float>> read_f32(const tensor_ref& t);

/// True if there is neither NaN nor infinity among the values.
bool all_finite(std::span<const float> values);

}  // namespace auto_round::io
