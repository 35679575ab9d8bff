// links: ar_io
// runs: 200000
// Any bytes as a GGUF file: an error, or tensors that lie in the file in order, and a size that is the sum of what was read.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "io/gguf.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace auto_round::io;
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto c = parse_gguf(bytes, "fuzz");
  if (!c) {
    if (c.error().message.empty() || c.error().message.size() > 1000) std::abort();
    return 0;
  }
  const std::byte* end = bytes.data();
  for (const gguf_tensor_ref& t : c->tensors) {
    if (t.data.size() != t.bytes() || t.data.memory() < end) std::abort();
    end = t.data.memory() + t.data.size();
  }
  if (end > bytes.data() + bytes.size()) std::abort();
  // The writer's idea of the header is as long as the header that was read: the data begins where it says.
  const std::vector<gguf_tensor_decl> decls(c->tensors.begin(), c->tensors.end());
  const std::uint64_t total = gguf_size(c->metadata, decls), without = gguf_size(c->metadata, {});
  if (total < without) std::abort();
  if (!c->tensors.empty()) {
    const auto begin = static_cast<std::uint64_t>(c->tensors.front().data.memory() - bytes.data());
    if (total < begin || total - begin < static_cast<std::uint64_t>(end - c->tensors.front().data.memory())) std::abort();
  }
  return 0;
}
