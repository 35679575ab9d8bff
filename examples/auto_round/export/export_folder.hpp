// A Hugging Face folder under construction: shards of safetensors, their index, text files, copies of the source's side files, and checksums.
// Everything about it, to the byte, is known before the first weight is read.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "error.hpp"
#include "export/export_format.hpp"
#include "io/safetensors.hpp"

namespace auto_round::exporting {

/// Side files of a model that belong to every copy of it: tokenizer, templates, generation defaults, code, license. Weights in other formats,
/// data sets and stale quantization configurations do not.
bool is_companion_file(std::string_view name);
/// The companion files beside a source, with their sizes. error_kind::input if one cannot be looked at.
result<std::vector<file_plan>> companions_of(const io::checkpoint_dir& source);

class checkpoint_folder {
 public:
  /// In writing order; the order inside a file is by type and name, as the safetensors library sorts.
  void add_tensor(io::tensor_decl tensor) { tensors_.push_back(std::move(tensor)); }
  void add_text(std::string name, std::string text) { texts_.emplace_back(std::move(name), std::move(text)); }
  /// Copies the companion files of the source that are not replaced by a text.
  result<void> add_companions(const io::checkpoint_dir& source);
  /// Splits the tensors into files: one that would push a file over the limit starts a new one, as does what follows a tensor above the limit.
  void lay_out(std::uint64_t max_shard_bytes);
  std::vector<file_plan> files() const;  ///< after lay_out()

  result<void> begin(const std::string& directory);
  result<void> write(const std::string& tensor, std::span<const std::byte> data, std::uint64_t offset_bytes = 0);
  result<void> finish();

 private:
  struct shard {
    std::string name;
    std::vector<io::tensor_decl> tensors;
    std::unique_ptr<io::safetensors_writer> writer;
  };
  std::vector<io::tensor_decl> tensors_;
  std::vector<std::pair<std::string, std::string>> texts_;
  std::vector<file_plan> copies_;
  std::string copied_from_;  // their folder
  std::vector<shard> shards_;
  std::unordered_map<std::string, std::size_t> shard_of_;
  std::string directory_;
};

}  // namespace auto_round::exporting
