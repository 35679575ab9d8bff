// links: ar_io
// runs: 200000
// Any bytes as a safetensors file: an error, or tensors that lie in the file one after another and cover it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "io/safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace auto_round::io;
  const auto bytes = std::as_bytes(std::span(data, size));
  std::map<std::string, std::string> metadata;
  const auto tensors = parse_safetensors(bytes, "fuzz", &metadata);
  if (!tensors) {
    if (tensors.error().message.empty() || tensors.error().message.size() > 1000) std::abort();
    return 0;
  }
  const std::byte* next = tensors->empty() ? bytes.data() + bytes.size() : tensors->front().bytes.memory();
  for (const tensor_ref& t : *tensors) {
    if (t.bytes.size() != t.elements() * size_of(t.type) || t.bytes.memory() != next) std::abort();
    next = t.bytes.memory() + t.bytes.size();
    std::vector<float> values(t.bytes.size() / size_of(t.type));
    if (read_f32(t, 0, values)) static_cast<void>(all_finite(values));
  }
  if (next != bytes.data() + bytes.size()) std::abort();
  return 0;
}
