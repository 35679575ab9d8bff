// links: ar_command
// Whole checkpoints of auto-round in the layouts of compressed-tensors, of its own floating formats and of block FP8 (golden/formats/exports.json): ours
// hold the same tensors, byte for byte, and the same configuration. What the original gets wrong is done right, and said so here:
// - `ignore` of FP8_STATIC lacks the head, so that loaders look for scales that it has not;
// - MX and NVFP4 with inputs of 16 bits claim quantized inputs;
// - scales of an FP8 KV cache are those of the last calibration batch (the flag compat repeats it).
// - it packs dequantized bfloat16 weights, whose 8-bit asymmetric codes may come out one step off; here they are the codes themselves.
// With --compat activations are computed in bfloat16 as there, so that scales and searches that depend on them are the same too; without it they come out
// of a float pass.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "command/quantize_run.hpp"
#include "export/export_format.hpp"
#include "plan.hpp"
#include "support/golden_importance.hpp"
#include "support/golden_json.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"

namespace {

namespace fs = std::filesystem;
using auto_round::tune::attention_scales;
using nlohmann::ordered_json;

const fs::path& formats() {
  static const fs::path dir = golden::root() / "formats";
  return dir;
}

struct golden_export {
  friend std::ostream& operator<<(std::ostream& out, const golden_export& e) { return out << e.name; }
  std::string name;
  ordered_json facts;
  std::string text(const char* key) const { return facts.value(key, std::string()); }
  bool searched() const { return text("mode") == "opt_rtn"; }
  bool model_free() const { return text("route") == "model_free"; }
  const ordered_json& option(const char* key) const {
    static const ordered_json none;
    return facts.contains("options") && facts["options"].contains(key) ? facts["options"][key] : none;
  }
};

bool is_integer(const std::string& scheme) { return scheme.starts_with("W"); }

/// Formats of this test, without the head; rules for layers where the configuration does not repeat how they were written.
bool in_scope(const ordered_json& e) {
  if (e.contains("error")) return false;
  const std::string format = e.value("format", ""), scheme = e.value("scheme", "");
  const bool ours = format == "llm_compressor" || format == "auto_round:llm_compressor" || format == "fp8" || format == "auto_round:fp8" ||
                    (format == "auto_round" && !is_integer(scheme) && scheme != "BF16");
  if (!ours) return false;
  if (!e.contains("options")) return true;
  return !e["options"].contains("quant_lm_head") && (format == "llm_compressor" || !e["options"].contains("layer_config"));
}

std::vector<golden_export> exports() {
  std::vector<golden_export> found;
  const ordered_json all = golden::read_json(formats() / "exports.json");
  for (const auto& [name, facts] : all.items()) {
    const std::string holder = facts.value("same_tensors_as", name);
    if (in_scope(facts) && fs::exists(formats() / "exports" / name) && fs::exists(formats() / "exports" / holder)) found.push_back({name, facts});
  }
  return found;
}

/// The calibration samples as records of token ids, in an order that the program's shuffle turns into theirs.
std::string write_calibration(const fs::path& to) {
  const golden::file file(formats() / "calib_ids.safetensors");
  const golden::tensor& ids = file["calib_ids"];
  constexpr std::array<std::size_t, 4> place = {2, 1, 3, 0};  // of the sample that comes i-th out of the shuffle with seed 42
  std::vector<std::string> lines(ids.rows());
  const auto all = ids.as<std::int64_t>();
  for (std::size_t r = 0; r < ids.rows(); ++r) {
    std::string line = "{\"input_ids\": [";
    for (std::size_t c = 0; c < ids.cols(); ++c) line += (c == 0 ? "" : ", ") + std::to_string(all[r * ids.cols() + c]);
    lines[place[r]] = line + "]}\n";
  }
  std::ofstream out(to);
  for (const std::string& l : lines) out << l;
  return to.string();
}

/// All safetensors files of a folder, and their tensors.
struct folder {
  std::vector<std::unique_ptr<golden::file>> files;
  std::map<std::string, golden::tensor> tensors;

  explicit folder(const fs::path& dir) {
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(dir)) {
      if (entry.path().extension() == ".safetensors") paths.push_back(entry.path());
    }
    for (const fs::path& p : paths) {
      files.push_back(std::make_unique<golden::file>(p));
      for (const auto& [name, t] : files.back()->tensors()) EXPECT_TRUE(tensors.emplace(name, t).second) << name << " is stored twice";
    }
  }
};

/// The schemes of single layers: a rule is for a layer of that name, or for all whose names contain it.
std::map<std::string, ar::scheme_fields> layer_schemes(const golden_export& e, const auto_round::plan::request& q) {
  std::map<std::string, ar::scheme_fields> found;
  const ordered_json& rules = e.option("layer_config");
  if (rules.is_null()) return found;
  for (const auto& [pattern, rule] : rules.items()) {
    std::string preset = q.scheme;
    auto_round::plan::scheme_overrides o;
    if (rule.is_string()) {
      preset = rule.get<std::string>();
    } else {
      o.bits = rule.at("bits").get<std::int64_t>();
      if (rule.contains("act_bits")) o.act_bits = rule["act_bits"].get<std::int64_t>();
      if (rule.contains("data_type")) o.data_type = rule["data_type"].get<std::string>();
      if (rule.contains("act_data_type")) o.act_data_type = rule["act_data_type"].get<std::string>();
    }
    const auto scheme = auto_round::plan::resolve_scheme(preset, o, q.formats);
    EXPECT_TRUE(scheme.has_value()) << pattern;
    const folder source(formats() / "models" / e.text("model"));
    for (const auto& [name, t] : source.tensors) {
      const std::string layer = name.substr(0, name.rfind('.'));
      if (name.ends_with("_proj.weight") && layer.find(pattern) != std::string::npos) found.insert_or_assign(layer, *scheme);
    }
  }
  return found;
}

/// The golden model with a tokenizer that this program reads; its own is of another kind, and the samples are ids already.
std::string with_tokenizer(const fs::path& model, const fs::path& to) {
  fs::create_directories(to);
  for (const auto& entry : fs::directory_iterator(model)) fs::copy_file(entry.path(), to / entry.path().filename(), fs::copy_options::overwrite_existing);
  const support::tiny_model tiny;
  for (const auto& [name, text] : {std::pair{"tokenizer.json", &tiny.tokenizer}, {"tokenizer_config.json", &tiny.tokenizer_config}}) {
    fs::remove(to / name);
    support::tiny_model::put(to / name, text->dump());
  }
  return to.string();
}

auto_round::command::run_options options_for(const golden_export& e, const fs::path& dir) {
  auto_round::command::run_options o;
  o.model = with_tokenizer(formats() / "models" / e.text("model"), dir / "model");
  o.output_dir = (dir / "out").string();
  o.progress = auto_round::report::progress_style::none;
  auto_round::plan::request& q = o.request;
  q.scheme = e.text("scheme");
  q.formats = {e.text("format")};
  q.how = e.searched() ? auto_round::exporting::method::opt_rtn : auto_round::exporting::method::rtn;
  q.iters = 0;
  q.way = e.model_free() ? auto_round::plan::route::model_free : auto_round::plan::route::regular;
  q.nsamples = 4;
  q.seqlen = 64;
  q.batch_size = 1;
  o.compat = e.searched();
  if (!e.model_free()) o.dataset = write_calibration(dir / "calibration.jsonl");
  q.has_importance = e.model_free();
  if (const auto& v = e.option("sym"); v.is_boolean()) q.overrides.sym = v.get<bool>();
  if (const auto& v = e.option("group_size"); v.is_number()) q.overrides.group_size = v.get<std::int64_t>();
  if (const auto& v = e.option("act_bits"); v.is_number()) q.overrides.act_bits = v.get<std::int64_t>();
  if (const auto& v = e.option("act_data_type"); v.is_string()) q.overrides.act_data_type = v.get<std::string>();
  if (const auto& v = e.option("ignore_layers"); v.is_string()) q.rules.ignore_layers = v.get<std::string>();
  if (const auto& v = e.option("static_kv_dtype"); v.is_string()) q.attention.cache = v == "nvfp4" ? attention_scales::type::nvfp4 : attention_scales::type::fp8;
  if (e.option("static_attention_dtype").is_string()) {
    q.attention.queries = q.attention.cache_implied = true;
    q.attention.cache = attention_scales::type::fp8;
  }
  q.attention.last_batch = true;
  q.layer_schemes = layer_schemes(e, q);
  return o;
}

bool same(const golden::tensor& a, const golden::tensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && a.bytes == b.bytes && std::memcmp(a.data, b.data, a.bytes) == 0;
}

bool from_calibration(const std::string& name) {
  for (const char* end : {".input_scale", ".input_global_scale", ".k_scale", ".v_scale", ".q_scale", ".k_global_scale", ".v_global_scale"})
    if (name.ends_with(end)) return true;
  return false;
}

class FormatsFloats : public testing::TestWithParam<golden_export> {
 protected:
  const support::temp_dir dir;
  fs::path out() const { return dir / "out"; }
  void run(const auto_round::command::run_options& o) {
    const auto outcome = auto_round::command::run_quantize(o);
    ASSERT_TRUE(outcome.has_value()) << auto_round::describe(outcome.error());
  }
};

/// The original's shard-wise packer of NVFP4_E5M3 writes +-6 where the scale is 0; we write 0. Nibbles under scales of 0 are taken out of both.
std::vector<std::uint8_t> without_dead_groups(const golden::tensor& packed, const golden::tensor& scale) {
  std::vector<std::uint8_t> bytes = packed.as<std::uint8_t>();
  const auto s = scale.as<std::uint8_t>();
  for (std::size_t i = 0; i < bytes.size(); ++i)
    if (s[i / 8] == 0) bytes[i] = 0;
  return bytes;
}

void expect_tensors(const golden_export& e, const fs::path& ours_dir, bool compat) {
  const std::string holder = e.facts.contains("same_tensors_as") ? e.text("same_tensors_as") : e.name;
  const folder golden_folder(formats() / "exports" / holder), source(formats() / "models" / e.text("model")), ours(ours_dir);
  std::size_t off = 0;
  for (const auto& [name, t] : golden_folder.tensors) {
    const auto at = ours.tensors.find(name);
    ASSERT_NE(at, ours.tensors.end()) << name << " is missing";
    const golden::tensor& own = at->second;
    if (from_calibration(name)) {
      ASSERT_EQ(own.shape, t.shape) << name;
      ASSERT_EQ(own.dtype, t.dtype) << name;
      if (compat) {
        EXPECT_TRUE(same(t, own)) << name << " differs";
        continue;
      }
      const float a = own.f32()[0], b = t.f32()[0];
      // bfloat16 activations there: a rounding of 2^-9 in each of some ten steps. In llama64 a row of q, scaled by 1000, makes attention jump from one key
      // to another by such a rounding.
      EXPECT_NEAR(a / b, 1.0f, e.text("model") == "llama64" ? 0.06f : 0.015f) << name;
      continue;
    }
    ASSERT_EQ(own.shape, t.shape) << name;
    ASSERT_EQ(own.dtype, t.dtype) << name;
    if (e.model_free() && e.text("scheme") == "NVFP4_E5M3" && name.ends_with(".weight_packed")) {
      const std::string scale = name.substr(0, name.size() - 6) + "scale";
      EXPECT_EQ(without_dead_groups(own, ours.tensors.at(scale)), without_dead_groups(t, golden_folder.tensors.at(scale))) << name;
      continue;
    }
    if (e.text("scheme").starts_with("W8") && e.option("sym") == false && name.ends_with(".weight_packed")) {
      const auto a = own.as<std::uint8_t>(), b = t.as<std::uint8_t>();
      for (std::size_t i = 0; i < a.size(); ++i) {
        EXPECT_LE(std::abs(a[i] - b[i]), 1) << name << " " << i;
        off += a[i] != b[i] ? 1u : 0u;
      }
      continue;
    }
    EXPECT_TRUE(same(t, own)) << name << " differs";
  }
  EXPECT_LE(off, 5u) << "8-bit codes one step off; 3 of 78,000 at the time of writing";
  for (const auto& [name, t] : ours.tensors) {
    if (golden_folder.tensors.contains(name)) continue;
    const auto at = source.tensors.find(name);
    ASSERT_NE(at, source.tensors.end()) << name << " is neither in the golden export nor in the source";
    EXPECT_TRUE(same(t, at->second)) << name << " is no copy of the source's";
  }
}

/// The golden configuration, with what the original forgets put right.
ordered_json expected_config(const golden_export& e, ordered_json q) {
  const bool ct = q.value("quant_method", "") == "compressed-tensors";
  if (ct && e.text("scheme") == "FP8_STATIC") {
    EXPECT_TRUE(q["ignore"].empty());
    q["ignore"].push_back("lm_head");
  }
  if (ct && e.option("act_bits") == 16) {
    EXPECT_FALSE(q["config_groups"]["group_0"]["input_activations"].is_null());
    q["config_groups"]["group_0"]["input_activations"] = nullptr;
  }
  return q;
}

TEST_P(FormatsFloats, HoldTheTensorsAndTheConfigurationOfTheOriginal) {
  const golden_export& e = GetParam();
  auto options = options_for(e, dir.path());
  if (e.searched() && !e.model_free()) {
    ASSERT_NO_FATAL_FAILURE(support::weigh_by_importance(options, formats() / "calib_ids.safetensors", dir / "importance.gguf"));
  }
  options.compat = !e.model_free();
  run(options);
  if (HasFatalFailure()) return;
  expect_tensors(e, out(), options.compat);
  const fs::path reference = formats() / "exports" / e.name;
  for (const char* name : {"config.json", "quantization_config.json"}) {
    ASSERT_TRUE(fs::exists(out() / name)) << name;
    ordered_json golden = golden::read_json(reference / name);
    const bool whole = std::string(name) == "config.json";
    ordered_json& part = whole ? golden["quantization_config"] : golden;
    const ordered_json right = expected_config(e, part);
    if (right == part) {
      EXPECT_EQ(golden::read_bytes(out() / name), golden::read_bytes(reference / name)) << name;
    } else {
      part = right;
      EXPECT_EQ(golden::read_json(out() / name).dump(2), golden.dump(2)) << name;
    }
  }
  // The finished folder is opened by the format that its configuration names, and is whole.
  const auto opened = auto_round::exporting::open_model(out().string());
  ASSERT_TRUE(opened.has_value()) << auto_round::describe(opened.error());
  const auto whole = (*opened)->check();
  EXPECT_TRUE(whole.has_value()) << auto_round::describe(whole.error());
}

// What is calibrated comes out of a float pass then; weights are the same.
TEST_P(FormatsFloats, AreNearlyTheSameWithoutCompat) {
  const golden_export& e = GetParam();
  if (e.searched() || e.model_free()) return;
  run(options_for(e, dir.path()));
  if (HasFatalFailure()) return;
  expect_tensors(e, out(), false);
}

INSTANTIATE_TEST_SUITE_P(Exports, FormatsFloats, testing::ValuesIn(exports()), [](const auto& test) {
  std::string name = test.param.name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

class FloatRuns : public testing::Test {
 protected:
  auto_round::command::run_options options(const char* model, const char* scheme, const char* format) {
    golden_export e;
    e.facts = {{"model", model}, {"scheme", scheme}, {"format", format}, {"mode", "rtn"}, {"route", "regular"}};
    return options_for(e, dir_.path());
  }
  void run(const auto_round::command::run_options& o) {
    const auto outcome = auto_round::command::run_quantize(o);
    ASSERT_TRUE(outcome.has_value()) << auto_round::describe(outcome.error());
  }
  support::temp_dir dir_;
};

// The original keeps the scale of the last batch for an FP8 cache, and the largest one for NVFP4: ours are the largest for both.
TEST_F(FloatRuns, KeysAndValuesHaveTheLargestMagnitudeOfAllBatches) {
  auto o = options("llama64", "FP8_STATIC", "llm_compressor");
  o.request.attention = {.cache = attention_scales::type::fp8};
  ASSERT_NO_FATAL_FAILURE(run(o));
  const folder ours(dir_ / "out"), largest(formats() / "exports" / "nvfp4_kvnvfp4_ct"), last(formats() / "exports" / "fp8_static_attnfp8_ct");
  bool above = false;
  for (const char* block : {"model.layers.0.self_attn.", "model.layers.1.self_attn."}) {
    for (const char* x : {"k", "v"}) {
      const std::string name = std::string(block) + x;
      const float scale = ours.tensors.at(name + "_scale").f32()[0];
      EXPECT_NEAR(scale / (largest.tensors.at(name + "_global_scale").f32()[0] * 2688 / 448), 1.0f, 0.06f) << name;
      above |= scale > 1.08f * last.tensors.at(name + "_scale").f32()[0];
    }
  }
  EXPECT_TRUE(above) << "the samples tell both apart";
}

TEST_F(FloatRuns, ScalesOfHeadsHaveAPlaceForEach) {
  auto o = options("llama64", "W4A16G32", "llm_compressor");
  o.request.attention = {.cache = attention_scales::type::fp8, .queries = true, .cache_per_head = true, .queries_per_head = true};
  ASSERT_NO_FATAL_FAILURE(run(o));
  const folder ours(dir_ / "out");
  EXPECT_EQ(ours.tensors.at("model.layers.1.self_attn.k_scale").shape, (std::vector<std::size_t>{1}));
  const golden::tensor& q = ours.tensors.at("model.layers.1.self_attn.q_scale");
  ASSERT_EQ(q.shape, (std::vector<std::size_t>{2}));
  EXPECT_NE(q.f32()[0], q.f32()[1]);
  const ordered_json config = golden::read_json(dir_.path() / "out" / "quantization_config.json");
  EXPECT_EQ(config["kv_cache_scheme"]["strategy"], "attn_head");
  EXPECT_EQ(config["attention_input_activations"]["targets"], ordered_json::array({"LlamaAttention"}));
}

TEST_F(FloatRuns, TunedLayersBringTheirStaticScales) {
  for (const char* scheme : {"FP8_STATIC", "NVFP4"}) {
    auto o = options("llama_odd", scheme, "llm_compressor");
    ASSERT_NO_FATAL_FAILURE(run(o));
    o.request.how = auto_round::exporting::method::signround;
    o.request.iters = 2;
    o.output_dir = dir_ / "tuned";
    ASSERT_NO_FATAL_FAILURE(run(o));
    const folder rounded(dir_ / "out"), tuned(dir_ / "tuned");
    std::size_t scales = 0;
    for (const auto& [name, t] : rounded.tensors) {
      if (!from_calibration(name)) continue;
      ++scales;
      // The loop tunes FP8's by steps of 1 / iters, and sees what quantized blocks give: the same numbers, not the same bits.
      const float ratio = tuned.tensors.at(name).f32()[0] / t.f32()[0];
      EXPECT_GT(ratio, 0.3f) << name;
      EXPECT_LT(ratio, 3.0f) << name;
    }
    EXPECT_EQ(scales, 14u);
    fs::remove_all(dir_ / "out"), fs::remove_all(dir_ / "tuned"), fs::remove_all(dir_ / "model");
  }
}

TEST_F(FloatRuns, APackedFolderCanBeQuantizedAnew) {
  ASSERT_NO_FATAL_FAILURE(run(options("llama128c", "FP8_BLOCK", "fp8")));
  auto o = options("llama64", "W8A16", "llm_compressor");  // the model is given below
  o.model = dir_ / "out";
  o.output_dir = dir_ / "again";
  o.request.rules.ignore_layers = "v_proj";
  ASSERT_NO_FATAL_FAILURE(run(o));
  const auto first = auto_round::exporting::open_model(dir_ / "out"), second = auto_round::exporting::open_model(dir_ / "again");
  ASSERT_TRUE(first.has_value() && second.has_value());
  ASSERT_TRUE((*second)->check().has_value());
  for (const std::string name : {"model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.v_proj.weight"}) {
    std::uint64_t n = 0;
    for (const auto& e : (*second)->entries()) {
      if (e.name == name) n = e.shape[0] * e.shape[1];
    }
    std::vector<float> a(n), b(n);
    ASSERT_TRUE((*first)->read(name, a).has_value() && (*second)->read(name, b).has_value());
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      error += (a[i] - b[i]) * (a[i] - b[i]);
      norm += a[i] * a[i];
    }
    EXPECT_LT(std::sqrt(error / norm), 0.01) << name << ": 8 bits, or bfloat16 where it is kept";
    EXPECT_GT(norm, 0) << name;
  }
  const folder again(dir_ / "again");
  EXPECT_EQ(again.tensors.at("model.layers.0.self_attn.v_proj.weight").dtype, "BF16");
  for (const auto& [name, t] : again.tensors) EXPECT_FALSE(name.ends_with("weight_scale_inv")) << name;
}

TEST(FormatsFloatsScope, CoversEveryFormatAndScheme) {
  std::set<std::string> seen, schemes;
  for (const golden_export& e : exports()) {
    seen.insert(e.text("format"));
    schemes.insert(is_integer(e.text("scheme")) ? "W" : e.text("scheme"));
  }
  EXPECT_EQ(seen, (std::set<std::string>{"auto_round", "auto_round:fp8", "auto_round:llm_compressor", "fp8", "llm_compressor"}));
  EXPECT_EQ(schemes, (std::set<std::string>{"FP8_BLOCK", "FP8_STATIC", "FPW8A16", "INT8", "MXFP4", "MXFP4_RCEIL", "MXFP8", "MXFP8_RCEIL", "MXINT4", "NVFP4", "NVFP4_E5M3", "W"}));
}

}  // namespace
