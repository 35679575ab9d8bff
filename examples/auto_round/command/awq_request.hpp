// The options of quantize that say how AWQ smooths and clips.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "command/options.hpp"
#include "error.hpp"
#include "transform/awq.hpp"

namespace auto_round::command {

class awq_request {
 public:
  void declare(option_set& o);
  /// `algorithms` as given. Empty: no smoothing is asked for; its options are then an error. `search`: scales are searched for (OPT-RTN) and so are
  /// those of candidates; `alg_ext`: tuning will begin with searched scales; `compat`: the original's policy is the default.
  result<std::optional<transform::awq_options>> resolve(const std::vector<std::string>& algorithms, bool search, bool alg_ext, bool compat) const;

 private:
  std::string duo_scaling_, policy_, clip_style_;
  std::optional<std::int64_t> n_grid_, seqlen_, search_tokens_, smooth_batch_size_, clip_n_grid_, clip_n_sample_token_, smooth_iters_;
  std::optional<double> clip_max_shrink_;
  std::optional<bool> apply_clip_, clip_as_init_, apply_smooth_, skip_moe_, padding_, float_inputs_;
};

}  // namespace auto_round::command
