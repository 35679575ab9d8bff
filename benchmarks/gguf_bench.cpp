// links: ar_dispatch ${CMAKE_DL_LIBS}
// How fast are GGUF blocks made and read, in bytes of float32 per second on one thread? Each type plain, with an importance matrix, and decoded;
// on the best SIMD target, on the float lane ("scalar"), and by ggml itself where AR_GGML names its library (libggml-base.so of the PyPI package
// llama-cpp-python). memcpy of the same matrix is the floor.
//   gguf_bench --benchmark_min_time=0.2 --benchmark_filter=q4_k
#include <benchmark/benchmark.h>
#include <dlfcn.h>

#include <ar/dispatch.hpp>
#include <ar/gguf.hpp>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr std::size_t rows = 64, cols = 4096;

const std::vector<float>& weights() {
  static const std::vector<float> w = [] {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, 0.02f);
    std::vector<float> v(rows * cols);
    for (float& x : v) x = normal(random);
    return v;
  }();
  return w;
}
const std::vector<float>& importance() {
  static const std::vector<float> w = [] {
    std::mt19937 random(2);
    std::lognormal_distribution<float> normal(0.0f, 1.0f);
    std::vector<float> v(cols);
    for (float& x : v) x = normal(random);
    return v;
  }();
  return w;
}

void count(benchmark::State& state) {
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(rows * cols * sizeof(float)));
}

void encode(benchmark::State& state, const ar::gguf_kernels* k, bool weighted) {
  std::vector<std::uint8_t> bytes(rows * cols / k->block_elements * k->block_bytes);
  const std::span<const float> im = weighted ? std::span<const float>(importance()) : std::span<const float>{};
  for (auto _ : state) {
    if (k->quantize({weights().data(), rows, cols}, im, bytes) != ar::errc::ok) state.SkipWithError("refused");
    benchmark::DoNotOptimize(bytes.data());
  }
  count(state);
}

void search(benchmark::State& state, const ar::gguf_kernels* k, bool weighted) {
  std::vector<float> scale(rows * cols / k->group_size), offset(scale.size()), d(rows * cols / 256), dm(d.size());
  const std::span<const float> im = weighted ? std::span<const float>(importance()) : std::span<const float>{};
  for (auto _ : state)
    if (k->search({weights().data(), rows, cols}, im, {}, {}, {scale.data(), offset.data(), d.data(), dm.data()}) != ar::errc::ok) state.SkipWithError("refused");
  count(state);
}

void decode(benchmark::State& state, const ar::gguf_kernels* k) {
  std::vector<std::uint8_t> bytes(rows * cols / k->block_elements * k->block_bytes);
  std::vector<float> out(rows * cols);
  if (k->quantize({weights().data(), rows, cols}, {}, bytes) != ar::errc::ok) state.SkipWithError("refused");
  for (auto _ : state) {
    if (k->dequantize(bytes, {out.data(), rows, cols}) != ar::errc::ok) state.SkipWithError("refused");
    benchmark::DoNotOptimize(out.data());
  }
  count(state);
}

void copy(benchmark::State& state) {
  std::vector<float> out(rows * cols);
  for (auto _ : state) {
    std::memcpy(out.data(), weights().data(), out.size() * sizeof(float));
    benchmark::DoNotOptimize(out.data());
  }
  count(state);
}

using quantize_chunk = std::size_t (*)(int, const float*, void*, std::int64_t, std::int64_t, std::int64_t, const float*);
using dequantize_row = void (*)(const void*, float*, std::int64_t);

void rival_encode(benchmark::State& state, quantize_chunk f, const ar::gguf_kernels* k, bool weighted) {
  std::vector<std::uint8_t> bytes(rows * cols / k->block_elements * k->block_bytes);
  for (auto _ : state) {
    f(static_cast<int>(k->id), weights().data(), bytes.data(), 0, rows, cols, weighted ? importance().data() : nullptr);
    benchmark::DoNotOptimize(bytes.data());
  }
  count(state);
}
void rival_decode(benchmark::State& state, dequantize_row f, const ar::gguf_kernels* k) {
  std::vector<std::uint8_t> bytes(rows * cols / k->block_elements * k->block_bytes);
  std::vector<float> out(rows * cols);
  if (k->quantize({weights().data(), rows, cols}, {}, bytes) != ar::errc::ok) state.SkipWithError("refused");
  for (auto _ : state) {
    f(bytes.data(), out.data(), static_cast<std::int64_t>(out.size()));
    benchmark::DoNotOptimize(out.data());
  }
  count(state);
}

/// ggml's spelling of a type in its function names: q4_k is q4_K.
std::string rival_name(std::string name) {
  if (name.size() > 2 && name.substr(name.size() - 2) == "_k") name.back() = 'K';
  return name;
}

void register_all() {
  benchmark::RegisterBenchmark("memcpy", copy);
  const char* path = std::getenv("AR_GGML");
  void* library = path != nullptr ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
  const auto rival = library != nullptr ? reinterpret_cast<quantize_chunk>(dlsym(library, "ggml_quantize_chunk")) : nullptr;
  const std::span<const ar::gguf_kernels> scalar = ar::gguf::kernel_table<float>();
  for (const ar::gguf_kernels& k : ar::kernels().gguf_types()) {
    const std::string name = k.name;
    const ar::gguf_kernels* slow = nullptr;
    for (const ar::gguf_kernels& s : scalar)
      if (s.id == k.id) slow = &s;
    const std::string simd = ar::kernels().target;
    for (const bool weighted : {false, true}) {  // (ggml aborts on Q8_1 and Q8_K)
      const std::string what = name + (weighted ? "/encode_imatrix/" : "/encode/");
      benchmark::RegisterBenchmark((what + simd).c_str(), encode, &k, weighted);
      benchmark::RegisterBenchmark((what + "scalar").c_str(), encode, slow, weighted);
      if (rival != nullptr && k.id != 9 && k.id != 15) benchmark::RegisterBenchmark((what + "ggml").c_str(), rival_encode, rival, &k, weighted);
    }
    if (k.search != nullptr)
      for (const bool weighted : {false, true})
        benchmark::RegisterBenchmark((name + (weighted ? "/auto_round_search_imatrix/" : "/auto_round_search/") + simd).c_str(), search, &k, weighted);
    benchmark::RegisterBenchmark((name + "/decode/" + simd).c_str(), decode, &k);
    benchmark::RegisterBenchmark((name + "/decode/scalar").c_str(), decode, slow);
    const auto reader =
        library != nullptr ? reinterpret_cast<dequantize_row>(dlsym(library, ("dequantize_row_" + rival_name(name)).c_str())) : nullptr;
    if (reader != nullptr) benchmark::RegisterBenchmark((name + "/decode/ggml").c_str(), rival_decode, reader, &k);
  }
}

}  // namespace

int main(int argc, char** argv) {
  register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
