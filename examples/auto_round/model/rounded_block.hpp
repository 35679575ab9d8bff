// A decoder block as transformers computes it on a CPU for a model in bfloat16: the result of every operation is rounded to bfloat16. Plain and slow;
// for --compat, where what the original collects from calibration text decides between scales that are nearly equally good.
#pragma once

#include <cstddef>
#include <vector>

#include "model/block.hpp"
#include "model/rope.hpp"
#include "model/spec.hpp"

namespace auto_round::model {

/// Source: transformers 5, modeling_llama.py; torch 2.15, FlashAttentionKernel.cpp (scores and their exponentials in float, those that values are
/// weighted with in bfloat16, divided by their sum at the end). Sums have an order of their own, so that now and then a value is rounded to its other
/// neighbor (none of 300,000 in golden/formats). Works on the whole batch at once.
class rounded_block {
 public:
  /// Models that are laid out plainly, without windows.
  static bool covers(const model_spec& spec);
  /// `hides_last`: no query attends to the last token of its sequence.
  explicit rounded_block(const model_spec& spec, bool hides_last = false) : spec_(spec), hides_last_(hides_last) {}

  /// Sees queries, keys and values as attention reads them; what it changes is rounded. An empty one switches it off.
  void set_attention_filter(block_runner::attention_filter filter) { filter_ = std::move(filter); }
  void count_expert_tokens(std::vector<std::uint64_t>*) {}  ///< as block_runner's: models that it covers have no experts

  /// y = block(x) for `sequences` x `seqlen` tokens of bfloat16 values; x and y may be the same buffer. `hook` sees what linear layers read.
  void forward(const block_weights& w, const float* x, std::size_t sequences, std::size_t seqlen, float* y, const block_runner::input_hook& hook = {});

 private:
  std::vector<float> linear(const block_weights& w, int layer, const std::vector<float>& x, std::size_t tokens) const;
  void to_heads(const block_weights& w, block_part norm, std::vector<float>& rows, std::size_t heads, std::size_t seqlen) const;
  std::vector<float> attend(std::vector<float>& q, std::vector<float>& k, std::vector<float>& v, std::size_t sequences, std::size_t seqlen) const;

  const model_spec& spec_;
  bool hides_last_;
  rope_table rope_;
  block_runner::attention_filter filter_;
};

}  // namespace auto_round::model
