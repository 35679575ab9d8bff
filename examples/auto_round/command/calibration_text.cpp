#include "command/calibration_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "text/named_datasets.hpp"
#include "text/tokenizer.hpp"

namespace auto_round::command {

result<text::calibration_set> read_calibration_text(const exporting::stored_model& source, text::calibration_options wanted) {
  const bool builtin = wanted.dataset.empty();
  if (builtin) {
    constexpr std::int64_t seqlen = 512;  // of a sample of some 20,000 tokens longer rows would be few
    wanted.dataset = text::builtin_dataset;
    wanted.seqlen = std::min(wanted.seqlen, seqlen);
  }
  auto tok = text::tokenizer::open(source.tokenizer_directory());
  if (!tok) return forward_error(tok);
  if (tok->model_max_length() > 0) wanted.seqlen = std::min(wanted.seqlen, tok->model_max_length());
  auto set = text::load_calibration(*tok, wanted);
  if (!set) return set;
  if (builtin) {
    set->warnings.insert(set->warnings.begin(), fmt::format("without --dataset the built-in sample is used: {} rows of {} tokens. Text like what the model is for gives better results",
                                                            set->rows(), set->seqlen));
  }
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
