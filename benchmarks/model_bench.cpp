// links: ar_model OpenMP::OpenMP_CXX
// How fast are matrix products on each backend, beside a plain loop, and how long does a decoder block take per 2048 tokens?
//   OMP_NUM_THREADS=1 build/bench/bin/model_bench --benchmark_min_time=0.2
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "model/block.hpp"
#include "model/linalg.hpp"

namespace {

namespace linalg = auto_round::linalg;

std::vector<float> noise(std::size_t n, std::uint32_t seed) {
  std::vector<float> v(n);
  for (float& x : v) {
    seed = seed * 1664525u + 1013904223u;
    x = static_cast<float>(static_cast<std::int32_t>(seed)) * 0x1p-31f;
  }
  return v;
}

constexpr std::size_t tokens = 2048;

/// One layer of out x in: y = x W^T (0), dx = dy W (1), dW = dy^T x (2).
void product(benchmark::State& state, linalg::backend backend, bool bf16, int which, std::size_t out, std::size_t in) {
  if (!linalg::initialize(backend)) return state.SkipWithError("not available");
  const std::vector<float> x = noise(tokens * in, 1), dy = noise(tokens * out, 2), w = noise(out * in, 3);
  std::vector<std::uint16_t> x16(x.size()), dy16(dy.size()), w16(w.size());
  linalg::to_bf16(x.data(), x.size(), x16.data());
  linalg::to_bf16(dy.data(), dy.size(), dy16.data());
  linalg::to_bf16(w.data(), w.size(), w16.data());
  const auto view = [bf16](const std::vector<float>& f, const std::vector<std::uint16_t>& h, std::size_t rows, std::size_t cols) {
    return linalg::operand{bf16 ? static_cast<const void*>(h.data()) : f.data(), rows, cols, cols, bf16};
  };
  const linalg::operand xo = view(x, x16, tokens, in), dyo = view(dy, dy16, tokens, out), wo = view(w, w16, out, in);
  std::vector<float> c(std::max({tokens * out, tokens * in, out * in}));
  for (auto _ : state) {
    if (which == 0) linalg::gemm_nt(xo, wo, c.data(), out);
    if (which == 1) linalg::gemm_nn(dyo, wo, c.data(), in);
    if (which == 2) linalg::gemm_tn(dyo, xo, c.data(), in);
    benchmark::DoNotOptimize(c.data());
    benchmark::ClobberMemory();
  }
  state.SetLabel(linalg::description());
  state.counters["GFLOP/s"] = benchmark::Counter(2e-9 * static_cast<double>(tokens * out * in), benchmark::Counter::kIsIterationInvariantRate);
}

void plain_loop(benchmark::State& state, std::size_t out, std::size_t in) {
  const std::vector<float> x = noise(tokens * in, 1), w = noise(out * in, 3);
  std::vector<float> y(tokens * out);
  for (auto _ : state) {
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t o = 0; o < out; ++o) {
        float sum = 0;
        for (std::size_t i = 0; i < in; ++i) sum += x[t * in + i] * w[o * in + i];
        y[t * out + o] = sum;
      }
    benchmark::DoNotOptimize(y.data());
    benchmark::ClobberMemory();
  }
  state.counters["GFLOP/s"] = benchmark::Counter(2e-9 * static_cast<double>(tokens * out * in), benchmark::Counter::kIsIterationInvariantRate);
}

struct shape {
  std::size_t out, in;
};
constexpr shape shapes[] = {{256, 256}, {512, 256}, {256, 512}, {576, 576}, {1536, 576}, {576, 1536}};

void register_products() {
  const std::pair<linalg::backend, const char*> backends[] = {
      {linalg::backend::onednn, "onednn"}, {linalg::backend::highway, "highway"}, {linalg::backend::eigen, "eigen"}};
  const char* const kinds[] = {"nt", "nn", "tn"};
  for (const shape& s : shapes) {
    const std::string size = std::to_string(s.out) + "x" + std::to_string(s.in);
    benchmark::RegisterBenchmark(("gemm/plain_loop/f32/nt/" + size).c_str(), plain_loop, s.out, s.in)->Unit(benchmark::kMillisecond)->UseRealTime();
    for (const auto& [backend, name] : backends)
      for (bool bf16 : {false, true})
        for (int which = 0; which < 3; ++which)
          benchmark::RegisterBenchmark(("gemm/" + std::string(name) + (bf16 ? "/bf16/" : "/f32/") + kinds[which] + "/" + size).c_str(), product, backend, bf16,
                                       which, s.out, s.in)
              ->Unit(benchmark::kMillisecond)
              ->UseRealTime();
  }
}

auto_round::model::model_spec make_spec(bool large) {
  auto_round::model::model_spec s;
  s.hidden_size = large ? 576 : 256, s.intermediate_size = large ? 1536 : 512, s.num_heads = large ? 9 : 4, s.num_kv_heads = large ? 3 : 2;
  s.head_dim = 64, s.vocab_size = 1024, s.max_position_embeddings = 8192, s.num_layers = 1;
  const std::int64_t h = s.hidden_size, i = s.intermediate_size, q = s.num_heads * 64, kv = s.num_kv_heads * 64;
  s.linears = {{"q", q, h, false}, {"k", kv, h, false}, {"v", kv, h, false}, {"o", h, q, false}, {"gate", i, h, false}, {"up", i, h, false}, {"down", h, i, false}};
  return s;
}

/// A block on 2048 tokens as sequences of `seqlen`: forward (false) or forward and backward as in an iteration of tuning (true).
void block(benchmark::State& state, bool large, auto_round::linalg::precision precision, std::size_t seqlen, bool train) {
  if (!linalg::initialize(linalg::backend::automatic)) return state.SkipWithError("not available");
  const auto spec = make_spec(large);
  const auto hidden = static_cast<std::size_t>(spec.hidden_size);
  auto_round::model::block_weights w;
  std::vector<std::vector<float>> gradients;
  std::vector<float*> pointers;
  for (const auto& d : spec.linears) {
    const auto n = static_cast<std::size_t>(d.out_features * d.in_features);
    w.linears.push_back(noise(n, 7));
    for (float& x : w.linears.back()) x *= 2.0f / std::sqrt(static_cast<float>(d.in_features));
    gradients.emplace_back(n);
  }
  for (auto& g : gradients) pointers.push_back(g.data());
  w.input_norm.assign(hidden, 1.0f);
  w.post_attention_norm.assign(hidden, 1.0f);
  const std::vector<float> x = noise(tokens * hidden, 1), dy = noise(tokens * hidden, 2);
  std::vector<float> y(tokens * hidden);
  auto_round::model::block_runner runner(spec, precision);
  runner.forward_train(w, x.data(), tokens / seqlen, seqlen, y.data());  // the first time makes code and touches memory
  runner.backward(w, dy.data(), pointers, false);
  for (auto _ : state) {
    if (train) {
      runner.forward_train(w, x.data(), tokens / seqlen, seqlen, y.data());
      runner.backward(w, dy.data(), pointers, false);
    } else {
      runner.forward(w, x.data(), tokens / seqlen, seqlen, y.data());
    }
    benchmark::ClobberMemory();
  }
  state.SetLabel(linalg::description());
}

void register_blocks() {
  for (const bool large : {false, true})
    for (const auto precision : {linalg::precision::f32, linalg::precision::bf16})
      for (const std::size_t seqlen : {256u, 2048u})
        for (const bool train : {false, true})
          benchmark::RegisterBenchmark((std::string("block/") + (large ? "smollm2_135m" : "tiny_stories") + (precision == linalg::precision::f32 ? "/f32" : "/bf16") +
                                        "/seqlen_" + std::to_string(seqlen) + (train ? "/forward_backward" : "/forward"))
                                           .c_str(),
                                       block, large, precision, seqlen, train)
              ->Unit(benchmark::kMillisecond)
              ->UseRealTime();
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  register_products();
  register_blocks();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
