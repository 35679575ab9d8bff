// links: ar_command ar_plan ar_export ar_io
// Model-free mode against auto-round 0.16.1 (golden/model-free): every tensor by name, type, shape and bytes, and the configuration. In the repository lie one
// of the sources and digests of its outputs; with the whole set the tensors themselves are compared.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <set>

#include "command/model_free_run.hpp"
#include "export/export_checksums.hpp"
#include "support/golden_json.hpp"
#include "support/temp_dir.hpp"

namespace {

using namespace auto_round;
using nlohmann::ordered_json;
namespace fs = std::filesystem;

fs::path topic() { return golden::root() / "model-free"; }

/// What we do better than the original, on purpose (model-free.md): the original keeps the padding of short groups, rounds nothing with one group to a row,
/// forgets the recipe of W4A16_MIXED, and fills up a head of 100 rows to whole words, which stays in 16 bits in its other route.
const std::set<std::string> deviations = {"llama_w4g128_pad", "llama_perchannel", "moe_w4_mixed", "llama_w4_lmhead"};

command::run_options options_for(const ordered_json& c, const std::string& output) {
  command::run_options o;
  const auto& args = c["args"];
  o.model = (topic() / c["source"].get<std::string>()).string();
  o.output_dir = output;
  o.model_free = true;
  o.progress = report::progress_style::none;
  o.request.scheme = args["scheme"].get<std::string>();
  o.request.formats = {args.value("format", "auto_round")};
  // The original searches scales of MX types unless both are given.
  o.request.how = args.value("disable_opt_rtn", false) && args.contains("iters") ? exporting::method::rtn : exporting::method::opt_rtn;
  o.request.iters = 0;
  if (args.contains("sym")) o.request.overrides.sym = args["sym"].get<bool>();
  if (args.contains("group_size")) o.request.overrides.group_size = args["group_size"].get<std::int64_t>();
  if (args.contains("ignore_layers")) o.request.rules.ignore_layers = args["ignore_layers"].get<std::string>();
  if (args.contains("quant_lm_head")) o.request.rules.quant_lm_head = args["quant_lm_head"].get<bool>();
  if (args.contains("layer_config")) o.request.rules.config = io::parse_json(args["layer_config"].dump(), "test").value();
  return o;
}

struct tensor {
  std::string dtype;
  std::vector<std::size_t> shape;
  std::string bytes;   // empty if only the digest is known
  std::string digest;  // the first 16 letters of the SHA-256
};

std::string digest_of(const std::string& bytes) { return exporting::sha256_hex(std::as_bytes(std::span(bytes))).substr(0, 16); }

std::map<std::string, tensor> tensors_of(const fs::path& folder) {
  std::map<std::string, tensor> all;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    const golden::file file(entry.path());
    for (const auto& [name, t] : file.tensors()) {
      const std::string bytes(reinterpret_cast<const char*>(t.data), t.bytes);
      EXPECT_TRUE(all.emplace(name, tensor{t.dtype, t.shape, bytes, digest_of(bytes)}).second) << name << " is stored twice";
    }
  }
  if (!all.empty()) return all;
  const ordered_json digests = golden::read_json(folder / "digests.json");
  for (const auto& [name, t] : digests.items()) {
    all[name] = {t[0].get<std::string>(), t[1].get<std::vector<std::size_t>>(), {}, t[2].get<std::string>()};
  }
  return all;
}

/// Equal, or, where the original keeps the padding of a short group, equal in the rows that are not padding.
void expect_equal(const std::string& name, const tensor& want, const tensor& got, bool padded) {
  EXPECT_EQ(got.dtype, want.dtype) << name;
  if (padded && name.ends_with(".qweight") && got.shape != want.shape) {
    ASSERT_EQ(got.shape.back(), want.shape.back()) << name;
    ASSERT_LT(got.shape[0], want.shape[0]) << name;
    EXPECT_EQ(got.bytes, want.bytes.substr(0, got.bytes.size())) << name;
    return;
  }
  EXPECT_EQ(got.shape, want.shape) << name;
  EXPECT_EQ(got.digest, want.digest) << name << " differs";
}

ordered_json without_version(ordered_json config) {
  config.erase("autoround_version");
  if (config.contains("quantization_config")) config["quantization_config"].erase("autoround_version");
  return config;
}

/// Keys in any order.
nlohmann::json unordered(const ordered_json& j) { return nlohmann::json::parse(j.dump()); }

void compare(const ordered_json& c, const fs::path& ours) {
  const std::string name = c["name"].get<std::string>();
  const fs::path folder = topic() / ("out_" + name);
  const auto want = tensors_of(folder), got = tensors_of(ours);
  if (name == "llama_perchannel") {
    EXPECT_TRUE(got.contains("model.layers.0.self_attn.q_proj.qweight")) << "one group to a row";
    EXPECT_EQ(got.at("model.layers.0.self_attn.q_proj.scales").shape, (std::vector<std::size_t>{1, 128}));
    return;
  }
  if (name == "moe_w4_mixed") {
    // Experts as in the original; everything else has 8 bits.
    for (const auto& [tensor_name, t] : want) {
      ASSERT_TRUE(got.contains(tensor_name)) << tensor_name;
      const bool expert = tensor_name.find(".experts.") != std::string::npos, packed = tensor_name.ends_with(".qweight");
      if (expert || !(packed || tensor_name.ends_with(".qzeros") || tensor_name.ends_with(".scales"))) expect_equal(tensor_name, t, got.at(tensor_name), false);
      else if (packed) {
        EXPECT_EQ(got.at(tensor_name).shape[0], 2 * t.shape[0]) << tensor_name << " has 8 bits";
      }
    }
    return;
  }
  if (name == "llama_w4_lmhead") {
    EXPECT_TRUE(got.contains("lm_head.weight"));
    for (const auto& [tensor_name, t] : want)
      if (!tensor_name.starts_with("lm_head.")) expect_equal(tensor_name, t, got.at(tensor_name), false);
    return;
  }
  for (const auto& [tensor_name, t] : want) {
    ASSERT_TRUE(got.contains(tensor_name)) << tensor_name << " is missing";
    expect_equal(tensor_name, t, got.at(tensor_name), deviations.contains(name));
  }
  for (const auto& [tensor_name, t] : got) EXPECT_TRUE(want.contains(tensor_name)) << tensor_name << " is not in the original's output";
  EXPECT_EQ(unordered(without_version(golden::read_json(ours / "config.json"))), unordered(without_version(golden::read_json(folder / "config.json"))));
  EXPECT_EQ(fs::exists(ours / "quantization_config.json"), fs::exists(folder / "quantization_config.json"));
  if (fs::exists(folder / "quantization_config.json")) {
    EXPECT_EQ(unordered(without_version(golden::read_json(ours / "quantization_config.json"))), unordered(without_version(golden::read_json(folder / "quantization_config.json"))));
  }
}

TEST(ModelFree, WritesWhatTheOriginalWrites) {
  const ordered_json cases = golden::read_json(topic() / "cases.json");
  ASSERT_FALSE(cases.empty());
  int compared = 0;
  for (const auto& c : cases) {
    SCOPED_TRACE(c.dump());
    const support::temp_dir dir;
    const auto done = command::run_model_free(options_for(c, dir / "out"));
    if (c.contains("error")) {
      EXPECT_FALSE(done.has_value());
      EXPECT_FALSE(fs::exists(dir / "out"));
      continue;
    }
    ASSERT_TRUE(done.has_value()) << describe(done.error());
    compare(c, dir / "out");
    ++compared;
  }
  EXPECT_GE(compared, 3);
}

}  // namespace
