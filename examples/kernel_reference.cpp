// How an author of kernels uses the library as the reference: blocks that ar made are decoded by the kernel under test and by ar, and every bit is
// compared. Two kernels for Q4_K are tried here. The first has a bug that survives many tests with random bytes looked at by eye: it forgets that the
// last four scales and minima of a block keep their upper two bits elsewhere. The second has it right.
#include <ar/gguf.hpp>
#include <ar/numeric/half.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <vector>

namespace {

// ---- the kernels under test ----

struct q4_k_block {  // the layout of ggml: 256 weights in 144 bytes
  std::uint16_t d, dmin;
  std::uint8_t scales[12];
  std::uint8_t codes[128];
};

/// Six bits of scale and of minimum for sub-block j of 8.
using scale_min = void (*)(const std::uint8_t* s, int j, int& scale, int& minimum);

void scale_min_wrong(const std::uint8_t* s, int j, int& scale, int& minimum) {
  scale = j < 4 ? s[j] & 63 : s[j + 4] & 15;
  minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4;
}

void scale_min_right(const std::uint8_t* s, int j, int& scale, int& minimum) {
  scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6 << 4);
  minimum = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6 << 4);
}

void dequantize_q4_k(const q4_k_block* blocks, std::size_t count, scale_min unpack, float* out) {
  for (std::size_t b = 0; b < count; ++b)
    for (int j = 0; j < 8; ++j) {
      int scale = 0, minimum = 0;
      unpack(blocks[b].scales, j, scale, minimum);
      const float d = ar::f32_from_f16(blocks[b].d) * static_cast<float>(scale), m = ar::f32_from_f16(blocks[b].dmin) * static_cast<float>(minimum);
      for (int i = 0; i < 32; ++i) {
        const int byte = blocks[b].codes[j / 2 * 32 + i];
        *out++ = d * static_cast<float>(j % 2 == 0 ? byte & 15 : byte >> 4) - m;
      }
    }
}

// ---- the comparison ----

/// Floats between two numbers; the same measure for all magnitudes.
std::int64_t ulps(float a, float b) {
  const auto place = [](float x) {
    const auto bits = std::bit_cast<std::int32_t>(x);
    return static_cast<std::int64_t>(bits < 0 ? std::int64_t{INT32_MIN} - bits : bits);
  };
  return std::llabs(place(a) - place(b));
}

/// Prints where `got` is not `want`, bit for bit: how many, the first ones, and which part of a block they lie in. True if all are equal.
bool report(const char* kernel, std::span<const float> want, std::span<const float> got, std::size_t cols, std::size_t block, std::size_t part) {
  std::vector<std::size_t> wrong_in_part(block / part);
  std::size_t wrong = 0;
  std::int64_t worst = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (std::bit_cast<std::uint32_t>(want[i]) == std::bit_cast<std::uint32_t>(got[i])) continue;
    if (wrong == 0) std::printf("%s: differs from the reference\n  row block position       want          got      bits wanted / got     ulps\n", kernel);
    if (wrong < 4)
      std::printf("  %3zu %5zu %8zu  %+12.6e %+12.6e  %08x %08x  %8lld\n", i / cols, i % cols / block, i % block, static_cast<double>(want[i]),
                  static_cast<double>(got[i]), std::bit_cast<std::uint32_t>(want[i]), std::bit_cast<std::uint32_t>(got[i]), static_cast<long long>(ulps(want[i], got[i])));
    worst = std::max(worst, ulps(want[i], got[i]));
    ++wrong_in_part[i % block / part];
    ++wrong;
  }
  if (wrong == 0) {
    std::printf("%s: the same bits in all %zu values\n", kernel, want.size());
    return true;
  }
  std::printf("  %zu of %zu values, at most %lld ulps; by part of the block:", wrong, want.size(), static_cast<long long>(worst));
  for (std::size_t p = 0; p < wrong_in_part.size(); ++p) std::printf(" %zu-%zu: %zu", p * part, (p + 1) * part - 1, wrong_in_part[p]);
  std::printf("\n");
  return false;
}

}  // namespace

int main() {
  // Weights whose magnitude changes from sub-block to sub-block, so that scales use all their bits.
  const std::size_t rows = 4, cols = 512;
  std::vector<float> w(rows * cols), want(w.size()), got(w.size());
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = 0.02f * static_cast<float>(1 + i / 32 % 7) * std::sin(0.7f * static_cast<float>(i * i % 1009));

  std::vector<q4_k_block> blocks(w.size() / 256);
  const std::span bytes(reinterpret_cast<std::uint8_t*>(blocks.data()), blocks.size() * sizeof(q4_k_block));
  ar::errc error = ar::quantize_gguf<ar::q4_k>({w.data(), rows, cols}, {}, bytes);
  if (error == ar::errc::ok) error = ar::dequantize_gguf<ar::q4_k>(bytes, {want.data(), rows, cols});
  if (error != ar::errc::ok) {
    std::printf("%s\n", ar::message(error));
    return 1;
  }

  dequantize_q4_k(blocks.data(), blocks.size(), scale_min_wrong, got.data());
  const bool wrong_found = !report("first kernel", want, got, cols, 256, 32);
  dequantize_q4_k(blocks.data(), blocks.size(), scale_min_right, got.data());
  const bool right_passes = report("second kernel", want, got, cols, 256, 32);
  return wrong_found && right_passes ? 0 : 1;
}
