// links: ar_export ar_transform ar_model
// Checkpoints with rotations as the reference writes them: our configuration is its own, and what it saved is loaded with its online parts.
#include "transform/rotation_files.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "export/export_format.hpp"
#include "support/distance.hpp"
#include "support/golden_json.hpp"
#include "support/memory_source.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"

namespace {

using namespace auto_round;
using nlohmann::ordered_json;
using std::size_t;
namespace fs = std::filesystem;

TEST(RotationFilesGolden, ConfigurationsAreReadAndWrittenAsTheReferences) {
  const fs::path path = golden::root() / "rotation" / "config_json.json";
  const auto all = golden::read_json(path);
  int checked = 0;
  for (const auto& [name, theirs] : all["spinquant_config"].items()) {
    const auto request = io::parse_json(theirs.dump(), path.string());
    ASSERT_TRUE(request.has_value());
    io::json options = io::json::object{};
    for (const auto& [key, value] : request->members())
      if (key != "head_dim" && key != "hidden_size" && key != "intermediate_size") options.set(key, value);
    const auto o = transform::parse_rotation(options, false);
    ASSERT_TRUE(o.has_value()) << o.error().message;
    const bool b = theirs["hidden_size"] == 96;
    const auto spec = b ? support::llama_spec(96, 112, 12, 4, 8, 32, 1) : support::llama_spec(64, 128, 4, 2, 16, 32, 1);
    const auto places = transform::place_rotations(spec, *o, transform::drawn_signs(1));
    ASSERT_TRUE(places.has_value());
    const auto stored = transform::store_rotation(spec, *o, *places);
    EXPECT_EQ(stored.key, "spinquant_config");
    EXPECT_EQ(io::dump(stored.config), io::dump(*request)) << name;
    ++checked;
  }
  EXPECT_GE(checked, 5);
  const auto block = io::parse_json(all["rotation_config"]["transform_random"].dump(), path.string());
  const auto o = transform::parse_rotation(*block, true);
  ASSERT_TRUE(o.has_value());
  EXPECT_EQ(o->family, transform::rotation_family::transform);
  EXPECT_EQ(o->type, transform::hadamard_type::random_hadamard);
  EXPECT_EQ(o->block_size, 32);
}

/// One of the reference's rotated models as a folder, with the buffers that it writes for packed layers, and stray tensors.
class rotated_folder {
 public:
  explicit rotated_folder(const std::string& name) : file_("rotation", name + ".safetensors") {
    const auto info = golden::parse_json(file_.metadata().at("info"));
    const golden::file base("rotation", "base_" + info["base"].get<std::string>() + ".safetensors");
    const auto base_info = golden::parse_json(base.metadata().at("info"));
    model_.config.update(base_info["config"]);
    model_.config["rope_theta"] = base_info["rope_theta"];
    model_.config["tie_word_embeddings"] = false;
    model_.config["spinquant_config"] = golden::read_json(golden::root() / "rotation" / "config_json.json")["spinquant_config"][name.substr(10)];
    model_.tensors.clear();
    const auto put = [&](const std::string& tensor, const golden::tensor& t) {
      model_.tensors[tensor] = {t.dtype, {t.shape.begin(), t.shape.end()}, std::string(reinterpret_cast<const char*>(t.data), t.bytes)};
    };
    for (const auto& [tensor, t] : base.tensors()) put(tensor, file_.has("rot." + tensor) ? file_["rot." + tensor] : t);
    for (const auto& [tensor, t] : file_.tensors()) {
      if (tensor.starts_with("new.")) put(tensor.substr(4), t);
      if (!tensor.starts_with("ser.")) continue;
      const std::string layer = tensor.substr(4), part = layer.substr(0, layer.find('.'));
      put("model.layers.0." + std::string(part.find("_proj") == 1 ? "self_attn." : "mlp.") + layer, t);
    }
  }

  support::tiny_model& model() { return model_; }
  const golden::file& file() const { return file_; }
  result<std::vector<float>> logits() const {
    const support::temp_dir dir;
    model_.write(fs::path(dir / "m"));
    auto opened = exporting::open_model(dir / "m");
    if (!opened) return forward_error(opened);
    const auto ids64 = file_["ids"].as<std::int64_t>();
    const std::vector<std::int32_t> ids(ids64.begin(), ids64.begin() + static_cast<std::ptrdiff_t>(file_["ids"].shape[1]));
    return model::logits(**opened, ids);
  }

 private:
  golden::file file_;
  support::tiny_model model_;
};

std::vector<std::string> cases() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(golden::root() / "rotation"))
    if (entry.path().filename().string().starts_with("spinquant_")) names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(RotationFilesGolden, WhatTheReferenceSavedIsLoadedWithItsOnlineParts) {
  ASSERT_FALSE(cases().empty());
  for (const std::string& name : cases()) {
    SCOPED_TRACE(name);
    const rotated_folder folder(name);
    const auto logits = folder.logits();
    ASSERT_TRUE(logits.has_value()) << logits.error().message << " " << logits.error().tensor;
    std::vector<float> theirs = folder.file()["logits_before"].f32();
    theirs.resize(logits->size());
    // Its bfloat16 model rounds after every step: 0.08 between its own logits before and after.
    EXPECT_LE(support::largest_difference(*logits, theirs), name.ends_with("bf16") ? 0.1 : 1e-5);
  }
}

TEST(RotationFilesGolden, DamagedRotationsAreRefused) {
  const std::string name = "spinquant_r1r4_bf16", layer = "model.layers.0.mlp.down_proj.spinquant_r4",
                    q = "model.layers.0.self_attn.q_proj.spinquant_r1";
  const auto expect_refused = [&](const char* what, const std::function<void(support::tiny_model&)>& damage) {
    SCOPED_TRACE(what);
    rotated_folder folder(name);
    damage(folder.model());
    const auto l = folder.logits();
    ASSERT_FALSE(l.has_value()) << "loaded as if nothing was wrong";
    EXPECT_EQ(l.error().kind, error_kind::input) << l.error().message;
  };
  const auto number = [](std::int32_t v) { return std::string(reinterpret_cast<const char*>(&v), 4); };
  for (const char* key : {"r1", "r2", "r3", "r4", "online_r1_rotation", "rotation_size", "random_r1", "random_r4", "trainable_rotation", "head_dim",
                          "hidden_size", "intermediate_size", "algorithm"})
    expect_refused(key, [&](support::tiny_model& m) { m.config["spinquant_config"].erase(key); });
  for (const char* key : {"r1", "r4", "online_r1_rotation"})
    expect_refused(key, [&](support::tiny_model& m) { m.config["spinquant_config"][key] = false; });
  expect_refused("random", [&](support::tiny_model& m) { m.config["spinquant_config"]["random_r4"] = true; });
  expect_refused("another model", [&](support::tiny_model& m) { m.config["spinquant_config"]["hidden_size"] = 128; });
  expect_refused("blocks", [&](support::tiny_model& m) { m.config["spinquant_config"]["rotation_size"] = 32; });
  expect_refused("blocks that do not fit", [&](support::tiny_model& m) { m.config["spinquant_config"]["rotation_size"] = 48; });
  expect_refused("a huge block", [&](support::tiny_model& m) { m.config["spinquant_config"]["rotation_size"] = 9223372036854775807LL; });
  expect_refused("no object", [&](support::tiny_model& m) { m.config["spinquant_config"] = "quarot"; });
  expect_refused("nothing", [&](support::tiny_model& m) { m.config.erase("spinquant_config"); });
  expect_refused("two", [&](support::tiny_model& m) { m.config["rotation_config"] = {{"algorithm", "hadamard"}}; });
  expect_refused("type", [&](support::tiny_model& m) { m.tensors.at(layer + "_type").bytes = number(1); });
  expect_refused("trained", [&](support::tiny_model& m) { m.tensors.at(q + "_type").bytes = number(2); });
  expect_refused("size", [&](support::tiny_model& m) { m.tensors.at(layer + "_size").bytes = number(64); });
  expect_refused("negative size", [&](support::tiny_model& m) { m.tensors.at(q + "_size").bytes = number(-64); });
  expect_refused("half of it", [&](support::tiny_model& m) { m.tensors.erase(layer + "_size"); });
  expect_refused("no number", [&](support::tiny_model& m) { m.tensors.at(layer + "_size").dtype = "F32"; });
  expect_refused("matrix", [&](support::tiny_model& m) { m.tensors[layer + "_matrix"] = {"I8", {2, 2}, "\1\1\1\1"}; });
  expect_refused("foreign signs", [&](support::tiny_model& m) { m.tensors["rotation_signs.r1"] = {"U8", {8}, std::string(8, '\x55')}; });
  expect_refused("a layer without", [&](support::tiny_model& m) {
    m.tensors.erase(q + "_size");
    m.tensors.erase(q + "_type");
    m.tensors["model.layers.0.self_attn.q_proj.qweight"] = {"I32", {1}, number(0)};
  });
}

}  // namespace
