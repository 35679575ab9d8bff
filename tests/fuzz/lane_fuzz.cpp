// links: ar_dispatch
// runs: 1500
// Every data type on any floats: each SIMD target gives the error, the codes, the parameters and the weights that the float lane gives, bit for bit.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "ar/gguf.hpp"
#include "support/float_lane.hpp"
#include "support/fuzz_bytes.hpp"

namespace {

using support::must;

struct source : support::fuzz_bytes {
  /// Floats as they lie in the bytes, halves, or small whole numbers. Few inputs would be finite otherwise.
  std::vector<float> floats(std::size_t n) {
    std::vector<float> v(n);
    const std::size_t kind = below(8);
    for (float& x : v) {
      std::uint32_t bits = byte() | static_cast<std::uint32_t>(byte()) << 8;
      if (kind < 3) {
        bits |= static_cast<std::uint32_t>(byte()) << 16 | static_cast<std::uint32_t>(byte()) << 24;
        if (kind != 0) bits &= 0xBFFFFFFFu;  // below 2 in magnitude
        std::memcpy(&x, &bits, 4);
      } else if (kind < 6) {
        x = ar::f32_from_f16(static_cast<std::uint16_t>(kind == 3 ? bits : bits & 0xBFFFu));
      } else {
        x = static_cast<float>(static_cast<std::int16_t>(bits)) * (kind == 6 ? 0x1p-8f : 0x1p-18f);
      }
    }
    return v;
  }
};

/// Equal bits, or both NaN.
void same(const std::vector<float>& a, const std::vector<float>& b) {
  must(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) must(std::memcmp(&a[i], &b[i], 4) == 0 || (std::isnan(a[i]) && std::isnan(b[i])));
}

struct result {
  ar::errc fit, quantize, encode, dequantize, qdq;
  std::vector<float> fit_scale, fit_zero, scale, zero, decoded, fake;
  std::vector<std::uint8_t> code, encoded;
};

result run(const ar::range_kernels& k, const ar::type_values& v, ar::group_shape group, const std::vector<float>& w, std::size_t rows,
           std::size_t cols) {
  const std::size_t bands = group.size == 0 ? 1 : ar::ceil_div(rows, static_cast<std::size_t>(group.rows));
  const std::size_t groups = group.size <= 0 ? 1 : ar::ceil_div(cols, static_cast<std::size_t>(group.size));
  result r{};
  for (auto* p : {&r.fit_scale, &r.fit_zero, &r.scale, &r.zero}) p->assign(bands * groups, 5.0f);
  for (auto* p : {&r.decoded, &r.fake}) p->assign(w.size(), 5.0f);
  for (auto* p : {&r.code, &r.encoded}) p->assign(w.size(), 5);
  const auto numbers = [&](std::vector<float>& x) { return ar::matrix_view<float>(x.data(), bands, groups); };
  const ar::matrix_view<const float> in(w.data(), rows, cols);
  r.fit = k.fit(v, group, in, numbers(r.fit_scale), numbers(r.fit_zero));
  r.quantize = k.quantize(v, group, in, {r.code.data(), rows, cols}, numbers(r.scale), numbers(r.zero));
  r.encode = k.encode(v, group, in, numbers(r.scale), numbers(r.zero), {r.encoded.data(), rows, cols});
  r.dequantize = k.dequantize(v, group, ar::matrix_view<const std::uint8_t>(r.code.data(), rows, cols), numbers(r.scale), numbers(r.zero),
                              {r.decoded.data(), rows, cols});
  r.qdq = k.qdq(v, group, in, {r.fake.data(), rows, cols});
  return r;
}

void range_type(source& in) {
  static const std::vector<ar::range_kernels> lane = support::float_lane();
  const std::size_t number = in.below(lane.size());
  const ar::range_kernels& k = lane[number];
  const int bits = k.fixed_bits() != 0 ? k.fixed_bits() : 2 + static_cast<int>(in.below(7));
  const ar::group_shape groups[] = {32, 16, 7, -1, 0, 128, {8, 3}, {16, 2}};
  const ar::group_shape group = groups[in.below(8)];
  const std::size_t rows = 1 + in.below(5), cols = 1 + in.below(100);
  std::vector<float> w = in.floats(rows * cols);
  for (float& x : w) x = k.weight_format == ar::real::f16 ? ar::round_to_f16(x) : k.weight_format == ar::real::bf16 ? ar::round_to_bf16(x) : x;
  ar::type_values v(bits);
  if (k.two_level() || in.below(8) == 0) {
    v.tensor.maximum = 0.0f;
    for (const float x : w)
      if (std::abs(x) < INFINITY) v.tensor.maximum = std::max(v.tensor.maximum, std::abs(x));
  }
  const result want = run(k, v, group, w, rows, cols);
  const ar::kernel_table* tables[16] = {};
  const std::size_t count = ar::all_kernels(tables, 16);
  for (std::size_t t = 0; t < count; ++t) {
    const result got = run(tables[t]->range_types[number], v, group, w, rows, cols);
    must(got.fit == want.fit && got.quantize == want.quantize && got.encode == want.encode && got.dequantize == want.dequantize &&
         got.qdq == want.qdq);
    same(got.fit_scale, want.fit_scale);
    same(got.fit_zero, want.fit_zero);
    same(got.scale, want.scale);
    same(got.zero, want.zero);
    same(got.decoded, want.decoded);
    same(got.fake, want.fake);
    must(got.code == want.code && got.encoded == want.encoded);
  }
}

void gguf_type(source& in) {
  const auto lane = ar::gguf::kernel_table<float>();
  const std::size_t number = in.below(lane.size());
  const ar::gguf_kernels& k = lane[number];
  const std::size_t rows = 1 + in.below(2), cols = k.block_elements * (1 + in.below(k.block_elements == 256 ? 2 : 12));
  const std::vector<float> w = in.floats(rows * cols);
  std::vector<float> importance;
  if (in.below(2) == 0) {
    importance = in.floats(cols);
    for (float& x : importance) x = std::abs(x);
  }
  std::vector<std::uint8_t> any(rows * cols / k.block_elements * k.block_bytes), want(any.size(), 5), got;
  for (auto& b : any) b = in.byte();
  std::vector<float> decoded(w.size(), 5.0f), again;
  const ar::errc e = k.quantize({w.data(), rows, cols}, importance, want);
  must(k.dequantize(any, {decoded.data(), rows, cols}) == ar::errc::ok);
  const bool finite = k.scales_are_finite(any);
  const ar::kernel_table* tables[16] = {};
  const std::size_t count = ar::all_kernels(tables, 16);
  for (std::size_t t = 0; t < count; ++t) {
    const ar::gguf_kernels& x = tables[t]->gguf_types()[number];
    got.assign(any.size(), 5);
    again.assign(w.size(), 5.0f);
    must(x.quantize({w.data(), rows, cols}, importance, got) == e);
    must(got == want);
    must(x.dequantize(any, {again.data(), rows, cols}) == ar::errc::ok);
    same(again, decoded);
    must(x.scales_are_finite(any) == finite);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  source in{data, size};
  if (in.below(4) == 0) {
    gguf_type(in);
  } else {
    range_type(in);
  }
  return 0;
}
