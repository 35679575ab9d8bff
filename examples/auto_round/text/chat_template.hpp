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

/// A parsed template. Statements for (several variables, a condition, else, break, continue), if, set (blocks too) and macro; expressions with the usual
/// operators, inline if, subscripts, slices, lists and mappings, the tests, filters and methods that templates use, namespace(), range() and
/// raise_exception(); white space as transformers sets it (trim_blocks, lstrip_blocks). strftime_now is not defined, so that a text does not depend on the
/// day that it is made: templates that ask for it fall back to a fixed date. Nesting, steps and memory of a template are bounded.
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
