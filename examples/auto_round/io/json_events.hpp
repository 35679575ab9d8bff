// JSON as a stream of tokens, without a tree: what the tree of json.hpp and the headers of safetensors files are built from. The syntax is read by
// nlohmann/json; this layer adds the bounds that files from strangers need.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace auto_round::io {

/// `whole` is an integer from 0 to 2^64-1, `negative` one from -2^63 to -1; `real` is every other number, -0 and larger integers too.
enum class json_token { begin_object, end_object, begin_array, end_array, key, string, whole, negative, real, true_, false_, null };

/// One token. Of the values, those of its kind are set.
struct json_event {
  json_token token{};
  std::size_t offset = 0;   ///< the byte of the text that was read last; after a number, the one behind it
  std::string_view text{};  ///< key, string: decoded to UTF-8. real: as written. Valid during the call.
  std::uint64_t whole = 0;
  std::int64_t negative = 0;
  double real = 0;  ///< finite
};

class json_sink {
 public:
  /// Takes the next token. False stops the reading; the sink knows why.
  virtual bool take(const json_event& event) = 0;

 protected:
  ~json_sink() = default;
};

/// Gives the tokens of strict JSON (RFC 8259, UTF-8: no comments, no trailing commas, no byte order mark, no lone surrogates) to `sink`, in order
/// and without recursion. Refused too: more than 200 open objects and arrays, numbers too large for a double, Python's NaN and Infinity, and more
/// than 16 MiB without a string or number in which no such token ends, blanks counted once. Memory is bounded by the latter, not by the text.
/// Returns what is wrong and where ("..., near byte 12"); empty if nothing is, or if the sink stopped. Throws std::bad_alloc only.
std::string read_json_events(std::string_view text, json_sink& sink);

}  // namespace auto_round::io
