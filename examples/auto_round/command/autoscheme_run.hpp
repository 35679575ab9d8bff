// AutoScheme as a part of a run: options to schemes, scores by a pass or from the cache, the choice, and all of it as data.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "error.hpp"
#include "export/export_format.hpp"
#include "io/json.hpp"
#include "plan.hpp"
#include "report/progress.hpp"
#include "text/calibration.hpp"
#include "tune/importance.hpp"

namespace auto_round::command {

struct autoscheme_options {
  std::string schemes;  ///< names of presets separated by commas; empty: no AutoScheme
  double avg_bits = 0;
  std::vector<std::vector<std::string>> shared_layers;
  bool ignore_scale_zp_bits = false, exact_bits = false;
  bool gradient_at_quantized = false;  ///< a pass for each option, as the original
  std::int64_t nsamples = 16, seqlen = 256, batch_size = 8;
  std::string cache;        ///< folder of scores; empty: none
  std::string report_file;  ///< where the data goes; empty: nowhere

  bool wanted() const { return !schemes.empty(); }
};

/// How the run will search scales; options are scored with what these searches give.
struct scored_search {
  std::function<bool(const ar::scheme_fields&)> searches = {};  ///< schemes whose scales are searched; empty: none
  std::string source = "none";                                  ///< of the importance, for people: "none", "file", "text"
  std::int64_t samples = 0, seqlen = 0;                         ///< of the text of a pass; 0: there is none
  /// What the importance depends on, in few words, for the cache of scores; and the importance, which may take a pass over calibration text. Null: none.
  std::function<result<std::string>()> key = {};
  std::function<result<const tune::importance_matrix*>()> importance = {};
};

/// Asked once before a pass that scores, with the plan under the first option and what the pass takes. Gives the folder of its scratch file, or nothing; its
/// error ends the run.
using scoring_check = std::function<result<std::string>(plan::run_plan&& first, const plan::scoring_facts& facts)>;

struct autoscheme_result {
  std::string summary;      ///< one line
  io::json data;            ///< options, layers with scores and choice, frontier
  std::vector<std::string> score_files;  ///< of the cache, that hold this run's scores
};

/// Chooses a scheme for each layer of `request` and writes it into `request` (scheme, layer_schemes). `compat`: as auto-round 0.16.1 in every respect.
/// `text` says where from; how much of it is in `options`. `search` is asked only where an option is searched. `weights` are what is quantized: the source's, or transformed ones. error_kind::usage for options and targets that do not fit together.
result<autoscheme_result> choose_schemes(const autoscheme_options& options, plan::request& request, const exporting::stored_model& source,
                                         const model::weight_source& weights, const text::calibration_options& text, const scored_search& search, std::int64_t seed, bool compat,
                                         const scoring_check& check, report::progress& bar);

}  // namespace auto_round::command
