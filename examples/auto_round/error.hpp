// The one error type of the application: a kind (which gives the exit status), a sentence a person can act on, and where it happened.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace auto_round {

/// The values are the exit statuses of the program (docs/guide.md lists them).
enum class error_kind : int {
  internal = 1,      ///< our own fault
  usage = 2,         ///< wrong option, value or combination; nothing was read or written
  input = 3,         ///< a file that we read is missing, damaged, hostile or does not fit its neighbours
  output = 4,        ///< a file could not be written: permission, full disk, folder not empty
  unsupported = 5,   ///< a correct input that this version cannot handle: architecture, scheme, format
  verification = 6,  ///< what was written does not match what was planned
  interrupted = 130, ///< SIGINT or SIGTERM
};

struct error {
  error_kind kind = error_kind::internal;
  std::string message;  ///< one clear sentence: what is wrong and what to do
  std::string file;     ///< path, empty if none
  std::string tensor;   ///< tensor name, empty if none
};

template <class T>
using result = tl::expected<T, error>;

inline tl::unexpected<error> fail(error_kind kind, std::string message, std::string file = {}, std::string tensor = {}) {
  return tl::unexpected<error>(error{kind, std::move(message), std::move(file), std::move(tensor)});
}

/// Passes an error on: `if (!r) return forward_error(r);`
template <class T>
tl::unexpected<error> forward_error(T&& r) {
  return tl::unexpected<error>(std::forward<T>(r).error());
}

/// "message (file F, tensor T)", one line. Names come from files of strangers: control characters, which could drive a terminal, become '?'.
inline std::string describe(const error& e) {
  std::string s = e.message;
  if (!e.file.empty() || !e.tensor.empty()) {
    s += " (";
    if (!e.file.empty()) s += "file " + e.file;
    if (!e.file.empty() && !e.tensor.empty()) s += ", ";
    if (!e.tensor.empty()) s += "tensor " + e.tensor;
    s += ")";
  }
  for (char& c : s) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return s;
}

}  // namespace auto_round
