// links: ar_dispatch
// How fast does every codec pack and unpack, with the kernels of this machine's best SIMD target and with the plain code, beside copying the codes,
// in the same run? Codecs and widths come from the registry. `of_memcpy` is the CPU time of copying the codes (a byte each) over that of packing or
// unpacking them; `codes` are codes a second. One thread.
#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "aligned.hpp"
#include "ar/dispatch.hpp"
#include "ar/pack.hpp"

namespace {

struct shape {
  const char* name;
  std::size_t rows, cols;
};

double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// Seconds that memcpy needs for this many bytes: the best of several tries.
double copy_seconds(std::size_t bytes) {
  aligned<std::uint8_t> in(bytes), out(bytes);
  const int copies = static_cast<int>(std::max<std::size_t>(1, (std::size_t{64} << 20) / bytes));
  double best = 1e9;
  for (int i = 0; i < 7; ++i) {
    const double begin = cpu_seconds();
    for (int k = 0; k < copies; ++k) {
      std::memcpy(out.data(), in.data(), bytes);
      benchmark::ClobberMemory();
    }
    best = std::min(best, (cpu_seconds() - begin) / copies);
  }
  return best;
}

template <class Word>
using pack_call = ar::errc (*)(int, ar::matrix_view<const std::uint8_t>, ar::matrix_view<Word>) noexcept;
template <class Word>
using unpack_call = ar::errc (*)(int, ar::matrix_view<const Word>, ar::matrix_view<std::uint8_t>) noexcept;

template <class Word>
void run(benchmark::State& state, pack_call<Word> pack, unpack_call<Word> unpack, bool packs, ar::matrix_shape packed, int bits, std::size_t rows,
         std::size_t cols) {
  std::mt19937 random(1);
  aligned<std::uint8_t> code(rows * cols);
  for (std::size_t i = 0; i < code.size(); ++i) code.data()[i] = static_cast<std::uint8_t>(random() & ((1u << bits) - 1));
  aligned<Word> words(packed.rows * packed.cols);
  bool ok = pack(bits, {code.data(), rows, cols}, {words.data(), packed.rows, packed.cols}) == ar::errc::ok;
  const double copy = copy_seconds(code.size());
  double best = 1e9;
  for (auto _ : state) {
    const double begin = cpu_seconds();
    constexpr int repeat = 8;
    for (int i = 0; i < repeat; ++i) {
      ok &= (packs ? pack(bits, {code.data(), rows, cols}, {words.data(), packed.rows, packed.cols})
                   : unpack(bits, {words.data(), packed.rows, packed.cols}, {code.data(), rows, cols})) == ar::errc::ok;
      benchmark::ClobberMemory();
    }
    best = std::min(best, (cpu_seconds() - begin) / repeat);
  }
  if (!ok) state.SkipWithError("the codec returned an error");
  state.counters["of_memcpy"] = copy / best;
  state.counters["codes"] = static_cast<double>(code.size()) / best;
}

}  // namespace

int main(int argc, char** argv) {
  const ar::kernel_table& best = ar::kernels();
  for (const shape& s : {shape{"cache 128x1024", 128, 1024}, shape{"memory 4096x4096", 4096, 4096}})
    for (const ar::codec_kernels& plain : ar::codecs())
      for (int bits = 1; bits <= 8; ++bits) {
        const ar::matrix_shape packed = plain.packed_shape(bits, s.rows, s.cols);
        if (packed == ar::matrix_shape()) continue;
        for (const bool packs : {true, false})
          for (const ar::codec_kernels* k : {best.codec(plain.name), &plain})
            benchmark::RegisterBenchmark(((packs ? "pack/" : "unpack/") + std::string(k->name) + "/" + std::to_string(bits) + "/" + s.name +
                                          (k == &plain ? "/plain" : "/") + (k == &plain ? "" : best.target))
                                             .c_str(),
                                         [=](benchmark::State& st) {
                                           if (k->pack_words != nullptr)
                                             run<std::uint32_t>(st, k->pack_words, k->unpack_words, packs, packed, bits, s.rows, s.cols);
                                           if (k->pack_bytes != nullptr)
                                             run<std::uint8_t>(st, k->pack_bytes, k->unpack_bytes, packs, packed, bits, s.rows, s.cols);
                                         });
      }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
