// links: ar_export
// runs: 20000
// Any bytes as config.json: an error, or the description of a model that is consistent, and whose tensors can be listed as soon as their number has been
// found to be plausible; and a description of its quantization or an error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "arch/architecture.hpp"
#include "export/export_inventory.hpp"
#include "export/export_packed_model.hpp"
#include "io/json.hpp"
#include "support/fuzz_bytes.hpp"

namespace {

void check_message(const auto_round::error& e) { support::must(!e.message.empty() && e.message.size() < 100'000); }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace auto_round;
  auto config = io::parse_json(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz");
  if (!config) return 0;  // json_fuzz looks at these
  if (const auto spec = arch::read_spec(*config, "fuzz")) {
    support::must(spec->num_layers > 0 && spec->num_heads > 0 && spec->num_kv_heads > 0 && spec->num_heads % spec->num_kv_heads == 0);
    support::must(spec->head_dim > 0 && spec->hidden_size > 0 && spec->vocab_size > 0 && !spec->linears.empty());
    if (const auto plausible = exporting::check_count(100, *spec, "fuzz")) {
      for (const exporting::required_tensor& t : exporting::required_tensors(*spec)) support::must(!t.name.empty() && !t.shape.empty());
    } else {
      check_message(plausible.error());
    }
  } else {
    check_message(spec.error());
  }
  const io::checkpoint_dir folder = io::checkpoint_dir::presented("/nonexistent/model", {}, std::move(*config));
  if (const auto found = exporting::find_quantization(folder)) {
    support::must(found->method.empty() == found->config.is_null());
  } else {
    check_message(found.error());
  }
  return 0;
}
