// safetensors files: a reader that trusts nothing and a writer whose header is complete before the first byte of data is known.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "error.hpp"
#include "io/tensor.hpp"

namespace auto_round::io {

/// Parses the header of a whole file. Checks as the reference implementation does: header at most 100,000,000 bytes, valid JSON
/// object, known types, shape * size == extent without overflow, extents contiguous, not overlapping and covering the file exactly.
/// The tensors come in the order of their data and refer into `bytes`. `metadata` receives __metadata__ if not null.
/// error_kind::input, or unsupported for a type that the format knows and we do not (F4, F6, FNUZ, complex).
result<std::vector<tensor_ref>> parse_safetensors(const file_bytes& bytes, const std::string& file,
                                                  std::map<std::string, std::string>* metadata = nullptr);

/// Bytes of the finished file with these tensors, header and padding included; exact, for plans.
std::uint64_t safetensors_size(const std::vector<tensor_decl>& tensors, const std::map<std::string, std::string>& metadata);

/// Sorts into the order in which the reference implementation writes tensors: by type, wider ones first, then by name.
void sort_as_reference(std::vector<tensor_decl>& tensors);

/// Writes one file: tensors in the order given, header padded with blanks to a multiple of 8 bytes as the reference does. Tensors are declared
/// first; their data may then come in any order, whole or in pieces, from one thread at a time. Not finished, the file is removed.
class safetensors_writer {
 public:
  static result<safetensors_writer> create(const std::string& path, std::vector<tensor_decl> tensors,
                                           const std::map<std::string, std::string>& metadata = {{"format", "pt"}});
  safetensors_writer(safetensors_writer&&) noexcept;
  safetensors_writer& operator=(safetensors_writer&&) noexcept;
  ~safetensors_writer();

  /// Writes `data` at `offset_bytes` inside the tensor's extent.
  result<void> write(const std::string& name, std::span<const std::byte> data, std::uint64_t offset_bytes = 0);
  /// Checks that every byte of every tensor was written, then fsync and close.
  result<void> finish();

 private:
  safetensors_writer();
  struct impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace auto_round::io
