// How much memory a run takes at its peak, from the plan alone: what each of its stages holds at the same time, as the code of the stages allocates it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "error.hpp"
#include "export/export_format.hpp"
#include "model/spec.hpp"
#include "report/resources.hpp"

namespace auto_round::plan {

struct memory_part {
  std::string what;        ///< "activations of the calibration set"
  std::uint64_t bytes = 0;
  std::string lowered_by;  ///< options; empty: none does
};

struct memory_stage {
  std::string name;  ///< "tuning a block"
  std::vector<memory_part> parts;
  std::string instead;  ///< options of a way that takes less; may be empty

  std::uint64_t bytes() const;
};

/// The stages of a run, one after the other. What is meant is the resident set: everything that is allocated, and of mapped files the pages that are
/// being read, which are given back piece by piece.
class memory_estimate {
 public:
  void add(memory_stage stage);
  std::uint64_t bytes() const;        ///< of the largest stage; 0 if there is none
  const memory_stage& peak() const;   ///< there is one
  /// What takes most of it and what lowers that, for people: "tuning a block: activations of the calibration set 96 MiB (--nsamples, --seqlen), ...".
  std::string explain() const;

 private:
  std::vector<memory_stage> stages_;
};

/// How the layers of blocks are tuned.
enum class tuner { none, gram, hybrid, block };

/// What the pass that scores options of AutoScheme takes.
struct scoring_facts {
  std::int64_t samples = 0, seqlen = 0, batch_size = 1;  ///< samples 0: nothing is scored
  bool gradient_at_quantized = false;                    ///< original weights lie beside rounded ones
  bool head = false;                                     ///< the head is scored
  bool activations = false;                              ///< what rounding of inputs costs is scored
  std::int64_t importance_samples = 0, importance_seqlen = 0;  ///< of the pass that weights searches; 0: there is none
  bool spilled = false;                                  ///< inputs of blocks lie in a file
};

/// What the training of a rotation takes.
struct training_facts {
  std::int64_t samples = 0, seqlen = 0;  ///< of a batch; 0: nothing is trained
  bool spilled = false;                  ///< streams lie in a file, and one block at a time is in memory
};

/// What an estimate is made from, besides model and layers.
struct memory_facts {
  std::uint64_t base = report::current_memory_bytes();  ///< resident when the plan is ready: program, libraries, headers
  tuner tuned = tuner::none;
  bool rotated = false;              ///< weights are rotated when they are read
  bool importance = false;           ///< a pass of the float model before layers are rounded
  bool tuned_head = false;           ///< the head goes through the block loop too
  std::int64_t samples = 0, seqlen = 0, batch_size = 1, nblocks = 1;
  std::int64_t gradient_accumulate_steps = 1;
  std::int64_t smoothing_tokens = 0;  ///< of each sample, for AWQ; 0: none
  bool bf16 = false;                 ///< products and activations of bfloat16
  bool rounded = false;              ///< importance comes out of model::rounded_block
  bool adam = false, momentum = false, searched_start = false;
  bool keep_best = true;
  bool spilled = false;              ///< activations lie in a file
  bool by_rows = false;              ///< layers are rounded in pieces of rows, but for those whose rows change places (GGUF)
  std::uint64_t kept_bytes = 0;      ///< tune::signround_options
  std::uint64_t tokenizer_bytes = 0; ///< of tokenizer.json, where text is read
  std::uint64_t head_bytes = 0;      ///< of the head as it is stored: its pages are resident while it is read
  int threads = 1;
  scoring_facts scored;
  training_facts trained;
};

/// What an estimate may be: --max_memory less a twentieth, by which runs were seen to take more, or what libraries and stacks leave of the address space where the system limits that to less (RLIMIT_AS, ulimit -v).
/// 0: no limit. Of ways with the same result the first that fits is taken.
std::uint64_t memory_limit(std::uint64_t max_memory);

/// error_kind::usage if it is more than the limit of --max_memory (0: there is none), with what it is made of and what would lower it; also where the
/// system limits the address space (RLIMIT_AS, ulimit -v) to less than that and libraries.
result<void> check_memory(const memory_estimate& estimate, std::uint64_t limit);

memory_estimate estimate_memory(const memory_facts& facts, const model::model_spec& spec, const std::vector<exporting::layer_decision>& layers);

}  // namespace auto_round::plan
