// Options of static scales in attention: a quantized KV cache, quantized queries.
#pragma once

#include <string>

#include "command/options.hpp"
#include "tune/static_scales.hpp"

namespace auto_round::command {

class static_scales_request {
 public:
  void declare(option_set& o);
  /// error_kind::usage for unknown types. `compat`: the scale of the last batch, as auto-round keeps it.
  result<tune::attention_scales> resolve(bool compat) const;

 private:
  std::string cache_, cache_granularity_ = "tensor", attention_, attention_granularity_ = "tensor";
};

}  // namespace auto_round::command
