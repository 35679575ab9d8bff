// A whole model read block by block from a checkpoint, and the evaluations that walk over it with one block in memory at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "error.hpp"
#include "model/block.hpp"
#include "model/spec.hpp"

namespace auto_round::model {

/// Where weights come from: a float checkpoint, a packed one that is dequantized on the fly, or a GGUF file. Implementations live in io-facing
/// rooms; the executor only asks for tensors by the checkpoint's names. Safe to call from one thread at a time.
class weight_source {
 public:
  virtual ~weight_source() = default;
  virtual const model_spec& spec() const = 0;
  /// Tensor `name` as floats; `out` holds the elements that the caller expects. Errors name file and tensor. NaN and infinity are errors.
  virtual result<void> read(const std::string& name, std::span<float> out) const = 0;
  virtual bool has(const std::string& name) const = 0;
  /// Memory that was only read for this block may go; -1: for the embedding and the head.
  virtual void done_with_block(std::int64_t /*layer*/) const {}

  /// Matrix `name` [rows x cols] as it is packed, with the checks of `read`; null if the source cannot hand it out so, and `read` has to be asked. It may
  /// refer to the source, which outlives it.
  virtual result<packed_pointer> packed(const std::string& /*name*/, std::uint64_t /*rows*/, std::uint64_t /*cols*/) const { return packed_pointer(); }

  /// The tensor's shape if the source knows it; empty otherwise. read_block and the evaluations compare it with what the spec asks for.
  virtual std::vector<std::uint64_t> shape(const std::string& /*name*/) const { return {}; }
  /// Elements [first, first + out.size()) of a tensor of `elements`; the default reads the whole tensor.
  virtual result<void> read_part(const std::string& name, std::uint64_t elements, std::uint64_t first, std::span<float> out) const;
  /// The file or folder, for errors.
  virtual std::string location() const { return {}; }
  /// True if `read` gives something else than the checkpoint holds (adapters that change weights): what is not quantized is then written from here.
  virtual bool changed(const std::string& /*name*/) const { return false; }
  /// What is done to the rows that the block's linear layers read; an empty filter: nothing.
  virtual result<block_runner::input_filters> input_filters(std::int64_t /*layer*/) const { return block_runner::input_filters(); }
  /// What the block does to activations while it runs; null: nothing.
  virtual std::shared_ptr<const block_rotations> rotations(std::int64_t /*layer*/) const { return {}; }
};

/// A tensor of the given shape; errors name file and tensor.
result<std::vector<float>> read_tensor(const weight_source& source, const std::string& name, const std::vector<std::uint64_t>& shape);

/// Whether weights are wanted as floats, or as the source has them where it can hand them out packed.
enum class weight_form { floats, stored };

/// A matrix in one of both forms; the other is empty.
struct stored_matrix {
  std::vector<float> floats;
  packed_pointer packed;

  std::uint64_t bytes() const { return packed != nullptr ? packed->bytes() : floats.size() * sizeof(float); }
};
/// A matrix of the given shape; errors name file and tensor.
result<stored_matrix> read_matrix(const weight_source& source, const std::string& name, std::uint64_t rows, std::uint64_t cols, weight_form form);

result<block_weights> read_block(const weight_source& source, std::int64_t layer, weight_form form = weight_form::floats);

/// Input of the first block: rows of the embedding, [ids.size() x hidden], for sequences of `seqlen` ids (0: one sequence). error_kind::input if an id is
/// not in the vocabulary, error_kind::usage if a model of learned positions has too few of them.
result<std::vector<float>> embed(const weight_source& source, std::span<const std::int32_t> ids, std::size_t seqlen = 0);
/// The same for one sequence after the other, of `lengths` ids, ids.size() in all.
result<std::vector<float>> embed(const weight_source& source, std::span<const std::int32_t> ids, std::span<const std::size_t> lengths);

/// Float logits [ids.size() x vocab] of one sequence. Memory holds one block.
result<std::vector<float>> logits(const weight_source& source, std::span<const std::int32_t> ids, weight_form form = weight_form::stored);

struct evaluation {
  double nll = 0;           ///< mean negative log-likelihood over scored positions, nats
  double perplexity = 0;    ///< exp(nll)
  std::int64_t tokens = 0;  ///< scored positions
  bool has_reference = false;
  double kl = 0;            ///< mean KL(reference || model) over scored positions, nats
  double top1 = 0;          ///< share of positions where both have the same most likely token
};
/// Non-overlapping windows of `seqlen`, remainder dropped, the first token of a window is not scored. Float arithmetic, sums in double; weights stay packed
/// where the source has them so.
/// `reference` may be null; it must have the same vocabulary. error_kind::input if there is not one whole window.
/// `on_block` (may be empty) is called after each block with the number done and the number in all.
result<evaluation> evaluate(const weight_source& source, std::span<const std::int32_t> ids, std::int64_t seqlen, const weight_source* reference,
                            const std::function<void(std::int64_t, std::int64_t)>& on_block = {});

struct generation_options;
/// All weights in memory, packed where the source has them so. May refer to the source, which outlives it.
class resident_model {
 public:
  static result<resident_model> read(const weight_source& source, weight_form form = weight_form::stored);
  resident_model(resident_model&&) noexcept;
  ~resident_model();

  /// Memory that weights take: packed, or as floats.
  std::uint64_t weight_bytes() const;

 private:
  friend result<std::vector<std::int32_t>> generate(const resident_model&, std::span<const std::int32_t>, const generation_options&,
                                                    const std::function<bool(std::int32_t)>&);
  resident_model();
  struct impl;
  std::unique_ptr<impl> impl_;
};

struct generation_options {
  std::int64_t max_tokens = 64;
  double temperature = 0;  ///< 0: greedy
  std::uint64_t seed = 42;
  std::int32_t eos_id = -1;
};
/// Continues `prompt` with a key-value cache; returns the new tokens, eos_id excluded. The prompt runs as in `logits`; behind it tokens come one by one, and
/// products with packed weights are those of packed_matrix::dot. Stops at max_tokens, at eos_id and at the model's longest position.
/// `on_token` (may be empty) sees each new token; false stops.
result<std::vector<std::int32_t>> generate(const resident_model& model, std::span<const std::int32_t> prompt, const generation_options& options,
                                           const std::function<bool(std::int32_t)>& on_token = {});
/// The same with weights that are read for it.
result<std::vector<std::int32_t>> generate(const weight_source& source, std::span<const std::int32_t> prompt, const generation_options& options,
                                           const std::function<bool(std::int32_t)>& on_token = {});

}  // namespace auto_round::model
