// links: ar_text
// runs: 3000
// Any bytes as tokenizer.json and, behind the first NUL byte, a text: an error, or ids that are no sizes out of range, the same a second time,
// and that decode. The text is also tried as a --dataset option and as a chat template.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "text/chat_template.hpp"
#include "text/dataset_spec.hpp"
#include "text/tokenizer.hpp"

namespace {

void check_message(const auto_round::error& e) {
  if (e.message.empty()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace auto_round::text;
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const std::size_t end = all.find('\0');
  const std::string_view file = all.substr(0, end);
  const std::string_view text = end == std::string_view::npos ? all : all.substr(end + 1);

  if (const auto tok = tokenizer::parse(file, {}, {}, "fuzz")) {
    const auto ids = tok->encode(text, true);
    if (ids) {
      for (const std::int32_t id : *ids) {
        if (id < 0 || static_cast<std::size_t>(id) > std::size_t{1} << 31) std::abort();
      }
      const auto again = tok->encode(text, true);
      if (!again || *again != *ids) std::abort();
      const auto cut = tok->encode_truncated(text, 3);
      if (!cut || cut->size() > 3) std::abort();
      static_cast<void>(tok->decode(*ids, true));
    } else {
      check_message(ids.error());
    }
  } else {
    check_message(tok.error());
  }
  if (const auto parts = parse_dataset(text); !parts) check_message(parts.error());
  if (const auto chat = chat_template::parse(text)) {
    const auto rendered = chat->render({{"system", "s"}, {"user", "u"}}, true, "<s>", "");
    if (!rendered) check_message(rendered.error());
  } else {
    check_message(chat.error());
  }
  return 0;
}
