// links: ar_dispatch
// What every GGUF type has to hold, without reference data: facts, layouts without a lost bit, equal results on every SIMD target and shape,
// refusal of what is wrong before anything is written, and sane results for unkind weights.
#include <gtest/gtest.h>

#include <ar/dispatch.hpp>
#include <ar/gguf.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace {

using ar::errc;
using ar::gguf_kernels;

std::span<const gguf_kernels> reference() { return ar::gguf::kernel_table<float>(); }

std::vector<const ar::kernel_table*> targets() {
  const ar::kernel_table* tables[16] = {};
  const std::size_t count = ar::all_kernels(tables, 16);
  return {tables, tables + count};
}

/// Rows of a matrix with room behind each row, so that a stride is not the width.
struct weights {
  std::size_t rows, cols, stride;
  std::vector<float> data;
  weights(std::size_t r, std::size_t c, std::size_t gap = 0) : rows(r), cols(c), stride(c + gap), data(r * stride, 7.0f) {}
  ar::matrix_view<const float> view() const { return {data.data(), rows, cols, stride}; }
  ar::matrix_view<float> out() { return {data.data(), rows, cols, stride}; }
  float& at(std::size_t r, std::size_t c) { return data[r * stride + c]; }
};

constexpr unsigned seed = 20260817;

weights gaussian(std::size_t rows, std::size_t cols, std::size_t gap = 0) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  weights w(rows, cols, gap);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) w.at(r, c) = normal(random);
  return w;
}

/// Blocks of many kinds: zeros of both signs, constants, denormals, tiny and huge magnitudes, ties, outliers, one sign only.
weights unkind(std::size_t rows, std::size_t cols, std::size_t gap = 0) {
  std::mt19937 random(seed + 1);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  weights w(rows, cols, gap);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) {
      const float x = normal(random);
      float& y = w.at(r, c);
      switch ((r * 5 + c / 16) % 15) {
        case 0: y = 0.0f; break;
        case 1: y = c % 3 == 0 ? -0.0f : 0.0f; break;
        case 2: y = 0.25f; break;
        case 3: y = x * 1e-40f; break;
        case 4: y = x * 1e-30f; break;
        case 5: y = x * 1e-16f; break;
        case 6: y = x * 1e4f; break;
        case 7: y = std::round(x * 4.0f) * 0.5f; break;
        case 8: y = c % 16 == 3 ? 100.0f : x * 0.001f; break;
        case 9: y = -std::fabs(x); break;
        case 10: y = std::fabs(x); break;
        case 11: y = x * 1e30f; break;
        case 12: y = -3.0f; break;
        case 13: y = x * 1e-15f; break;
        default: y = x * 0.02f; break;
      }
    }
  return w;
}

enum class zeros { none, many, almost_all };  // almost all: scales of a super-block come out with both signs
std::vector<float> some_importance(std::size_t cols, zeros z) {
  std::mt19937 random(seed + 2);
  std::lognormal_distribution<float> weight(0.0f, 2.0f);
  std::vector<float> v(cols);
  for (std::size_t c = 0; c < cols; ++c) {
    v[c] = weight(random);
    if (z == zeros::many && (c / 16 % 4 == 1 || (c * 7) % 5 == 0)) v[c] = 0.0f;
    if (z == zeros::almost_all && c % 13 != 5) v[c] = 0.0f;
  }
  return v;
}

std::size_t blocks_bytes(const gguf_kernels& k, std::size_t elements) { return elements / k.block_elements * k.block_bytes; }

std::vector<std::uint8_t> quantized(const gguf_kernels& k, const weights& w, std::span<const float> importance = {}) {
  std::vector<std::uint8_t> bytes(blocks_bytes(k, w.rows * w.cols), 0xA5);
  EXPECT_EQ(k.quantize(w.view(), importance, bytes), errc::ok) << k.name;
  return bytes;
}
weights dequantized(const gguf_kernels& k, const std::vector<std::uint8_t>& bytes, std::size_t rows, std::size_t cols) {
  weights w(rows, cols);
  EXPECT_EQ(k.dequantize(bytes, w.out()), errc::ok) << k.name;
  return w;
}

struct parameters {
  std::vector<float> scale, offset, d_scale, d_offset;
  parameters(const gguf_kernels& k, std::size_t elements)
      : scale(elements / k.group_size, 5.0f), offset(scale.size(), 5.0f), d_scale(elements / 256 + 1, 5.0f), d_offset(elements / 256 + 1, 5.0f) {}
  ar::gguf_parameters<float> out() { return {scale.data(), offset.data(), d_scale.data(), d_offset.data()}; }
  ar::gguf_parameters<const float> in() const { return {scale.data(), offset.data(), d_scale.data(), d_offset.data()}; }
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

double squared_error(const weights& a, const weights& b, std::span<const float> importance = {}) {
  double e = 0.0;
  for (std::size_t r = 0; r < a.rows; ++r)
    for (std::size_t c = 0; c < a.cols; ++c) {
      const double d = double{a.data[r * a.stride + c]} - double{b.data[r * b.stride + c]};
      e += d * d * (importance.empty() ? 1.0 : double{importance[c]});
    }
  return e;
}

TEST(GgufTypes, FactsAreThoseOfTheFormat) {
  struct fact {
    const char* name;
    std::uint32_t id, elements, bytes;
  };
  const fact facts[] = {{"q4_0", 2, 32, 18},   {"q4_1", 3, 32, 20},   {"q5_0", 6, 32, 22},    {"q5_1", 7, 32, 24},    {"q8_0", 8, 32, 34},
                        {"q8_1", 9, 32, 36},   {"q2_k", 10, 256, 84}, {"q3_k", 11, 256, 110}, {"q4_k", 12, 256, 144}, {"q5_k", 13, 256, 176},
                        {"q6_k", 14, 256, 210}, {"q8_k", 15, 256, 292}, {"iq4_nl", 20, 32, 18}, {"iq4_xs", 23, 256, 136}, {"tq1_0", 34, 256, 54},
                        {"tq2_0", 35, 256, 66}, {"gguf_mxfp4", 39, 32, 17}, {"gguf_nvfp4", 40, 64, 36}, {"q1_0", 41, 128, 18}, {"q2_0", 42, 64, 18},
                        {"iq2_xxs", 16, 256, 66}, {"iq2_xs", 17, 256, 74}, {"iq3_xxs", 18, 256, 98}, {"iq1_s", 19, 256, 50}, {"iq3_s", 21, 256, 110},
                        {"iq2_s", 22, 256, 82}, {"iq1_m", 29, 256, 56}};
  for (const gguf_kernels& k : reference()) {
    bool found = false;
    for (const fact& f : facts) {
      if (f.id != k.id) continue;
      found = true;
      EXPECT_STREQ(k.name, f.name);
      EXPECT_EQ(k.block_elements, f.elements) << k.name;
      EXPECT_EQ(k.block_bytes, f.bytes) << k.name;
    }
    EXPECT_TRUE(found) << k.name << " has an id that the format does not know";
    EXPECT_EQ(ar::kernels().gguf_type(k.id)->name, ar::kernels().gguf_type(k.name)->name);
    EXPECT_EQ(ar::find_gguf(k.id)->block_bytes, k.block_bytes);
  }
  EXPECT_EQ(reference().size(), std::size(facts));
  EXPECT_EQ(ar::kernels().gguf_type("q9_9"), nullptr);
  EXPECT_EQ(ar::find_gguf(4), nullptr);  // a removed type
}

/// True for layouts with bytes that say the same: sums that follow from the codes, 256 bytes for 243 groups of trits.
template <class T>
constexpr bool has_spare_bits = T::id == ar::gguf_id::q8_k || T::id == ar::gguf_id::tq1_0;

/// Scales of NVFP4 have two encodings: their top bit means nothing, and 0x7F is another 0.
template <class T>
void make_scales_canonical(std::uint8_t* block) {
  if constexpr (T::id == ar::gguf_id::nvfp4)
    for (std::size_t i = 0; i < 4; ++i) block[i] = static_cast<std::uint8_t>((block[i] & 0x7F) == 0x7F ? 0 : block[i] & 0x7F);
}

/// Loads and stores random blocks: a layout that keeps every bit gives the bytes back; one that does not, the canonical bytes.
template <class T>
void expect_every_bit_kept() {
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    std::uint8_t block[T::block_bytes], back[T::block_bytes], code[T::block_size];
    for (auto& b : block) b = static_cast<std::uint8_t>(random());
    make_scales_canonical<T>(block);
    typename T::template params<float> p;
    T::load(block, code, p);
    const auto fields = ar::rows::to_array<T, float>(p);
    bool finite = true;
    for (const float f : fields.v) finite = finite && std::isfinite(f);
    if (!finite) continue;  // NaN has no one encoding
    for (const auto c : code) ASSERT_LT(c, 1u << T::bits()) << T::name;
    T::store(p, code, back);
    if constexpr (has_spare_bits<T>) {
      std::memcpy(block, back, T::block_bytes);
      T::load(block, code, p);
      T::store(p, code, back);
    }
    ASSERT_EQ(std::memcmp(block, back, T::block_bytes), 0) << T::name;
  }
}
template <class T>
void expect_every_bit_kept_if_written() {
  if constexpr (ar::GgufType<T>) expect_every_bit_kept<T>();
}
template <class... T>
void expect_every_bit_kept(ar::type_list<T...>) {
  (expect_every_bit_kept_if_written<T>(), ...);
}
TEST(GgufTypes, StoreOfLoadGivesTheSameBytes) { expect_every_bit_kept(ar::gguf::all_types{}); }

/// Bytes of every kind as blocks: random ones, and the same byte everywhere.
std::vector<std::uint8_t> any_bytes(std::size_t size, int round) {
  std::mt19937 random(seed + static_cast<unsigned>(round));
  std::vector<std::uint8_t> bytes(size);
  const std::uint8_t same[] = {0x00, 0xFF, 0x7F, 0x80};
  for (std::uint8_t& b : bytes) b = round < 4 ? same[round] : static_cast<std::uint8_t>(random());
  return bytes;
}

TEST(GgufTypes, AnyBytesDecodeAlikeOnEveryTarget) {
  for (const gguf_kernels& k : reference())
    for (int round = 0; round < 24; ++round) {
      const std::size_t rows = 3, cols = 2 * k.block_elements;
      const auto bytes = any_bytes(blocks_bytes(k, rows * cols), round);
      const weights want = dequantized(k, bytes, rows, cols);
      for (const ar::kernel_table* t : targets()) {
        const gguf_kernels& v = *t->gguf_type(k.id);
        EXPECT_EQ(v.scales_are_finite(bytes), k.scales_are_finite(bytes)) << k.name << " on " << t->target;
        const weights got = dequantized(v, bytes, rows, cols);
        for (std::size_t i = 0; i < got.data.size(); ++i)  // (which NaN comes out is up to the machine)
          ASSERT_TRUE(std::bit_cast<std::uint32_t>(got.data[i]) == std::bit_cast<std::uint32_t>(want.data[i]) || (std::isnan(got.data[i]) && std::isnan(want.data[i])))
              << k.name << " on " << t->target << ", element " << i << ": " << got.data[i] << " instead of " << want.data[i];
      }
    }
}

TEST(GgufTypes, ReadOnlyTypesRefuseToQuantize) {
  std::size_t types = 0;
  for (const ar::kernel_table* t : targets())
    for (const gguf_kernels& k : t->gguf_types()) {
      if (!k.read_only) continue;
      ++types;
      const weights w = gaussian(2, k.block_elements);
      std::vector<std::uint8_t> bytes(2 * k.block_bytes, 0xA5);
      EXPECT_EQ(k.quantize(w.view(), {}, bytes), errc::unsupported) << k.name;
      EXPECT_EQ(bytes, std::vector<std::uint8_t>(2 * k.block_bytes, 0xA5)) << k.name;
      EXPECT_TRUE(k.search == nullptr && k.qdq == nullptr && k.pack == nullptr && k.search_and_pack == nullptr) << k.name;
    }
  EXPECT_EQ(types, 7 * targets().size());
}

bool same_parameters(const parameters& a, const parameters& b) {
  return same_bits(a.scale, b.scale) && same_bits(a.offset, b.offset) && same_bits(a.d_scale, b.d_scale) && same_bits(a.d_offset, b.d_offset);
}

TEST(GgufTypes, EveryTargetAndShapeGivesTheBitsOfTheFloatLane) {
  for (const gguf_kernels& k : reference()) {
    if (k.read_only) continue;
    const std::size_t b = k.block_elements;
    const struct {
      std::size_t rows, cols, gap;
    } shapes[] = {{1, b, 0}, {1, 3 * b, 5}, {2, b, 0}, {7, 2 * b, 3}, {17, b, 1}, {33, 2 * b, 0}, {0, b, 0}, {3, 0, 0}};
    for (const auto& s : shapes)
      for (const bool kind : {true, false}) {
        const weights w = kind ? gaussian(s.rows, s.cols, s.gap) : unkind(s.rows, s.cols, s.gap);
        for (const int with : {0, 1, 2, 3}) {
          const std::vector<float> importance = with == 0 ? std::vector<float>{} : some_importance(s.cols, with == 1 ? zeros::none : with == 2 ? zeros::many : zeros::almost_all);
          const auto want = quantized(k, w, importance);
          const weights values = dequantized(k, want, s.rows, s.cols);
          parameters searched(k, s.rows * s.cols);
          std::vector<std::uint8_t> packed(want.size()), given(want.size());
          weights fake(s.rows, s.cols);
          parameters by_magnitude(k, s.rows * s.cols);
          if (k.search != nullptr) {
            ASSERT_EQ(k.search(w.view(), importance, {}, {}, searched.out()), errc::ok);
            ASSERT_EQ(k.search(w.view(), importance, {}, {.magnitude = true}, by_magnitude.out()), errc::ok);
            ASSERT_EQ(k.qdq(w.view(), {}, {}, searched.in(), fake.out()), errc::ok);
            for (float& x : fake.data) x = std::isfinite(x) ? x : 0.0f;  // weights near the end of the range leave it
            ASSERT_EQ(k.pack(fake.view(), searched.in(), given), errc::ok);
            ASSERT_EQ(k.search_and_pack(w.view(), importance, packed), errc::ok);
          }
          for (const ar::kernel_table* t : targets()) {
            const gguf_kernels& v = *t->gguf_type(k.id);
            const std::string what = std::string(k.name) + " on " + t->target + ", " + std::to_string(s.rows) + " x " + std::to_string(s.cols);
            EXPECT_EQ(quantized(v, w, importance), want) << what;
            EXPECT_TRUE(same_bits(dequantized(v, want, s.rows, s.cols).data, values.data)) << what;
            if (k.search == nullptr) continue;
            parameters p(k, s.rows * s.cols);
            weights f(s.rows, s.cols);
            std::vector<std::uint8_t> bytes(want.size());
            ASSERT_EQ(v.search(w.view(), importance, {}, {}, p.out()), errc::ok);
            EXPECT_TRUE(same_parameters(p, searched)) << what;
            ASSERT_EQ(v.search(w.view(), importance, {}, {.magnitude = true}, p.out()), errc::ok);
            EXPECT_TRUE(same_parameters(p, by_magnitude)) << what;
            ASSERT_EQ(v.qdq(w.view(), {}, {}, searched.in(), f.out()), errc::ok);
            for (float& x : f.data) x = std::isfinite(x) ? x : 0.0f;
            EXPECT_TRUE(same_bits(f.data, fake.data)) << what;
            ASSERT_EQ(v.pack(fake.view(), searched.in(), bytes), errc::ok);
            EXPECT_EQ(bytes, given) << what;
            ASSERT_EQ(v.search_and_pack(w.view(), importance, bytes), errc::ok);
            EXPECT_EQ(bytes, packed) << what;
          }
        }
      }
  }
}

TEST(GgufTypes, BlocksDoNotKnowTheirNeighbors) {
  // Without importance every block is on its own; with it, rows are.
  for (const gguf_kernels& k : ar::kernels().gguf_types()) {
    if (k.read_only) continue;
    const weights w = gaussian(5, 3 * k.block_elements);
    const auto all = quantized(k, w), weighted = quantized(k, w, some_importance(w.cols, zeros::none));
    const std::size_t row_bytes = blocks_bytes(k, w.cols);
    for (std::size_t r = 0; r < w.rows; ++r) {
      weights row(1, w.cols);
      std::copy_n(&w.data[r * w.stride], w.cols, row.data.begin());
      EXPECT_TRUE(std::equal(weighted.begin() + static_cast<std::ptrdiff_t>(r * row_bytes), weighted.begin() + static_cast<std::ptrdiff_t>((r + 1) * row_bytes),
                             quantized(k, row, some_importance(w.cols, zeros::none)).begin()))
          << k.name;
      for (std::size_t b = 0; b < 3; ++b) {
        weights block(1, k.block_elements);
        std::copy_n(&w.data[r * w.stride + b * k.block_elements], k.block_elements, block.data.begin());
        EXPECT_TRUE(std::equal(all.begin() + static_cast<std::ptrdiff_t>(r * row_bytes + b * k.block_bytes),
                               all.begin() + static_cast<std::ptrdiff_t>(r * row_bytes + (b + 1) * k.block_bytes), quantized(k, block).begin()))
            << k.name;
      }
    }
  }
}

TEST(GgufTypes, ZerosStayZerosAndNothingFiniteDecodesToNonsense) {
  for (const gguf_kernels& k : ar::kernels().gguf_types()) {
    if (k.read_only) continue;
    const weights zero = [&] {
      weights w(2, 2 * k.block_elements);
      std::fill(w.data.begin(), w.data.end(), 0.0f);
      return w;
    }();
    for (const bool with : {false, true}) {
      const auto importance = with ? some_importance(zero.cols, zeros::many) : std::vector<float>{};
      for (const float x : dequantized(k, quantized(k, zero, importance), 2, zero.cols).data) EXPECT_EQ(x, 0.0f) << k.name;
      weights w = unkind(16, 2 * k.block_elements);
      for (float& x : w.data) x = std::fabs(x) > 2e3f ? 2e3f : x;  // the sum of 32 still fits half precision
      const auto bytes = quantized(k, w, importance);
      EXPECT_TRUE(k.scales_are_finite(bytes)) << k.name;
      for (const float x : dequantized(k, bytes, w.rows, w.cols).data) EXPECT_TRUE(std::isfinite(x)) << k.name;
      if (k.search == nullptr) continue;
      parameters p(k, w.rows * w.cols);
      for (const bool magnitude : {false, true}) {
        ASSERT_EQ(k.search(w.view(), importance, {}, {.magnitude = magnitude}, p.out()), errc::ok);
        for (const auto* v : {&p.scale, &p.offset, &p.d_scale, &p.d_offset})
          for (const float x : *v) EXPECT_TRUE(std::isfinite(x)) << k.name;
      }
    }
  }
}

TEST(GgufTypes, AnImportanceMatrixLowersTheWeightedError) {
  for (const gguf_kernels& k : ar::kernels().gguf_types()) {
    if (k.read_only) continue;
    const weights w = gaussian(32, 1024);
    const auto importance = some_importance(w.cols, zeros::none);
    const auto plain = quantized(k, w), weighted = quantized(k, w, importance);
    if (plain == weighted) continue;  // this type has no weighted search
    EXPECT_LT(squared_error(w, dequantized(k, weighted, w.rows, w.cols), importance), squared_error(w, dequantized(k, plain, w.rows, w.cols), importance))
        << k.name;
  }
}

TEST(GgufTypes, ByMagnitudeLargeWeightsCountMoreAndScalesFitBetter) {
  // What ggml minimizes: importance * sqrt(sigma + x^2) * error^2. By it the variant is better than the original's weights, and than ggml's own search,
  // which measures a probe before it quantizes again.
  std::size_t types = 0;
  for (const gguf_kernels& k : ar::kernels().gguf_types()) {
    const std::string_view name = k.name;
    if (name != "q2_k" && name != "q3_k" && name != "q4_k" && name != "q5_k") continue;
    ++types;
    const weights w = gaussian(64, 1024);
    const auto importance = some_importance(w.cols, zeros::none);
    const auto error = [&](const std::vector<std::uint8_t>& blocks) {
      const weights d = dequantized(k, blocks, w.rows, w.cols);
      double sum = 0;
      for (std::size_t i = 0; i < w.data.size(); i += 256) {
        double sigma = 0;
        for (std::size_t j = i; j < i + 256; ++j) sigma += w.data[j] * w.data[j] / (name == "q2_k" ? 256.0 : 128.0);
        for (std::size_t j = i; j < i + 256; ++j)
          sum += importance[j % w.cols] * std::sqrt(sigma + w.data[j] * w.data[j]) * std::pow(w.data[j] - d.data[j], 2);
      }
      return sum;
    };
    const auto searched = [&](ar::gguf_variant variant) {
      parameters p(k, w.rows * w.cols);
      weights fake(w.rows, w.cols);
      EXPECT_EQ(k.search(w.view(), importance, {}, variant, p.out()), errc::ok);
      EXPECT_EQ(k.qdq(w.view(), {}, variant, p.in(), fake.out()), errc::ok);
      std::vector<std::uint8_t> blocks(w.rows * blocks_bytes(k, w.cols));
      EXPECT_EQ(k.pack(fake.view(), p.in(), blocks), errc::ok);
      return error(blocks);
    };
    const double by_magnitude = searched({.magnitude = true});
    EXPECT_LT(by_magnitude, searched({})) << name;
    EXPECT_LT(by_magnitude, 1.005 * error(quantized(k, w, importance))) << name;
  }
  EXPECT_EQ(types, 4u);
}

TEST(GgufTypes, SearchedParametersPackToWhatTheySay) {
  // The packer keeps a layer's fake-quantized weights: what a reader decodes differs by the rounding of the scales to half precision alone, far
  // less than the quantization itself. Q4_1 and Q5_1 are left out: auto-round tunes a fractional zero point, which no block can hold.
  for (const gguf_kernels& k : ar::kernels().gguf_types()) {
    if (k.search == nullptr || (k.asymmetric && !k.superblock)) continue;
    const weights w = gaussian(16, 1024);
    parameters p(k, w.rows * w.cols);
    ASSERT_EQ(k.search(w.view(), {}, {}, {}, p.out()), errc::ok);
    weights fake(w.rows, w.cols);
    ASSERT_EQ(k.qdq(w.view(), {}, {}, p.in(), fake.out()), errc::ok);
    std::vector<std::uint8_t> bytes(blocks_bytes(k, w.rows * w.cols));
    ASSERT_EQ(k.pack(fake.view(), p.in(), bytes), errc::ok);
    const weights read = dequantized(k, bytes, w.rows, w.cols);
    EXPECT_LT(squared_error(read, fake), 0.05 * squared_error(fake, w)) << k.name;
    weights self = w;
    ASSERT_EQ(k.qdq(self.view(), {}, {}, p.in(), self.out()), errc::ok);  // in place
    EXPECT_TRUE(same_bits(self.data, fake.data)) << k.name;
  }
}

TEST(GgufTypes, OverflowOfAHalfPrecisionScaleIsSeen) {
  for (const gguf_kernels& k : ar::kernels().gguf_types()) {
    if (k.read_only) continue;
    weights w(1, k.block_elements);
    for (std::size_t c = 0; c < w.cols; ++c) w.at(0, c) = c % 2 == 0 ? 3e38f : -3e38f;
    std::vector<std::uint8_t> bytes(k.block_bytes);
    ASSERT_EQ(k.quantize(w.view(), {}, bytes), errc::ok) << k.name;
    bool finite = true;
    for (const float x : dequantized(k, bytes, 1, w.cols).data) finite = finite && std::isfinite(x);
    if (!k.scales_are_finite(bytes)) continue;
    EXPECT_TRUE(finite) << k.name << " says its scales are finite";
  }
}

TEST(GgufTypes, WhatIsWrongIsRefusedBeforeAnythingIsWritten) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  for (const ar::kernel_table* t : targets())
    for (const gguf_kernels& k : t->gguf_types()) {
      if (k.read_only) continue;
      const std::string what = std::string(k.name) + " on " + t->target;
      const std::size_t b = k.block_elements;
      weights w = gaussian(3, 2 * b);
      std::vector<std::uint8_t> bytes(blocks_bytes(k, w.rows * w.cols), 0xA5);
      const auto untouched = bytes;
      std::vector<float> importance = some_importance(w.cols, zeros::none);
      auto refuses = [&](errc want, ar::matrix_view<const float> m, std::span<const float> im, std::span<std::uint8_t> out) {
        EXPECT_EQ(k.quantize(m, im, out), want) << what;
        if (k.search_and_pack != nullptr) {
          EXPECT_EQ(k.search_and_pack(m, im, out), want) << what;
        }
        EXPECT_EQ(bytes, untouched) << what;
      };
      refuses(errc::bad_size, w.view(), {}, std::span(bytes).first(bytes.size() - 1));
      refuses(errc::bad_size, {w.data.data(), 2, w.cols}, {}, bytes);
      refuses(errc::bad_shape, {w.data.data(), 3, 2 * b - 1}, {}, bytes);
      refuses(errc::bad_shape, {w.data.data(), 3, b + b / 2}, {}, bytes);
      refuses(errc::bad_shape, {nullptr, 3, 2 * b}, {}, bytes);
      refuses(errc::bad_shape, {w.data.data(), 3, 2 * b, b}, {}, bytes);
      refuses(errc::bad_size, {w.data.data(), SIZE_MAX / 2, 2 * b}, {}, bytes);
      refuses(errc::bad_size, w.view(), std::span(importance).first(w.cols - 1), bytes);
      for (const float bad : {nan, inf, -inf})
        for (const std::size_t at : {std::size_t{0}, b + 1, 3 * 2 * b - 1}) {
          const float kept = w.data[at];
          w.data[at] = bad;
          refuses(errc::non_finite, w.view(), {}, bytes);
          w.data[at] = kept;
        }
      for (const float bad : {nan, inf, -1.0f}) {
        const float kept = importance[b];
        importance[b] = bad;
        refuses(errc::bad_value, w.view(), importance, bytes);
        importance[b] = kept;
      }
      weights out(3, 2 * b);
      const auto before = out.data;
      EXPECT_EQ(k.dequantize(std::span(bytes).first(bytes.size() - 1), out.out()), errc::bad_size) << what;
      EXPECT_EQ(k.dequantize(bytes, {out.data.data(), 3, 2 * b - 1}), errc::bad_shape) << what;
      EXPECT_EQ(k.dequantize(bytes, {nullptr, 3, 2 * b}), errc::bad_shape) << what;
      if (k.search != nullptr) {
        parameters p(k, w.rows * w.cols);
        const parameters fresh = p;
        ar::gguf_parameters<float> missing = p.out();
        missing.scale = nullptr;
        EXPECT_EQ(k.search(w.view(), {}, {}, {}, missing), errc::bad_size) << what;
        EXPECT_EQ(k.qdq(w.view(), {}, {}, {}, out.out()), errc::bad_size) << what;
        EXPECT_EQ(k.pack(w.view(), {}, bytes), errc::bad_size) << what;
        EXPECT_EQ(k.search(w.view(), {}, {w.data.data(), 2, w.cols}, {}, p.out()), errc::bad_shape) << what;
        EXPECT_EQ(k.qdq(w.view(), {}, {}, p.in(), {out.data.data(), 2, w.cols}), errc::bad_shape) << what;
        w.data[1] = nan;
        EXPECT_EQ(k.search(w.view(), {}, {}, {}, p.out()), errc::non_finite) << what;
        EXPECT_EQ(k.qdq(w.view(), {}, {}, p.in(), out.out()), errc::non_finite) << what;
        EXPECT_EQ(k.pack(w.view(), p.in(), bytes), errc::non_finite) << what;
        EXPECT_TRUE(same_bits(p.scale, fresh.scale) && same_bits(p.d_scale, fresh.d_scale)) << what;
      }
      EXPECT_TRUE(same_bits(out.data, before)) << what;
      EXPECT_EQ(bytes, untouched) << what;
    }
}

TEST(GgufTypes, HalvesAreRoundedAwayFromZero) {
  for (int i = -2048; i <= 2048; ++i) {
    const float tie = static_cast<float>(i) * 0.5f;
    for (const float x : {tie, std::nextafter(tie, -1e9f), std::nextafter(tie, 1e9f)}) ASSERT_EQ(ar::gguf::lane_round_away(x), std::round(x)) << x;
  }
}
TEST(GgufTypesNightly, EveryFloatIsRoundedAsByRoundf) {
  for (std::uint32_t bits = 0; bits < 0x7F800000u; ++bits) {
    const float x = std::bit_cast<float>(bits);
    ASSERT_EQ(ar::gguf::lane_round_away(x), std::round(x)) << x;
    ASSERT_EQ(ar::gguf::lane_round_away(-x), std::round(-x)) << -x;
  }
}

// A block can be quantized while compiling; the result is the one of run time.
constexpr auto ramp() {
  struct {
    float x[32] = {};
  } w;
  for (int i = 0; i < 32; ++i) w.x[i] = static_cast<float>(i - 20) * 0.125f;
  return w;
}
template <class T>
constexpr auto ramp_block() {
  struct {
    std::uint8_t b[T::block_bytes] = {};
    errc e = errc::ok;
  } out;
  const auto w = ramp();
  out.e = ar::quantize_gguf<T>({w.x, 1, 32}, {}, out.b);
  return out;
}
constexpr auto at_compile_time = ramp_block<ar::q4_0>();
// d = -2.5 / -8 = 0.3125 = 0x3500; weight 0 = -2.5 has code 0, weight 16 = -0.5 code round(-1.6) + 8 = 6.
static_assert(at_compile_time.e == errc::ok && at_compile_time.b[0] == 0x00 && at_compile_time.b[1] == 0x35 && at_compile_time.b[2] == 0x60);

TEST(GgufTypes, CompileTimeEqualsRunTime) {
  const auto w = ramp();
  std::uint8_t b[18];
  ASSERT_EQ(ar::quantize_gguf<ar::q4_0>({w.x, 1, 32}, {}, b), errc::ok);
  EXPECT_EQ(std::memcmp(b, at_compile_time.b, 18), 0);
  EXPECT_TRUE(ar::gguf_scales_are_finite<ar::q4_0>(b));
}

}  // namespace
