// The command quantize: options of the original, and the run from request to committed folder.
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "command/awq_request.hpp"
#include "command/command.hpp"
#include "command/foreign_options.hpp"
#include "command/model_free_run.hpp"
#include "command/model_path.hpp"
#include "command/quantize_run.hpp"
#include "command/rotation_request.hpp"
#include "command/static_scales_request.hpp"
#include "evaluation/task.hpp"
#include "export/export_format.hpp"
#include "export/export_layer_layout.hpp"
#include "plan.hpp"
#include "plan_model_free.hpp"
#include "plan_scheme.hpp"
#include "report/resources.hpp"

namespace auto_round::command {
namespace {

class quantize final : public command {
 public:
  explicit quantize(const recipe& defaults) : defaults_(defaults) {}
  std::string_view name() const override { return "quantize"; }
  std::string_view summary() const override { return "quantize a float checkpoint (the default command)"; }
  bool shares_products() const override { return true; }

  void declare(option_set& o) override {
    o.watch([this](const option& given, const std::string& value) {
      if (given.names.empty()) return;  // the model, whose files are looked at
      run_.written.push_back(given.names.front());
      if (matters_for_results(given.names.front())) run_.given.emplace_back(given.names.front(), value);
    });
    o.positional("MODEL", positional_model_, "model folder");
    declare_model_and_run(o);
    declare_scheme(o);
    declare_autoscheme(o);
    declare_tuning(o);
    o.text("algorithm,algorithms,alg,algs,alg_config,alg_configs", "LIST", algorithms_, "rtn, auto_round, and before them quarot or hadamard, then awq, separated by commas (by --iters; awq alone rounds)");
    rotation_.declare(o);
    awq_.declare(o);
    static_scales_.declare(o);
    o.group("Tasks, answered by the output of the last format");
    run_.tasks.declare(o);
    declare_what_is_not_here(o);
    std::vector<std::string> schemes;
    for (const ar::preset& p : ar::presets) schemes.emplace_back(p.name);
    o.suggest("scheme", schemes);
    o.suggest("schemes", std::move(schemes));
    o.suggest("format", exporting::all_spellings());
  }

  result<void> run() override {
    run_.given.emplace_back("recipe", defaults_.name);
    run_.model = positional_model_.empty() ? model_ : positional_model_;
    if (run_.model.empty()) return fail(error_kind::usage, "no model given; write --model DIR");
    if (auto r = find_local_model(run_.model); !r) return r;
    take_slashes_off(run_.output_dir);
    if (auto r = complete(); !r) return r;
    if (auto r = complete_route(); !r) return r;
    if (run_.tasks.tasks && run_.tasks.tasks->empty()) run_.tasks.tasks = evaluation::tasks_behind_quantization;
    if (auto r = check_tasks(run_.tasks); !r) return r;
    return run_.model_free ? run_model_free(run_) : run_quantize(run_);
  }

 private:
  void declare_model_and_run(option_set& o) {
    o.group("Model and run");
    o.text("model,model_name,model_name_or_path", "DIR", model_, "folder of the float checkpoint (config.json, safetensors, tokenizer)");
    o.add({.names = {"model_dtype"}, .value_name = "TYPE", .help = "the type that weights are taken in: rounded to it before anything else; auto: as they are stored (auto)",
           .choices = {"auto", "fp16", "float16", "bf16", "bfloat16", "fp32", "float32"}, .set = [this](const std::string& v) -> result<void> {
             const auto type = plan::real_named(v);  // nothing for auto
             run_.model_dtype = type ? std::optional(exporting::number_type(*type)) : std::nullopt;
             return {};
           }});
    o.integer("num_hidden_layers,debug_layer_num", run_.first_blocks, "only the first N blocks, to try things: the output is a part of the model, too");
    o.text("output_dir", "DIR", run_.output_dir, "the finished folder; with several formats one folder below it for each (./tmp_autoround)");
    o.flag("overwrite", run_.overwrite, true, "replace an output folder that this program made, once the new one is finished");
    o.text("format,formats", "LIST", formats_, "auto_round, auto_gptq, auto_awq, mlx, gguf:q4_k_m, fake and others (`auto-round list formats`); several separated by commas (auto_round)");
    o.bytes("max_shard_size", run_.request.max_shard_bytes, "largest safetensors file: N with B, KB, MB or GB (5GB)");
    o.bytes("max_memory", run_.max_memory, "most memory to take: N with B, KB, MB or GB; what would take more is done in a cheaper way with the same result, or refused (no limit)");
    o.flag("dry_run", run_.dry_run, true, "print what would happen to each tensor and all sizes, then stop");
    o.flag("json", run_.json, true, "print one JSON object with the results on stdout");
    o.text("log_json", "FILE", run_.log_json, "write one JSON object for each event and line");
    o.text("report", "DIR", run_.report_dir, "write report.json and report.html about this run into this folder");
    o.text("progress", "WHEN", progress_, "bar, lines, never or auto (auto: a bar on a terminal)");
    o.flag("quiet", run_.quiet, true, "print errors only");
    o.integer("threads", threads_, "threads (all cores)");
    o.integer("seed", run_.seed, "seed of the calibration order and the batches (42)");
  }

  void declare_scheme(option_set& o) {
    plan::scheme_overrides& s = run_.request.overrides;
    o.group("Scheme");
    o.text("scheme", "NAME", run_.request.scheme, "preset: `auto-round list schemes` prints all (W4A16)");
    o.add({.names = {"bits", "bit"}, .value_name = "N", .help = "weight bits; with --schemes the average that is aimed at", .set = [this](const std::string& v) {
             bits_ = v;
             return check_real("bits", v);
           }});
    o.add({.names = {"group_size"}, .value_name = "N", .help = "values that share a scale; -1: a whole row; 0: the whole tensor; M,N: tiles (FP8)", .set = [&s](const std::string& v) { return set_group(v, s); }});
    o.flag("asym", s.sym, false, "asymmetric: a zero point for each group");
    o.notice("sym", false, "symmetric is the default");
    o.text("data_type,dtype", "TYPE", s.data_type, "weight data type: int, mx_fp, mx_int, nv_fp, fp, or a full name such as mx_fp6e3m2");
    o.integer("act_bits", s.act_bits, "activation bits; 16: not quantized");
    o.integer("act_group_size", s.act_group_size, "values that share an activation scale");
    o.text("act_data_type,act_dtype", "TYPE", s.act_data_type, "activation data type (as the weights')");
    o.flag("act_asym", s.act_sym, false, "asymmetric activations");
    o.flag("disable_act_dynamic", s.act_dynamic, false, "activation scales from calibration instead of the current data");
    o.integer("super_bits", s.super_bits, "bits of the scales of GGUF super-blocks");
    o.integer("super_group_size", s.super_group_size, "groups of a GGUF super-block");
    o.choice("scale_dtype", "fp16,float16,bf16,bfloat16,fp32,float32", scale_dtype_, "what scales are rounded to (fp16; fp32 for GGUF)");
    plan::layer_rules& rules = run_.request.rules;
    o.text("layer_config", "RULES", layer_config_, "schemes of single layers, as text or a JSON file: {down_proj:W8A16, layers.0.:{bits:8,group_size:32}}; keys are names or patterns, and a layer's own name beats patterns");
    o.text("ignore_layers,fp_layers", "LIST", rules.ignore_layers, "layers whose name contains one of these stay in 16 bits");
    o.text("to_quant_block_names", "LIST", rules.to_quant_block_names, "blocks to quantize, as regular expressions searched for in their names (all)");
    o.flag("quant_lm_head", quant_lm_head_, true, "quantize the head too (gguf formats always do)");
    o.flag("no_quant_lm_head", quant_lm_head_, false, "leave the head as it is (default)");
    o.choice("fuse_check", "warn,error,off", fuse_check_, "if layers that engines fuse (q k v, gate up, experts) get different schemes (warn)");
  }

  void declare_autoscheme(option_set& o) {
    autoscheme_options& a = run_.autoscheme;
    o.group("AutoScheme: a scheme for each layer");
    o.add({.names = {"schemes", "options", "option"}, .value_name = "LIST", .count = values::some,
           .help = "presets to choose from for each layer, separated by commas or blanks: W2A16,W4A16,W8A16",
           .set = [&a](const std::string& v) {
             a.schemes = comma_list(v);
             return result<void>{};
           }});
    o.add({.names = {"avg_bits", "target_bits"}, .value_name = "X", .help = "average bits of a weight that the choice may take (as --bits)", .set = [this](const std::string& v) { return set_average(v); }});
    o.add({.names = {"shared_layers"}, .value_name = "LIST", .count = values::some,
           .help = "layers that must get one scheme: parts of names or regular expressions, separated by commas or blanks; ';', lists behind one another or a further option begin another group",
           .joined = [](const std::string& before, const std::string& next) { return groups_text(before) + ";" + groups_text(next); },
           .set = [&a](const std::string& text) { return add_groups(text, a.shared_layers); }});
    o.flag("ignore_scale_zp_bits", a.ignore_scale_zp_bits, true, "count codes only, not scales and zero points");
    o.choice("bits_accounting", "peer,exact", accounting_, "peer: as auto-round counts; exact: bits that are written (peer)");
    o.choice("score_gradient", "float,quantized", score_gradient_, "float: at the float model, one pass for all schemes; quantized: at each quantized model, as the original (float)");
    o.integer("score_nsamples", a.nsamples, "samples to score with (16)");
    o.integer("score_seqlen", a.seqlen, "their tokens (256)");
    o.integer("score_batch_size", a.batch_size, "samples whose gradients are added before they are weighed (8)");
    o.text("score_cache", "DIR", a.cache, "keep scores here and use those that are there: another target then takes no pass");
    o.text("autoscheme_json", "FILE", a.report_file, "write scores, choice and the frontier of all targets as JSON");
  }

  static result<void> check_real(const char* name, const std::string& text) {
    if (auto r = parse_real(name, text); !r) return forward_error(r);
    return {};
  }

  /// "64", "-1", or "128,128" for tiles.
  static result<void> set_group(const std::string& text, plan::scheme_overrides& s) {
    const std::size_t comma = text.find(',');
    auto last = parse_integer("group_size", comma == std::string::npos ? text : text.substr(comma + 1));
    if (!last) return forward_error(last);
    s.group_size = *last;
    s.group_rows.reset();
    if (comma == std::string::npos) return {};
    auto rows = parse_integer("group_size", text.substr(0, comma));
    if (!rows) return forward_error(rows);
    s.group_rows = *rows;
    return {};
  }

  /// --avg_bits is another name of --bits, which it must not contradict; a --bits behind it wins.
  result<void> set_average(const std::string& text) {
    auto value = parse_real("avg_bits", text);
    if (!value) return forward_error(value);
    if (const auto before = bits_.empty() ? result<double>(*value) : parse_real("bits", bits_); before && *before != *value)
      return fail(error_kind::usage, fmt::format("conflicting values for --bits: {} was already provided, but --avg_bits sets {}", *before, *value));
    bits_ = text;
    return {};
  }

  /// "a, b c" -> "a,b,c".
  static std::string comma_list(const std::string& text) {
    std::string out;
    for (const char c : text) {
      if (c != ',' && c != ' ') out += c;
      else if (!out.empty() && out.back() != ',') out += ',';
    }
    while (out.ends_with(',')) out.pop_back();
    return out;
  }

  /// "q_proj,k_proj;gate_proj,up_proj" and "q_proj,k_proj gate_proj,up_proj": two groups; "q_proj k_proj": one.
  static result<void> add_groups(const std::string& text, std::vector<std::vector<std::string>>& to) {
    const bool lists = text.find_first_of(",;") != std::string::npos;
    std::vector<std::vector<std::string>> groups(1, std::vector<std::string>(1));
    char before = ',';
    for (const char c : text) {
      const bool gap = c == ' ' && before != ',' && before != ';' && before != ' ';  // ", " is one mark
      if (c == ';' || (gap && lists)) groups.emplace_back(1);
      else if (c == ',' || gap) groups.back().emplace_back();
      else if (c != ' ') groups.back().back() += c;
      before = c;
    }
    for (std::vector<std::string>& group : groups) {
      std::erase(group, std::string());
      if (group.empty()) return fail(error_kind::usage, fmt::format("--shared_layers \"{}\": a group is empty", text));
      to.push_back(std::move(group));
    }
    return {};
  }

  /// The same groups whatever stands beside them: "q_proj k_proj" -> "q_proj,k_proj".
  static std::string groups_text(const std::string& text) {
    std::vector<std::vector<std::string>> groups;
    if (!add_groups(text, groups)) return text;
    std::vector<std::string> lists;
    for (const std::vector<std::string>& group : groups) lists.push_back(fmt::format("{}", fmt::join(group, ",")));
    return fmt::format("{}", fmt::join(lists, ";"));
  }

  void declare_tuning(option_set& o) {
    run_options& r = run_;
    o.group("Tuning");
    o.integer("iters,iter", iters_, "iterations for each block; 0: round to nearest (200)");
    o.text("tuning", "HOW", tuning_, "gram: layer by layer on Gram matrices of the calibration set; hybrid: gram, then whole blocks for a few steps; block: whole blocks, as the original; auto: gram, or hybrid at 2 bits with much calibration text (auto)");
    o.real("lr", lr_, "learning rate of the rounding (1 / iters)");
    o.real("minmax_lr", minmax_lr_, "learning rate of the ranges (as lr)");
    o.real("momentum", momentum_, "momentum of the sign steps (0)");
    o.integer("batch_size,train_bs,bs", batch_size_, "samples of a step (8)");
    o.integer("gradient_accumulate_steps", r.request.gradient_accumulate_steps, "batches of a step (1)");
    o.integer("nsamples,nsample", nsamples_, "calibration samples (128)");
    o.integer("seqlen,seq_len", seqlen_, "tokens of a calibration sample (2048, at most what the model takes)");
    o.text("dataset", "LIST", run_.dataset, "calibration text: .jsonl, .json or .txt files or names of data sets, separated by commas, each with options: FILE:num=64:concat:apply_chat_template (builtin, a small sample)");
    o.text("dataset_dir", "DIR", run_.dataset_dir, "folder of local copies of named data sets (`auto-round list datasets`): pile-10k.jsonl");
    o.integer("nblocks", run_.nblocks, "consecutive blocks tuned together (1)");
    o.integer("descent_sweeps", run_.descent_sweeps, "passes of coordinate descent; 0: iterations of SignRound instead; gram and hybrid (14)");
    o.flag("enable_minmax_tuning", r.request.enable_minmax_tuning, true, "tune the ranges too (default)");
    o.flag("disable_minmax_tuning,no_enable_minmax_tuning", r.request.enable_minmax_tuning, false, "keep the ranges of the weights");
    o.flag("enable_quanted_input", r.request.enable_quanted_input, true, "feed each block with the output of the quantized ones before it (default)");
    o.flag("disable_quanted_input,no_enable_quanted_input", r.request.enable_quanted_input, false, "feed each block with float activations");
    o.flag_pair("not_use_best_mse", run_.not_use_best_mse, "keep the last iterate, not the best one", "keep the best one (default)");
    o.flag_pair("enable_alg_ext", run_.enable_alg_ext, "start from searched scales and leave out outliers of the error at few bits, by blocks (the original's algorithm extension)", "do not (default)");
    o.flag_pair("enable_norm_bias_tuning", run_.enable_norm_bias_tuning, "tune norms and biases too, by blocks; they stay in float (not for gguf)", "do not (default)");
    o.flag("enable_adam,adam", run_.enable_adam, true, "steps of Adam instead of the signs of gradients, by blocks");
    o.flag("no_enable_adam", run_.enable_adam, false, "do not (default)");
    o.integer("dynamic_max_gap", run_.dynamic_max_gap, "end a block after N iterations without a better loss; below 1: never (-1)");
    o.text("clamp_gradient", "WHERE", clamp_gradient_, "strict: weights on the outermost codes are not tuned, as in the original; closed: they are (strict by block, else closed)");
    o.text("scale_gradient", "TYPE", scale_gradient_, "reference: rounded to the type of the scales, as in the original; f32: not rounded (f32 by layers, reference by blocks)");
    o.flag("amp", amp_, true, "bfloat16 matrix products while tuning (default where the CPU is faster with them)");
    o.flag("disable_amp,no_amp", amp_, false, "float matrix products while tuning");
    o.flag("disable_opt_rtn", opt_rtn_, false, "with --iters 0: plain rounding, no search for better scales");
    o.flag("enable_opt_rtn", opt_rtn_, true, "with --iters 0: search for better scales, weighted by importance from --dataset or --imatrix (default where there is one of them)");
    o.text("imatrix", "FILE", run_.imatrix, "importance matrix to search with (llama.cpp's .gguf or .dat) instead of collecting one from --dataset");
    o.text("save_imatrix", "FILE", run_.save_imatrix, "collect an importance matrix from --dataset and write it (.gguf, or llama.cpp's older .dat)");
    o.flag("compat", run_.compat, true, "do exactly what the original does, where this program deviates for the better: searches, and tuning by blocks");
    o.flag("restart", run_.restart, true, "forget what an interrupted run to this output folder has done, instead of going on from there");
    o.flag("model_free", run_.model_free, true, "round shard by shard without a model class: any architecture, FP8 sources, little memory; implies --iters 0");
    o.flag("disable_model_free", run_.regular_route, true, "with --iters 0: write the configuration of the tuning flow");
    o.exclude("enable_minmax_tuning,disable_minmax_tuning");
    o.exclude("enable_quanted_input,disable_quanted_input");
    o.exclude("enable_opt_rtn,disable_opt_rtn");
  }

  /// What the original has and this version has not. Nothing is ignored silently.
  static void declare_what_is_not_here(option_set& o) {
    o.notice("platform", true, "models are read from local folders");
    o.notice("low_gpu_mem_usage", false, "there is no GPU memory to save; one block is in memory at a time");
    o.notice("low_cpu_mem_usage", false, "weights are mapped and one block is in memory at a time, always");
    o.notice("enable_torch_compile", false, "nothing needs to be compiled at run time");
    o.notice("disable_torch_compile", false, "nothing needs to be compiled at run time");
    o.exclude("enable_torch_compile,disable_torch_compile");
    o.notice("enable_deterministic_algorithms", false, "results are always reproducible");
    o.notice("disable_low_cpu_mem_usage", false, "weights are mapped files; the system keeps them in memory while there is room");
    o.notice("disable_eval", false, "nothing is evaluated unless --tasks asks for it");
    o.notice("low_cpu_mem_mode", true, "one block is in memory at a time, always");
    o.notice("use_standalone_format", false, "there is one format of each name");
    o.notice("enable_neuqi", false, "searches of asymmetric integers are NeUQI's already (--enable_opt_rtn)");
    o.notice("no_enable_lfq,no_quant_nontext_module", false, "is the default");
    declare_foreign_evaluation(o, "eval_bs");
    o.refuse("enable_lfq", false, "is not supported");
    o.refuse("quant_nontext_module", false, "only text models are supported");
    for (const char* name : {"template", "extra_data_dir", "prompt", "prompt_file", "metrics", "image_save_dir", "guidance_scale", "num_inference_steps",
                             "calib_num_inference_steps", "generator_seed", "diffusion_tuning_cache_size"}) {
      o.refuse(name, true, "only text models are supported");
    }
    for (const char* name : {"svdquant_rank", "svdquant_smooth_num_grids", "svdquant_smooth_max_calibration_calls", "svdquant_residual_iters", "svdquant_low_rank_dtype",
                             "svdquant_target_modules", "svdquant_exclude_modules", "svdquant_model_adapter"}) {
      o.refuse(name, true, "SVDQuant is for diffusion models; only text models are supported");
    }
    for (const char* name : {"enable_svdquant_smooth", "enable_svdquant_residual_early_stop"}) o.refuse(name, false, "SVDQuant is for diffusion models; only text models are supported");
    o.notice("resume", false, "an interrupted run is always gone on with: the same command finds its journal beside the output folder");
  }

  /// Recipe defaults, ranges, and what depends on several options.
  result<void> complete() {
    plan::request& q = run_.request;
    auto formats = plan::parse_formats(formats_, bits_for_formats());
    if (!formats) return forward_error(formats);
    q.formats = std::move(*formats);
    auto algorithms = complete_algorithms();
    if (!algorithms) return forward_error(algorithms);
    auto attention = static_scales_.resolve(run_.compat);
    if (!attention) return forward_error(attention);
    q.attention = *attention;
    q.iters = iters_.value_or(defaults_.iters);
    const auto asked = [&](const char* name) { return std::find(algorithms->begin(), algorithms->end(), name) != algorithms->end(); };
    if (run_.model_free || asked("rtn") || (asked("awq") && !asked("auto_round"))) q.iters = 0;
    q.nsamples = nsamples_.value_or(defaults_.nsamples);
    q.seqlen = seqlen_.value_or(defaults_.seqlen);
    q.batch_size = batch_size_.value_or(defaults_.batch_size);
    q.lr = lr_.value_or(defaults_.lr);
    q.minmax_lr = minmax_lr_.value_or(0);
    run_.momentum = momentum_.value_or(0);
    q.way = run_.model_free ? plan::route::model_free : run_.regular_route ? plan::route::regular : plan::route::automatic;
    run_.amp = amp_;
    const auto positive = [](const char* option, std::int64_t value) -> result<void> {
      if (value < 1) return fail(error_kind::usage, fmt::format("--{} must be at least 1, not {}", option, value));
      return {};
    };
    if (q.iters < 0) return fail(error_kind::usage, fmt::format("--iters must not be negative, not {}", q.iters));
    if (auto r = positive("nsamples", q.nsamples); !r) return r;
    if (auto r = positive("seqlen", q.seqlen); !r) return r;
    if (auto r = positive("batch_size", q.batch_size); !r) return r;
    if (auto r = positive("gradient_accumulate_steps", q.gradient_accumulate_steps); !r) return r;
    if (auto r = positive("nblocks", run_.nblocks); !r) return r;
    if (q.lr < 0 || q.minmax_lr < 0) return fail(error_kind::usage, "learning rates must not be negative");
    if (run_.descent_sweeps < 0) return fail(error_kind::usage, fmt::format("--descent_sweeps must not be negative, not {}", run_.descent_sweeps));
    if (run_.momentum < 0 || run_.momentum >= 1) return fail(error_kind::usage, "--momentum must be at least 0 and below 1");
    if (auto r = complete_rules(); !r) return r;
    if (auto r = complete_bits(); !r) return r;
    if (auto r = complete_tuning(); !r) return r;
    if (auto r = complete_gradients(); !r) return r;
    if (auto r = complete_scale_dtype(); !r) return r;
    if (auto r = complete_progress(); !r) return r;
    if (threads_ && (*threads_ < 1 || *threads_ > 4096)) return fail(error_kind::usage, fmt::format("--threads {} is out of range", *threads_));
    if (threads_) omp_set_num_threads(static_cast<int>(*threads_));
    choose_method(asked("awq"));
    auto awq = awq_.resolve(*algorithms, opt_rtn_.value_or(defaults_.opt_rtn > 0), run_.enable_alg_ext && q.iters > 0, run_.compat);
    if (!awq) return forward_error(awq);
    run_.awq = std::move(*awq);
    return complete_rotation(*algorithms);
  }

  /// What the star in "gguf:q*_k_m" stands for: --bits, or what the scheme says.
  std::optional<int> bits_for_formats() const {
    const auto bits = bits_.empty() ? result<std::int64_t>(0) : parse_integer("bits", bits_);
    if (bits && *bits > 0 && *bits < 100) return static_cast<int>(*bits);
    const ar::scheme_fields* preset = ar::find_preset(run_.request.scheme);
    return preset == nullptr ? std::optional<int>() : preset->bits;
  }

  /// The names in --algorithm, checked and without aliases of SignRound.
  result<std::vector<std::string>> complete_algorithms() const {
    std::vector<std::string> names;
    std::string name;
    for (const char c : algorithms_ + ",") {
      if (c != ',') {
        if (c != ' ') name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
        continue;
      }
      if (name == "autoround" || name == "sign_round" || name == "signround") name = "auto_round";
      if (name == "svdquant") return fail(error_kind::unsupported, fmt::format("--algorithm {} is not supported so far", name));
      if (!name.empty() && name != "rtn" && name != "auto_round" && name != "awq" && !rotation_request::is_rotation(name))
        return fail(error_kind::usage, fmt::format("--algorithm \"{}\" is unknown; rtn, auto_round, awq, quarot, spinquant, hadamard, random_hadamard, quarot_hadamard", name));
      if (!name.empty()) names.push_back(name);
      name.clear();
    }
    return names;
  }

  result<void> complete_rotation(const std::vector<std::string>& algorithms) {
    const plan::request& q = run_.request;
    const auto scheme = plan::resolve_scheme(q.scheme, q.overrides, q.formats);
    const bool blocks = scheme && (scheme->data_type.starts_with("mx") || scheme->data_type.starts_with("nv"));
    auto rotation = rotation_.resolve(algorithms, blocks, run_.seed);
    if (!rotation) return forward_error(rotation);
    run_.rotation = *rotation;
    run_.rotation_matrices = rotation_.matrices();
    run_.rotation_training.batch_size = q.batch_size;
    run_.rotation_training.seed = run_.seed;
    if (auto r = rotation_.resolve_training(run_.rotation_training); !r) return r;
    return {};
  }

  result<void> complete_rules() {
    plan::request& q = run_.request;
    if (!layer_config_.empty()) {
      auto config = plan::read_layer_config(layer_config_);
      if (!config) return forward_error(config);
      q.rules.config = std::move(*config);
    }
    q.rules.quant_lm_head = quant_lm_head_.value_or(false);
    q.rules.keep_lm_head = !quant_lm_head_.value_or(true);
    if (run_.compat) q.rules.order = plan::rule_order::reference;
    if (fuse_check_ == "error") q.fused = plan::fuse_check::error;
    else if (fuse_check_ == "off") q.fused = plan::fuse_check::off;
    return {};
  }

  /// Rounding needs no model class: where this version does not know the model, or it holds FP8 weights, it goes shard by shard.
  result<void> complete_route() {
    const bool changed = run_.awq || run_.rotation || run_.request.attention.wanted() || run_.autoscheme.wanted() || !run_.save_imatrix.empty();
    if (run_.model_free && run_.regular_route) return fail(error_kind::usage, "--model_free and --disable_model_free exclude each other");
    if (run_.model_free && run_.model_dtype) return fail(error_kind::usage, "--model_free takes weights as they are stored; --model_dtype is for runs that know the model");
    if (run_.model_free && run_.first_blocks) return fail(error_kind::usage, "--model_free knows no blocks: --num_hidden_layers needs a model class");
    if (run_.model_free && run_.request.attention.wanted())
      return fail(error_kind::usage, "--model_free only rounds weights: scales of a KV cache or of queries need a model that runs");
    if (run_.model_free && changed) return fail(error_kind::usage, "--model_free only rounds: AWQ, rotations, AutoScheme and importance need a model that runs");
    if (run_.model_free) return {};
    if (!changed && !run_.first_blocks && !run_.model_dtype && !run_.regular_route && run_.request.how == exporting::method::rtn) {
      const auto opened = exporting::open_model(run_.model);
      const bool packed = run_.request.formats.size() == 1 && !exporting::is_gguf(run_.request.formats.front());
      if (!opened && opened.error().kind == error_kind::unsupported && packed && plan::model_free_applies(run_.request, run_.model)) {
        fmt::print(stderr, "note: {}; it is rounded shard by shard, without its model class (--model_free)\n", opened.error().message);
        run_.model_free = true;
      }
    }
    return {};
  }

  /// --bits is a width, or with --schemes an average; --avg_bits is another name for the latter.
  result<void> complete_bits() {
    autoscheme_options& a = run_.autoscheme;
    if (!a.wanted()) {
      if (!a.shared_layers.empty() || a.ignore_scale_zp_bits || !a.report_file.empty()) {
        return fail(error_kind::usage, "AutoScheme needs schemes to choose from: write --schemes W2A16,W4A16,W8A16, for instance");
      }
      if (bits_.empty()) return {};
      auto bits = parse_integer("bits", bits_);
      if (!bits) return forward_error(bits);
      run_.request.overrides.bits = *bits;
      return {};
    }
    if (bits_.empty()) return fail(error_kind::usage, "--schemes needs a target: write --avg_bits 4.5, for instance");
    auto average = parse_real("bits", bits_);
    if (!average) return forward_error(average);
    if (run_.request.scheme != plan::request{}.scheme) return fail(error_kind::usage, "--scheme and --schemes exclude each other");
    if (a.nsamples < 1 || a.seqlen < 2 || a.batch_size < 1) return fail(error_kind::usage, "--score_nsamples and --score_batch_size must be at least 1, --score_seqlen 2");
    a.avg_bits = *average;
    a.exact_bits = accounting_ == "exact";
    a.gradient_at_quantized = score_gradient_ == "quantized";
    return {};
  }

  result<void> complete_tuning() {
    if (tuning_ == "auto") run_.how_tuned = tuning::automatic;
    else if (tuning_ == "gram") run_.how_tuned = tuning::gram;
    else if (tuning_ == "hybrid") run_.how_tuned = tuning::hybrid;
    else if (tuning_ == "block") run_.how_tuned = tuning::block;
    else return fail(error_kind::usage, fmt::format("--tuning \"{}\": auto, gram, hybrid or block", tuning_));
    return {};
  }

  result<void> complete_gradients() {
    if (clamp_gradient_ == "strict") run_.clamp = ar::clamp_gradient::strict;
    else if (clamp_gradient_ == "closed") run_.clamp = ar::clamp_gradient::closed;
    else if (!clamp_gradient_.empty()) return fail(error_kind::usage, fmt::format("--clamp_gradient \"{}\": strict or closed", clamp_gradient_));
    if (scale_gradient_ == "reference") run_.scale_gradient = ar::scale_gradient::reference;
    else if (scale_gradient_ == "f32") run_.scale_gradient = ar::scale_gradient::f32;
    else if (!scale_gradient_.empty()) return fail(error_kind::usage, fmt::format("--scale_gradient \"{}\": reference or f32", scale_gradient_));
    return {};
  }

  result<void> complete_scale_dtype() {
    if (scale_dtype_.empty()) return {};
    const auto type = plan::real_named(scale_dtype_);
    if (!type) return fail(error_kind::usage, fmt::format("--scale_dtype \"{}\" is unknown; fp16, bf16 and fp32 are possible", scale_dtype_));
    run_.request.scale_type = *type;
    return {};
  }

  result<void> complete_progress() {
    using report::progress_style;
    if (progress_ == "auto") run_.progress = progress_style::automatic;
    else if (progress_ == "bar" || progress_ == "always") run_.progress = progress_style::bar;
    else if (progress_ == "lines") run_.progress = progress_style::lines;
    else if (progress_ == "never") run_.progress = progress_style::none;
    else return fail(error_kind::usage, fmt::format("--progress \"{}\": auto, bar, lines or never", progress_));
    if (run_.quiet) run_.progress = progress_style::none;
    return {};
  }

  /// iters 0 means OPT-RTN where there is data to weight the search with: for the weights alone it is often worse than plain rounding (SmolLM2-135M, W4
  /// group 64: KL 0.36 against 0.28, with importance 0.17), so that must be asked for. Behind AWQ any search must be.
  void choose_method(bool smoothed) {
    plan::request& q = run_.request;
    const bool by_itself = !smoothed && (!run_.dataset.empty() || !run_.imatrix.empty());
    const bool search = opt_rtn_.value_or(defaults_.opt_rtn > 0 || (defaults_.opt_rtn == 0 && by_itself));
    q.how = q.iters != 0 ? exporting::method::signround : search && !run_.model_free ? exporting::method::opt_rtn : exporting::method::rtn;
    if (run_.model_free) q.how = opt_rtn_.value_or(defaults_.opt_rtn >= 0) ? exporting::method::opt_rtn : exporting::method::rtn;  // searched are MX types only
    q.has_importance = !run_.imatrix.empty() || run_.dataset.empty();
  }

  const recipe& defaults_;
  std::string model_, positional_model_, formats_ = "auto_round", scale_dtype_, progress_ = "auto", tuning_ = "auto";
  std::string clamp_gradient_, scale_gradient_, algorithms_, bits_, accounting_ = "peer", score_gradient_ = "float", layer_config_, fuse_check_ = "warn";
  rotation_request rotation_;
  awq_request awq_;
  static_scales_request static_scales_;
  std::optional<std::int64_t> iters_, batch_size_, nsamples_, seqlen_, threads_;
  std::optional<double> lr_, minmax_lr_, momentum_;
  std::optional<bool> amp_, opt_rtn_, quant_lm_head_;
  run_options run_;
};

}  // namespace

std::unique_ptr<command> make_quantize(const recipe& defaults) { return std::make_unique<quantize>(defaults); }

}  // namespace auto_round::command
