// links: ar_io
// runs: 50000
// Any bytes as JSON: an error, or a value that, written in any layout, reads back as the same value.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "io/json.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace auto_round::io;
  const auto value = parse_json(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz");
  if (!value) {
    if (value.error().message.empty() || value.error().message.size() > 1000) std::abort();
    return 0;
  }
  const std::string text = dump(*value);
  for (const dump_options layout : {dump_options{2, false, true}, dump_options{-1, false, false}, dump_options{-2, false, true}}) {
    const auto again = parse_json(dump(*value, layout), "again");
    if (!again || dump(*again) != text) std::abort();
  }
  static_cast<void>(dump(*value, {4, true, false}));
  static_cast<void>(value->as_int());
  static_cast<void>(value->as_double());
  return 0;
}
