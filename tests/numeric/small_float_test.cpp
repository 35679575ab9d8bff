// Formats of at most 8 bits: every code survives a round trip, every tie goes to the even neighbor, what happens at the ends; and the results of
// ml_dtypes for all floats, as hashes (a sample always, all 2^32 nightly; recorded by tests/peers/record_number_formats.py).
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "ar/numeric/half.hpp"
#include "ar/numeric/small_float.hpp"
#include "support/golden_json.hpp"

namespace {

using ar::small_format;
constexpr float infinity = std::numeric_limits<float>::infinity();

/// Calls f.template operator()<F>(name) for every format.
template <class Function>
void for_each_format(const Function& f) {
  f.template operator()<ar::e2m1>("e2m1");
  f.template operator()<ar::e2m3>("e2m3");
  f.template operator()<ar::e3m2>("e3m2");
  f.template operator()<ar::e4m3fn>("e4m3fn");
  f.template operator()<ar::e5m2>("e5m2");
  f.template operator()<ar::ue5m3>("ue5m3");
}

std::uint8_t byte(std::uint32_t x) { return static_cast<std::uint8_t>(x); }

TEST(SmallFloat, EveryCodeSurvivesARoundTrip) {
  for_each_format([]<small_format F>(const char* name) {
    SCOPED_TRACE(name);
    int numbers = 0;
    for (std::uint32_t c = 0; c < 1u << F.bits(); ++c) {
      const float f = ar::f32_from_small<F>(byte(c));
      const std::uint32_t back = ar::small_from_f32<F, ar::overflow::to_special>(f);
      if (!std::isnan(f)) {
        ASSERT_EQ(back, c);
        ++numbers;
      } else {
        ASSERT_TRUE(std::isnan(ar::f32_from_small<F>(byte(back))));
      }
      if (std::isfinite(f)) {
        ASSERT_EQ((ar::small_from_f32<F>(f)), c);
      }
    }
    EXPECT_EQ(numbers, (1 << F.bits()) - (F == ar::e4m3fn ? 2 : F == ar::e5m2 ? 6 : F == ar::ue5m3 ? 1 : 0)) << "the others are NaN";
  });
}

TEST(SmallFloat, ValuesAreThoseOfTheDefinition) {
  for_each_format([]<small_format F>(const char* name) {
    SCOPED_TRACE(name);
    for (std::uint32_t c = 0; c <= F.max_code(); ++c) {
      const int exponent = static_cast<int>(c >> F.mantissa_bits), mantissa = static_cast<int>(c & ((1u << F.mantissa_bits) - 1));
      const double value = std::ldexp(mantissa + (exponent > 0 ? 1 << F.mantissa_bits : 0), std::max(exponent, 1) - F.bias - F.mantissa_bits);
      ASSERT_EQ(static_cast<double>(ar::f32_from_small<F>(byte(c))), value);
      if (F.has_sign) {
        ASSERT_EQ(static_cast<double>(ar::f32_from_small<F>(byte(c | F.sign_code()))), -value);
      }
    }
  });
}

TEST(SmallFloat, EveryTieGoesToTheEvenNeighbor) {
  for_each_format([]<small_format F>(const char* name) {
    SCOPED_TRACE(name);
    for (std::uint32_t c = 0; c < F.max_code(); ++c) {
      const float middle = 0.5f * (ar::f32_from_small<F>(byte(c)) + ar::f32_from_small<F>(byte(c + 1)));
      for (const float sign : {1.0f, -1.0f}) {
        if (sign < 0.0f && !F.has_sign) continue;
        const std::uint32_t s = sign < 0.0f ? F.sign_code() : 0u;
        ASSERT_EQ((ar::small_from_f32<F>(sign * middle)), s | (c % 2 == 0 ? c : c + 1)) << c;
        ASSERT_EQ((ar::small_from_f32<F>(sign * std::nextafter(middle, 0.0f))), s | c) << c;
        ASSERT_EQ((ar::small_from_f32<F>(sign * std::nextafter(middle, 1e9f))), s | (c + 1)) << c;
      }
    }
  });
}

TEST(SmallFloat, SaturatesOrGivesInfinityOrNaN) {
  for_each_format([]<small_format F>(const char* name) {
    SCOPED_TRACE(name);
    const std::uint32_t max = F.max_code();
    // The gap above the largest number is as wide as the one below it; its middle belongs to the even code.
    const float end = ar::small_max<F> + 0.5f * (ar::small_max<F> - ar::f32_from_small<F>(byte(max - 1)));
    for (const float f : {end, std::nextafter(end, infinity), 2.0f * end, 3e38f, infinity}) EXPECT_EQ((ar::small_from_f32<F>(f)), max);
    const std::uint32_t above = F.special == ar::small_special::none ? max : max + 1;
    EXPECT_EQ((ar::small_from_f32<F, ar::overflow::to_special>(std::nextafter(end, 0.0f))), max);
    EXPECT_EQ((ar::small_from_f32<F, ar::overflow::to_special>(end)), max % 2 == 0 ? max : above);
    EXPECT_EQ((ar::small_from_f32<F, ar::overflow::to_special>(std::nextafter(end, infinity))), above);
    EXPECT_EQ((ar::small_from_f32<F, ar::overflow::to_special>(infinity)), above);
    EXPECT_EQ((ar::small_from_f32<F>(-infinity)), F.has_sign ? F.sign_code() | max : 0u);
    EXPECT_EQ((ar::small_from_f32<F>(-0.0f)), F.sign_code());
    EXPECT_EQ((ar::small_from_f32<F>(-1e-45f)), F.sign_code()) << "underflow keeps the sign";
    EXPECT_EQ((ar::small_from_f32<F>(1e-45f)), 0u);
  });
}

TEST(SmallFloat, NaNBecomesNaNWhereThereIsOne) {
  const float nan = std::bit_cast<float>(0x7FC00000u), negative = std::bit_cast<float>(0xFF800001u);
  EXPECT_EQ(ar::small_from_f32<ar::e4m3fn>(nan), 0x7F);
  EXPECT_EQ(ar::small_from_f32<ar::e4m3fn>(negative), 0xFF);
  EXPECT_EQ(ar::small_from_f32<ar::e5m2>(nan), 0x7E);
  EXPECT_EQ(ar::small_from_f32<ar::e5m2>(negative), 0xFE);
  EXPECT_EQ(ar::small_from_f32<ar::ue5m3>(nan), 0xFF);
  EXPECT_EQ(ar::small_from_f32<ar::ue5m3>(negative), 0xFF);
  EXPECT_EQ(ar::small_from_f32<ar::e2m1>(nan), 7);
  EXPECT_EQ(ar::small_from_f32<ar::e2m3>(negative), 0x1F);
  EXPECT_EQ(ar::small_from_f32<ar::e3m2>(negative), 0x1F);
}

TEST(PowerOfTwoFormat, RoundsToTheNearestAndRefusesWhatHasNone) {
  for (std::uint32_t c = 0; c < 255; ++c) {
    const float f = ar::f32_from_e8m0(byte(c));
    ASSERT_EQ(static_cast<double>(f), std::ldexp(1.0, static_cast<int>(c) - 127));
    ASSERT_EQ(ar::e8m0_from_f32(f), c);
    if (c < 254) {
      ASSERT_EQ(ar::e8m0_from_f32(1.5f * f), c + 1);
      ASSERT_EQ(ar::e8m0_from_f32(std::nextafter(1.5f * f, 0.0f)), c);
    }
  }
  EXPECT_TRUE(std::isnan(ar::f32_from_e8m0(0xFF)));
  for (const float f : {0.0f, -0.0f, -1.0f, -1e-45f, infinity, -infinity, 0x1.8p127f, std::numeric_limits<float>::quiet_NaN()}) EXPECT_EQ(ar::e8m0_from_f32(f), 0xFF);
  EXPECT_EQ(ar::e8m0_from_f32(1e-45f), 0) << "as small as it gets";
  EXPECT_EQ(ar::e8m0_from_f32(std::nextafter(0x1.8p127f, 0.0f)), 0xFE);
}

// ---- ml_dtypes ----

class crc32 {
 public:
  void add(std::uint8_t b) { crc_ = table()[(crc_ ^ b) & 0xFFu] ^ (crc_ >> 8); }
  std::uint32_t value() const { return ~crc_; }

 private:
  static const std::array<std::uint32_t, 256>& table() {
    static constexpr auto t = [] {
      std::array<std::uint32_t, 256> entries{};
      for (std::uint32_t i = 0; i < 256; ++i) {
        std::uint32_t c = i;
        for (int k = 0; k < 8; ++k) c = (c & 1u) != 0 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
        entries[i] = c;
      }
      return entries;
    }();
    return t;
  }
  std::uint32_t crc_ = 0xFFFFFFFFu;
};

/// ml_dtypes 0.6.0 rounds floats between 2^-127 and 2^-126 up, even those nearer to 2^-127. Elsewhere it rounds to the nearest.
std::uint8_t e8m0_of_ml_dtypes(float f) {
  const std::uint32_t x = std::bit_cast<std::uint32_t>(f);
  return x > 0x400000u && x < 0x600000u ? std::uint8_t{1} : ar::e8m0_from_f32(f);
}

template <class Encode>
std::uint32_t hash_of(std::uint64_t step, int bytes, const Encode& encode) {
  crc32 crc;
  for (std::uint64_t x = 0; x < std::uint64_t{1} << 32; x += step) {
    const float f = std::bit_cast<float>(static_cast<std::uint32_t>(x));
    if (f != f) continue;
    const std::uint32_t code = encode(f);
    crc.add(byte(code & 0xFFu));
    if (bytes == 2) crc.add(byte(code >> 8));
  }
  return crc.value();
}

void expect_recorded_hashes(const char* which, std::uint64_t step) {
  const auto recorded = golden::read_json(std::string(AR_TEST_DATA) + "/number_formats/hashes.json")[which];
  ASSERT_EQ(recorded.size(), 8u);
  const auto check = [&](const char* name, int bytes, const auto& encode) { EXPECT_EQ(hash_of(step, bytes, encode), recorded[name].get<std::uint32_t>()) << name; };
  constexpr auto special = ar::overflow::to_special;
  check("e2m1", 1, ar::small_from_f32<ar::e2m1, special>);
  check("e2m3", 1, ar::small_from_f32<ar::e2m3, special>);
  check("e3m2", 1, ar::small_from_f32<ar::e3m2, special>);
  check("e4m3fn", 1, ar::small_from_f32<ar::e4m3fn, special>);
  check("e5m2", 1, ar::small_from_f32<ar::e5m2, special>);
  check("e8m0", 1, e8m0_of_ml_dtypes);
  check("f16", 2, ar::f16_from_f32);
  check("bf16", 2, ar::bf16_from_f32);
}

TEST(NumberFormats, SampleOfAllFloatsEqualsMlDtypes) { expect_recorded_hashes("sample", 4093); }
TEST(NumberFormatsNightly, AllFloatsEqualMlDtypes) { expect_recorded_hashes("all", 1); }

}  // namespace
