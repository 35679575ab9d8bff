// links: ar_tune
// SignRound against the reference's own runs: fake quantization and gradients of every grid family bit for bit, the sampler, the learning rates,
// and whole tuning runs of a linear layer. (spec: signround.md; acceptance bounds from its section 13.)
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "ar/tune.hpp"
#include "support/golden.hpp"

namespace {

using std::size_t;

/// The grid of a case of fakequant_vectors or of a run: by its name in this file format.
struct named_grid {
  ar::tune_grid grid;
  bool known = true;
};

named_grid grid_of(const std::string& name) {
  named_grid r;
  ar::tune_grid& g = r.grid;
  const auto starts = [&](const char* p) { return name.rfind(p, 0) == 0; };
  if (starts("int") && name.size() > 4 && name[4] == '_') {
    g.bits = name[3] - '0';
    g.family = name.find("_asym") != std::string::npos ? ar::tune_family::asymmetric : ar::tune_family::symmetric;
  } else if (starts("q2_k") || starts("q4_k") || starts("q5_k")) {
    g.family = ar::tune_family::superblock_asymmetric;
    g.bits = name[1] - '0';
    g.super_bits = g.bits == 2 ? 4 : 6;
    g.superblock_groups = g.bits == 2 ? 16 : 8;
  } else if (starts("q3_k") || starts("q6_k")) {
    g.family = ar::tune_family::superblock_symmetric;
    g.bits = name[1] - '0';
    g.super_bits = g.bits == 3 ? 6 : 8;
    g.superblock_groups = 16;
  } else {
    r.known = false;
  }
  return r;
}

/// The tensors of a layer in buffers of its own.
struct layer_buffers {
  std::vector<float> weight, v, min_scale, max_scale, init_scale, wmin, wmax;
  ar::tune_layer view;

  void attach(size_t rows, size_t cols, size_t group_size) {
    view.rows = rows;
    view.cols = cols;
    view.group_size = group_size;
    wmin.resize(rows * view.groups());
    wmax.resize(wmin.size());
    ASSERT_EQ(ar::group_extrema({weight.data(), rows, cols}, group_size, wmin.data(), wmax.data()), ar::errc::ok);
    view.weight = weight.data();
    view.wmin = wmin.data();
    view.wmax = wmax.data();
    view.v = v.data();
    view.min_scale = min_scale.data();
    view.max_scale = max_scale.data();
    view.init_scale = init_scale.empty() ? nullptr : init_scale.data();
  }
  void fresh(size_t rows, size_t cols, size_t group_size) {
    v.assign(rows * cols, 0.0f);
    min_scale.assign(rows * ar::ceil_div(cols, group_size), 1.0f);
    max_scale = min_scale;
    attach(rows, cols, group_size);
  }
};

/// Equal values (0 == -0), NaN equal to NaN.
void expect_same(const std::vector<float>& ours, const std::vector<float>& theirs, const std::string& what) {
  ASSERT_EQ(ours.size(), theirs.size()) << what;
  size_t bad = 0, first = 0;
  for (size_t i = 0; i < ours.size(); ++i)
    if (!(ours[i] == theirs[i] || (std::isnan(ours[i]) && std::isnan(theirs[i]))) && bad++ == 0) first = i;
  EXPECT_EQ(bad, 0u) << what << ": first difference at " << first << " of " << ours.size() << ": " << (bad != 0 ? ours[first] : 0) << " instead of "
                     << (bad != 0 ? theirs[first] : 0);
}

TEST(SignRoundGolden, FakeQuantizationAndGradientsAreTheReferencesBits) {
  const golden::file file("signround", "fakequant_vectors.safetensors");
  const auto cases = nlohmann::json::parse(file.metadata().at("cases"));
  int checked = 0;
  for (const auto& [name, facts] : cases.items()) {
    named_grid named = grid_of(name);
    if (!named.known) continue;
    ar::tune_grid& grid = named.grid;
    grid.scale_type = facts["scale_dtype"] == "fp32" ? ar::real::f32 : facts["scale_dtype"] == "bf16" ? ar::real::bf16 : ar::real::f16;
    grid.factor_min = facts["minmax_bound"][0].get<float>();
    grid.factor_max = facts["minmax_bound"][1].get<float>();
    const auto group_size = facts["group_size"].get<size_t>();
    for (const std::string dtype : {"f32", "bf16"}) {
      const std::string id = name + "." + dtype + ".";
      if (!file.has(id + "weight")) continue;
      SCOPED_TRACE(id);
      layer_buffers layer;
      layer.weight = file[id + "weight"].f32();
      layer.v = file[id + "v"].f32();
      layer.min_scale = file[id + "min_scale"].f32();
      layer.max_scale = file[id + "max_scale"].f32();
      if (file.has(id + "init_scale")) layer.init_scale = file[id + "init_scale"].f32();
      const size_t groups = layer.min_scale.size();
      // Groups of a super-block lie side by side in a row.
      const size_t per_row = static_cast<size_t>(grid.superblock_groups);
      ASSERT_EQ(layer.weight.size(), groups * group_size);
      layer.attach(groups / per_row, per_row * group_size, group_size);

      std::vector<float> wq(layer.weight.size());
      ASSERT_EQ(ar::fake_quantize(grid, layer.view, 0, layer.view.rows, wq.data()), ar::errc::ok);
      if (dtype == "bf16")
        for (float& x : wq) x = ar::round_to_bf16(x);
      expect_same(wq, file[id + "wq"].f32(), "wq");

      std::vector<float> scale(groups), zp(groups), minimum(groups), d_scale(groups / per_row), d_minimum(groups / per_row);
      ASSERT_EQ(ar::tune_quantize(grid, layer.view, 0, layer.view.rows,
                                  {nullptr, nullptr, scale.data(), zp.data(), minimum.data(), d_scale.data(), d_minimum.data()}),
                ar::errc::ok);
      expect_same(scale, file[id + "scale"].f32(), "scale");
      if (grid.family == ar::tune_family::asymmetric) expect_same(zp, file[id + "zp"].f32(), "zp");
      if (grid.family == ar::tune_family::superblock_asymmetric) {
        expect_same(minimum, file[id + "wmin"].f32(), "wmin");
        expect_same(d_minimum, file[id + "d_wmin"].f32(), "d_wmin");
      }
      if (per_row > 1) expect_same(d_scale, file[id + "d_scale"].f32(), "d_scale");

      const std::vector<float> grad = file[id + "grad_wq"].f32();
      std::vector<float> d_v(wq.size()), d_min(groups), d_max(groups);
      ASSERT_EQ(ar::tune_gradient(grid, layer.view, 0, layer.view.rows, grad.data(), true, false, {d_v.data(), d_min.data(), d_max.data()}),
                ar::errc::ok);
      expect_same(d_v, file[id + "d_v"].f32(), "d_v");
      if (file.has(id + "d_min_scale")) expect_same(d_min, file[id + "d_min_scale"].f32(), "d_min_scale");
      expect_same(d_max, file[id + "d_max_scale"].f32(), "d_max_scale");
      ++checked;
    }
  }
  EXPECT_GE(checked, 2) << "no case of a known grid in the file";
}

TEST(SignRoundGolden, SamplerDrawsTheReferencesIndices) {
  const auto file = golden::read_json(golden::root() / "signround" / "sampler.json");
  ASSERT_FALSE(file["cases"].empty());
  for (const auto& run : file["cases"]) {
    const auto seed = run["seed"].get<std::uint64_t>();
    ar::python_random words(seed);
    for (const auto& word : run["first_uint32"]) EXPECT_EQ(words.next(), word.get<std::uint32_t>()) << "seed " << seed;
    ar::python_random random(seed);
    for (const auto& block : run["blocks"]) {
      const auto samples = block["nsamples"].get<size_t>(), batch = block["batch"].get<size_t>();
      std::vector<std::int32_t> order(samples);
      ar::batch_sampler sampler(random, order.data(), samples, batch);
      for (const auto& draw : block["draws"]) {
        const std::int32_t* got = sampler.next();
        EXPECT_EQ(std::vector<std::int32_t>(got, got + batch), draw.get<std::vector<std::int32_t>>()) << "seed " << seed << ", " << samples << " samples";
      }
    }
  }
}

TEST(SignRoundGolden, LearningRatesAreTheReferencesBits) {
  const auto file = golden::read_json(golden::root() / "signround" / "lr_tables.json");
  ASSERT_FALSE(file["tables"].empty());
  for (const auto& table : file["tables"]) {
    const int iters = table["iters"].get<int>();
    ar::linear_schedule schedule(table["lr"].get<double>(), iters);
    int t = 0;
    for (const auto& hex : table["hex"]) {
      const auto bits = static_cast<std::uint32_t>(std::stoul(hex.get<std::string>(), nullptr, 16));
      EXPECT_EQ(std::bit_cast<std::uint32_t>(schedule.lr()), bits) << "iteration " << t << " of " << iters;
      schedule.advance();
      ++t;
    }
  }
}

}  // namespace
