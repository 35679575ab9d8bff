// A project that includes the library: four weights to codes and back.
#include <ar/quantize.hpp>
#include <cstdio>

int main() {
  const float w[8] = {0.11f, -0.52f, 0.34f, 0.90f, -0.75f, 0.03f, 0.66f, -0.21f};
  unsigned char code[8];
  float scale[1], back[8];
  const ar::scheme<ar::int_sym<4>, ar::group<-1>> scheme;
  if (ar::quantize(scheme, {w, 1, 8}, {code, 1, 8}, {scale, 1, 1}) != ar::errc::ok) return 1;
  if (ar::dequantize(scheme, {code, 1, 8}, {scale, 1, 1}, {}, {back, 1, 8}) != ar::errc::ok) return 1;
  for (int i = 0; i < 8; ++i) std::printf("%6.3f -> %2d -> %6.3f\n", static_cast<double>(w[i]), code[i], static_cast<double>(back[i]));
}
