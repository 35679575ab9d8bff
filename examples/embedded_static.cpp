// Quantization while compiling, and a matrix-vector product on a microcontroller: a layer of a network becomes 4-bit codes in read-only memory;
// the float weights never reach the device. Compiles for any machine, also freestanding:
//   arm-none-eabi-g++ -std=c++20 -Os -mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard -ffreestanding -fno-exceptions -fno-rtti
//     -ffp-contract=off -DAR_NO_HIGHWAY -Iinclude -c examples/embedded_static.cpp
#include <ar/quantize.hpp>

namespace {

constexpr int rows = 4, cols = 32;
constexpr ar::scheme<ar::int_sym<4>, ar::group<32>> scheme;

// The layer, as a training script might write it.
constexpr float weight(int r, int c) { return static_cast<float>((r * 37 + c * 11) % 29 - 14) * 0.01f; }

struct layer {
  std::uint8_t nibbles[rows][cols / 2] = {};  // two codes a byte, the first one low
  float scale[rows] = {};
};

constexpr layer make_layer() {
  float w[rows * cols] = {};
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < cols; ++c) w[r * cols + c] = weight(r, c);
  std::uint8_t code[rows * cols] = {};
  layer l;
  if (ar::quantize(scheme, {w, rows, cols}, {code, rows, cols}, {l.scale, rows, 1}) != ar::errc::ok) return {};
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < cols / 2; ++i) l.nibbles[r][i] = static_cast<std::uint8_t>(code[r * cols + 2 * i] | code[r * cols + 2 * i + 1] << 4);
  return l;
}

// Quantized by the compiler: `constinit` data in flash, no code.
constexpr layer quantized = make_layer();
static_assert(quantized.scale[0] == -ar::round_to_f16(0.14f / 8));  // the positive side is the larger one: the scale is negative
static_assert((quantized.nibbles[0][0] & 15) == 15 && quantized.nibbles[0][0] >> 4 == 10);
static_assert(sizeof(quantized) == rows * (cols / 2 + sizeof(float)));

}  // namespace

/// y = W x with the weights in 4 bits.
extern "C" void layer_forward(const float* x, float* y) {
  for (int r = 0; r < rows; ++r) {
    float sum = 0.0f;
    for (int i = 0; i < cols / 2; ++i) {
      sum += x[2 * i] * static_cast<float>((quantized.nibbles[r][i] & 15) - 8);
      sum += x[2 * i + 1] * static_cast<float>((quantized.nibbles[r][i] >> 4) - 8);
    }
    y[r] = sum * quantized.scale[r];
  }
}

/// The same library at run time on the device, for weights that arrive there: in place, no heap. 0 if all went well.
extern "C" int layer_qdq(float* w) { return static_cast<int>(ar::qdq(scheme, {w, rows, cols}, {w, rows, cols})); }

#if __STDC_HOSTED__
#include <cstdio>
int main() {
  float x[cols], y[rows];
  for (int c = 0; c < cols; ++c) x[c] = static_cast<float>(c % 5) - 2.0f;
  layer_forward(x, y);
  std::printf("%d x %d weights in %zu bytes instead of %zu\n", rows, cols, sizeof(quantized), sizeof(float) * rows * cols);
  for (int r = 0; r < rows; ++r) {
    float exact = 0.0f;
    for (int c = 0; c < cols; ++c) exact += x[c] * weight(r, c);
    std::printf("y[%d] = %7.4f, with float weights %7.4f\n", r, static_cast<double>(y[r]), static_cast<double>(exact));
  }
}
#endif
