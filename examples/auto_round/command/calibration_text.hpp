// Calibration text for a model: read, tokenized, and known to fit the model's vocabulary.
#pragma once

#include "error.hpp"
#include "export/export_format.hpp"
#include "text/calibration.hpp"

namespace auto_round::command {

/// The calibration set that `wanted` describes, with the tokenizer of `source`; seqlen is lowered to what the tokenizer takes. Without a
/// dataset it is the built-in sample, which a warning says. error_kind::input if the tokenizer gives ids that the model does not have.
result<text::calibration_set> read_calibration_text(const exporting::stored_model& source, text::calibration_options wanted);

}  // namespace auto_round::command
