// links: ar_transform ar_model
// Whole models that the reference rotated: parameters bit for bit in its arithmetic, inputs of rotated layers, logits. (spec: rotation.md)
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "model/block.hpp"
#include "support/golden_json.hpp"
#include "support/memory_source.hpp"
#include "transform/rotation.hpp"

namespace {

using namespace auto_round;
using std::size_t;
using transform::rotation_options;

double largest(const std::vector<float>& v) {
  double m = 0;
  for (const float x : v) m = std::max(m, static_cast<double>(std::abs(x)));
  return m;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double m = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) m = std::max(m, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return m;
}

support::memory_source base_model(const std::string& name) {
  const golden::file file("rotation", "base_" + name + ".safetensors");
  const auto c = golden::parse_json(file.metadata().at("info"))["config"];
  support::memory_source m;
  m.spec_ = support::llama_spec(c["hidden_size"], c["intermediate_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"],
                                c["vocab_size"], c["num_hidden_layers"]);
  for (const auto& [tensor, t] : file.tensors()) m.tensors[tensor] = t.f32();
  return m;
}

rotation_options options_of(const nlohmann::ordered_json& info) {
  rotation_options o;
  const auto& a = info["args"];
  if (info["backend"] == "inplace") {
    o.family = transform::rotation_family::inplace;
    const std::string type = a["rotation_matrix"];
    o.type = type == "random_hadamard"   ? transform::hadamard_type::random_hadamard
             : type == "quarot_hadamard" ? transform::hadamard_type::quarot_hadamard
                                         : transform::hadamard_type::hadamard;
    o.block_size = a.value("group_size", 0);
    o.fused = a["fuse_online_to_weight"];
    return o;
  }
  o.r1 = a.value("r1", true), o.r2 = a.value("r2", true), o.r3 = a.value("r3", false), o.r4 = a.value("r4", false);
  o.random_r1 = a.value("random_r1", false), o.random_r2 = a.value("random_r2", false);
  o.random_r3 = a.value("random_r3", false), o.random_r4 = a.value("random_r4", false);
  o.online_r1 = a.value("online_r1_rotation", true);
  o.rotation_size = a.value("rotation_size", 0);
  return o;
}

std::vector<std::string> cases() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(golden::root() / "rotation")) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("inplace_") || name.starts_with("spinquant_")) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// The name of the matrix that the reference kept on the model.
std::string matrix_name(const std::string& key) {
  if (key == "r1") return "new.spinquant_R1";
  if (key == "r2" || key == "r3") return key == "r2" ? "new.spinquant_R2_head" : "new.spinquant_R3_head";
  return key == "r4" ? "new.spinquant_R4_matrix" : "cache.random." + key;
}

/// The first column of a random matrix of a power of two holds its signs. (The seed of these runs was not recorded.)
transform::sign_source recorded_signs(const golden::file& file) {
  return [&](const std::string& key, size_t n) -> result<std::vector<std::int8_t>> {
    const std::vector<float> matrix = file[matrix_name(key)].f32();
    if (matrix.size() != n * n) return fail(error_kind::input, "another size than expected");
    std::vector<std::int8_t> signs(n);
    for (size_t i = 0; i < n; ++i) signs[i] = matrix[i * n] > 0 ? std::int8_t{1} : std::int8_t{-1};
    return signs;
  };
}

TEST(RotationModelsGolden, ParametersInputsAndLogits) {
  ASSERT_GE(cases().size(), 2u);
  for (const std::string& name : cases()) {
    SCOPED_TRACE(name);
    const golden::file file("rotation", name);
    const auto info = golden::parse_json(file.metadata().at("info"));
    const std::string base_name = info["base"];
    const bool narrow = base_name.ends_with("bf16");
    const support::memory_source base = base_model(base_name);
    const rotation_options o = options_of(info);
    auto places = transform::place_rotations(base.spec(), o, recorded_signs(file), false, true);
    ASSERT_TRUE(places.has_value()) << places.error().message;
    const transform::rotated_source peer(base, *places, {[&](const std::string&) { return narrow ? ar::real::bf16 : ar::real::f32; }, true});

    int exact = 0;
    for (const auto& [tensor, values] : base.tensors) {
      std::vector<float> ours(values.size());
      ASSERT_TRUE(peer.read(tensor, ours).has_value()) << tensor;
      if (!file.has("rot." + tensor)) {
        EXPECT_EQ(ours, values) << tensor << " must stay as it was";
        EXPECT_FALSE(peer.changed(tensor)) << tensor;
        continue;
      }
      EXPECT_TRUE(peer.changed(tensor)) << tensor;
      const std::vector<float> theirs = file["rot." + tensor].f32();
      size_t bad = 0;
      for (size_t i = 0; i < ours.size(); ++i) bad += ours[i] != theirs[i];
      // Float sums over a table of signs (orders that are no power of two) are taken in another order than the reference's matrix library takes them.
      const bool table_in_float =
          base_name == "B" && o.family == transform::rotation_family::spinquant && tensor.find("down_proj") != std::string::npos;
      if (table_in_float)
        EXPECT_LE(largest_difference(ours, theirs), 2e-6 * largest(theirs)) << tensor;
      else
        EXPECT_EQ(bad, 0u) << tensor << " of " << ours.size();
      ++exact;
    }
    EXPECT_GT(exact, 0);

    // The model with its online parts, in both arithmetics: what the layers read, and the logits.
    const transform::rotated_source ours(base, *places, {});
    const auto ids64 = file["ids"].as<std::int64_t>();
    const std::vector<std::int32_t> ids(ids64.begin(), ids64.end());
    const size_t sequences = file["ids"].shape[0], seqlen = file["ids"].shape[1];
    const std::vector<float> before = file["logits_before"].f32();
    std::vector<float> plain, rotated, as_peer;
    for (size_t s = 0; s < sequences; ++s) {
      const auto one = std::span(ids).subspan(s * seqlen, seqlen);
      for (const auto& [source, to] :
           {std::pair<const model::weight_source*, std::vector<float>*>{&base, &plain}, {&ours, &rotated}, {&peer, &as_peer}}) {
        const auto l = model::logits(*source, one);
        ASSERT_TRUE(l.has_value()) << l.error().message;
        to->insert(to->end(), l->begin(), l->end());
      }
    }
    EXPECT_LE(largest_difference(rotated, plain), 1e-5 * std::max(1.0, largest(plain))) << "a rotation changes nothing";
    if (narrow) continue;  // the reference's model computes in bfloat16, ours in float
    EXPECT_LE(largest_difference(plain, before), 1e-5 * largest(before));
    EXPECT_LE(largest_difference(as_peer, file["logits_after"].f32()), 1e-5 * largest(before));

    model::block_runner runner(base.spec(), linalg::precision::f32);
    auto w = model::read_block(peer, 0);
    ASSERT_TRUE(w.has_value());
    auto x = model::embed(peer, ids);
    ASSERT_TRUE(x.has_value());
    std::vector<float> y(x->size());
    int seen = 0;
    runner.forward(*w, x->data(), sequences, seqlen, y.data(), [&](int i, const float* in, size_t tokens) {
      const auto& d = base.spec().linears[static_cast<size_t>(i)];
      const std::string hook = "hook_out.model.layers.0." + d.name;
      if (!file.has(hook)) return;
      const std::vector<float> theirs = file[hook].f32();
      EXPECT_LE(largest_difference({in, in + tokens * static_cast<size_t>(d.in_features)}, theirs), 1e-5 * largest(theirs)) << hook;
      ++seen;
    });
    int hooks = 0;
    for (const auto& [tensor, t] : file.tensors()) hooks += tensor.starts_with("hook_out.");
    EXPECT_EQ(seen, hooks);
  }
}

TEST(RotationModelsGolden, OnlineTransformsOfRecordedInputs) {
  int checked = 0;
  for (const std::string& name : cases()) {
    const golden::file file("rotation", name);
    const auto info = golden::parse_json(file.metadata().at("info"));
    const rotation_options o = options_of(info);
    const bool narrow = std::string(info["base"]).ends_with("bf16");
    const auto places = transform::place_rotations(base_model(info["base"]).spec(), o, recorded_signs(file), false, true);
    ASSERT_TRUE(places.has_value());
    for (const auto& [tensor, t] : file.tensors()) {
      if (!tensor.starts_with("hook_out.")) continue;
      SCOPED_TRACE(name + " " + tensor);
      const auto has = [&layer = tensor](const char* part) { return layer.find(part) != std::string::npos; };
      const auto& on = places->online;
      const auto& by = has("down_proj")                     ? on.down_input
                       : has("o_proj")                      ? on.o_input
                       : has("gate_proj") || has("up_proj") ? on.mlp_input
                                                            : on.attention_input;
      ASSERT_NE(by, nullptr);
      std::vector<float> x = file["hook_in" + tensor.substr(8)].f32();
      const bool table = (by->order() & (by->order() - 1)) != 0;
      // In blocks and behind random signs the SpinQuant family multiplies with a matrix, whose sums are rounded once.
      const bool product = name.starts_with("spinquant_") && (!by->signs().empty() || (!has("down_proj") && by->order() < t.cols()));
      by->rows(x.data(), t.rows(), t.cols(), false, narrow && !product ? ar::real::bf16 : ar::real::f32);
      if (narrow) std::transform(x.begin(), x.end(), x.begin(), ar::round_to_bf16);
      // Products with a matrix (random ones in place, too) and sums over a table are the library's, in its order; the bfloat16 matrix is off by 1e-4,
      // which may be a unit in the last place.
      const std::vector<float> theirs = t.f32();
      const double bound = table || product || !by->signs().empty() ? (narrow ? 0x1p-7 : 2e-6) : 0;
      EXPECT_LE(largest_difference(x, theirs), bound * largest(theirs));
      ++checked;
    }
  }
  EXPECT_GE(checked, 2);
}

}  // namespace
