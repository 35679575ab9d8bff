// links: ar_command
// runs: 4000
// Any bytes as a command line, one argument on each line: an error, or options that, given again as their own file would give them, are the same. The
// bytes are also tried as a text of --layer_config, which must be written back as it was understood, and as a size.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "command/command.hpp"
#include "io/json.hpp"
#include "plan.hpp"
#include "plan_layers.hpp"
#include "support/fuzz_bytes.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace auto_round;
  using support::must;
  const std::string all(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> arguments;
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t end = std::min(all.find('\n', at), all.size());
    arguments.push_back(all.substr(at, end - at));
    at = end + 1;
  }
  const command::routed_line line = command::route("auto-round", arguments);
  must(!line.command.empty() && line.rest.size() <= arguments.size());
  if (const auto text = command::effective_options(line.command, line.rest)) {
    // Bytes that are no UTF-8 come back as other characters; everything else must be an object of known options.
    const auto options = io::parse_json(*text, "fuzz");
    must(!options || options->is_object());
  } else {
    must(!text.error().message.empty());
  }
  if (const auto rules = plan::parse_layer_config(all)) {
    static_cast<void>(io::dump(*rules));
  } else {
    must(!rules.error().message.empty());
  }
  if (const auto bytes = plan::parse_bytes(all)) must(*bytes > 0);
  return 0;
}
