#include "command/autoscheme_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <map>

#include "autoscheme/delta_loss.hpp"
#include "autoscheme/groups.hpp"
#include "autoscheme/selection.hpp"
#include "command/calibration_text.hpp"
#include "command/fingerprint.hpp"
#include "command/score_cache.hpp"
#include "io/file.hpp"
#include "report/resources.hpp"
#include "tune/quantizer.hpp"

namespace auto_round::command {
namespace {

constexpr std::size_t most_points = 10'000;  // of a complete frontier; beyond, its convex hull says the same for practical purposes

std::string upper(std::string s) {
  std::transform(s.begin(), s.end(), s.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return s;
}

/// "w2a16, W4A16" -> {"W2A16", "W4A16"}.
std::vector<std::string> names_in(const std::string& text) {
  std::vector<std::string> names(1);
  for (const char c : upper(text)) {
    if (c == ',') names.emplace_back();
    else if (std::isspace(static_cast<unsigned char>(c)) == 0) names.back() += c;
  }
  std::erase(names, std::string());
  return names;
}

using exporting::is_gguf;

class choosing {
 public:
  choosing(const autoscheme_options& options, plan::request& request, const exporting::stored_model& source, const model::weight_source& weights,
           const text::calibration_options& text, const scored_search& search, std::int64_t seed, bool compat, const scoring_check& check, report::progress& bar)
      : o_(options),
        request_(request),
        source_(source),
        weights_(weights),
        text_(text),
        search_(search),
        seed_(seed),
        compat_(compat),
        check_(check),
        bar_(bar),
        cache_(options.cache) {}

  result<autoscheme_result> run() {
    if (auto r = read_options(); !r) return forward_error(r);
    if (auto r = find_layers(); !r) return forward_error(r);
    if (auto r = check_target(); !r) return forward_error(r);
    if (auto r = find_scores(); !r) return forward_error(r);
    auto selector = autoscheme::selector::make(what_);
    if (!selector) return forward_error(selector);
    const report::stopwatch clock;
    auto chosen = selector->select(o_.avg_bits);
    if (!chosen) return forward_error(chosen);
    const double seconds = clock.seconds();
    for (std::size_t l = 0; l < what_.layers.size(); ++l) {
      const autoscheme::layer& layer = what_.layers[l];
      if (layer.fixed) continue;
      // The original chooses types for embeddings that their rows may not fit.
      const bool gguf = what_.options[chosen->choice[l]].gguf;
      request_.layer_schemes[layer.name] = layer.embedding ? autoscheme::fitting(layer, chosen->schemes[l], gguf) : chosen->schemes[l];
    }
    autoscheme_result r;
    r.data = data_of(*selector, *chosen, seconds);
    r.score_files = std::move(score_files_);
    r.summary = summary_of(*chosen, seconds);
    if (!o_.report_file.empty()) {
      if (auto w = io::write_text(o_.report_file, io::dump(r.data) + "\n"); !w) return forward_error(w);
    }
    return r;
  }

 private:
  result<void> read_options() {
    const bool gguf_format = gguf_ = std::any_of(request_.formats.begin(), request_.formats.end(), is_gguf);
    std::vector<autoscheme::option> options;
    for (const std::string& name : names_in(o_.schemes)) {
      const bool gguf = name.starts_with("GGUF:");
      if (gguf != gguf_format) {
        return fail(error_kind::usage, gguf ? fmt::format("option {} needs a format that holds it: --format gguf:q4_k_s, for instance", name)
                                            : fmt::format("a gguf format holds GGUF types only, not {}; give options such as GGUF:Q2_K_S,GGUF:Q4_K_S", name));
      }
      plan::scheme_overrides overrides = request_.overrides;
      // The original does not refuse these options but makes them symmetric.
      const ar::scheme_fields* preset = ar::find_preset(name);
      if (preset != nullptr && preset->data_type == "int" && overrides.bits.value_or(preset->bits) == 8) overrides.sym.reset();
      auto scheme = plan::resolve_scheme(name, overrides, request_.formats);
      if (!scheme) return forward_error(scheme);
      options.push_back({name, *scheme, gguf});
    }
    what_.options = autoscheme::without_duplicates(std::move(options));
    const auto quantizes = [](const autoscheme::option& x) { return ar::quantizes(x.scheme); };
    const auto primary = std::find_if(what_.options.begin(), what_.options.end(), quantizes);
    if (primary == what_.options.end()) return fail(error_kind::usage, fmt::format("--schemes \"{}\" names nothing that quantizes", o_.schemes));
    if (!gguf_format) request_.scheme = primary->name;
    const bool short_text = o_.nsamples < 128 || o_.seqlen < 1024;
    if (short_text && std::any_of(what_.options.begin(), what_.options.end(), [](const autoscheme::option& x) { return x.scheme.bits == 2 && !x.gguf; })) {
      bar_.message(fmt::format("note: scores of 2-bit options are better with --score_nsamples 128 --score_seqlen 1024 (now {} and {})", o_.nsamples, o_.seqlen));
    }
    return {};
  }

  /// Head and embedding count where the run quantizes them, or where a rule of the user decides about them.
  bool counts(const exporting::layer_decision& d) const { return d.block >= 0 || d.quantize || d.chosen || (gguf_ && !d.kept_type.empty()); }

  /// The layers that the run would quantize, from its plan under the first option.
  result<void> find_layers() {
    auto plan = plan::make_plan(request_, source_);
    if (!plan) return forward_error(plan);
    const model::model_spec& spec = weights_.spec();
    for (const exporting::layer_decision& d : plan->layers()) {
      if (!counts(d)) continue;
      autoscheme::layer l{d.name, d.rows, d.cols, d.name + ".weight" == spec.embed_name};
      // What the user wants; what does not fit a scheme's shape is counted option by option.
      if (d.kept_type == "float" || (d.chosen && !d.quantize)) l.fixed = *ar::find_preset("BF16");
      else if (d.chosen) l.fixed = d.scheme;
      what_.layers.push_back(std::move(l));
    }
    for (std::int64_t b = 0; b < spec.num_layers; ++b) what_.blocks.push_back(spec.block_prefix + std::to_string(b));
    what_.shared_layers = o_.shared_layers;
    what_.moe = spec.mixture.experts > 0;
    what_.tie_word_embeddings = spec.tie_word_embeddings;
    what_.head_name = spec.head_name.substr(0, spec.head_name.rfind('.'));
    what_.count = {.exact = o_.exact_bits, .ignore_scale_zp_bits = o_.ignore_scale_zp_bits};
    what_.reference = compat_;
    std::vector<std::string> names;
    for (const exporting::layer_decision& d : plan->layers()) names.push_back(d.name);
    for (const std::string& entry : autoscheme::without_layers(names, o_.shared_layers)) {
      const std::string text = fmt::format("--shared_layers \"{}\" matches no layer of this model; near names are {}", entry, fmt::join(plan::nearest_layers(entry, names), ", "));
      if (!compat_) return fail(error_kind::usage, text);
      bar_.message("warning: " + text);
    }
    first_ = std::move(*plan);
    return {};
  }

  /// Before any text is read: a target out of reach costs no pass.
  result<void> check_target() {
    autoscheme::request empty = what_;
    empty.scores.assign(what_.options.size(), std::vector<double>(what_.layers.size(), 0.0));
    auto selector = autoscheme::selector::make(std::move(empty));
    if (!selector) return forward_error(selector);
    auto possible = selector->select(o_.avg_bits);
    if (!possible) return forward_error(possible);
    return {};
  }

  ar::scheme_fields scheme_of(std::size_t o, std::size_t l) const {
    const autoscheme::option& x = what_.options[o];
    if (compat_ && !x.scheme.super_bits) return x.scheme;
    return autoscheme::fitting(what_.layers[l], x.scheme, x.gguf);
  }

  std::int64_t seqlen() const {
    const std::int64_t most = source_.spec().max_position_embeddings;
    return most > 0 ? std::min(o_.seqlen, most) : o_.seqlen;
  }

  result<void> check_memory() {
    plan::scoring_facts f{.samples = o_.nsamples, .seqlen = seqlen(), .batch_size = o_.batch_size, .gradient_at_quantized = at_quantized()};
    bool searches = false;
    for (std::size_t o = 0; o < what_.options.size(); ++o)
      for (std::size_t l = 0; l < what_.layers.size(); ++l) {
        const ar::scheme_fields s = scheme_of(o, l);
        if (what_.layers[l].fixed || what_.layers[l].embedding || !ar::quantizes(s)) continue;
        f.head |= !what_.tie_word_embeddings && what_.layers[l].name == what_.head_name;
        f.activations |= !compat_ && tune::quantizes_activations(s);
        searches |= search_.searches && search_.searches(s);
      }
    if (searches) {
      f.importance_samples = search_.samples;
      f.importance_seqlen = search_.seqlen;
    }
    auto folder = check_(std::move(first_), f);
    if (!folder) return forward_error(folder);
    scratch_folder_ = std::move(*folder);
    return {};
  }

  result<void> find_scores() {
    // A cache may hold all scores, which is not known before the text is.
    if (o_.cache.empty()) {
      if (auto r = check_memory(); !r) return r;
    }
    text::calibration_options text = text_;
    text.nsamples = o_.nsamples;
    text.seqlen = seqlen();
    text.seed = seed_;
    text.batch_size = o_.batch_size;
    auto set = read_calibration_text(source_, text);
    if (!set) return forward_error(set);
    for (const std::string& line : set->notes) bar_.message("note: " + line);
    for (const std::string& w : set->warnings) bar_.message("warning: " + w);

    std::vector<std::string> names;
    for (const autoscheme::layer& l : what_.layers) names.push_back(l.name);
    std::vector<std::vector<ar::scheme_fields>> schemes;
    std::vector<std::size_t> missing;
    auto configured = run_config(*set);
    if (!configured) return forward_error(configured);
    const io::json& run = *configured;
    what_.scores.resize(what_.options.size());
    bool searches = false;
    for (std::size_t o = 0; o < what_.options.size(); ++o) {
      std::vector<ar::scheme_fields> own;
      for (std::size_t l = 0; l < what_.layers.size(); ++l) own.push_back(scheme_of(o, l));
      if (searched(own) && !search_key_) {
        auto key = search_.key();
        if (!key) return forward_error(key);
        search_key_ = std::move(*key);
      }
      const io::json config = option_config(run, own);
      if (!o_.cache.empty()) score_files_.push_back(cache_.path_of(config));
      if (auto known = cache_.find(config, names)) {
        what_.scores[o] = std::move(*known);
        ++cached_;
        continue;
      }
      missing.push_back(o);
      searches |= searched(own);
      schemes.push_back(std::move(own));
    }
    if (missing.empty()) {
      bar_.message("AutoScheme: all scores are in the cache");
      return {};
    }
    if (!o_.cache.empty()) {
      if (auto r = check_memory(); !r) return r;
    }
    autoscheme::score_options scoring{.gradient_at_quantized = at_quantized(), .activations = !compat_, .scratch_folder = scratch_folder_};
    if (searches) {
      auto importance = search_.importance();
      if (!importance) return forward_error(importance);
      scoring.searched = search_.searches;
      scoring.importance = *importance;
      scoring.scale_type = gguf_ ? ar::real::f32 : request_.scale_type;
    }
    bar_.message(fmt::format("AutoScheme: scoring {} of {} options on {} samples of {} tokens, gradients of {}", missing.size(), what_.options.size(), set->rows(),
                             set->seqlen, at_quantized() ? "each quantized model" : "the float model, one pass for all"));
    io::json::array of_pass;
    for (const std::vector<ar::scheme_fields>& own : schemes) of_pass.push_back(option_config(run, own));
    auto kept = cache_.pass(io::json(io::json::object{}).set("scores", std::move(of_pass)));
    if (!kept) return forward_error(kept);
    if (*kept) {
      scoring.kept = &**kept;
      if ((*kept)->any()) bar_.message("going on with a pass that was cut short: " + (*kept)->path());
    }
    const io::interrupt_watch watch;
    const report::stopwatch clock;
    bar_.start("step", 1);
    auto table = autoscheme::delta_loss(weights_, *set, what_.layers, schemes, scoring, [&](std::int64_t done, std::int64_t all) -> result<void> {
      if (io::interrupt_watch::requested()) return fail(error_kind::interrupted, "interrupted while scoring");
      bar_.step(done, all, fmt::format("{} of {}", done, all));
      return {};
    });
    if (!table) {
      if (*kept && (*kept)->any()) table.error().message += fmt::format("; what is scored is kept in {}: the same command goes on from there", (*kept)->path());
      return forward_error(table);
    }
    scoring_seconds_ = clock.seconds();
    bar_.finish_unit(fmt::format("scored in {}", report::human_seconds(scoring_seconds_)));
    bar_.finish();
    for (std::size_t i = 0; i < missing.size(); ++i) {
      what_.scores[missing[i]] = std::move(table->scores[i]);
      if (what_.moe) autoscheme::fill_inactive_experts(names, what_.scores[missing[i]], what_.blocks);
      if (auto r = cache_.keep(option_config(run, schemes[i]), names, what_.scores[missing[i]]); !r) return r;
    }
    if (*kept) (*kept)->remove();
    return {};
  }

  /// True if the run searches the scales of any of these layers.
  bool searched(const std::vector<ar::scheme_fields>& schemes) const {
    if (!search_.searches) return false;
    for (std::size_t l = 0; l < schemes.size(); ++l)
      if (!what_.layers[l].fixed && ar::quantizes(schemes[l]) && search_.searches(schemes[l])) return true;
    return false;
  }

  bool at_quantized() const { return o_.gradient_at_quantized || compat_; }

  /// Everything that scores depend on but the option: the weights (by the times and sizes of their files, transformed ones also by those of the first
  /// block), the text, the rule.
  result<io::json> run_config(const text::calibration_set& set) const {
    io::json::array batches;
    for (const std::int64_t rows : set.batch_rows) batches.emplace_back(rows);
    io::json c = io::json::object{};
    c.set("model", config_hash(source_)).set("files", files_of(*source_.directory()));
    c.set("text", hash_of(set.ids)).set("valid", hash_of(set.valid));
    c.set("seqlen", set.seqlen).set("batch_rows", std::move(batches));
    c.set("gradient", at_quantized() ? "quantized" : "float").set("activations", !compat_);
    if (auto r = add_transformed(c, source_, weights_); !r) return forward_error(r);
    return c;
  }

  io::json option_config(io::json run, const std::vector<ar::scheme_fields>& schemes) const {
    std::string text;
    for (std::size_t l = 0; l < schemes.size(); ++l) {
      text += fmt::format("{} {} {}\n", what_.layers[l].name, what_.layers[l].fixed.has_value(), describe(schemes[l]));
    }
    run.set("schemes", hash_of(text));
    if (searched(schemes)) run.set("search", *search_key_);
    return run;
  }

  std::string summary_of(const autoscheme::selection& chosen, double seconds) const {
    std::map<std::size_t, std::size_t> count;
    for (const std::size_t o : chosen.choice) ++count[o];
    std::string parts;
    for (const auto& [o, n] : count) {
      parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", n, o < what_.options.size() ? what_.options[o].name : "kept in 16 bits");
    }
    return fmt::format("AutoScheme: {:.3f} bits a weight (target {}): {}; chosen in {:.2f} ms", chosen.avg_bits(), o_.avg_bits, parts, seconds * 1e3);
  }

  io::json data_of(const autoscheme::selector& selector, const autoscheme::selection& chosen, double seconds) const {
    const auto number = [](std::uint64_t v) { return io::json(static_cast<std::int64_t>(v)); };
    const auto weights = static_cast<double>(chosen.weights);
    io::json j = io::json::object{};
    j.set("target_avg_bits", o_.avg_bits).set("avg_bits", chosen.avg_bits()).set("bits", number(chosen.bits)).set("weights", number(chosen.weights)).set("loss", chosen.loss);
    j.set("accounting", o_.exact_bits ? "exact" : "peer").set("ignore_scale_zp_bits", o_.ignore_scale_zp_bits);
    j.set("gradient", at_quantized() ? "quantized" : "float").set("options_from_cache", cached_);
    j.set("importance", search_key_ ? search_.source : "none");
    j.set("scoring_seconds", scoring_seconds_).set("choice_seconds", seconds).set("knapsack_sums", number(chosen.states));
    io::json::array options;
    for (std::size_t o = 0; o < what_.options.size(); ++o) {
      double loss = 0;
      for (const double s : what_.scores[o]) loss += s;
      io::json one = io::json::object{};
      one.set("name", what_.options[o].name).set("avg_bits", selector.averages()[o]).set("loss", loss);
      options.push_back(std::move(one));
    }
    j.set("options", std::move(options));
    io::json::array layers;
    for (std::size_t l = 0; l < what_.layers.size(); ++l) {
      const autoscheme::layer& layer = what_.layers[l];
      io::json one = io::json::object{};
      one.set("name", layer.name).set("weights", number(layer.weights()));
      one.set("scheme", chosen.choice[l] < what_.options.size() ? io::json(what_.options[chosen.choice[l]].name) : io::json(nullptr)).set("stored_bits", chosen.schemes[l].bits);
      if (!layer.fixed) {
        io::json::array scores, bits;
        for (std::size_t o = 0; o < what_.options.size(); ++o) {
          scores.emplace_back(what_.scores[o][l]);
          bits.push_back(number(autoscheme::bits_of(layer, scheme_of(o, l), what_.options[o].gguf, what_.count)));
        }
        one.set("scores", std::move(scores)).set("bits", std::move(bits));
      }
      layers.push_back(std::move(one));
    }
    j.set("layers", std::move(layers));
    const autoscheme::frontier best = selector.optima(most_points);
    io::json::array points;
    for (const autoscheme::frontier_point& p : best.points) {
      io::json one = io::json::object{};
      one.set("avg_bits", static_cast<double>(p.bits) / weights).set("bits", number(p.bits)).set("loss", p.loss);
      points.push_back(std::move(one));
    }
    io::json frontier = io::json::object{};
    frontier.set("complete", best.complete).set("points", std::move(points));
    j.set("frontier", std::move(frontier));
    return j;
  }

  const autoscheme_options& o_;
  plan::request& request_;
  const exporting::stored_model& source_;
  const model::weight_source& weights_;
  const text::calibration_options& text_;
  const scored_search& search_;
  std::int64_t seed_;
  bool compat_, gguf_ = false;
  const scoring_check& check_;
  report::progress& bar_;
  score_cache cache_;
  std::vector<std::string> score_files_;
  plan::run_plan first_;  // under the first option
  std::string scratch_folder_;
  autoscheme::request what_;
  std::size_t cached_ = 0;
  std::optional<std::string> search_key_;  // if any option is searched
  double scoring_seconds_ = 0;
};

}  // namespace

result<autoscheme_result> choose_schemes(const autoscheme_options& options, plan::request& request, const exporting::stored_model& source,
                                         const model::weight_source& weights, const text::calibration_options& text, const scored_search& search,
                                         std::int64_t seed, bool compat, const scoring_check& check, report::progress& bar) {
  return choosing(options, request, source, weights, text, search, seed, compat, check, bar).run();
}

}  // namespace auto_round::command
