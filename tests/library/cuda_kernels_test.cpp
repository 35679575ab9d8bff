// The kernels of ar/cuda/kernels.cuh run on the host, grid, block and thread emulated, and compared bit for bit with the float lane's row loops. What
// nvcc makes of the same text is compiled and linked by house.cuda where nvcc is found; no GPU is assumed.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "ar/cuda/kernels.cuh"

namespace {

std::vector<float> weights(std::size_t n) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal(0.003f, 0.05f);
  std::vector<float> w(n);
  for (float& x : w) x = normal(random);
  return w;
}
template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/// Grids smaller and larger than the work.
constexpr std::size_t grids[][2] = {{1, 1}, {3, 32}, {64, 128}};

template <class T>
void compare(T type, ar::group_shape group, const char* what) {
  const std::size_t rows = 6, cols = 150;
  const std::vector<float> w = weights(rows * cols);
  const ar::matrix_view<const float> in(w.data(), rows, cols);
  const std::size_t across = group.size == 0 ? 1 : group.size < 0 ? 1 : ar::ceil_div(cols, static_cast<std::size_t>(group.size));
  const std::size_t bands = group.size == 0 ? 1 : ar::ceil_div(rows, static_cast<std::size_t>(group.rows));
  std::vector<std::uint8_t> want_code(w.size());
  std::vector<float> want_scale(bands * across), want_zero(bands * across), want_back(w.size()), want_qdq(w.size());
  const auto parameters = [&](std::vector<float>& p) { return ar::matrix_view<float>(p.data(), bands, across); };
  ASSERT_EQ((ar::rows::quantize<T, float>(type, group, in, {want_code.data(), rows, cols}, parameters(want_scale), parameters(want_zero))),
            ar::errc::ok);
  ASSERT_EQ((ar::rows::dequantize<T, float>(type, group, {want_code.data(), rows, cols}, parameters(want_scale), parameters(want_zero),
                                            {want_back.data(), rows, cols})),
            ar::errc::ok);
  ASSERT_EQ((ar::rows::qdq<T, float>(type, group, in, {want_qdq.data(), rows, cols})), ar::errc::ok);
  for (const auto& [blocks, threads] : grids) {
    std::vector<std::uint8_t> code(w.size());
    std::vector<float> scale(want_scale.size()), zero(want_zero.size()), back(w.size()), qdq(w.size());
    ar::cuda::quantize_kernel<T> q;
    ASSERT_EQ(ar::cuda::prepare(type, group, in, {code.data(), rows, cols}, parameters(scale), parameters(zero), q), ar::errc::ok);
    ar::cuda::emulate(q, blocks, threads);
    ar::cuda::dequantize_kernel<T> d;
    ASSERT_EQ(ar::cuda::prepare(type, group, {code.data(), rows, cols}, parameters(scale), parameters(zero), {back.data(), rows, cols}, d),
              ar::errc::ok);
    ar::cuda::emulate(d, blocks, threads);
    ar::cuda::qdq_kernel<T> f;
    ASSERT_EQ(ar::cuda::prepare(type, group, in, {qdq.data(), rows, cols}, f), ar::errc::ok);
    ar::cuda::emulate(f, blocks, threads);
    EXPECT_TRUE(same(code, want_code) && same(scale, want_scale) && same(zero, want_zero)) << what << ": quantize, " << blocks << " x " << threads;
    EXPECT_TRUE(same(back, want_back)) << what << ": dequantize, " << blocks << " x " << threads;
    EXPECT_TRUE(same(qdq, want_qdq)) << what << ": qdq, " << blocks << " x " << threads;
  }
}

TEST(CudaKernels, RangeTypesGiveTheBitsOfTheFloatLane) {
  compare(ar::int_sym<4>(), 32, "int_sym, groups of 32 and a short one");
  compare(ar::int_asym<3>(), -1, "int_asym, whole rows");
  compare(ar::int_sym<8>(), 0, "int_sym, the whole matrix");
  ar::any_scaled mx;
  mx.the_facts = ar::mxfp4<>::the_facts;
  compare(mx, 32, "mxfp4");
  ar::any_scaled fp8;
  fp8.the_facts = ar::fp8_block<>::the_facts;
  compare(fp8, {64, 4}, "fp8 in tiles");
  ar::any_scaled nv;
  nv.the_facts = ar::nvfp4<>::the_facts;
  nv.the_tensor.maximum = 0.3f;
  compare(nv, 16, "nvfp4");
}

template <class T>
void compare_blocks() {
  const std::size_t rows = 3, cols = 512;
  std::vector<std::uint8_t> blocks(rows * cols / T::block_size * T::block_bytes);
  std::mt19937 random(3);
  for (auto& b : blocks) b = static_cast<std::uint8_t>(random() & 0x3F);  // halves that are finite
  std::vector<float> want(rows * cols), got(rows * cols);
  ASSERT_EQ((ar::rows::dequantize<T, float>(T{}, {blocks.data(), rows, blocks.size() / rows}, {want.data(), rows, cols})), ar::errc::ok);
  ar::cuda::dequantize_blocks_kernel<T> k;
  ASSERT_EQ(ar::cuda::prepare<T>(blocks, {got.data(), rows, cols}, k), ar::errc::ok);
  ar::cuda::emulate(k, 2, 3);
  EXPECT_TRUE(same(got, want)) << T::name;
}

TEST(CudaKernels, GgufBlocksGiveTheBitsOfTheFloatLane) {
  compare_blocks<ar::q4_0>();
  compare_blocks<ar::q4_k>();
  compare_blocks<ar::q6_k>();
  compare_blocks<ar::iq4_nl>();
}

TEST(CudaKernels, PrepareRefusesWhatTheDoorsRefuse) {
  float w[64] = {}, scale[2] = {};
  std::uint8_t code[64] = {};
  ar::cuda::quantize_kernel<ar::int_sym<4>> k;
  EXPECT_EQ(ar::cuda::prepare(ar::int_sym<4>(), 32, {w, 1, 64}, {code, 1, 64}, {scale, 1, 1}, {}, k), ar::errc::bad_shape) << "two groups, one scale";
  EXPECT_EQ(ar::cuda::prepare(ar::int_sym<4>(), -2, {w, 1, 64}, {code, 1, 64}, {scale, 1, 2}, {}, k), ar::errc::bad_value);
  ar::cuda::dequantize_blocks_kernel<ar::q4_0> b;
  EXPECT_EQ(ar::cuda::prepare<ar::q4_0>(std::span<const std::uint8_t>(code, 35), {w, 1, 64}, b), ar::errc::bad_size);
}

}  // namespace
