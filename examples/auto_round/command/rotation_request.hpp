// The options of quantize that say how a model is rotated.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "command/options.hpp"
#include "error.hpp"
#include "transform/rotation.hpp"
#include "transform/spinquant.hpp"

namespace auto_round::command {

class rotation_request {
 public:
  void declare(option_set& o);
  /// `algorithms` as given, of which the names of rotations count; `blocks`: the data type is an MX or NVFP4 one. Empty: no rotation is asked for.
  result<std::optional<transform::rotation_options>> resolve(const std::vector<std::string>& algorithms, bool blocks, std::int64_t seed) const;
  bool matrices() const { return matrices_; }
  /// How it is trained, if it is; `options` must hold the run's batch size and seed.
  result<void> resolve_training(transform::spinquant_options& options) const;
  static bool is_rotation(const std::string& algorithm);

 private:
  std::string config_, type_, backend_, loss_type_;
  std::optional<std::int64_t> block_size_, rotation_size_, kl_top_k_;
  std::optional<std::int64_t> iters_;
  std::optional<double> smooth_lr_, lr_;
  std::optional<bool> fuse_, allow_online_, r1_, r2_, r3_, r4_, random_r1_, random_r2_, random_r3_, random_r4_, online_r1_, trainable_;
  std::optional<bool> smooth_, fuse_rmsnorm_, untie_embeddings_, layerwise_;
  bool matrices_ = false;
};

}  // namespace auto_round::command
