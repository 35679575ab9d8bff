// A file whose header is written first and whose tensors then fill declared extents, in any order and in pieces. Shared by the two containers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>

#include "ar/view.hpp"
#include "io/file.hpp"

namespace auto_round::io {

class extent_writer {
 public:
  /// Takes over a file just created at `path`, whose header is written.
  extent_writer(std::string path, output_file file) : path_(std::move(path)), file_(std::move(file)) {}

  /// Bytes [offset, offset + size) of the file belong to the tensor `name`. Names are distinct and extents do not overlap.
  void declare(const std::string& name, std::uint64_t offset, std::uint64_t size) { extents_[name] = {offset, size, 0}; }

  /// Writes `data` at `offset_bytes` inside the tensor's extent.
  result<void> write(const std::string& name, std::span<const std::byte> data, std::uint64_t offset_bytes) {
    const auto found = extents_.find(name);
    if (found == extents_.end()) return fail(error_kind::internal, "a tensor is written that was not declared", path_, name);
    extent& e = found->second;
    std::uint64_t end = 0, written = 0;
    if (!ar::checked_add(offset_bytes, data.size(), end) || end > e.size || !ar::checked_add(e.written, data.size(), written) || written > e.size) {
      return fail(error_kind::internal, "more data is written than the tensor was declared to have", path_, name);
    }
    if (result<void> r = file_.write_at(e.offset + offset_bytes, data); !r) {
      r.error().tensor = name;
      return r;
    }
    e.written = written;
    return {};
  }

  /// error_kind::internal if a tensor did not get as many bytes as it was declared to have; else fsync and close.
  result<void> finish() {
    for (const auto& [name, e] : extents_) {
      if (e.written != e.size) {
        return fail(error_kind::internal, "only " + std::to_string(e.written) + " of " + std::to_string(e.size) + " bytes of a tensor were written",
                    path_, name);
      }
    }
    return file_.finish();
  }

 private:
  struct extent {
    std::uint64_t offset = 0, size = 0, written = 0;
  };
  std::string path_;
  output_file file_;
  std::unordered_map<std::string, extent> extents_;
};

}  // namespace auto_round::io
