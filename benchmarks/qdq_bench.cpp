// links: ar_dispatch
// How fast are fit, quantize, dequantize and qdq of the range types beside copying memory and the float lane, in the same run? Bytes are those that
// must be read and written once: qdq 8 bytes a weight like memcpy of floats, quantize 5, dequantize 5, fit 4. One thread.
#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "aligned.hpp"
#include "ar/dispatch.hpp"
#include "support/float_lane.hpp"

namespace {

struct data {
  std::size_t rows, cols, bands, groups;
  aligned<float> w, out, scale, zero;
  aligned<std::uint8_t> code;

  data(std::size_t r, std::size_t c, ar::group_shape group)
      : rows(r), cols(c), bands(ar::ceil_div(r, static_cast<std::size_t>(group.rows))),
        groups(group.size < 0 ? 1 : ar::ceil_div(c, static_cast<std::size_t>(group.size))), w(r * c), out(r * c), scale(bands * groups), zero(bands * groups),
        code(r * c) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, 0.05f);
    for (std::size_t i = 0; i < w.size(); ++i) w.data()[i] = normal(random);
  }
  ar::matrix_view<const float> in() { return {w.data(), rows, cols}; }
  ar::matrix_view<float> result() { return {out.data(), rows, cols}; }
  ar::matrix_view<std::uint8_t> codes() { return {code.data(), rows, cols}; }
  ar::matrix_view<float> scales() { return {scale.data(), bands, groups}; }
  ar::matrix_view<float> zeros() { return {zero.data(), bands, groups}; }
};

void report(benchmark::State& state, data& d, int bytes_per_weight) {
  const auto weights = static_cast<std::int64_t>(d.w.size()) * static_cast<std::int64_t>(state.iterations());
  state.SetBytesProcessed(weights * bytes_per_weight);
  state.SetItemsProcessed(weights);
}

enum class what { fit, quantize, dequantize, qdq };

void run(benchmark::State& state, const ar::range_kernels& k, what operation, ar::group_shape group, std::size_t rows, std::size_t cols) {
  data d(rows, cols, group);
  ar::type_values type(k.fixed_bits() != 0 ? k.fixed_bits() : 4);
  if (k.two_level()) type.tensor.maximum = 0.3f;
  bool ok = k.quantize(type, group, d.in(), d.codes(), d.scales(), d.zeros()) == ar::errc::ok;
  for (auto _ : state) {
    switch (operation) {
      case what::fit: ok &= k.fit(type, group, d.in(), d.scales(), d.zeros()) == ar::errc::ok; break;
      case what::quantize: ok &= k.quantize(type, group, d.in(), d.codes(), d.scales(), d.zeros()) == ar::errc::ok; break;
      case what::dequantize: ok &= k.dequantize(type, group, d.codes(), d.scales(), d.zeros(), d.result()) == ar::errc::ok; break;
      case what::qdq: ok &= k.qdq(type, group, d.in(), d.result()) == ar::errc::ok; break;
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
    // Every type of the registry that computes in float32, with scales in half precision where the type leaves the choice, in groups that it is used with.
    const auto lane = support::float_lane();
    for (std::size_t number = 0; number < lane.size(); ++number) {
      const ar::range_kernels *best = ar::kernels().range_types + number, scalar = lane[number];
      if (best->weight_format != ar::real::f32 || (best->facts == nullptr && best->scale_format != ar::real::f16)) continue;
      const int group = best->two_level() ? 16 : 32;
      for (const auto& [operation, name] :
           {std::pair{what::qdq, "qdq"}, {what::fit, "fit"}, {what::quantize, "quantize"}, {what::dequantize, "dequantize"}}) {
        const std::string label = std::string(name) + "/" + best->name + "/g" + std::to_string(group) + "/" + s.name + "/";
        benchmark::RegisterBenchmark((label + ar::kernels().target).c_str(),
                                     [=, op = operation](benchmark::State& st) { run(st, *best, op, group, s.rows, s.cols); });
        benchmark::RegisterBenchmark((label + "float").c_str(),
                                     [=, op = operation](benchmark::State& st) { run(st, scalar, op, group, s.rows, s.cols); });
      }
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
