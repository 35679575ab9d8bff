// A project that lets the library choose the instruction set at run time.
#include <ar/dispatch.hpp>
#include <cstdint>
#include <cstdio>

int main() {
  const ar::kernel_table& kernels = ar::kernels();
  const ar::range_kernels* int4 = kernels.range_type("int_asym");
  if (int4 == nullptr) return 1;
  const float w[8] = {0.11f, -0.52f, 0.34f, 0.90f, -0.75f, 0.03f, 0.66f, -0.21f};
  std::uint8_t code[8];
  float scale[1], zero_point[1];
  if (int4->quantize(4, -1, {w, 1, 8}, {code, 1, 8}, {scale, 1, 1}, {zero_point, 1, 1}) != ar::errc::ok) return 1;
  std::printf("%s: scale %g, zero point %g\n", kernels.target, static_cast<double>(scale[0]), static_cast<double>(zero_point[0]));
}
