// Follows the buffers of model/block.cpp, block_attention.hpp, block_mlp.hpp and block_mixture.hpp. What is allocated and never touched does not count.
#include "plan_block_memory.hpp"

#include <algorithm>

#include "model/forward_pieces.hpp"

namespace auto_round::plan {
namespace {

using bytes_t = std::uint64_t;
constexpr bytes_t float_bytes = sizeof(float);

bytes_t u(std::int64_t v) { return v > 0 ? static_cast<bytes_t>(v) : 0; }

/// Bytes that a pass keeps for all tokens, and for a row of a thread's tile.
struct pass_bytes {
  bytes_t all = 0, row = 0;
};

class pass_sizes {
 public:
  pass_sizes(const model::model_spec& spec, bytes_t tokens, bool bf16, bool train)
      : spec_(spec), tokens_(tokens), hidden_(u(spec.hidden_size)), element_(bf16 ? 2 : float_bytes), bf16_(bf16), train_(train) {}

  pass_bytes stream() const {
    pass_bytes n{2 * hidden_ * element_ + hidden_ * float_bytes, 0};
    const bytes_t norms = (spec_.has_part(model::block_part::attention_output_norm) ? 1u : 0u) + (spec_.has_part(model::block_part::mlp_output_norm) ? 1u : 0u);
    n.all += norms * hidden_ * float_bytes;
    n.row += norms > 0 || spec_.layer_norm ? hidden_ * float_bytes : 0;
    if (train_) {
      n.all += (1 + norms) * hidden_ * float_bytes + (bf16_ ? 2 * hidden_ * element_ : 0);
      n.row += hidden_ * float_bytes;
    }
    return times_tokens(n);
  }

  pass_bytes attention() const {
    const model::latent_attention& latent = spec_.latent;
    const bytes_t heads = u(spec_.num_heads), kv_heads = u(spec_.num_kv_heads), q = heads * u(spec_.head_dim), o = heads * u(spec_.value_size());
    const bytes_t k = kv_heads * u(spec_.head_dim), v = kv_heads * u(spec_.value_size());
    const bytes_t projected = latent.rank > 0 ? q + heads * (u(latent.plain) + u(spec_.value_size())) : q + k + v;
    pass_bytes n{(o + q + k + v) * element_, projected * float_bytes};
    if (spec_.has_part(model::block_part::query_norm)) n.all += (q + k) * float_bytes;
    const bytes_t down = u(latent.rank) + u(latent.turning), query_rank = u(latent.query_rank);
    if (latent.rank > 0) n.all += (down + query_rank) * float_bytes + (u(latent.rank) + query_rank) * element_;
    if (train_) {
      n.all += (o + projected) * element_ + 2 * heads * float_bytes;
      n.row += o * float_bytes;
      if (latent.rank > 0) n.all += heads * u(latent.turning) * float_bytes + (down + query_rank) * element_;
    }
    return times_tokens(n);
  }

  pass_bytes mlp() const {
    bool dense = false;
    for (std::int64_t b = 0; b < spec_.num_layers; ++b) dense = dense || !spec_.is_mixture(b);
    if (!dense) return {};
    const bytes_t inner = u(spec_.intermediate_size), gates = (spec_.gate < 0 ? 1 : 2) * inner;
    pass_bytes n{gates * float_bytes + inner * element_, 0};
    if (train_) n.row = inner * float_bytes;
    if (train_ && bf16_) n.all += gates * element_;
    return times_tokens(n);
  }

  pass_bytes mixture() const {
    const model::mixture_spec& m = spec_.mixture;
    if (m.experts <= 0) return {};
    const bytes_t experts = u(m.experts), chosen = tokens_ * u(m.active), shared = m.shared >= 0 ? tokens_ : 0;
    const bytes_t routed = chosen + std::min(chosen, 8 * experts);  // product_rows rounds up to 16: by eight on an average
    const bytes_t values = routed * u(m.intermediate_size) + shared * u(m.shared_size), rows = routed + shared;
    pass_bytes n{values * (2 * float_bytes + element_) + routed * hidden_ * element_ + rows * hidden_ * float_bytes, 0};
    n.all += tokens_ * (hidden_ + experts) * float_bytes + routed * 40;  // what it adds to the stream, scores, who is where
    if (bf16_) n.all += tokens_ * hidden_ * float_bytes;                 // what the router reads
    if (train_) {
      n.all += rows * hidden_ * (element_ + float_bytes) + tokens_ * hidden_ * float_bytes;
      if (bf16_) n.all += 2 * values * element_;
      n.row = std::max(u(m.intermediate_size), u(m.shared_size)) * float_bytes + hidden_ * element_;
    }
    return n;
  }

 private:
  pass_bytes times_tokens(pass_bytes n) const { return {n.all * tokens_, n.row}; }

  const model::model_spec& spec_;
  bytes_t tokens_, hidden_, element_;
  bool bf16_, train_;
};

}  // namespace

std::uint64_t block_runner_bytes(const model::model_spec& spec, std::uint64_t tokens, std::uint64_t seqlen, bool bf16, int threads, bool train) {
  const pass_sizes sizes(spec, tokens, bf16, train);
  const bytes_t element = bf16 ? 2 : float_bytes, tile = std::min<bytes_t>(tokens, bf16 ? 128 : 256), scores = 128 * (seqlen + 16) * (float_bytes + (bf16 ? element : 0));
  bytes_t all = 0, own = (train ? 2 : 1) * scores;
  for (const pass_bytes& n : {sizes.stream(), sizes.attention(), sizes.mlp(), sizes.mixture()}) {
    all += n.all;
    own += tile * n.row;
  }
  if (train) {
    const bytes_t heads = u(spec.num_heads), kv_heads = std::max<bytes_t>(1, u(spec.num_kv_heads));
    own += seqlen * (heads / kv_heads * u(spec.head_dim) + u(spec.head_dim) + u(spec.value_size())) * float_bytes;
  }
  return all + u(std::max(1, threads)) * own;
}

std::uint64_t forward_tokens(std::uint64_t sequences, std::uint64_t seqlen) {
  const bytes_t tokens = std::max<bytes_t>(1, seqlen);
  return std::min<bytes_t>(sequences, model::sequences_at_once(static_cast<std::size_t>(tokens))) * tokens;
}

std::uint64_t head_rows(const model::model_spec& spec) { return model::logit_rows_at_once(static_cast<std::size_t>(u(spec.vocab_size))); }

}  // namespace auto_round::plan
