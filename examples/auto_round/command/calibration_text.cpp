#include "command/calibration_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "text/tokenizer.hpp"

namespace auto_round::command {

result<text::calibration_set> read_calibration_text(const exporting::stored_model& source, text::calibration_options wanted) {
  if (wanted.dataset.empty()) {
    return fail(error_kind::usage, "calibration text is needed: write --dataset FILE (.jsonl, .json or .txt); nothing is downloaded. "
                                   "--iters 0 rounds without any");
  }
  auto tok = text::tokenizer::open(source.tokenizer_directory());
  if (!tok) return forward_error(tok);
  if (tok->model_max_length() > 0) wanted.seqlen = std::min(wanted.seqlen, tok->model_max_length());
  auto set = text::load_calibration(*tok, wanted);
  if (!set) return set;
  for (const std::int32_t id : set->ids) {
    if (id < 0 || id >= source.spec().vocab_size) {
      return fail(error_kind::input, fmt::format("the tokenizer gives id {}, but the model has {} tokens: they do not belong together", id,
                                                 source.spec().vocab_size),
                  source.tokenizer_directory() + "/tokenizer.json");
    }
  }
  return set;
}

}  // namespace auto_round::command
