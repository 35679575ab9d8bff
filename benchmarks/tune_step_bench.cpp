// links: ar_dispatch
// What does one SignRound iteration of a layer cost besides its matrix products? Fake quantization and the fused gradient and step, beside the
// same in two passes (gradients stored, then a sign step), the float lane, and copying memory. One thread; a 1024 x 1024 layer.
// Bytes are those that must be read and written once: fake quantization 12 (w, v, wq; 10 with bfloat16 wq), the step 16 (w, v, gradient, v).
#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ar/dispatch.hpp"
#include "ar/tune.hpp"

namespace {

constexpr std::size_t rows = 1024, cols = 1024;

struct data {
  ar::tune_grid grid;
  ar::tune_layer layer;
  std::vector<float> w, v, grad, wmin, wmax, min_scale, max_scale, out, d_v, d_min, d_max;
  std::vector<std::uint16_t> narrow;

  data(ar::tune_family family, int bits, std::size_t group_size)
      : w(rows * cols), v(w.size()), grad(w.size()), out(w.size()), d_v(w.size()), narrow(w.size()) {
    grid.family = family;
    grid.bits = bits;
    if (family == ar::tune_family::superblock_asymmetric || family == ar::tune_family::superblock_symmetric) {
      grid.scale_type = ar::real::f32;
      grid.super_bits = family == ar::tune_family::superblock_symmetric ? 8 : 6;
      grid.superblock_groups = group_size == 16 ? 16 : 8;
    }
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& x : w) x = 0.05f * normal(random);
    for (float& x : v) x = 0.2f * normal(random);
    for (float& x : grad) x = normal(random);
    const std::size_t groups = rows * ar::ceil_div(cols, group_size);
    wmin.resize(groups);
    wmax.resize(groups);
    d_min.resize(groups);
    d_max.resize(groups);
    min_scale.assign(groups, 0.9f);
    max_scale.assign(groups, 0.95f);
    static_cast<void>(ar::group_extrema({w.data(), rows, cols}, group_size, wmin.data(), wmax.data()));
    layer = {rows, cols, group_size, w.data(), wmin.data(), wmax.data(), v.data(), min_scale.data(), max_scale.data(), nullptr};
  }
};

void report(benchmark::State& state, int bytes) {
  const auto weights = static_cast<std::int64_t>(rows * cols) * static_cast<std::int64_t>(state.iterations());
  state.SetBytesProcessed(weights * bytes);
  state.SetItemsProcessed(weights);
}

void add_all(const std::string& name, const ar::tune_kernels& k, ar::tune_family family, int bits, std::size_t group_size) {
  const std::string end = "/" + name;
  benchmark::RegisterBenchmark(("fake_quantize" + end).c_str(), [=, &k](benchmark::State& state) {
    data d(family, bits, group_size);
    for (auto _ : state) k.fake_quantize(d.grid, d.layer, 0, rows, d.out.data());
    report(state, 12);
  });
  benchmark::RegisterBenchmark(("fake_quantize_bf16" + end).c_str(), [=, &k](benchmark::State& state) {
    data d(family, bits, group_size);
    for (auto _ : state) k.fake_quantize_bf16(d.grid, d.layer, 0, rows, d.narrow.data());
    report(state, 10);
  });
  benchmark::RegisterBenchmark(("step_fused" + end).c_str(), [=, &k](benchmark::State& state) {
    data d(family, bits, group_size);
    for (auto _ : state) k.step(d.grid, d.layer, 0, rows, d.grad.data(), true, 0, 0, {d.v.data(), d.min_scale.data(), d.max_scale.data()});
    report(state, 16);
  });
  benchmark::RegisterBenchmark(("step_two_passes" + end).c_str(), [=, &k](benchmark::State& state) {
    data d(family, bits, group_size);
    for (auto _ : state) {
      k.gradient(d.grid, d.layer, 0, rows, d.grad.data(), true, false, {d.d_v.data(), d.d_min.data(), d.d_max.data()});
      ar::sign_step(d.v.data(), d.d_v.data(), d.v.size(), 0);
      ar::sign_step(d.min_scale.data(), d.d_min.data(), d.min_scale.size(), 0);
      ar::sign_step(d.max_scale.data(), d.d_max.data(), d.max_scale.size(), 0);
    }
    report(state, 16);
  });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("kernels", ar::kernels().target);
  static const ar::tune_kernels scalar = ar::tune_loops<float>::table();
  const ar::tune_kernels& best = ar::kernels().tune;
  benchmark::RegisterBenchmark("memcpy_16_bytes_a_weight", [](benchmark::State& state) {
    std::vector<float> a(2 * rows * cols, 1.0f), b(a.size());
    for (auto _ : state) {
      std::memcpy(b.data(), a.data(), a.size() * sizeof(float));
      benchmark::ClobberMemory();
    }
    report(state, 16);
  });
  add_all("symmetric_4_bits_group_128", best, ar::tune_family::symmetric, 4, 128);
  add_all("asymmetric_2_bits_group_32", best, ar::tune_family::asymmetric, 2, 32);
  add_all("superblock_asymmetric_4_bits_group_32", best, ar::tune_family::superblock_asymmetric, 4, 32);
  add_all("superblock_symmetric_6_bits_group_16", best, ar::tune_family::superblock_symmetric, 6, 16);
  add_all("symmetric_4_bits_group_128_float_lane", scalar, ar::tune_family::symmetric, 4, 128);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
