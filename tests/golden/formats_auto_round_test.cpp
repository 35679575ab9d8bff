// links: ar_command
// Whole checkpoints rounded by auto-round (golden/formats/exports.json): ours hold the same tensors, byte for byte, and the same configuration.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "command/quantize_run.hpp"
#include "support/golden_json.hpp"
#include "support/temp_dir.hpp"

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

/// Rounded exports in the layouts of this program: GPTQ words and fake, of integer presets, without per-layer rules.
bool in_scope(const ordered_json& e) {
  if (e.contains("error") || e.value("mode", "") != "rtn") return false;
  const std::string format = e.value("format", ""), scheme = e.value("scheme", "");
  if (scheme.empty() || scheme[0] != 'W' || (format != "auto_round" && format != "fake")) return false;
  const bool model_free = e.value("route", "") == "model_free";
  if (!model_free) {
    const std::string resolved = e["resolved"].at(0).get<std::string>();
    if (resolved != "auto_round" && resolved != "auto_round:auto_gptq" && resolved != "fake") return false;
  }
  if (e.contains("options")) {
    for (const auto& [key, value] : e["options"].items()) {
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
  o.request.how = auto_round::exporting::method::rtn;
  o.request.iters = 0;
  o.request.way = e.text("route") == "model_free" ? auto_round::plan::route::model_free : auto_round::plan::route::regular;
  if (e.facts.contains("options")) {
    const auto& given = e.facts["options"];
    if (given.contains("sym")) o.request.overrides.sym = given["sym"].get<bool>();
    if (given.contains("group_size")) o.request.overrides.group_size = given["group_size"].get<std::int64_t>();
    if (given.contains("ignore_layers")) o.request.ignore_layers = given["ignore_layers"].get<std::string>();
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
    // The shard-wise route keeps the padding of short last groups; we write what loaders expect.
    EXPECT_TRUE(same(t, at->second)) << name << " differs";
  }
  for (const auto& [name, t] : ours.tensors) {
    if (golden_folder.tensors.contains(name)) continue;
    const auto at = source.tensors.find(name);
    ASSERT_NE(at, source.tensors.end()) << name << " is neither in the golden export nor in the source";
    EXPECT_TRUE(same(t, at->second)) << name << " is no copy of the source's";
  }
}

class FormatsAutoRound : public testing::TestWithParam<golden_export> {};

TEST_P(FormatsAutoRound, HoldsTheTensorsAndTheConfigurationOfTheOriginal) {
  const golden_export& e = GetParam();
  const support::temp_dir dir;
  const fs::path out = dir / "out";
  const auto outcome = auto_round::command::run_quantize(options_for(e, out.string()));
  ASSERT_TRUE(outcome.has_value()) << auto_round::describe(outcome.error());
  expect_tensors(e, out);
  const fs::path reference = formats() / "exports" / e.name;
  for (const char* name : {"config.json", "quantization_config.json", "model.safetensors.index.json"}) {
    ASSERT_EQ(fs::exists(out / name), fs::exists(reference / name)) << name;
    if (fs::exists(out / name)) {
      EXPECT_EQ(golden::read_bytes(out / name), golden::read_bytes(reference / name)) << name;
    }
  }
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

INSTANTIATE_TEST_SUITE_P(Exports, FormatsAutoRound, testing::ValuesIn(exports()), [](const auto& test) {
  std::string name = test.param.name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(FormatsAutoRoundScope, CoversBothRoutesBothWordConventionsAndFake) {
  std::set<std::string> routes, formats_seen;
  bool symmetric = false, asymmetric = false;
  for (const golden_export& e : exports()) {
    routes.insert(e.text("route"));
    formats_seen.insert(e.text("format"));
    const bool sym = !e.facts.contains("options") || e.facts["options"].value("sym", true);
    symmetric |= sym;
    asymmetric |= !sym;
  }
  EXPECT_EQ(routes, (std::set<std::string>{"model_free", "regular"}));
  EXPECT_EQ(formats_seen, (std::set<std::string>{"auto_round", "fake"}));
  EXPECT_TRUE(symmetric && asymmetric);
}

}  // namespace
