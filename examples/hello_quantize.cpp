// The library in one screen: a matrix of weights to 4-bit codes and back, what it cost, and the codes packed as a GPTQ checkpoint stores them.
#include <ar/pack.hpp>
#include <ar/quantize.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  const std::size_t rows = 64, cols = 256;
  std::vector<float> w(rows * cols);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = 0.05f * std::sin(0.7f * static_cast<float>(i * i % 1009));

  // A scheme names the data type and the group size. Named ones are the field's presets; any other is spelled out, static or dynamic:
  //   ar::scheme<ar::int_asym<3>, ar::group<64>>     ar::scheme{ar::int_sym<2>{}, ar::group(user_choice)}
  const ar::W4A16G64 scheme;

  const std::size_t groups = cols / 64;
  std::vector<std::uint8_t> code(w.size());
  std::vector<float> scale(rows * groups), back(w.size());
  ar::errc error = ar::quantize(scheme, {w.data(), rows, cols}, {code.data(), rows, cols}, {scale.data(), rows, groups});
  if (error == ar::errc::ok) error = ar::dequantize(scheme, {code.data(), rows, cols}, {scale.data(), rows, groups}, {}, {back.data(), rows, cols});
  if (error != ar::errc::ok) {
    std::printf("%s\n", ar::message(error));
    return 1;
  }

  double noise = 0.0, power = 0.0;
  for (std::size_t i = 0; i < w.size(); ++i) {
    noise += static_cast<double>(w[i] - back[i]) * static_cast<double>(w[i] - back[i]);
    power += static_cast<double>(w[i]) * static_cast<double>(w[i]);
  }
  std::printf("first weights   %8.5f %8.5f %8.5f %8.5f\n", static_cast<double>(w[0]), static_cast<double>(w[1]), static_cast<double>(w[2]), static_cast<double>(w[3]));
  std::printf("their codes     %8d %8d %8d %8d   (8 is zero)\n", code[0], code[1], code[2], code[3]);
  std::printf("what returns    %8.5f %8.5f %8.5f %8.5f\n", static_cast<double>(back[0]), static_cast<double>(back[1]), static_cast<double>(back[2]), static_cast<double>(back[3]));
  std::printf("noise is %.2f %% of the signal's power\n", 100.0 * noise / power);

  const std::size_t word_rows = ar::gptq_int32::packed_rows(rows, cols, 4);
  std::vector<std::uint32_t> qweight(word_rows * rows);
  error = ar::pack(ar::gptq_int32{}, 4, {code.data(), rows, cols}, {qweight.data(), word_rows, rows});
  if (error != ar::errc::ok) return 1;
  std::printf("%zu bytes of float are %zu bytes of words and %zu bytes of half-precision scales\n", w.size() * sizeof(float), qweight.size() * 4, scale.size() * 2);
}
