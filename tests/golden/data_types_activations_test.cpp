// links: ar_dispatch ar_float_search
// Activations and calibration against the reference's own results (golden/data-types: activations, and fused global scales of nvfp4): activation
// quantizers of the presets, running maxima and static scales, KV cache, importance matrix. Bit for bit, by every SIMD target of this machine.
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "ar/calibrate.hpp"
#include "ar/resolve.hpp"
#include "support/every_target.hpp"
#include "support/pattern.hpp"

namespace {

using namespace every_target;
using ar::real;

constexpr const char* file_name = "activations.safetensors";

std::vector<const ar::kernel_table*> targets() {
  std::vector<const ar::kernel_table*> t(16);
  t.resize(ar::all_kernels(t.data(), t.size()));
  return t;
}

/// A three-dimensional tensor as tokens x features.
matrix tokens(const golden::tensor& t) { return matrix(t.f32(), t.size() / t.shape.back(), t.shape.back()); }

TEST(Activations, QuantizersOfThePresetsEqualTheReference) {
  const golden::file file("data-types", file_name);
  const support::pattern name("act\\.([A-Z0-9_]+)\\.(rtn|tune)\\.(x[0-9])\\.qdq");
  const tables all;
  int count = 0;
  for (const auto& [key, t] : file.tensors()) {
    const std::vector<std::string> m = name.match(key);
    if (m.empty()) continue;
    SCOPED_TRACE(key);
    const ar::scheme_fields& s = *ar::find_preset(m[1]);
    const bool tuning = m[2] == "tune";
    ar::quantizer_choice choice;
    ASSERT_EQ(
        ar::resolve_quantizer({.data_type = s.act_data_type.value(), .bits = s.act_bits.value(), .sym = s.act_sym.value(), .tuning = tuning}, choice),
        ar::errc::ok);
    const std::string scale_key = key.substr(0, key.size() - 3) + "scale";
    quantizer q{std::string(choice.data_type), real::bf16, real::f16, s.act_bits.value(), s.act_group_size.value(), {}};
    if (m[1] == "FP8_BLOCK") q.group = 32;  // so it was recorded: 64 columns
    const std::string maximum = "act." + m[1] + "." + m[2] + ".act_max";
    if (file.has(maximum)) q.tensor.maximum = file[maximum].f32()[0];
    std::vector<float> scale = file[scale_key].f32();
    if (choice.data_type.substr(0, 2) == "mx")
      for (float& e : scale) e = std::ldexp(1.0f, static_cast<int>(e));
    const matrix x = tokens(file[m[3]]);
    if (tuning) {
      expect_tuned(all, q, x, {}, {scale, {}, {}, t.f32(), {}});
    } else {
      expect_rtn(all, q, x, {scale, {}, {}, t.f32(), {}});
    }
    ++count;
  }
  EXPECT_GT(count, 0);
  std::printf("%d cases\n", count);
}

TEST(Calibration, RunningMaximaGiveTheStaticScales) {
  const golden::file file("data-types", file_name);
  for (const ar::kernel_table* k : targets())
    for (const std::string preset : {"FP8_STATIC", "NVFP4"}) {
      SCOPED_TRACE(preset + " " + k->target);
      float maximum = -1.0f;
      for (int batch = 0; batch < 3; ++batch) {
        const matrix x = tokens(file["x" + std::to_string(batch)]);
        ASSERT_EQ(k->calibrate.add_maxima(0, x.view(), batch == 0, {&maximum, 1, 1}), ar::errc::ok);
        EXPECT_EQ(maximum, file["calib." + preset + ".act_max_after" + std::to_string(batch)].f32()[0]);
      }
      if (preset == "NVFP4") {
        EXPECT_EQ(ar::static_scale(ar::nvfp4<>{}, maximum), file["calib.NVFP4.input_global_scale"].f32()[0]);
      } else {
        EXPECT_EQ(ar::static_scale(ar::fp8<>{}, maximum), file["calib.FP8_STATIC.act_scale"].f32()[0]);
        const matrix w(file["calib.FP8_STATIC.weight"]);
        const tables all;
        expect_tuned(all, {"fp8", real::bf16, real::f16, 8, -1, {}}, w, {},
                     {file["calib.FP8_STATIC.weight_scale"].f32(), {}, {}, file["calib.FP8_STATIC.weight_qdq"].f32(), {}});
      }
    }
}

TEST(Calibration, AStaticScaleIsUsedAndNotDropped) {
  // The reference forgets act_max when it runs a finished layer: what it then computes is qdq without the_tensor.maximum.
  const golden::file file("data-types", file_name);
  const matrix x = tokens(file["x0"]);
  const float maximum = 8.0f * x.largest();
  ar::scheme<ar::fp8<real::bf16>, ar::group<0>> fixed, dynamic;
  fixed.type.the_tensor.maximum = maximum;
  std::vector<float> right(x.v.size()), dropped(x.v.size());
  ASSERT_EQ(ar::qdq(fixed, x.view(), {right.data(), x.rows, x.cols}), ar::errc::ok);
  ASSERT_EQ(ar::qdq(dynamic, x.view(), {dropped.data(), x.rows, x.cols}), ar::errc::ok);
  EXPECT_NE(right, dropped);
  float step = 0.0f;
  ASSERT_EQ(ar::fit(fixed, x.view(), {&step, 1, 1}), ar::errc::ok);
  EXPECT_EQ(step, ar::static_scale(ar::fp8<real::bf16>{}, maximum));
}

TEST(KvCache, HeadsAndTensorEqualTheReference) {
  const golden::file file("data-types", file_name);
  const golden::tensor& t = file["kv.x"];
  const std::size_t batch = t.shape[0], heads = t.shape[1], width = t.shape[2] * t.shape[3];
  const matrix x(t.f32(), batch * heads, width);
  std::vector<float> out(x.v.size());
  for (const ar::kernel_table* k : targets()) {
    SCOPED_TRACE(k->target);
    std::vector<float> maximum(heads);
    ASSERT_EQ(k->calibrate.add_head_maxima(x.view(), heads, true, maximum.data()), ar::errc::ok);
    std::vector<float> scale;
    for (const float m : maximum) scale.push_back(ar::static_scale(ar::fp8<real::bf16>{}, m));
    EXPECT_TRUE(same_bits(scale, file["kv.head.scale"].f32()));
    ASSERT_EQ(ar::qdq_heads(ar::fp8<real::bf16>{}, x.view(), heads, maximum.data(), {out.data(), x.rows, x.cols}), ar::errc::ok);
    EXPECT_TRUE(same_bits(out, file["kv.head.qdq"].f32()));
    float all = 0.0f;
    ASSERT_EQ(k->calibrate.add_head_maxima(x.view(), 1, true, &all), ar::errc::ok);
    EXPECT_EQ(1.0f / ar::static_scale(ar::nvfp4<>{}, all), file["kv.nvfp4.scale"].f32()[0]);
  }
  const tables all;
  expect_tuned(all, {"fp8", real::bf16, real::f16, 8, 0, {}}, x, {}, {file["kv.tensor.scale"].f32(), {}, {}, file["kv.tensor.qdq"].f32(), {}});
}

TEST(KvCache, TheScaleIsThatOfAllBatchesAndTheReferencesThatOfTheLast) {
  const float large[] = {-4.0f, 1.0f}, small[] = {0.5f, 0.25f};
  float running = 0.0f, last = 0.0f;
  for (const float* batch : {large, small}) {
    ASSERT_EQ(ar::add_head_maxima({batch, 1, 2}, 1, batch == large, &running), ar::errc::ok);
    ASSERT_EQ(ar::add_head_maxima({batch, 1, 2}, 1, true, &last), ar::errc::ok);
  }
  EXPECT_EQ(running, 4.0f);
  EXPECT_EQ(last, 0.5f);
}

TEST(Importance, SumsOfSquaresEqualTheReference) {
  const golden::file file("data-types", file_name);
  for (const ar::kernel_table* k : targets()) {
    SCOPED_TRACE(k->target);
    std::vector<float> sum(64);
    std::size_t sequences = 0;
    for (int batch = 0; batch < 3; ++batch) {
      const golden::tensor& t = file["x" + std::to_string(batch)];
      const matrix x = tokens(t);
      ASSERT_EQ(k->calibrate.add_importance(x.view(), batch == 0, sum.data()), ar::errc::ok);
      sequences += t.shape[0];
      EXPECT_TRUE(same_bits(sum, file["imatrix.sum_after" + std::to_string(batch)].f32())) << batch;
    }
    EXPECT_EQ(static_cast<float>(sequences), file["imatrix.count"].f32()[0]);
    ar::finish_importance(sum.data(), sum.size(), sequences);
    EXPECT_TRUE(same_bits(sum, file["imatrix.final"].f32()));
    const matrix big = tokens(file["imatrix.big_x"]);
    std::vector<float> big_sum(big.cols);
    ASSERT_EQ(k->calibrate.add_importance(big.view(), true, big_sum.data()), ar::errc::ok);
    EXPECT_TRUE(same_bits(big_sum, file["imatrix.big_sum"].f32()));
  }
}

TEST(Importance, TheFloatLaneAndEveryTargetGiveTheSameBits) {
  for (const std::size_t cols : {1u, 3u, 4u, 7u, 8u, 9u, 31u, 32u, 45u, 72u, 100u})
    for (const std::size_t rows : {1u, 3u, 70u, 1100u}) {
      matrix x(std::vector<float>(rows * cols), rows, cols);
      for (std::size_t i = 0; i < x.v.size(); ++i) x.v[i] = static_cast<float>((i * 2654435761u) % 10007u) * 1e-3f - 5.0f;
      std::vector<float> want(cols);
      ASSERT_EQ(ar::calibrate::add_importance<float>(x.view(), true, want.data()), ar::errc::ok);
      for (const ar::kernel_table* k : targets()) {
        std::vector<float> sum(cols);
        ASSERT_EQ(k->calibrate.add_importance(x.view(), true, sum.data()), ar::errc::ok);
        ASSERT_TRUE(same_bits(sum, want)) << k->target << " " << rows << "x" << cols;
      }
    }
}

TEST(SharedGlobalScale, EqualsTheReference) {
  const golden::file file("data-types", "nvfp4.safetensors");
  const std::vector<std::vector<std::string>> groups = {
      {"attn.q_proj", "attn.k_proj", "attn.v_proj"}, {"attn.o_proj"}, {"mlp.gate_proj", "mlp.up_proj"}, {"mlp.down_proj"}};
  const tables all;
  std::size_t layers = 0;
  for (const auto& group : groups) {
    std::vector<float> own;
    for (const std::string& layer : group) own.push_back(ar::static_scale(ar::nvfp4<>{}, matrix(file["fused." + layer + ".weight"]).largest()));
    const float shared = ar::shared_global_scale(own);
    EXPECT_EQ(shared, ar::shared_global_scale(own, true));
    for (const std::string& layer : group) {
      SCOPED_TRACE(layer);
      const std::string prefix = "fused." + layer + ".";
      EXPECT_EQ(shared, file[prefix + "global_scale"].f32()[0]);
      expect_tuned(all, {"nvfp4", real::bf16, real::f16, 4, 16, {.global_scale = shared}}, matrix(file[prefix + "weight"]), {},
                   {file[prefix + "scale"].f32(), {}, {}, {}, {}});
      std::vector<float> out(file[prefix + "qdq"].size());
      const matrix w(file[prefix + "weight"]);
      ASSERT_EQ(ar::kernels().range_type("nvfp4", real::bf16)->qdq({4, {.global_scale = shared}}, 16, w.view(), {out.data(), w.rows, w.cols}),
                ar::errc::ok);
      EXPECT_TRUE(same_bits(out, file[prefix + "qdq"].f32()));
      ++layers;
    }
  }
  std::size_t recorded = 0;
  for (const auto& [name, t] : file.tensors()) recorded += name.rfind("fused.", 0) == 0 && name.find(".qdq") != std::string::npos ? 1u : 0u;
  EXPECT_EQ(layers, recorded);
}

TEST(SharedGlobalScale, ALayerOfZerosHasNoSayUnlessTheReferenceIsAskedFor) {
  const float scales[] = {3000.0f, 0.0f, 2000.0f};
  EXPECT_EQ(ar::shared_global_scale(scales), 2000.0f);
  EXPECT_EQ(ar::shared_global_scale(scales, true), 0.0f);
  const float zeros[] = {0.0f, 0.0f};
  EXPECT_EQ(ar::shared_global_scale(zeros), 0.0f);
}

TEST(Experts, ThoseWithoutTokensGetTheLargestOfTheOthers) {
  float maximum[] = {-1.0f, 2.0f, 3.0f}, none[] = {-1.0f, -1.0f};
  ar::complete_expert_maxima(maximum);
  EXPECT_EQ(maximum[0], 3.0f);
  EXPECT_EQ(maximum[1], 2.0f);
  ar::complete_expert_maxima(maximum, true);
  EXPECT_EQ(maximum[1], 3.0f);
  ar::complete_expert_maxima(none);
  EXPECT_LT(none[0], 0.0f);
}

TEST(Calibration, OddArgumentsAreErrorsAndNothingIsWritten) {
  float x[4] = {1.0f, -2.0f, 3.0f, 4.0f}, m[2] = {7.0f, 7.0f};
  EXPECT_EQ(ar::add_maxima(-1, {x, 2, 2}, true, {m, 1, 2}), ar::errc::bad_shape);
  EXPECT_EQ(ar::add_head_maxima({x, 2, 2}, 0, true, m), ar::errc::bad_shape);
  EXPECT_EQ(ar::add_head_maxima({x, 3, 1}, 2, true, m), ar::errc::bad_shape);
  EXPECT_EQ(ar::add_importance({x, 2, 2}, true, nullptr), ar::errc::bad_shape);
  x[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(ar::add_maxima(-1, {x, 2, 2}, true, {m, 2, 1}), ar::errc::non_finite);
  EXPECT_EQ(ar::add_head_maxima({x, 2, 2}, 2, true, m), ar::errc::non_finite);
  EXPECT_EQ(ar::add_importance({x, 2, 2}, true, m), ar::errc::non_finite);
  EXPECT_EQ(m[0], 7.0f);
  EXPECT_EQ(ar::add_maxima(-1, {x, 1, 2}, false, {m, 1, 1}), ar::errc::ok);
  EXPECT_EQ(m[0], 7.0f) << "the running maximum stays";
}

}  // namespace
