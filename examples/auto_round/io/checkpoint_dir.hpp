// A Hugging Face model folder: config.json, one or many safetensors files, and everything that lies beside them.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/json.hpp"
#include "io/tensor.hpp"

namespace auto_round::io {

class checkpoint_dir {
 public:
  /// Opens and checks the folder: config.json parses, every shard named by the index exists and maps, every header is sound, index and shards
  /// agree, no tensor appears twice. Nothing is read beyond headers. Errors name file and tensor. As in transformers, model.safetensors is
  /// taken if it is there, even beside an index. error_kind::unsupported for a folder of pickles (*.bin) or GGUF files, input otherwise.
  static result<checkpoint_dir> open(const std::string& dir);

  /// A folder that is described by one file of another format: its tensors have no bytes, and of what lies beside the file, which may be anything, tokenizers,
  /// chat templates, generation settings and licenses belong to it.
  static checkpoint_dir presented(const std::string& file, std::vector<tensor_ref> tensors, json config);

  checkpoint_dir(checkpoint_dir&&) noexcept;
  checkpoint_dir& operator=(checkpoint_dir&&) noexcept;
  ~checkpoint_dir();

  const std::string& path() const { return path_; }
  const json& config() const { return config_; }
  const std::vector<tensor_ref>& tensors() const { return tensors_; }  ///< in file order, shard by shard
  const tensor_ref* find(std::string_view name) const;                 ///< null if absent
  const std::vector<std::string>& files() const { return files_; }     ///< absolute paths of the safetensors files
  /// Names (relative to path()) of the regular files that are neither weights, index nor config.json: tokenizer, generation_config, templates, ...
  /// Without hidden files (.gitattributes) and weights of other formats.
  const std::vector<std::string>& side_files() const { return side_files_; }
  /// The same folder with other tensors, which may have no bytes and have names of their own, and another configuration: what a packed checkpoint looks
  /// like unpacked.
  void present(std::vector<tensor_ref> tensors, json config);
  /// Takes tensors apart: `parts` gives, for a tensor, the names of so many pieces of equal size that follow each other in it (none: it stays whole).
  /// Each becomes a tensor of two dimensions, rows as long as the last dimension. error_kind::input if pieces are not whole or a name is taken already.
  result<void> split(const std::function<std::vector<std::string>(const tensor_ref&)>& parts);
  /// Tells the kernel that a tensor's pages are no longer needed (keeps resident memory at one block).
  void release(const tensor_ref& t) const { release(t, t.bytes); }
  void release(const tensor_ref& t, const file_bytes& part) const;  ///< of some of its bytes
  /// f(bytes, offset in the tensor) over the bytes of a tensor, a few MiB at a time and each released behind it, until f gives an error.
  result<void> for_pieces(const tensor_ref& t, const std::function<result<void>(std::span<const std::byte>, std::size_t)>& f) const;

 private:
  checkpoint_dir();
  void index_names();
  result<void> check_names() const;  ///< none appears twice
  static result<checkpoint_dir> open_checked(const std::string& dir);
  struct impl;
  std::unique_ptr<impl> impl_;
  std::string path_;
  json config_;
  std::vector<tensor_ref> tensors_;
  std::vector<std::string> files_;
  std::vector<std::string> side_files_;
};

}  // namespace auto_round::io
