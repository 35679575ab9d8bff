// Chat templates: the part of Jinja that the templates of Hugging Face checkpoints are written in.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "error.hpp"
#include "io/json.hpp"

namespace auto_round::text {

struct chat_message {
  std::string role, content;
};

/// A parsed template. Statements for, if, set; expressions with the usual operators, inline if, subscripts, slices, the tests and filters that
/// templates use, methods of strings, namespace() and raise_exception(); white space as transformers sets it (trim_blocks, lstrip_blocks).
class chat_template {
 public:
  /// error_kind::unsupported names the first statement or operator that it does not know.
  static result<chat_template> parse(std::string_view source);
  chat_template(chat_template&&) noexcept;
  chat_template& operator=(chat_template&&) noexcept;
  ~chat_template();

  /// The text of a conversation. error_kind::input if the template raises an exception, error_kind::unsupported if it comes to something that
  /// this version cannot evaluate.
  result<std::string> render(const std::vector<chat_message>& messages, bool add_generation_prompt, const std::string& bos_token,
                             const std::string& eos_token) const;

  struct node;

 private:
  chat_template();
  std::unique_ptr<node> root_;
};

}  // namespace auto_round::text
