// links: ar_command
// Whole checkpoints of integer schemes by auto-round (golden/formats/exports.json): ours hold the same tensors, byte for byte, and the same
// configuration. Where the original's order is that of a set (modules_to_not_convert), that of ours is another one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "command/quantize_run.hpp"
#include "export/export_verify.hpp"
#include "support/golden_importance.hpp"
#include "support/golden_json.hpp"
#include "support/temp_dir.hpp"
#include "tune/quantizer.hpp"

namespace {

namespace fs = std::filesystem;
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
};

const std::set<std::string> integer_formats = {"auto_round", "auto_round:auto_gptq", "auto_round:gptqmodel", "auto_round:auto_awq", "auto_gptq", "auto_awq", "mlx",
                                               "auto_round:mlx", "fake"};

/// Weight-only integer schemes in the layouts for them, as far as a request can say what was asked for.
bool in_scope(const ordered_json& e) {
  if (e.contains("error")) return false;
  const std::string format = e.value("format", ""), scheme = e.value("scheme", "");
  if (scheme.empty() || scheme[0] != 'W' || !integer_formats.contains(format)) return false;
  if (e.contains("options")) {
    for (const auto& [key, value] : e["options"].items()) {
      if (key == "layer_config" && (format == "auto_gptq" || format == "mlx")) continue;
      if (key != "sym" && key != "group_size" && key != "ignore_layers") return false;
    }
  }
  return true;
}

std::vector<golden_export> exports() {
  std::vector<golden_export> found;
  const ordered_json all = golden::read_json(formats() / "exports.json");
  for (const auto& [name, facts] : all.items()) {
    if (in_scope(facts) && fs::exists(formats() / "exports" / name)) found.push_back({name, facts});
  }
  return found;
}

std::uint64_t bytes_of(const std::string& text) {
  const std::uint64_t n = std::stoull(text);
  return text.ends_with("KB") ? n << 10 : text.ends_with("MB") ? n << 20 : text.ends_with("GB") ? n << 30 : n;
}

auto_round::command::run_options options_for(const golden_export& e, const std::string& output) {
  auto_round::command::run_options o;
  o.model = (formats() / "models" / e.text("model")).string();
  o.output_dir = output;
  o.progress = auto_round::report::progress_style::none;
  o.request.scheme = e.text("scheme");
  o.request.formats = {e.text("format")};
  o.request.how = e.text("mode") == "opt_rtn" ? auto_round::exporting::method::opt_rtn : auto_round::exporting::method::rtn;
  o.request.iters = 0;
  o.request.way = e.text("route") == "model_free" ? auto_round::plan::route::model_free : auto_round::plan::route::regular;
  if (e.facts.contains("options")) {
    ordered_json given = e.facts["options"];
    if (given.contains("sym")) o.request.overrides.sym = given["sym"].get<bool>();
    if (given.contains("group_size")) o.request.overrides.group_size = given["group_size"].get<std::int64_t>();
    if (given.contains("layer_config")) {
      // A pattern keeps layers in 16 bits, a name gives a layer another width.
      const ordered_json rules = given["layer_config"];
      for (const auto& [name, value] : rules.items()) {
        ar::scheme_fields own = *ar::find_preset(o.request.scheme);
        own.bits = value["bits"].get<int>();
        if (own.bits == 16) given["ignore_layers"] = name;
        else o.request.layer_schemes[name] = own;
      }
    }
    if (given.contains("ignore_layers")) o.request.rules.ignore_layers = given["ignore_layers"].get<std::string>();
  }
  if (e.facts.contains("save_options") && e.facts["save_options"].contains("max_shard_size")) {
    o.request.max_shard_bytes = bytes_of(e.facts["save_options"]["max_shard_size"].get<std::string>());
  }
  return o;
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

bool same(const golden::tensor& a, const golden::tensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && a.bytes == b.bytes && std::memcmp(a.data, b.data, a.bytes) == 0;
}

/// The golden tensors: those of the export that this one equals, plus plain copies of the source that were left out of the file.
void expect_tensors(const golden_export& e, const fs::path& ours_dir) {
  const std::string holder = e.facts.contains("same_tensors_as") ? e.text("same_tensors_as") : e.name;
  const folder golden_folder(formats() / "exports" / holder), source(formats() / "models" / e.text("model")), ours(ours_dir);
  for (const auto& [name, t] : golden_folder.tensors) {
    const auto at = ours.tensors.find(name);
    ASSERT_NE(at, ours.tensors.end()) << name << " is missing";
    EXPECT_TRUE(same(t, at->second)) << name << " differs";
  }
  for (const auto& [name, t] : ours.tensors) {
    if (golden_folder.tensors.contains(name)) continue;
    const auto at = source.tensors.find(name);
    ASSERT_NE(at, source.tensors.end()) << name << " is neither in the golden export nor in the source";
    EXPECT_TRUE(same(t, at->second)) << name << " is no copy of the source's";
  }
}

/// The text of a configuration, with lists in order that have none.
std::string as_text(const fs::path& file) {
  std::string text = golden::read_bytes(file);
  if (text.find("modules_to_not_convert") == std::string::npos) return text;
  ordered_json tree = ordered_json::parse(text);
  ordered_json& config = tree.contains("quantization_config") ? tree["quantization_config"] : tree;
  std::vector<std::string> names = config["modules_to_not_convert"];
  std::sort(names.begin(), names.end());
  config["modules_to_not_convert"] = names;
  return tree.dump(2) + text.substr(text.find_last_of('}') + 1);
}

void expect_configuration(const golden_export& e, const fs::path& out) {
  const fs::path reference = formats() / "exports" / e.name;
  for (const char* name : {"config.json", "quantization_config.json", "model.safetensors.index.json"}) {
    ASSERT_EQ(fs::exists(out / name), fs::exists(reference / name)) << name;
    if (fs::exists(out / name)) {
      EXPECT_EQ(as_text(out / name), as_text(reference / name)) << name;
    }
  }
}

class FormatsIntegers : public testing::TestWithParam<golden_export> {};

TEST_P(FormatsIntegers, HoldsTheTensorsAndTheConfigurationOfTheOriginal) {
  const golden_export& e = GetParam();
  const support::temp_dir dir;
  const fs::path out = dir / "out";
  auto options = options_for(e, out.string());
  if (e.text("mode") == "opt_rtn") {
    ASSERT_NO_FATAL_FAILURE(support::weigh_by_importance(options, formats() / "calib_ids.safetensors", dir / "importance.gguf"));
  }
  const auto outcome = auto_round::command::run_quantize(options);
  ASSERT_TRUE(outcome.has_value()) << auto_round::describe(outcome.error());
  expect_tensors(e, out);
  expect_configuration(e, out);
  for (const auto& name : e.facts["files"]) {
    const std::string file = name.get<std::string>();
    if (!file.starts_with(".")) {
      EXPECT_TRUE(fs::exists(out / file)) << file;
    }
  }
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    EXPECT_EQ(golden::read_bytes(out / name), golden::read_bytes(formats() / "models" / e.text("model") / name)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Exports, FormatsIntegers, testing::ValuesIn(exports()), [](const auto& test) {
  std::string name = test.param.name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// The head is packed as any layer and listed where loaders look for it. Decided here, as --quant_lm_head decides it.
TEST(FormatsIntegersHead, IsWrittenAsTheOriginalWritesIt) {
  using namespace auto_round;
  std::size_t done = 0;
  const ordered_json all = golden::read_json(formats() / "exports.json");
  for (const std::string name : {"lmhead_gptq", "lmhead_mlx"}) {
    const golden_export e{name, all.at(name)};
    SCOPED_TRACE(name);
    const auto source = exporting::open_model((formats() / "models" / e.text("model")).string());
    ASSERT_TRUE(source.has_value());
    plan::request wanted;
    wanted.scheme = e.text("scheme");
    wanted.formats = {e.text("format")};
    wanted.how = exporting::method::rtn;
    wanted.iters = 0;
    wanted.way = plan::route::regular;
    const auto made = plan::make_plan(wanted, **source);
    ASSERT_TRUE(made.has_value()) << describe(made.error());
    exporting::job run = made->jobs.front();
    for (exporting::layer_decision& l : run.layers) l.quantize = true;
    auto exporter = exporting::find(run.format)->make(run);
    ASSERT_TRUE(exporter.has_value()) << describe(exporter.error());
    const support::temp_dir dir;
    ASSERT_TRUE((*exporter)->begin(dir.path().string()).has_value());
    for (const exporting::layer_decision& l : run.layers) {
      tune::rounding how;
      how.weight_type = ar::real::bf16;
      const auto layer = tune::quantize_layer(**source, l.name, l.scheme, static_cast<std::size_t>(l.rows), static_cast<std::size_t>(l.cols), how);
      ASSERT_TRUE(layer.has_value() && (*exporter)->add(*layer).has_value()) << l.name;
    }
    ASSERT_TRUE((*exporter)->finish().has_value());
    const auto verified = exporting::verify_output(run, **exporter, dir.path().string());
    EXPECT_TRUE(verified.has_value()) << describe(verified.error());
    expect_tensors(e, dir.path());
    expect_configuration(e, dir.path());
    ++done;
  }
  EXPECT_EQ(done, 2u);
}

TEST(FormatsIntegersScope, CoversEveryFormatBothRoutesBothModesAndBothKindsOfZeroPoints) {
  std::set<std::string> routes, modes, formats_seen;
  bool symmetric = false, asymmetric = false;
  for (const golden_export& e : exports()) {
    routes.insert(e.text("route"));
    modes.insert(e.text("mode"));
    formats_seen.insert(e.text("format"));
    const bool sym = !e.facts.contains("options") || e.facts["options"].value("sym", true);
    symmetric |= sym;
    asymmetric |= !sym;
  }
  EXPECT_EQ(routes, (std::set<std::string>{"model_free", "regular"}));
  EXPECT_EQ(modes, (std::set<std::string>{"opt_rtn", "rtn"}));
  EXPECT_EQ(formats_seen, integer_formats);
  EXPECT_TRUE(symmetric && asymmetric);
}

}  // namespace
