// How fast are codes packed to GPTQ words and back, beside copying the codes and a plain loop over the definition, in the same run? Bytes are
// those that must be read and written once: 1 + bits / 8 a code (memcpy: 2). One thread.
#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ar/pack.hpp"

namespace {

struct data {
  std::size_t rows, cols, bits, word_rows;
  std::vector<std::uint8_t> code;
  std::vector<std::uint32_t> words;
  data(std::size_t r, std::size_t c, std::size_t b) : rows(r), cols(c), bits(b), word_rows(c / 32 * b), code(r * c), words(word_rows * r) {
    std::mt19937 random(1);
    for (auto& x : code) x = static_cast<std::uint8_t>(random() & ((1u << b) - 1));
  }
};

void report(benchmark::State& state, const data& d, double bytes_per_code) {
  const auto codes = static_cast<double>(d.code.size()) * static_cast<double>(state.iterations());
  state.SetBytesProcessed(static_cast<std::int64_t>(codes * bytes_per_code));
  state.SetItemsProcessed(static_cast<std::int64_t>(codes));
}

void pack(benchmark::State& state, std::size_t rows, std::size_t cols, std::size_t bits) {
  data d(rows, cols, bits);
  bool ok = true;
  for (auto _ : state) {
    ok &= ar::pack(ar::gptq_int32{}, static_cast<int>(bits), {d.code.data(), rows, cols}, {d.words.data(), d.word_rows, rows}) == ar::errc::ok;
    benchmark::ClobberMemory();
  }
  if (!ok) state.SkipWithError("pack returned an error");
  report(state, d, 1.0 + static_cast<double>(bits) / 8);
}

void unpack(benchmark::State& state, std::size_t rows, std::size_t cols, std::size_t bits) {
  data d(rows, cols, bits);
  bool ok = true;
  for (auto _ : state) {
    ok &= ar::unpack(ar::gptq_int32{}, static_cast<int>(bits), {d.words.data(), d.word_rows, rows}, {d.code.data(), rows, cols}) == ar::errc::ok;
    benchmark::ClobberMemory();
  }
  if (!ok) state.SkipWithError("unpack returned an error");
  report(state, d, 1.0 + static_cast<double>(bits) / 8);
}

/// One code after the other, as the definition says it.
void pack_plainly(benchmark::State& state, std::size_t rows, std::size_t cols, std::size_t bits) {
  data d(rows, cols, bits);
  for (auto _ : state) {
    std::fill(d.words.begin(), d.words.end(), 0u);
    for (std::size_t n = 0; n < rows; ++n)
      for (std::size_t k = 0; k < cols; ++k) {
        const std::size_t bit = k * bits, word = bit / 32, shift = bit % 32;
        const std::uint64_t value = static_cast<std::uint64_t>(d.code[n * cols + k]) << shift;
        d.words[word * rows + n] |= static_cast<std::uint32_t>(value);
        if (shift + bits > 32) d.words[(word + 1) * rows + n] |= static_cast<std::uint32_t>(value >> 32);
      }
    benchmark::ClobberMemory();
  }
  report(state, d, 1.0 + static_cast<double>(bits) / 8);
}

void copy(benchmark::State& state, std::size_t rows, std::size_t cols) {
  data d(rows, cols, 8);
  std::vector<std::uint8_t> out(d.code.size());
  for (auto _ : state) {
    std::memcpy(out.data(), d.code.data(), out.size());
    benchmark::ClobberMemory();
  }
  report(state, d, 2.0);
}

}  // namespace

int main(int argc, char** argv) {
  struct shape {
    const char* name;
    std::size_t rows, cols;
  };
  for (const shape& s : {shape{"cache 256x1024", 256, 1024}, shape{"memory 4096x4096", 4096, 4096}}) {
    benchmark::RegisterBenchmark((std::string("memcpy/") + s.name).c_str(), [s](benchmark::State& st) { copy(st, s.rows, s.cols); });
    for (const std::size_t bits : {2u, 3u, 4u, 8u}) {
      const std::string label = "/gptq" + std::to_string(bits) + "/" + s.name;
      benchmark::RegisterBenchmark(("pack" + label).c_str(), [=](benchmark::State& st) { pack(st, s.rows, s.cols, bits); });
      benchmark::RegisterBenchmark(("unpack" + label).c_str(), [=](benchmark::State& st) { unpack(st, s.rows, s.cols, bits); });
      benchmark::RegisterBenchmark(("pack_plainly" + label).c_str(), [=](benchmark::State& st) { pack_plainly(st, s.rows, s.cols, bits); });
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
