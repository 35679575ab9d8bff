// The run: check everything, quantize layer by layer or block by block, write, verify, commit, report.
#include "command/quantize_run.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <utility>

#include "command/calibration_text.hpp"
#include "command/fingerprint.hpp"
#include "command/plan_output.hpp"
#include "command/run_report.hpp"
#include "command/score_cache.hpp"
#include "command/unused_options.hpp"
#include "export/export_imatrix.hpp"
#include "export/export_inventory.hpp"
#include "export/export_packed_model.hpp"
#include "export/export_unpacked_source.hpp"
#include "io/file.hpp"
#include "model/linalg.hpp"
#include "model/rounded_block.hpp"
#include "report/event_log.hpp"
#include "report/resources.hpp"
#include "text/calibration.hpp"
#include "tune/gram.hpp"
#include "tune/importance.hpp"
#include "tune/pass_file.hpp"
#include "tune/quantizer.hpp"
#include "tune/run_parts.hpp"
#include "tune/signround.hpp"
#include "tune/static_scales.hpp"
#include "tune/unseen_experts.hpp"
#include "tune/vector_source.hpp"

namespace auto_round::command {
namespace {

using exporting::layer_decision;

constexpr std::uint64_t values_at_once = std::uint64_t{1} << 20;  // of a layer that is rounded by rows

class quantization {
 public:
  explicit quantization(const run_options& options) : o_(options), bar_(options.progress), report_(options.report_dir) {}

  result<void> run() {
    auto log = report::event_log::create(o_.log_json);
    if (!log) return forward_error(log);
    log_ = std::move(*log);
    result<void> outcome = prepare_and_run();
    if (!outcome && outcome.error().file.empty()) outcome.error().file = file_of(outcome.error().tensor);
    if (!outcome) outcome = keep_journal(std::move(outcome.error()));
    if (!outcome) log_.write("error", {{"message", exporting_message(outcome.error())}, {"status", static_cast<int>(outcome.error().kind)}});
    if (auto r = log_.close(); !r && outcome) return r;
    return outcome;
  }

 private:
  /// Where a tensor of the source lies: what quantizes layers knows their names alone. Empty if there is no such tensor.
  std::string file_of(const std::string& tensor) const {
    const io::checkpoint_dir* dir = tensor.empty() || source_ == nullptr ? nullptr : source_->directory();
    const io::tensor_ref* t = dir == nullptr ? nullptr : dir->find(tensor);
    return t == nullptr ? std::string() : dir->files()[t->file];
  }

  static std::string exporting_message(const error& e) { return describe(e); }

  result<void> prepare_and_run() {
    if (auto r = check_new_file("save_imatrix", o_.save_imatrix); !r) return r;
    if (auto r = check_new_file("autoscheme_json", o_.autoscheme.report_file); !r) return r;
    if (auto r = open(); !r) return r;
    if (auto r = fit_memory(); !r) return r;
    if (o_.dry_run) {
      if (auto r = check_output_and_text(); !r) return r;
      if (o_.json) fmt::print("{}\n", io::dump(plan::to_json(plan_)));
      else fmt::print("{}", plan::describe(plan_));
      return {};
    }
    auto dir = begin_output(o_.output_dir, o_.overwrite, o_.model);
    if (!dir) return forward_error(dir);
    if (auto r = report_.check(); !r) return r;
    if (auto r = dir->require_space(plan_.total_bytes()); !r) return r;
    if (auto r = load_calibration(); !r) return r;
    if (reads_text())
      if (auto r = fit_memory(); !r) return r;
    spill_folder_ = spilled_ ? dir->partial() : std::string();
    if (auto r = open_journal(dir->path()); !r) return r;
    if (auto r = check_all_weights(); !r) return r;
    log_start();
    if (auto r = begin_exports(plan_, dir->partial()); !r) return r;
    times_.add("prepare", since_last_part());
    if (auto r = quantize_layers(); !r) return r;
    bar_.finish();
    times_.add(tuned() ? "tune" : "round", since_last_part());
    if (auto r = finish_exports(plan_); !r) return r;
    times_.add("write", since_last_part());
    if (auto r = verify_exports(plan_, dir->partial()); !r) return r;
    times_.add("verify", since_last_part());
    if (auto r = dir->commit(); !r) return r;
    journal_.remove();
    forget_scores();
    times_.add("commit", since_last_part());
    auto scores = score_output(o_.tasks, folder_of(dir->path(), plan_.jobs.size() - 1), o_.max_memory, o_.json);
    if (!scores) return forward_error(scores);
    return report_.write(report_end(dir->path(), *scores), plan_.exporters.front()->plan());
  }

  /// What a run would refuse; nothing of it stays.
  result<void> check_output_and_text() {
    {
      auto dir = begin_output(o_.output_dir, o_.overwrite, o_.model);
      if (!dir) return forward_error(dir);
      if (auto r = report_.check(true); !r) return r;
      if (auto r = dir->require_space(plan_.total_bytes()); !r) return r;
    }
    if (auto r = load_calibration(); !r) return r;
    return reads_text() ? fit_memory() : result<void>();
  }

  result<void> open_journal(const std::string& output) {
    if (!reads_text()) return {};
    if (auto r = journal_.open(output, o_.restart, o_.given, *source_, calibration_, layer_choices()); !r) return r;
    if (journal_.parts() != 0) bar_.message(fmt::format("going on with an interrupted run: {} finished parts in {}", journal_.parts(), journal_.path()));
    return {};
  }

  /// Those that nobody asked to keep.
  void forget_scores() const {
    if (scores_folder_.empty()) return;
    std::error_code ec;
    for (const std::string& file : autoscheme_.score_files) std::filesystem::remove(file, ec);
    std::filesystem::remove(scores_folder_, ec);  // which fails if there is something else
  }

  void record(run_journal::part of, std::vector<std::byte> bytes) { warn_unless(journal_.add(of, std::move(bytes))); }
  void warn_unless(bool recorded) {
    if (!recorded) bar_.message("warning: the journal cannot be written; an interruption of this run would lose its work");
  }

  /// What is finished is not lost with the run.
  tl::unexpected<error> keep_journal(error e) {
    if (journal_.parts() != 0) e.message += fmt::format("; {} finished parts are kept in {}: the same command goes on from there", journal_.parts(), journal_.path());
    return tl::unexpected<error>(std::move(e));
  }

  bool amp() const { return o_.amp ? *o_.amp : linalg::fast_bf16(); }
  bool tuned() const { return o_.request.how == exporting::method::signround; }
  bool searched() const { return o_.request.how == exporting::method::opt_rtn; }
  /// A pass of the float model over calibration text before any layer is quantized.
  bool collects_importance() const { return (searched() && o_.imatrix.empty() && !o_.dataset.empty()) || !o_.save_imatrix.empty(); }
  /// Static scales are found. Weights in floats can do without them, where there is no text.
  bool finds_maxima() const {
    return tuned() || !o_.dataset.empty() || !std::ranges::all_of(o_.request.formats, [](const std::string& f) { return f == "fake"; });
  }
  /// Layers whose inputs get static scales from that pass; tuned layers find them while they are tuned.
  std::vector<std::string> layers_to_calibrate() const {
    std::vector<std::string> names;
    if (!finds_maxima()) return names;
    for (const layer_decision& l : plan_.layers())
      if (l.quantize && (l.block < 0 || !tuned()) && tune::needs_input_maximum(l.scheme)) names.push_back(l.name);
    return names;
  }
  bool collects_maxima() const { return request_.attention.wanted() || !layers_to_calibrate().empty(); }
  bool reads_text() const { return trains_rotation() || smoothed() || tuned() || collects_importance() || collects_maxima(); }
  bool smoothed() const { return o_.awq.has_value(); }
  tuning how() const {
    if (o_.how_tuned != tuning::automatic) return o_.how_tuned;
    const bool by_rows = std::ranges::all_of(plan_.layers(), [](const layer_decision& l) { return l.block < 0 || !l.quantize || tune::groups_lie_in_rows(l.scheme); });
    const bool possible = by_rows && source_->spec().plain() && o_.nblocks == 1 && request_.gradient_accumulate_steps == 1 && o_.momentum == 0 && o_.dynamic_max_gap <= 0;
    if (!possible || tunes_head() || o_.compat || o_.enable_alg_ext || o_.enable_adam || o_.enable_norm_bias_tuning) return tuning::block;
    int bits = 16;
    for (const layer_decision& l : plan_.layers())
      if (l.block >= 0 && l.quantize) bits = std::min(bits, l.scheme.bits);
    const std::int64_t tokens = calibration_.rows() > 0 ? calibration_.valid_tokens() : request_.nsamples * request_.seqlen;
    return tune::prefer_gram(source_->spec(), tokens, request_.iters, bits) ? tuning::gram : tuning::hybrid;
  }
  /// A head that is quantized is tuned on the output of the last block, by blocks only; gguf files have rounded ones, as the original's.
  bool tunes_head(const layer_decision& l) const { return l.block < 0 && l.quantize && tuned() && !gguf() && tune::tunes_by_rows(l.scheme); }
  bool tunes_head() const {
    return std::ranges::any_of(plan_.layers(), [&](const layer_decision& l) { return tunes_head(l); });
  }
  const char* tuning_name() const {
    if (!tuned()) return "none";
    const tuning t = how();
    return t == tuning::gram ? "gram" : t == tuning::hybrid ? "hybrid" : "block";
  }
  /// Why the block loop alone is possible, where that is not plain from the options.
  std::string tuning_reason() const {
    if (!tuned() || o_.how_tuned != tuning::automatic || source_->spec().plain()) return {};
    return fmt::format(" (a {} is not laid out as LLaMA)", source_->spec().model_class);
  }
  bool gguf() const { return exporting::is_gguf(plan_.jobs.front().format); }
  ar::real scale_type_of(const layer_decision& layer) const { return layer.scale_type.value_or(plan_.jobs.front().scale_type); }
  std::string folder_of(const std::string& base, std::size_t i) const { return export_folder(plan_, base, i); }
  double since_last_part() {
    const double s = part_.seconds();
    part_.restart();
    return s;
  }

  result<void> open() {
    auto source = o_.first_blocks ? exporting::open_first_blocks(o_.model, *o_.first_blocks) : exporting::open_model(o_.model);
    if (!source) return forward_error(source);
    source_ = std::move(*source);
    if (o_.first_blocks) bar_.message(fmt::format("note: only the first {} blocks are quantized and written; the output is a part of the model, for trying things", *o_.first_blocks));
    request_ = o_.request;
    request_.compat = o_.compat;
    if (finds_maxima()) request_.maxima = &maxima_;
    const bool packed = exporting::has_packed_layers(*source_);
    if (packed || source_->directory() == nullptr) {
      if (packed) bar_.message(fmt::format("note: the model is quantized already ({}); its weights are computed from that", source_->format()));
      auto unpacked = exporting::unpacked_source(std::move(source_));
      if (!unpacked) return forward_error(unpacked);
      source_ = std::move(*unpacked);
      request_.weights = source_.get();
    }
    if (o_.model_dtype) {
      auto retyped = exporting::retyped_source(std::move(source_), *o_.model_dtype);
      if (!retyped) return forward_error(retyped);
      source_ = std::move(*retyped);
      request_.weights = source_.get();
    }
    if (tuned() && (o_.how_tuned == tuning::gram || o_.how_tuned == tuning::hybrid)) {
      if (auto r = tune::check_gram(source_->spec()); !r) return r;
    }
    const std::int64_t most = source_->spec().max_position_embeddings;
    if (most > 0 && request_.seqlen > most) request_.seqlen = most;
    if (auto r = rotate(); !r) return r;
    if (o_.autoscheme.wanted()) {
      // An output folder that cannot be used must not cost a scoring pass.
      if (auto dir = begin_output(o_.output_dir, o_.overwrite, o_.model); !dir) return forward_error(dir);
      autoscheme_options how = o_.autoscheme;
      if (how.cache.empty() && !o_.dry_run) {
        how.cache = o_.output_dir + ".scores";  // for the run that goes on after an interruption
        scores_folder_ = how.cache;
      }
      scores_cache_ = how.cache;
      auto chosen = choose_schemes(how, request_, *source_, *weights_, {.dataset = o_.dataset, .dataset_dir = o_.dataset_dir}, search_to_score(), o_.seed, o_.compat,
                                   [this](plan::run_plan&& first, const plan::scoring_facts& facts) { return check_scoring(std::move(first), facts); }, bar_);
      if (!chosen) return forward_error(chosen);
      autoscheme_ = std::move(*chosen);
      bar_.message(autoscheme_.summary);
      log_.write("autoscheme", autoscheme_.data.members());
      times_.add("choose schemes", since_last_part());
    }
    begin_smoothing();
    if (o_.enable_norm_bias_tuning && tuned()) {
      if (std::ranges::any_of(request_.formats, exporting::is_gguf))
        return fail(error_kind::unsupported, "--enable_norm_bias_tuning: gguf files are written with the norms of the source; choose another format");
      vectors_ = std::make_unique<tune::vector_source>(*weights_);
      request_.weights = weights_ = vectors_.get();
    }
    auto plan = plan::make_plan(request_, *source_);
    if (!plan) return forward_error(plan);
    plan_ = std::move(*plan);
    if (o_.autoscheme.wanted()) plan_.scheme_name = fmt::format("AutoScheme of {}", o_.autoscheme.schemes);
    for (const std::string& w : plan_.warnings) bar_.message("warning: " + w);
    const bool integers = std::ranges::any_of(plan_.layers(), [](const layer_decision& l) { return l.quantize && l.scheme.data_type == "int" && !l.scheme.super_bits; });
    const run_kind kind = {.tuned = tuned(), .reads_text = reads_text() || o_.autoscheme.wanted(), .integers = integers && !gguf(), .how = how()};
    for (const std::string& line : unused_options(o_, kind)) bar_.message("note: " + line);
    if (request_.seqlen != o_.request.seqlen && reads_text()) bar_.message(fmt::format("note: --seqlen is {}, the most that the model takes", request_.seqlen));
    return {};
  }

  /// Before options of AutoScheme are scored: the plan under the first of them stands for the one that comes of it.
  result<std::string> check_scoring(plan::run_plan&& first, const plan::scoring_facts& facts) {
    plan_ = std::move(first);
    scored_ = facts;
    if (auto r = fit_memory(); !r) return forward_error(r);
    bar_.message(fmt::format("AutoScheme: about {} of memory ({})", report::human_bytes(plan_.memory.bytes()), plan_.memory.explain()));
    scoring_done_ = true;
    if (!scored_.spilled) return std::string();
    // A file without a name, where OUT.partial will be; a dry run has no such folder.
    std::filesystem::path folder = std::filesystem::absolute(o_.output_dir).parent_path();
    while (!std::filesystem::exists(folder) && folder.has_relative_path()) folder = folder.parent_path();
    return spill_folder_ = folder.string();
  }

  plan::memory_facts memory_facts() const {
    plan::memory_facts f;
    f.base = base_memory_;
    if (tuned()) f.tuned = how() == tuning::gram ? plan::tuner::gram : how() == tuning::hybrid ? plan::tuner::hybrid : plan::tuner::block;
    f.rotated = o_.rotation.has_value();
    f.importance = collects_importance() || collects_maxima();
    f.tuned_head = tunes_head() && how() == tuning::block;
    f.samples = calibration_.rows() > 0 ? calibration_.rows() : request_.nsamples;
    f.seqlen = request_.seqlen;
    f.batch_size = request_.batch_size;
    f.nblocks = o_.nblocks;
    f.gradient_accumulate_steps = request_.gradient_accumulate_steps;
    f.smoothing_tokens = smoothed() ? std::min(smoothing_tokens(), request_.seqlen) : 0;
    f.bf16 = bf16_;
    f.rounded = rounds_calibration();
    f.adam = o_.enable_adam;
    f.momentum = o_.momentum != 0;
    f.keep_best = !o_.not_use_best_mse;
    f.spilled = spilled_;
    f.by_rows = gguf() && plan_.jobs.size() == 1 && o_.report_dir.empty();
    f.kept_bytes = kept_bytes_;
    std::error_code ec;
    const std::uint64_t bytes = std::filesystem::file_size(source_->tokenizer_directory() + "/tokenizer.json", ec);
    f.tokenizer_bytes = ec ? 0 : bytes;
    const model::model_spec& spec = source_->spec();
    if (const io::tensor_ref* head = source_->directory()->find(spec.tie_word_embeddings ? spec.embed_name : spec.head_name)) f.head_bytes = head->bytes.size();
    f.threads = omp_get_max_threads();
    f.scored = scored_;
    if (trains_rotation()) f.trained = {.samples = std::min(o_.rotation_training.batch_size, f.samples), .seqlen = f.seqlen, .spilled = spilled_};
    return f;
  }

  /// Estimates the peak, with the first of the ways that give the same result that fits --max_memory: rows that are needed twice are made twice,
  /// activations go to a scratch file, fewer threads work.
  result<void> fit_memory() {
    if (base_memory_ == 0) {
      bf16_ = reads_text() && amp();
      if (reads_text() || scored_.samples > 0) static_cast<void>(linalg::fast_bf16());  // asks the backend, which takes memory of its own from then on
      base_memory_ = report::current_memory_bytes();
    }
    const std::uint64_t limit = plan::memory_limit(o_.max_memory);
    constexpr std::size_t kept = tune::signround_options{}.kept_bytes;
    const auto fits = [&](bool spilled, std::size_t bytes) {
      spilled_ = spilled;
      if (!scoring_done_) scored_.spilled = spilled;
      kept_bytes_ = bytes;
      plan_.memory = plan::estimate_memory(memory_facts(), source_->spec(), plan_.layers());
      return limit == 0 || plan_.memory.bytes() <= limit;
    };
    if (!fits(false, kept) && !fits(false, 0) && !fits(true, kept)) {
      while (!fits(true, 0) && omp_get_max_threads() > 1) omp_set_num_threads(omp_get_max_threads() / 2);
    }
    return plan::check_memory(plan_.memory, o_.max_memory);
  }

  /// Weights from here on are rotated, where that is asked for.
  result<void> rotate() {
    weights_ = source_.get();
    if (!o_.rotation) return {};
    auto places = transform::place_rotations(source_->spec(), *o_.rotation, transform::drawn_signs(o_.rotation->seed), false, o_.compat);
    if (!places) return forward_error(places);
    for (const std::string& note : places->notes) bar_.message("note: " + note);
    stored_rotation_ = transform::store_rotation(source_->spec(), *o_.rotation, *places, o_.rotation_matrices);
    rotated_ = std::make_unique<transform::rotated_source>(*source_, std::move(*places), transform::rotated_source::arithmetic{[this](const std::string& name) { return stored_real(name); }, o_.compat});
    weights_ = rotated_.get();
    request_.weights = weights_;
    request_.rotation = &stored_rotation_;
    request_.rotation_in_fake_only = o_.rotation->family == transform::rotation_family::inplace;
    return {};
  }

  /// The arithmetic type of a tensor of the source: that of its bytes, float for all others.
  ar::real stored_real(const std::string& name) const {
    const io::checkpoint_dir* dir = source_->directory();
    const io::tensor_ref* t = dir == nullptr ? nullptr : dir->find(name);
    if (t == nullptr) return ar::real::f32;
    return t->type == io::dtype::bf16 ? ar::real::bf16 : t->type == io::dtype::f16 ? ar::real::f16 : ar::real::f32;
  }

  /// The calibration pass is that of the original, which computes in the type of the model.
  bool rounds_calibration() const {
    return o_.compat && stored_real(source_->spec().embed_name) == ar::real::bf16 && model::rounded_block::covers(source_->spec());
  }

  /// How options of AutoScheme are searched when they are scored: as the run will search them, weighted as there. K types also where they are tuned,
  /// since tuning begins with what their search finds. With --compat only they are, by the original's rule.
  scored_search search_to_score() {
    scored_search s;
    const bool tuned_from_search = tuned() && (o_.how_tuned != tuning::block || o_.enable_alg_ext);
    if (!o_.compat && !searched() && !tuned_from_search) return s;
    s.searches = [whole = searched() && !o_.compat](const ar::scheme_fields& f) { return whole ? tune::searches_by_default(f, false) : f.super_bits.has_value(); };
    if (!o_.imatrix.empty()) {
      s.source = "file";
      s.key = [this]() -> result<std::string> {
        if (auto r = read_importance_file(); !r) return forward_error(r);
        std::string all;
        for (const auto& [layer, c] : importance_) all += layer + " " + hash_of(c.sum) + "\n";
        return "file " + hash_of(all);
      };
      s.importance = [this]() -> result<const tune::importance_matrix*> { return &importance_; };
      return s;
    }
    if (searched() && o_.dataset.empty() && !o_.compat) {
      s.key = []() -> result<std::string> { return "none"; };
      s.importance = []() -> result<const tune::importance_matrix*> { return nullptr; };
      return s;
    }
    s.source = "text";
    s.samples = o_.compat ? compat_text_options().nsamples : request_.nsamples;
    s.seqlen = o_.compat ? compat_text_options().seqlen : request_.seqlen;
    s.key = [this]() -> result<std::string> {
      auto set = text_of_importance();
      if (!set) return forward_error(set);
      return fmt::format("text {} {}", (*set)->seqlen, hash_of((*set)->ids));
    };
    s.importance = [this]() -> result<const tune::importance_matrix*> {
      auto set = text_of_importance();
      if (!set) return forward_error(set);
      const io::interrupt_watch watch;
      auto key = key_of_pass(**set);
      if (!key) return forward_error(key);
      auto kept = score_cache(scores_cache_).pass(*key);
      if (!kept) return forward_error(kept);
      auto collected = collect(**set, true, nullptr, *kept ? &**kept : nullptr);
      bar_.finish();
      if (!collected) return forward_error(collected);
      if (*kept) (*kept)->remove();
      scored_with_ = std::move(*collected);
      if (!o_.compat) scored_weights_ = weights_;
      return &scored_with_;
    };
    return s;
  }

  /// The text that weights scores: the run's own; the original reads longer and fewer samples.
  result<const text::calibration_set*> text_of_importance() {
    if (!o_.compat) {
      if (auto r = read_text(); !r) return forward_error(r);
      return &calibration_;
    }
    if (compat_text_.rows() > 0) return &compat_text_;
    auto set = read_calibration_text(*source_, compat_text_options());
    if (!set) return forward_error(set);
    compat_text_ = std::move(*set);
    return &compat_text_;
  }
  text::calibration_options compat_text_options() const {
    text::calibration_options c{.dataset = o_.dataset, .dataset_dir = o_.dataset_dir};
    c.nsamples = std::min<std::int64_t>(o_.autoscheme.nsamples, 128);
    c.seqlen = std::max<std::int64_t>(2 * o_.autoscheme.seqlen, 2048);
    if (const std::int64_t most = source_->spec().max_position_embeddings; most > 0) c.seqlen = std::min(c.seqlen, most);
    c.seed = o_.seed;
    return c;
  }

  /// The run's calibration text, read once.
  result<void> read_text() {
    if (calibration_.rows() > 0) return {};
    text::calibration_options c;
    c.dataset = o_.dataset;
    c.dataset_dir = o_.dataset_dir;
    c.nsamples = request_.nsamples;
    c.seqlen = request_.seqlen;
    c.seed = o_.seed;
    c.batch_size = request_.batch_size;
    auto set = read_calibration_text(*source_, c);
    if (!set) return forward_error(set);
    calibration_ = std::move(*set);
    for (const std::string& line : calibration_.notes) bar_.message("note: " + line);
    for (const std::string& w : calibration_.warnings) bar_.message("warning: " + w);
    return {};
  }

  result<void> load_calibration() {
    if (!reads_text()) return {};
    if (o_.dataset.empty() && collects_maxima()) {
      return fail(error_kind::usage, fmt::format("{} of {} come from calibration text: write --dataset FILE (.jsonl, .json or .txt), or --dataset builtin for the small sample of this program",
                                                 request_.attention.wanted() ? "static scales of attention" : "static scales of activations", plan_.scheme_name));
    }
    if (auto r = read_text(); !r) return r;
    request_.seqlen = calibration_.seqlen;
    return {};
  }

  /// Copied tensors too, and before any work: a damaged weight in the last block must not cost the run of those before it.
  result<void> check_all_weights() const {
    const io::checkpoint_dir& dir = *source_->directory();
    for (const io::tensor_ref& t : dir.tensors()) {
      if (source_->changed(t.name)) continue;  // computed, and looked at when it is read
      if (auto r = exporting::check_finite(dir, t); !r) return r;
    }
    return {};
  }

  result<void> add(const tune::quantized_layer& layer) {
    const report::stopwatch clock;
    for (auto& e : plan_.exporters) {
      if (auto r = e->add(layer); !r) return r;
    }
    if (auto r = report_.add(layer, *weights_); !r) return r;
    if (layer.first_row == 0) ++layers_done_;
    packing_ += clock.seconds();
    return {};
  }

  /// Ctrl-C ends it after an iteration or a layer.
  result<void> quantize_layers() {
    const io::interrupt_watch watch;
    if (auto r = train_rotation(); !r) return r;
    if (auto r = smooth(); !r) return r;
    if (auto r = find_importance(); !r) return r;
    if (auto r = tuned() ? tune_blocks() : round_blocks(); !r) return r;
    return round_outside_blocks();
  }

  bool trains_rotation() const { return o_.rotation && o_.rotation->trained; }

  result<void> train_rotation() {
    if (!trains_rotation()) return {};
    transform::rotation_places places = rotated_->places();
    transform::spinquant_options training = o_.rotation_training;
    training.scratch_folder = spill_folder_;
    bar_.start("step", training.iters);
    transform::rotation_events events;
    for (;;) {  // the last of them counts
      auto known = journal_.next(run_journal::part::rotation);
      if (!known) return forward_error(known);
      if (!*known) break;
      events.start = transform::training_of_record(**known);
      if (!events.start) return journal_.not_ours();
    }
    events.start_file = journal_.path();
    events.on_state = [&](const transform::rotation_training& state) { record(run_journal::part::rotation, transform::to_record(state)); };
    events.on_step = [&](std::int64_t step, double loss) {
      bar_.finish_unit(fmt::format("rotation: loss {:.4e}", loss));
      log_.write("rotation", {{"step", step}, {"loss", loss}});
      return !io::interrupt_watch::requested();
    };
    auto trained = transform::train_rotation(*source_, calibration_, layer_choices(), training, places, events);
    if (!trained) return forward_error(trained);
    rotated_->replace_matrices(places);
    bar_.message(fmt::format("rotation trained: loss over the calibration set {:.4e} -> {:.4e}", trained->first_loss, trained->last_loss));
    times_.add("rotation", since_last_part());
    return {};
  }

  tune::layer_choices layer_choices() const {
    tune::layer_choices choices;
    for (const layer_decision& layer : plan_.layers()) {
      if (!layer.quantize || (layer.block < 0 && !(tunes_head(layer) && how() == tuning::block))) continue;
      tune::layer_choice& choice = choices[layer.name];
      choice = {layer.scheme, scale_type_of(layer)};
      if (const auto* ranges = awq_changes_.initial_ranges(layer.name + ".weight")) choice.start = {ranges->step, ranges->options.n_grid, ranges->options.symmetric};
    }
    return choices;
  }

  /// Weights from here on are those of the smoothed model, which is not known yet; the plan only asks what may change.
  void begin_smoothing() {
    if (!smoothed()) return;
    unsmoothed_ = weights_;
    smoothed_ = std::make_unique<transform::awq_source>(*unsmoothed_, awq_changes_);
    weights_ = smoothed_.get();
    request_.weights = weights_;
    request_.smoothing_tokens = smoothing_tokens();
  }
  std::int64_t smoothing_tokens() const { return o_.awq->seqlen > 0 ? o_.awq->seqlen : request_.seqlen; }

  result<void> smooth() {
    if (!smoothed()) return {};
    transform::awq_options o = *o_.awq;
    o.batch_size = request_.batch_size;
    o.stored = [this](const std::string& name) { return stored_real(name); };
    transform::layer_schemes schemes;
    for (const layer_decision& layer : plan_.layers()) {
      if (layer.block >= 0 && layer.quantize) schemes[layer.name] = layer.scheme;
    }
    const std::int64_t blocks = source_->spec().num_layers;
    bar_.start("block", blocks);
    std::int64_t mappings = 0;
    double before = 0, after = 0;
    transform::awq_events events;
    events.on_warning = [&](const std::string& w) { bar_.message("warning: " + w); };
    events.on_mapping = [&](const transform::awq_report& r) {
      ++mappings;
      before += r.first_loss > 0 ? 1 : 0;
      after += r.first_loss > 0 ? r.loss / r.first_loss : 0;
      log_.write("smooth", {{"block", r.block}, {"layer", r.smooth}, {"ratio", r.point.ratio}, {"duo_scaling", r.point.duo}, {"loss", r.loss}, {"first_loss", r.first_loss}});
    };
    std::int64_t known = 0;  // blocks that the journal has
    events.on_block = [&](std::int64_t done, std::int64_t) {
      if (done <= known) bar_.finish_unit("smoothed before the interruption");
      else bar_.finish_unit(fmt::format("smoothed in {} places, error of outputs {:.0f} % of what it was", mappings, before > 0 ? 100 * after / before : 100.0));
      mappings = 0;
      before = after = 0;
      return !io::interrupt_watch::requested();
    };
    events.recorded = [&](std::int64_t) -> result<std::optional<transform::awq_changes>> {
      auto bytes = journal_.next(run_journal::part::smoothed_block);
      if (!bytes) return forward_error(bytes);
      if (!*bytes) return std::optional<transform::awq_changes>();
      auto changes = transform::changes_of_record(**bytes);
      if (!changes) return journal_.not_ours();
      ++known;
      return changes;
    };
    events.on_changes = [&](const transform::awq_changes& of_block) { record(run_journal::part::smoothed_block, transform::to_record(of_block)); };
    auto changes = transform::run_awq(*unsmoothed_, calibration_, schemes, o, events);
    if (!changes) return forward_error(changes);
    awq_changes_ = std::move(*changes);
    times_.add("smooth", since_last_part());
    return {};
  }

  result<void> read_importance_file() {
    if (o_.imatrix.empty() || !importance_.empty()) return {};
    auto read = exporting::read_importance(o_.imatrix, source_->spec());
    if (!read) return forward_error(read);
    importance_ = std::move(*read);
    return {};
  }

  /// What a pass of the float model over `set` depends on.
  result<io::json> key_of_pass(const text::calibration_set& set) const {
    io::json key = key_of_run(o_.given, *source_, set);
    std::string names;
    for (const std::string& layer : layers_to_calibrate()) names += layer + "\n";
    key.set("static layers", hash_of(names));
    if (auto r = add_transformed(key, *source_, *weights_); !r) return forward_error(r);
    return key;
  }

  /// A pass of the float model over `set`, which lies in `kept`, if that is not null, should it be cut short.
  result<tune::importance_matrix> collect(const text::calibration_set& set, bool sums, tune::maxima_collector* maxima, tune::pass_file* kept) {
    tune::importance_options c;
    c.sums = sums;
    c.maxima = maxima;
    c.batch_size = request_.batch_size;
    c.precision = amp() ? linalg::precision::bf16 : linalg::precision::f32;
    c.rounded = rounds_calibration();
    c.bf16_activations = c.rounded || amp();
    c.spill_folder = spill_folder_;
    bar_.start("block", source_->spec().num_layers);
    c.kept = kept;
    c.experts = &experts_;
    c.on_known = [&](std::int64_t blocks) {
      bar_.message(fmt::format("going on with a pass that was cut short: {} blocks are in {}", blocks, kept->path()));
      while (blocks-- > 0) bar_.finish_unit("known from before the interruption");
    };
    bool warned = false;
    c.on_block = [&](std::int64_t) {
      bar_.finish_unit(sums ? "importance collected" : "static scales collected");
      if (kept != nullptr && kept->lost() && !std::exchange(warned, true)) bar_.message("warning: the pass cannot be kept; an interruption would lose its work");
      return !io::interrupt_watch::requested();
    };
    return tune::collect_importance(*weights_, set, c);
  }

  result<void> find_importance() {
    if (auto r = read_importance_file(); !r) return r;
    const bool sums = o_.imatrix.empty() && collects_importance(), maxima = collects_maxima();
    if (sums && !maxima && scored_weights_ == weights_ && !trains_rotation()) {
      importance_ = std::move(scored_with_);  // of the same weights and text
    } else if (sums || maxima) {
      auto known = journal_.next(run_journal::part::importance);
      if (!known) return forward_error(known);
      auto key = key_of_pass(calibration_);
      if (!key) return forward_error(key);
      auto kept = tune::pass_file::open(o_.output_dir + ".pass", std::move(*key), o_.restart);
      if (!kept) return forward_error(kept);
      if (*known) {
        if (!tune::from_record(**known, importance_, maxima_)) return journal_.not_ours();
      } else {
        tune::maxima_collector collector(source_->spec(), layers_to_calibrate(), request_.attention);
        auto collected = collect(calibration_, sums, maxima ? &collector : nullptr, &*kept);
        if (!collected) {
          if (kept->any()) collected.error().message += fmt::format("; its finished blocks are kept in {}: the same command goes on from there", kept->path());
          return forward_error(collected);
        }
        if (sums) importance_ = std::move(*collected);
        maxima_ = collector.maxima();
        record(run_journal::part::importance, tune::to_record(sums ? importance_ : tune::importance_matrix(), maxima_));
      }
      kept->remove();
      tune::fill_unseen_experts(source_->spec(), maxima_);
      times_.add(sums ? "importance" : "static scales", since_last_part());
    }
    if (searched() && o_.imatrix.empty() && !sums) {
      bar_.message("note: without --dataset or --imatrix, scales are searched for the weights alone");
    }
    if (!o_.save_imatrix.empty()) {
      if (auto r = exporting::write_importance(o_.save_imatrix, source_->spec(), importance_, calibration_.seqlen, o_.dataset.empty() ? "builtin" : o_.dataset); !r) return r;
      bar_.message("importance matrix written: " + o_.save_imatrix);
    }
    return {};
  }

  /// How a layer outside of tuning is quantized.
  tune::rounding rounding_of(const layer_decision& layer, const std::vector<float>& importance) const {
    tune::rounding how;
    // The original's shard-wise route computes in float, its tuning flow in the type of the checkpoint.
    const std::string weight = layer.name + ".weight";
    if (!plan_.jobs.front().model_free && (o_.compat || !weights_->changed(weight))) how.weight_type = stored_real(weight);
    how.scale_type = scale_type_of(layer);
    how.reference = o_.compat;
    how.search = searched() && tune::searches_by_default(layer.scheme, o_.compat);
    if (how.search) how.importance = importance;
    const auto shared = global_scales_.find(layer.name);
    if (shared != global_scales_.end()) how.global_scale = shared->second;
    return how;
  }

  result<void> round_layer(const layer_decision& layer) {
    if (io::interrupt_watch::requested()) return fail(error_kind::interrupted, "interrupted while rounding");
    const std::vector<float> importance = tune::importance_of(importance_, layer.name);
    const bool by_rows = o_.report_dir.empty() && std::ranges::all_of(plan_.exporters, [&](const auto& e) { return e->takes_rows(layer.name); });
    if (by_rows && layer.rows * layer.cols > values_at_once) return round_rows(layer, importance);
    auto quantized = tune::quantize_layer(*weights_, layer.name, layer.scheme, static_cast<std::size_t>(layer.rows), static_cast<std::size_t>(layer.cols),
                                          rounding_of(layer, importance));
    if (!quantized) return forward_error(quantized);
    if (const auto m = maxima_.inputs.find(layer.name); m != maxima_.inputs.end()) quantized->act_max = m->second;
    return add(*quantized);
  }

  /// The same piece by piece: an embedding may be larger than a block.
  result<void> round_rows(const layer_decision& layer, const std::vector<float>& importance) {
    const std::uint64_t step = std::max<std::uint64_t>(1, values_at_once / layer.cols), elements = layer.rows * layer.cols;
    for (std::uint64_t first = 0; first < layer.rows; first += step) {
      const std::uint64_t rows = std::min(step, layer.rows - first);
      std::vector<float> weight(static_cast<std::size_t>(rows * layer.cols));
      if (auto r = weights_->read_part(layer.name + ".weight", elements, first * layer.cols, weight); !r) return r;
      auto quantized = tune::quantize_layer(weight.data(), layer.name, layer.scheme, static_cast<std::size_t>(rows), static_cast<std::size_t>(layer.cols),
                                            rounding_of(layer, importance));
      if (!quantized) return forward_error(quantized);
      quantized->first_row = static_cast<std::size_t>(first);
      if (auto r = add(*quantized); !r) return r;
    }
    return {};
  }

  /// Layers that engines fuse share the scale of their whole tensors, where the scheme has one.
  result<void> share_global_scales(std::span<const layer_decision> block) {
    std::vector<float> scales(source_->spec().linears.size(), -1.0f);
    const auto scale_of = [&](const layer_decision& layer) -> float& { return scales[static_cast<std::size_t>(layer.linear)]; };
    for (const layer_decision& layer : block) {
      if (!layer.quantize || !tune::has_global_scale(layer.scheme)) continue;
      auto weight = model::read_tensor(*weights_, layer.name + ".weight", {layer.rows, layer.cols});
      if (!weight) return forward_error(weight);
      scale_of(layer) = tune::own_global_scale(layer.scheme, *weight);
    }
    tune::share_global_scales(source_->spec(), scales, o_.compat);
    for (const layer_decision& layer : block)
      if (scale_of(layer) >= 0) global_scales_[layer.name] = scale_of(layer);
    return {};
  }

  result<void> round_blocks() {
    const std::int64_t blocks = source_->spec().num_layers;
    bar_.start("block", blocks);
    auto next = plan_.layers().begin();
    for (std::int64_t b = 0; b < blocks; ++b) {
      std::int64_t done = 0, all = 0;
      auto end = next;
      while (end != plan_.layers().end() && end->block == b) ++end;
      if (auto r = share_global_scales({next, end}); !r) return r;
      for (; next != plan_.layers().end() && next->block == b; ++next) {
        ++all;
        if (!next->quantize) continue;
        if (auto r = round_layer(*next); !r) return r;
        ++done;
        bar_.step(all, static_cast<std::int64_t>(source_->spec().linears.size()), next->name);
      }
      source_->done_with_block(b);
      bar_.finish_unit(fmt::format("{}/{} layers rounded", done, all));
      log_.write("block", {{"block", b}, {"quantized", done}, {"layers", all}});
    }
    return {};
  }

  result<void> round_outside_blocks() {
    for (const layer_decision& layer : plan_.layers()) {
      if (layer.block >= 0 || !layer.quantize || (tunes_head(layer) && how() == tuning::block)) continue;
      if (auto r = round_layer(layer); !r) return r;
    }
    return {};
  }

  result<void> tune_blocks() {
    const tune::layer_choices choices = layer_choices();
    tune::signround_options t;
    t.iters = request_.iters;
    if (request_.lr > 0) t.lr = request_.lr;
    if (request_.minmax_lr > 0) t.minmax_lr = request_.minmax_lr;
    t.batch_size = request_.batch_size;
    t.gradient_accumulate_steps = request_.gradient_accumulate_steps;
    t.nblocks = o_.nblocks;
    t.seed = o_.seed;
    t.momentum = o_.momentum;
    t.enable_minmax_tuning = request_.enable_minmax_tuning;
    t.enable_quanted_input = request_.enable_quanted_input;
    t.not_use_best_mse = o_.not_use_best_mse;
    t.enable_alg_ext = o_.enable_alg_ext;
    t.enable_adam = o_.enable_adam;
    t.enable_norm_bias_tuning = o_.enable_norm_bias_tuning;
    t.compat = o_.compat;
    // What was better for each (docs/design.md); the reference's loop has the reference's.
    t.clamp = o_.clamp.value_or(how() == tuning::block ? ar::clamp_gradient::strict : ar::clamp_gradient::closed);
    t.scale_gradient = o_.scale_gradient.value_or(how() == tuning::block ? ar::scale_gradient::reference : ar::scale_gradient::f32);
    t.dynamic_max_gap = o_.dynamic_max_gap;
    t.descent_sweeps = o_.descent_sweeps;
    t.precision = amp() ? linalg::precision::bf16 : linalg::precision::f32;
    t.bf16_activations = amp();
    t.spill_folder = spill_folder_;
    t.kept_bytes = kept_bytes_;
    const std::int64_t blocks = source_->spec().num_layers;
    bar_.start("block", (blocks + o_.nblocks - 1) / o_.nblocks);
    tune::tuning_events events;
    events.recorded = [&](std::int64_t first_block) { return journal_.next_block(first_block); };
    events.on_iteration = [&](std::int64_t, std::int64_t iteration, double loss) {
      bar_.step(iteration, t.iters, fmt::format("loss {:.3e}", loss));
      return !io::interrupt_watch::requested();
    };
    events.experts = &experts_;
    events.on_block = [&](const tune::block_result& b, std::vector<tune::quantized_layer>&& layers) -> result<void> {
      warn_unless(journal_.add_block(b, layers));
      if (io::interrupt_watch::requested()) return fail(error_kind::interrupted, "interrupted while tuning");
      for (tune::quantized_layer& layer : layers) {
        if (const auto choice = choices.find(layer.name); choice != choices.end()) layer.scheme = choice->second.scheme;  // a journal holds none
        if (auto r = add(layer); !r) return r;
      }
      for (const auto& [name, values] : b.vectors) vectors_->set(name, values);
      const bool iterates = how() != tuning::gram || o_.descent_sweeps == 0;
      const std::string losses = iterates ? fmt::format("iter 0: {:.3e} -> iter {}: {:.3e}", b.first_loss, b.best_iteration, b.best_loss)
                                          : fmt::format("before: {:.3e} -> after: {:.3e}", b.first_loss, b.best_loss);
      const std::string line = fmt::format("quantized {}/{} layers in the block, loss {}, memory {}", b.quantized, b.layers, losses, report::human_bytes(report::current_memory_bytes()));
      bar_.finish_unit(line);
      report_.add(b);
      log_.write("block", {{"block", b.first_block}, {"blocks", b.blocks}, {"quantized", b.quantized}, {"layers", b.layers}, {"first_loss", b.first_loss},
                           {"best_loss", b.best_loss}, {"best_iteration", b.best_iteration}, {"iterations", b.iterations},
                           {"memory_bytes", static_cast<std::int64_t>(report::current_memory_bytes())}});
      return {};
    };
    const auto run = how() == tuning::gram ? tune::run_gram : how() == tuning::hybrid ? tune::run_hybrid : tune::run_signround;
    auto tuned = run(*weights_, calibration_, choices, t, events);
    if (!tuned) return forward_error(tuned);
    tuning_ = std::move(*tuned);
    return {};
  }

  std::string method_name() const {
    const std::string first = smoothed() ? "AWQ, " : "";
    if (tuned() && how() == tuning::gram && o_.descent_sweeps > 0) return first + fmt::format("coordinate descent, {} sweeps", o_.descent_sweeps);
    if (tuned()) return first + fmt::format("{}SignRound, {} iterations", how() == tuning::hybrid && o_.descent_sweeps > 0 ? "coordinate descent, " : "", request_.iters);
    return first + (searched() ? "OPT-RTN (searched scales)" : "round to nearest");
  }

  void log_start() {
    const model::model_spec& s = source_->spec();
    bar_.message(fmt::format("{}: {}, {} blocks; {} by {}; about {} of memory", o_.model, s.model_class, s.num_layers, plan_.scheme_name, method_name(),
                             report::human_bytes(plan_.memory.bytes())));
    if (reads_text()) {
      bar_.message(fmt::format("calibration: {} samples of {} tokens from {} records ({} too short, {} repetitive); tuning by {}{}; {}, {} threads",
                               calibration_.rows(), calibration_.seqlen, calibration_.records, calibration_.dropped_short, calibration_.dropped_repetitive,
                               tuning_name(), tuning_reason(), linalg::description(), omp_get_max_threads()));
    }
    log_.write("start", {{"model", o_.model}, {"architecture", s.architecture}, {"scheme", plan_.scheme_name}, {"method", method_name()}, {"tuning", tuning_name()},
                         {"planned_bytes", static_cast<std::int64_t>(plan_.total_bytes())}, {"samples", calibration_.rows()}, {"seqlen", calibration_.seqlen}});
  }

  io::json timing() const {
    io::json t = io::json::object{};
    for (const auto& [part, seconds] : times_.parts()) t.set(part, seconds);
    if (tuned()) {
      const tune::stage_seconds& s = tuning_.seconds;
      io::json stages = io::json::object{};
      stages.set("collect", s.collect).set("reference", s.reference).set("forward", s.forward).set("backward", s.backward).set("step", s.step);
      stages.set("propagate", s.propagate).set("pack", s.pack + packing_);
      t.set("stages", std::move(stages));
    }
    return t;
  }

  /// "model.layers.3"
  std::string block_title(std::int64_t block) const {
    std::string name = source_->spec().block_name(block);
    if (name.ends_with('.')) name.pop_back();
    return name;
  }

  /// Tokens of the calibration set for each expert, block by block.
  io::json expert_tokens() const {
    io::json::array blocks;
    for (const auto& [block, tokens] : experts_) {
      io::json::array counts;
      for (const std::uint64_t n : tokens) counts.emplace_back(static_cast<std::int64_t>(n));
      io::json one = io::json::object{};
      blocks.push_back(one.set("block", block_title(block)).set("tokens", std::move(counts)));
    }
    return io::json(std::move(blocks));
  }

  /// Experts without tokens get the type of the others, but nothing of theirs is known: more text may reach them.
  void tell_of_unseen_experts() {
    std::size_t all = 0, unseen = 0;
    std::vector<std::string> where;
    for (const auto& [block, tokens] : experts_) {
      const auto none = static_cast<std::size_t>(std::ranges::count(tokens, std::uint64_t{0}));
      all += tokens.size();
      unseen += none;
      if (none != 0) where.push_back(fmt::format("{} of {} in {}", none, tokens.size(), block_title(block)));
    }
    if (unseen == 0) return;
    const std::size_t shown = std::min<std::size_t>(where.size(), 4);
    bar_.message(fmt::format("warning: {} of {} experts were given no token of the calibration set ({}{}); their weights were quantized without data, like the others by type; a larger --nsamples reaches more", unseen, all,
                             fmt::join(where.begin(), where.begin() + static_cast<std::ptrdiff_t>(shown), ", "), where.size() > shown ? ", ..." : ""));
  }

  /// Tells what was done; returns what --json prints.
  io::json report_end(const std::string& path, const io::json& scores) {
    const auto number = [](std::uint64_t v) { return io::json(static_cast<std::int64_t>(v)); };
    const exporting::output_plan& p = plan_.exporters.front()->plan();
    std::uint64_t before = 0;
    for (const exporting::tensor_plan& t : p.tensors) before += t.source_bytes;
    if (std::ranges::any_of(p.tensors, [](const exporting::tensor_plan& t) { return t.source_bytes == 0; })) before = source_->file_bytes();  // computed from packed ones
    io::json::array formats, kept;
    for (std::size_t i = 0; i < plan_.jobs.size(); ++i) {
      const exporting::output_plan& out = plan_.exporters[i]->plan();
      io::json one = io::json::object{};
      one.set("format", plan_.jobs[i].format).set("path", folder_of(path, i)).set("bytes", number(out.total_bytes())).set("weight_bytes", number(out.weight_bytes()));
      one.set("bits_per_weight", out.bits_per_weight()).set("bits_per_quantized_weight", out.bits_per_quantized_weight());
      formats.push_back(std::move(one));
    }
    std::vector<std::string> kept_names;
    for (const layer_decision& l : plan_.layers()) {
      if (!l.quantize) kept_names.push_back(l.name + " (" + l.reason + ")");
    }
    for (const std::string& name : kept_names) kept.emplace_back(name);
    io::json result_json = io::json::object{};
    result_json.set("model", o_.model).set("output_dir", path).set("scheme", plan_.scheme_name).set("method", method_name()).set("tuning", tuning_name());
    result_json.set("quantized_layers", layers_done_).set("weight_bytes_before", number(before)).set("formats", std::move(formats)).set("kept_layers", std::move(kept));
    result_json.set("seconds", total_.seconds()).set("cpu_seconds", report::cpu_seconds()).set("peak_memory_bytes", number(report::peak_memory_bytes()));
    result_json.set("timing", timing());
    log_.write("end", result_json.members());
    if (o_.autoscheme.wanted()) result_json.set("autoscheme", autoscheme_.data);
    if (!experts_.empty()) result_json.set("expert_tokens", expert_tokens());
    if (!scores.members().empty()) result_json.set("evaluation", scores);
    if (o_.json) fmt::print("{}\n", io::dump(result_json));
    if (tuned()) {
      const tune::stage_seconds& s = tuning_.seconds;
      bar_.message(fmt::format("tuning: collect {}, reference {}, forward {}, backward {}, step {}, propagate {}, pack {}", report::human_seconds(s.collect),
                               report::human_seconds(s.reference), report::human_seconds(s.forward), report::human_seconds(s.backward),
                               report::human_seconds(s.step), report::human_seconds(s.propagate), report::human_seconds(s.pack + packing_)));
    }
    bar_.message(fmt::format("time: {} in all ({} of CPU): {}; peak memory {}", report::human_seconds(total_.seconds()), report::human_seconds(report::cpu_seconds()),
                             times_.describe(), report::human_bytes(report::peak_memory_bytes())));
    tell_of_unseen_experts();
    bar_.message(plan::summary(layers_done_, plan_.layers()));
    bar_.message(fmt::format("weights: {} -> {} ({:.2f} bits per weight)", report::human_bytes(before), report::human_bytes(p.weight_bytes()), p.bits_per_weight()));
    for (std::size_t i = 0; i < plan_.jobs.size(); ++i) bar_.message(fmt::format("written and verified: {} ({})", folder_of(path, i), plan_.jobs[i].format));
    return result_json;
  }

  const run_options& o_;
  plan::request request_;
  std::unique_ptr<exporting::stored_model> source_;
  std::unique_ptr<transform::rotated_source> rotated_;
  transform::stored_rotation stored_rotation_;
  transform::awq_changes awq_changes_;
  std::unique_ptr<transform::awq_source> smoothed_;
  const model::weight_source* unsmoothed_ = nullptr;
  std::unique_ptr<tune::vector_source> vectors_;
  const model::weight_source* weights_ = nullptr;  // the source, or what transforms it
  plan::run_plan plan_;
  text::calibration_set calibration_;
  autoscheme_result autoscheme_;
  std::string scores_cache_, scores_folder_;  // where they are kept; the same, if nobody asked for that
  tune::importance_matrix importance_, scored_with_;
  const model::weight_source* scored_weights_ = nullptr;  // of which `scored_with_` is the run's own importance
  text::calibration_set compat_text_;
  tune::static_maxima maxima_;
  std::map<std::string, float> global_scales_;
  tune::tuning_result tuning_;
  tune::expert_tokens experts_;
  run_journal journal_;
  report::event_log log_;
  report::progress bar_;
  run_report report_;
  report::stopwatch total_, part_;
  report::time_table times_;
  std::size_t layers_done_ = 0;
  std::uint64_t base_memory_ = 0;  // resident when the plan was made
  bool bf16_ = false;              // products and activations of the calibration set
  bool spilled_ = false;           // activations lie in a scratch file
  plan::scoring_facts scored_;     // of AutoScheme, from when they are known
  bool scoring_done_ = false;
  std::size_t kept_bytes_ = tune::signround_options{}.kept_bytes;
  std::string spill_folder_;
  double packing_ = 0;
};

}  // namespace

result<void> run_quantize(const run_options& options) { return quantization(options).run(); }

}  // namespace auto_round::command
