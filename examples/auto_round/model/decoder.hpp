// A whole model read block by block from a checkpoint, and the evaluations that walk over it with one block in memory at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "error.hpp"
#include "io/checkpoint_dir.hpp"
#include "model/block.hpp"
#include "model/spec.hpp"

namespace auto_round::model {

/// Where weights come from: a float checkpoint, a packed one that is dequantized on the fly, or a GGUF file. Implementations live in io-facing
/// rooms; the executor only asks for tensors by the checkpoint's names.
class weight_source {
 public:
  virtual ~weight_source() = default;
  virtual const model_spec& spec() const = 0;
  /// Tensor `name` as floats; `elements` is what the caller expects. Errors name file and tensor. NaN and infinity are errors.
  virtual result<void> read(const std::string& name, std::span<float> out) const = 0;
  virtual bool has(const std::string& name) const = 0;
  virtual void done_with_block(std::int64_t /*layer*/) const {}
};

result<block_weights> read_block(const weight_source& source, std::int64_t layer);

/// Float logits [ids.size() x vocab] of one sequence. For tests and generation; memory holds one block.
result<std::vector<float>> logits(const weight_source& source, std::span<const std::int32_t> ids);

struct evaluation {
  double nll = 0;         ///< mean negative log-likelihood over scored positions, nats
  double perplexity = 0;  ///< exp(nll)
  std::int64_t tokens = 0;///< scored positions
  bool has_reference = false;
  double kl = 0;          ///< mean KL(reference || model) over scored positions, nats
  double top1 = 0;        ///< share of positions where both have the same most likely token
};
/// Non-overlapping windows of `seqlen`, remainder dropped, the first token of a window is not scored. Sums in double. `reference` may be null.
result<evaluation> evaluate(const weight_source& source, std::span<const std::int32_t> ids, std::int64_t seqlen, const weight_source* reference);

struct generation_options {
  std::int64_t max_tokens = 64;
  double temperature = 0;  ///< 0: greedy
  std::uint64_t seed = 42;
  std::int32_t eos_id = -1;
};
/// Continues `prompt` with a key-value cache, all weights resident. `on_token` (may be empty) sees each new token; false stops.
result<std::vector<std::int32_t>> generate(const weight_source& source, std::span<const std::int32_t> prompt, const generation_options& options,
                                           const std::function<bool(std::int32_t)>& on_token = {});

}  // namespace auto_round::model
