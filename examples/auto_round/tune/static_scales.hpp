// Largest magnitudes of a calibration set: what static scales of activations, of a KV cache and of queries follow from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "ar/scheme.hpp"
#include "model/block.hpp"
#include "model/spec.hpp"

namespace auto_round::tune {

/// True for schemes whose inputs have scales from calibration: FP8 per tensor, and the scale of the whole tensor of NVFP4.
bool needs_input_maximum(const ar::scheme_fields& scheme);

/// What becomes static in attention.
struct attention_scales {
  enum class type { none, fp8, nvfp4 };
  type cache = type::none;       ///< keys and values
  bool cache_implied = false;    ///< the cache is FP8 because queries are, not because somebody asked for it
  bool queries = false;          ///< FP8 queries too
  bool cache_per_head = false;   ///< a scale for each key-value head instead of one
  bool queries_per_head = false; ///< likewise for the heads of queries
  bool last_batch = false;       ///< as auto-round: the scale of FP8 keys and values is that of the last batch instead of the largest
  bool wanted() const { return cache != type::none || queries; }
};

/// Of one block; [1], or one for each head.
struct attention_maxima {
  std::vector<float> q, k, v;
};

struct static_maxima {
  std::map<std::string, float> inputs;      ///< by layer
  std::vector<attention_maxima> attention;  ///< by block; empty if none are wanted
};

/// Watches a float pass over the calibration set. FP8 keys and values are quantized on the way, with the scale of what was seen so far, so that what
/// follows sees their error; those of NVFP4 and queries are only watched.
class maxima_collector {
 public:
  /// `layers` are those whose inputs are wanted.
  maxima_collector(const model::model_spec& spec, std::vector<std::string> layers, const attention_scales& attention);

  /// Before a block runs: what its runner is to show keys and values to; empty if nobody wants them.
  model::block_runner::attention_filter begin_block(std::int64_t block);
  void input(int linear, const float* x, std::size_t tokens);
  /// Of a layer outside the blocks.
  void input(const std::string& layer, const float* x, std::size_t n);
  bool wants(const std::string& layer) const { return all_.inputs.contains(layer); }
  bool wants_attention() const { return attention_.wanted(); }

  const static_maxima& maxima() const { return all_; }
  /// What an earlier pass saw goes on to grow; false, with nothing changed, if it watched something else.
  bool restore(static_maxima seen);

 private:
  void watch_attention(std::span<const model::block_runner::attention_rows> rows);

  const model::model_spec& spec_;
  attention_scales attention_;
  std::int64_t block_ = 0;
  std::vector<float*> wanted_;  // of the block, by linear layer
  static_maxima all_;
};

}  // namespace auto_round::tune
