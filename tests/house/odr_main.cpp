// Both units give the same bits.
#include <ar/errc.hpp>
#include <ar/view.hpp>
#include <cstdio>
#include <cstring>

ar::errc quantize_low(ar::matrix_view<const float> w, ar::matrix_view<float> out);
ar::errc quantize_high(ar::matrix_view<const float> w, ar::matrix_view<float> out);

int main() {
  float w[4 * 96], low[4 * 96], high[4 * 96];
  unsigned x = 1;
  for (float& v : w) {
    x = x * 1664525u + 1013904223u;
    v = static_cast<float>(static_cast<int>(x >> 8) - (1 << 23)) * 0x1p-24f;
  }
  const ar::matrix_view<const float> in(w, 4, 96);
  if (quantize_low(in, {low, 4, 96}) != ar::errc::ok || quantize_high(in, {high, 4, 96}) != ar::errc::ok) return 1;
  if (std::memcmp(low, high, sizeof low) != 0) return 2;
  std::puts("units of different instruction sets link and agree");
}
