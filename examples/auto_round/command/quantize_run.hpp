// One quantization run, from checked request to committed output.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ar/detail/tune_types.hpp"
#include "command/autoscheme_run.hpp"
#include "command/eval_tasks.hpp"
#include "command/run_journal.hpp"
#include "error.hpp"
#include "plan.hpp"
#include "report/progress.hpp"
#include "transform/awq.hpp"
#include "transform/rotation.hpp"
#include "transform/spinquant.hpp"

namespace auto_round::command {

/// How SignRound computes its gradients; automatic: gram or hybrid by the calibration set's size, block if an option asks for what only that has.
enum class tuning { automatic, gram, hybrid, block };

struct run_options {
  std::string model;
  std::string output_dir = "./tmp_autoround";
  std::optional<io::dtype> model_dtype;      ///< the type that weights are taken in; none: as they are stored
  std::optional<std::int64_t> first_blocks;  ///< blocks of the model that are quantized and written; none: all
  plan::request request;
  autoscheme_options autoscheme;
  std::string dataset, dataset_dir;   ///< calibration text, and the folder of named data sets; empty: the built-in sample where text is needed
  std::string imatrix, save_imatrix;  ///< files of an importance matrix, to search with and to write; may be empty
  bool compat = false;                ///< search as the original does, with what it gets wrong
  std::int64_t seed = 42, nblocks = 1;
  double momentum = 0;
  bool not_use_best_mse = false;
  bool enable_alg_ext = false, enable_adam = false, enable_norm_bias_tuning = false;  ///< tuning by blocks only
  tuning how_tuned = tuning::automatic;
  std::int64_t dynamic_max_gap = -1;
  std::int64_t descent_sweeps = 14;
  std::optional<ar::clamp_gradient> clamp;           ///< empty: strict for tuning by block, else closed
  std::optional<ar::scale_gradient> scale_gradient;  ///< empty: reference for tuning by block, else f32
  std::optional<transform::rotation_options> rotation;  ///< before anything is quantized
  bool rotation_matrices = false;                    ///< random ones in full, as auto-round stores them
  std::optional<transform::awq_options> awq;         ///< smoothing, behind a rotation
  transform::spinquant_options rotation_training;    ///< if rotation->trained
  bool regular_route = false;
  bool model_free = false;            ///< shard by shard, without a model class (model_free_run.hpp)
  std::optional<bool> amp;  ///< empty: where the CPU is faster with it
  given_options given;   ///< the options as they were written, those that matter for the result
  std::vector<std::string> written;  ///< canonical names of all of them
  std::uint64_t max_memory = 0;  ///< 0: no limit
  bool restart = false;  ///< do not go on with what an interrupted run has done
  bool overwrite = false;  ///< replace an output folder that this program made
  bool dry_run = false, json = false, quiet = false;
  task_options tasks;  ///< answered by the output of the last format
  std::string log_json, report_dir;
  report::progress_style progress = report::progress_style::automatic;
};

/// Plans, quantizes, writes, verifies, commits, reports. If it fails nothing is left behind but the journal of tuned blocks (run_journal.hpp), if any
/// were finished.
result<void> run_quantize(const run_options& options);

}  // namespace auto_round::command
