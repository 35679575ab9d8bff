// links: ar_dispatch
// How fast are fit, quantize, dequantize and qdq of integer types beside copying memory and the float lane, in the same run? Bytes are those that
// must be read and written once: qdq 8 bytes a weight like memcpy of floats, quantize 5, dequantize 5, fit 4. One thread.
#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ar/dispatch.hpp"
#include "ar/quantize.hpp"

namespace {

struct data {
  std::size_t rows, cols, groups;
  std::vector<float> w, out, scale, zero;
  std::vector<std::uint8_t> code;

  data(std::size_t r, std::size_t c, int group)
      : rows(r), cols(c), groups(c / static_cast<std::size_t>(group)), w(r * c), out(r * c), scale(r * groups), zero(r * groups), code(r * c) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, 0.05f);
    for (float& x : w) x = normal(random);
  }
  ar::matrix_view<const float> in() { return {w.data(), rows, cols}; }
  ar::matrix_view<float> result() { return {out.data(), rows, cols}; }
  ar::matrix_view<std::uint8_t> codes() { return {code.data(), rows, cols}; }
  ar::matrix_view<float> scales() { return {scale.data(), rows, groups}; }
  ar::matrix_view<float> zeros() { return {zero.data(), rows, groups}; }
};

void report(benchmark::State& state, const data& d, int bytes_per_weight) {
  const auto weights = static_cast<std::int64_t>(d.w.size()) * static_cast<std::int64_t>(state.iterations());
  state.SetBytesProcessed(weights * bytes_per_weight);
  state.SetItemsProcessed(weights);
}

/// The float lane behind the signatures of a kernel table.
template <class T>
ar::range_kernels float_lane() {
  static const auto type = [](int bits) {
    T t;
    t.width = ar::extent<ar::dynamic>(bits);
    return t;
  };
  using in = ar::matrix_view<const float>;
  using out = ar::matrix_view<float>;
  ar::range_kernels k{};
  k.fit = [](int b, int g, in w, out s, out z) { return ar::rows::fit<T, float>(type(b), g, w, s, z); };
  k.quantize = [](int b, int g, in w, ar::matrix_view<std::uint8_t> c, out s, out z) { return ar::rows::quantize<T, float>(type(b), g, w, c, s, z); };
  k.dequantize = [](int b, int g, ar::matrix_view<const std::uint8_t> c, in s, in z, out o) {
    return ar::rows::dequantize<T, float>(type(b), g, c, s, z, o);
  };
  k.qdq = [](int b, int g, in w, out o) { return ar::rows::qdq<T, float>(type(b), g, w, o); };
  return k;
}

enum class what { fit, quantize, dequantize, qdq };

void run(benchmark::State& state, const ar::range_kernels& k, what operation, int group, std::size_t rows, std::size_t cols) {
  data d(rows, cols, group);
  bool ok = k.quantize(4, group, d.in(), d.codes(), d.scales(), d.zeros()) == ar::errc::ok;
  for (auto _ : state) {
    switch (operation) {
      case what::fit: ok &= k.fit(4, group, d.in(), d.scales(), d.zeros()) == ar::errc::ok; break;
      case what::quantize: ok &= k.quantize(4, group, d.in(), d.codes(), d.scales(), d.zeros()) == ar::errc::ok; break;
      case what::dequantize: ok &= k.dequantize(4, group, d.codes(), d.scales(), d.zeros(), d.result()) == ar::errc::ok; break;
      case what::qdq: ok &= k.qdq(4, group, d.in(), d.result()) == ar::errc::ok; break;
    }
    benchmark::ClobberMemory();
  }
  if (!ok) state.SkipWithError("the kernel returned an error");
  report(state, d, operation == what::qdq ? 8 : operation == what::fit ? 4 : 5);
}

void copy(benchmark::State& state, std::size_t rows, std::size_t cols) {
  data d(rows, cols, 32);
  for (auto _ : state) {
    std::memcpy(d.out.data(), d.w.data(), d.w.size() * sizeof(float));
    benchmark::ClobberMemory();
  }
  report(state, d, 8);
}

}  // namespace

int main(int argc, char** argv) {
  struct shape {
    const char* name;
    std::size_t rows, cols;
  };
  // A matrix that stays in the second-level cache, and one of a 7B model's projections.
  for (const shape& s : {shape{"cache 64x1024", 64, 1024}, shape{"memory 4096x4096", 4096, 4096}}) {
    benchmark::RegisterBenchmark((std::string("memcpy/") + s.name).c_str(), [s](benchmark::State& st) { copy(st, s.rows, s.cols); });
    for (const bool sym : {true, false})
      for (const int group : {32, 128})
        for (const auto& [operation, name] :
             {std::pair{what::qdq, "qdq"}, {what::fit, "fit"}, {what::quantize, "quantize"}, {what::dequantize, "dequantize"}}) {
          const std::string label = std::string(name) + "/" + (sym ? "int4_sym" : "int4_asym") + "/g" + std::to_string(group) + "/" + s.name + "/";
          const ar::range_kernels* best = ar::kernels().range_type(sym ? "int_sym" : "int_asym");
          benchmark::RegisterBenchmark((label + ar::kernels().target).c_str(),
                                       [=, op = operation](benchmark::State& st) { run(st, *best, op, group, s.rows, s.cols); });
          const ar::range_kernels scalar = sym ? float_lane<ar::int_sym<>>() : float_lane<ar::int_asym<>>();
          benchmark::RegisterBenchmark((label + "float").c_str(),
                                       [=, op = operation](benchmark::State& st) { run(st, scalar, op, group, s.rows, s.cols); });
        }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
