// links: ar_dispatch
// Tuned GGUF types against auto-round's own forward and autograd (golden/gguf: ar_signround, and ar_bf16 for weights of a bfloat16 checkpoint): what
// a group stores and the weights value for value, the gradients of sum(qdq * upstream_grad) by v and both factors.
#include <gtest/gtest.h>

#include <algorithm>
#include <ar/dispatch.hpp>
#include <ar/tune.hpp>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "support/golden.hpp"
#include "support/tuned_layer.hpp"

namespace {

using std::size_t;

struct type {
  std::string name;
  size_t group_size;
  ar::tune_grid grid;
};

/// Scales are float, as the original keeps them for GGUF.
std::vector<type> tuned_types() {
  std::vector<type> types{{"q2_k", 16, {}}, {"q4_k", 32, {}}, {"q5_k", 32, {}}, {"q3_k", 16, {}}, {"q6_k", 16, {}}, {"q4_1", 32, {}}, {"q5_1", 32, {}}};
  for (type& t : types) {
    t.grid = golden::grid_of(t.name).grid;
    t.grid.scale_type = ar::real::f32;
  }
  return types;
}

std::vector<float> rows_of(const golden::tensor& t, const std::vector<std::int32_t>& rows) {
  const std::vector<float> all = t.f32();
  std::vector<float> some;
  for (const std::int32_t r : rows) {
    const auto first = all.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(r) * t.cols());
    some.insert(some.end(), first, first + static_cast<std::ptrdiff_t>(t.cols()));
  }
  return some;
}

/// Equal values; zeros may differ in sign.
void expect_values(const std::vector<float>& got, const std::vector<float>& want, const char* what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], want[i]) << what << " at " << i;
}

/// The golden README's measure: 1e-4 of the value, because autograd adds in an order of its own, for gradients that are not tiny beside the largest
/// term of their sum, which is what rounding is relative to. Where the original overflows, ours is a number still.
void expect_gradient(const std::vector<float>& got, const std::vector<float>& want, const std::vector<float>& magnitude, const char* what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  size_t compared = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(std::isfinite(got[i])) << what << " at " << i;
    if (!std::isfinite(want[i])) continue;
    ++compared;
    ASSERT_LE(std::fabs(got[i] - want[i]), 1e-4f * std::fabs(want[i]) + 1e-6f * magnitude[i]) << what << " at " << i << ": " << got[i] << ", expected " << want[i];
  }
  EXPECT_GT(compared, got.size() / 2) << what;
}

struct layer : golden::layer_buffers {
  const type& t;

  layer(const type& of, std::vector<float> w, size_t cols, std::vector<float> offsets, const golden::file& file, const std::string& stem) : t(of) {
    weight = std::move(w);
    v = std::move(offsets);
    min_scale = file[stem + "min_scale"].f32();
    max_scale = file[stem + "max_scale"].f32();
    attach(weight.size() / cols, cols, t.group_size);
    EXPECT_EQ(min_scale.size(), wmin.size());
  }

  /// What is stored, and the weights, rounded to bfloat16 as a checkpoint of that type has them if `bf16`.
  void expect_forward(const golden::file& file, const std::string& stem, bool bf16) const {
    const size_t groups = wmin.size(), superblocks = groups / static_cast<size_t>(t.grid.superblock_groups);
    std::vector<float> wq(weight.size()), scale(groups), zero_point(groups), minimum(groups), d_scale(superblocks), d_minimum(superblocks);
    ASSERT_EQ(ar::fake_quantize(t.grid, view, 0, view.rows, wq.data()), ar::errc::ok);
    if (bf16)
      for (float& x : wq) x = ar::round_to_bf16(x);
    expect_values(wq, file[stem + "qdq"].f32(), "qdq");
    ASSERT_EQ(ar::tune_quantize(t.grid, view, 0, view.rows, {nullptr, nullptr, scale.data(), zero_point.data(), minimum.data(), d_scale.data(), d_minimum.data()}), ar::errc::ok);
    expect_values(scale, file[stem + "scale"].f32(), "scale");
    if (t.grid.family == ar::tune_family::asymmetric) return expect_values(zero_point, file[stem + "zp"].f32(), "zp");
    expect_values(d_scale, file[stem + "d_scale"].f32(), "d_scale");
    if (t.grid.family != ar::tune_family::superblock_asymmetric) return;
    expect_values(minimum, file[stem + "wmin"].f32(), "wmin");
    expect_values(d_minimum, file[stem + "d_wmin"].f32(), "d_wmin");
  }
};

TEST(GgufSignRound, TunedTypesHaveTheOriginalsValuesAndGradients) {
  const golden::file inputs("gguf", "ggml_inputs.safetensors"), file("gguf", "ar_signround.safetensors");
  const std::vector<float> w = rows_of(inputs["x"], file["rows"].as<std::int32_t>()), upstream = file["upstream_grad"].f32(), tuned_v = file["v"].f32();
  const size_t cols = inputs["x"].cols();
  for (const type& t : tuned_types())
    for (const std::string state : {"init", "tuned"}) {
      const std::string stem = "sr_" + t.name + "." + state + ".";
      SCOPED_TRACE(stem);
      const layer l(t, w, cols, state == "tuned" ? tuned_v : std::vector<float>(w.size()), file, stem);
      l.expect_forward(file, stem, false);

      const size_t groups = l.wmin.size(), per_superblock = static_cast<size_t>(t.grid.superblock_groups);
      std::vector<float> dv(w.size()), dmin(groups), dmax(groups);
      ASSERT_EQ(ar::tune_gradient(t.grid, l.view, 0, l.view.rows, upstream.data(), true, false, {dv.data(), dmin.data(), dmax.data()}), ar::errc::ok);
      // The terms of a factor's sum: a group's part of the super-block's step reaches all its groups, so the largest of the super-block counts.
      std::vector<float> of_v(w.size()), of_factor(groups);
      for (size_t s = 0; s < groups / per_superblock; ++s) {
        float largest = 0;
        for (size_t i = s * per_superblock * t.group_size; i < (s + 1) * per_superblock * t.group_size; ++i)
          largest = std::max(largest, std::fabs(upstream[i]) * static_cast<float>(t.group_size));
        float range = 0;
        for (size_t g = s * per_superblock; g < (s + 1) * per_superblock; ++g) range = std::max({range, -l.wmin[g], l.wmax[g]});
        for (size_t g = s * per_superblock; g < (s + 1) * per_superblock; ++g) of_factor[g] = largest * range;
      }
      expect_gradient(dv, file[stem + "grad_v"].f32(), of_v, "grad_v");
      expect_gradient(dmin, file[stem + "grad_min_scale"].f32(), of_factor, "grad_min_scale");
      expect_gradient(dmax, file[stem + "grad_max_scale"].f32(), of_factor, "grad_max_scale");
    }
}

TEST(GgufSignRound, TunedTypesOfBfloat16Weights) {
  const golden::file file("gguf", "ar_bf16.safetensors");
  size_t seen = 0;
  for (const type& t : tuned_types()) {
    const std::string stem = "sr_" + t.name + ".";
    if (!file.has(stem + "qdq")) continue;
    SCOPED_TRACE(stem);
    layer(t, file["w"].f32(), file["w"].cols(), file[stem + "v"].f32(), file, stem).expect_forward(file, stem, true);
    ++seen;
  }
  EXPECT_EQ(seen, 2u) << "q4_k and q6_k";
}

/// The kernels of Q4_1 and Q5_1, which take scales and zero points as given: with those that the original tuned, their forward with v is the original's.
TEST(GgufSignRound, AFractionalZeroPointWithOffsets) {
  const golden::file inputs("gguf", "ggml_inputs.safetensors"), file("gguf", "ar_signround.safetensors");
  const std::vector<float> w = rows_of(inputs["x"], file["rows"].as<std::int32_t>()), tuned_v = file["v"].f32();
  const size_t cols = inputs["x"].cols(), rows = w.size() / cols;
  const ar::kernel_table* tables[16] = {};
  const size_t count = ar::all_kernels(tables, 16);
  for (const std::string name : {"q4_1", "q5_1"})
    for (const std::string state : {"init", "tuned"})
      for (size_t i = 0; i < count; ++i) {
        const std::string stem = "sr_" + name + "." + state + ".";
        SCOPED_TRACE(stem + " on " + tables[i]->target);
        const ar::gguf_kernels* k = tables[i]->gguf_type(name);
        ASSERT_NE(k, nullptr);
        const std::vector<float> v = state == "tuned" ? tuned_v : std::vector<float>(w.size());
        const std::vector<float> scale = file[stem + "scale"].f32(), zero_point = file[stem + "zp"].f32();
        ar::gguf_parameters<const float> p;
        p.scale = scale.data();
        p.offset = zero_point.data();
        std::vector<float> got(w.size());
        ASSERT_EQ(k->qdq({w.data(), rows, cols}, {v.data(), rows, cols}, {}, p, {got.data(), rows, cols}), ar::errc::ok);
        expect_values(got, file[stem + "qdq"].f32(), "qdq");
      }
}

}  // namespace
