// Training of rotations: the matrices of the residual stream (R1) and between v and o (R2) by gradient descent on orthogonal matrices, so that the
// model quantized behind them says what the float model says. The original's training does not move (its matrices are not part of the forward pass).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "error.hpp"
#include "model/decoder.hpp"
#include "text/calibration.hpp"
#include "transform/logit_loss.hpp"
#include "transform/rotation.hpp"
#include "tune/signround.hpp"

namespace auto_round::transform {

struct spinquant_options {
  std::int64_t iters = 100;
  std::int64_t batch_size = 8;  ///< samples of a step
  double lr = 0.2;              ///< how far the first step turns (cayley_step), 0 .. 1; decays linearly to zero
  double momentum = 0;
  logit_loss loss = logit_loss::kl_top;
  std::int64_t top_k = 1000;
  std::int64_t seed = 42;
  /// What lies between blocks is in a file there, and one block at a time in memory: it is read and rounded again where it is needed again. Empty: all of it is
  /// in memory. The result is the same.
  std::string scratch_folder = {};
};

struct trained_rotation {
  std::vector<float> r1, r2;             ///< [hidden x hidden], [head_dim x head_dim]; empty: not trained
  double first_loss = 0, last_loss = 0;  ///< mean over all samples, before and after
};

/// Where training stands after some of its steps.
struct rotation_training {
  std::int64_t steps = 0;
  double first_loss = 0;
  std::vector<float> r1, r2, momentum1, momentum2;
};
/// Records of it, and back; nothing for bytes that are no such record.
/// @{
std::vector<std::byte> to_record(const rotation_training& state);
std::optional<rotation_training> training_of_record(std::span<const std::byte> record);
/// @}

struct rotation_events {
  /// After each step; false ends the training with error_kind::interrupted.
  std::function<bool(std::int64_t step, double loss)> on_step;
  /// After each tenth of the steps and the last. May be empty.
  std::function<void(const rotation_training& state)> on_state;
  std::optional<rotation_training> start;  ///< what on_state got in an earlier run with the same inputs and options: training goes on from there
  std::string start_file = {};             ///< where `start` lies, for errors
};

/// Trains what `places` holds for the residual stream and for values, from the matrices that are there; both are replaced by the trained ones. All
/// layers that `choices` names are rounded to nearest behind the rotation; gradients pass the rounding unchanged and reach the values that set a
/// group's range. The whole model is in memory, with the activations of a batch for all blocks, unless there is a scratch folder. error_kind::output for a
/// start of another training, error_kind::unsupported if there is nothing to train, or for schemes that have no tuned grid.
result<trained_rotation> train_rotation(const model::weight_source& base, const text::calibration_set& calibration,
                                        const tune::layer_choices& choices, const spinquant_options& options, rotation_places& places,
                                        const rotation_events& events = {});

}  // namespace auto_round::transform
