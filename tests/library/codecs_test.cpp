// What holds for every packed layout, found by walking the registry: there and back, words that are wholly used come back, hostile shapes and
// codes are errors and nothing is written, constant expressions give what the vector code gives. Also: the registry and the folder agree.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <set>

#include "support/layout.hpp"

namespace {

using ar::errc;
using ar::matrix_shape;

template <class C>
struct tag {
  using codec = C;
};
template <class... C, class F>
void for_each(ar::type_list<C...>, F f) {
  (f(tag<C>{}), ...);
}

const std::size_t sizes[] = {1, 2, 7, 8, 16, 31, 32, 33, 48, 64, 96, 100, 128, 160, 288};

TEST(Codecs, AreTheFilesOfTheFolder) {
  std::set<std::string> files, names;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(AR_SOURCE_DIR) / "include/ar/codec"))
    files.insert(entry.path().stem().string());
  for (const ar::codec_kernels& k : ar::codecs()) {
    EXPECT_TRUE(names.insert(k.name).second) << k.name << " twice";
    EXPECT_EQ(ar::find_codec(k.name), &k);
    EXPECT_NE(k.pack_words == nullptr, k.pack_bytes == nullptr);
    EXPECT_EQ(k.pack_words == nullptr, k.unpack_words == nullptr);
    EXPECT_EQ(k.pack_bytes == nullptr, k.unpack_bytes == nullptr);
  }
  EXPECT_EQ(files, names);
  EXPECT_EQ(ar::find_codec("nothing"), nullptr);
  EXPECT_EQ(ar::find_codec(""), nullptr);
}

TEST(Codecs, CodesComeBackByTypeAndByName) {
  for_each(ar::all_codecs{}, [](auto t) {
    using C = typename decltype(t)::codec;
    using word = typename C::word;
    int cases = 0;
    for (int bits = 1; bits <= 8; ++bits)
      for (const std::size_t rows : sizes)
        for (const std::size_t cols : sizes) {
          const matrix_shape s = ar::packed_shape(C{}, bits, rows, cols);
          if (s == matrix_shape()) continue;
          SCOPED_TRACE(std::string(C::name) + ", " + std::to_string(bits) + " bits, " + std::to_string(rows) + " x " + std::to_string(cols));
          const auto code = support::random_codes(rows * cols, bits);
          std::vector<word> words(s.rows * s.cols, static_cast<word>(0xABABABAB));
          std::vector<std::uint8_t> back(code.size(), 0xCD);
          ASSERT_EQ(ar::pack(C{}, bits, {code.data(), rows, cols}, {words.data(), s.rows, s.cols}), errc::ok);
          ASSERT_EQ(ar::unpack(C{}, bits, {words.data(), s.rows, s.cols}, {back.data(), rows, cols}), errc::ok);
          ASSERT_EQ(back, code);
          const ar::codec_kernels* named = ar::find_codec(C::name);
          ASSERT_EQ(named->packed_shape(bits, rows, cols), s);
          std::vector<word> again(words.size());
          std::fill(back.begin(), back.end(), std::uint8_t{0xCD});
          if constexpr (sizeof(word) == 4) {
            ASSERT_EQ(named->pack_words(bits, {code.data(), rows, cols}, {again.data(), s.rows, s.cols}), errc::ok);
            ASSERT_EQ(named->unpack_words(bits, {again.data(), s.rows, s.cols}, {back.data(), rows, cols}), errc::ok);
          } else {
            ASSERT_EQ(named->pack_bytes(bits, {code.data(), rows, cols}, {again.data(), s.rows, s.cols}), errc::ok);
            ASSERT_EQ(named->unpack_bytes(bits, {again.data(), s.rows, s.cols}, {back.data(), rows, cols}), errc::ok);
          }
          ASSERT_EQ(again, words);
          ASSERT_EQ(back, code);
          ++cases;
        }
    EXPECT_GT(cases, 10) << C::name;
  });
}

TEST(Codecs, AnyWordsWithoutSpareBitsComeBack) {
  std::mt19937 random(5);
  for_each(ar::all_codecs{}, [&](auto t) {
    using C = typename decltype(t)::codec;
    using word = typename C::word;
    int cases = 0;
    for (int bits = 1; bits <= 8; ++bits)
      for (const std::size_t rows : sizes)
        for (const std::size_t cols : sizes) {
          const matrix_shape s = ar::packed_shape(C{}, bits, rows, cols);
          if (s == matrix_shape() || s.rows * s.cols * 8 * sizeof(word) != rows * cols * static_cast<std::size_t>(bits)) continue;
          SCOPED_TRACE(std::string(C::name) + ", " + std::to_string(bits) + " bits, " + std::to_string(rows) + " x " + std::to_string(cols));
          std::vector<word> words(s.rows * s.cols), again(words.size());
          for (word& w : words) w = static_cast<word>(random());
          std::vector<std::uint8_t> code(rows * cols, 0xCD);
          ASSERT_EQ(ar::unpack(C{}, bits, {words.data(), s.rows, s.cols}, {code.data(), rows, cols}), errc::ok);
          ASSERT_TRUE(std::all_of(code.begin(), code.end(), [&](int c) { return c < 1 << bits; }));
          ASSERT_EQ(ar::pack(C{}, bits, {code.data(), rows, cols}, {again.data(), s.rows, s.cols}), errc::ok);
          ASSERT_EQ(again, words);
          ++cases;
        }
    EXPECT_GT(cases, 10) << C::name;
  });
}

TEST(Codecs, HostileShapesAndCodesAreErrorsAndNothingIsWritten) {
  for_each(ar::all_codecs{}, [](auto t) {
    using C = typename decltype(t)::codec;
    using word = typename C::word;
    SCOPED_TRACE(C::name);
    std::vector<std::uint8_t> code(64 * 64, 0);
    std::vector<word> words(64 * 64, 7);
    const auto untouched = words;
    const std::size_t half = std::size_t{1} << 63, quarter = std::size_t{1} << 62, root = std::size_t{1} << 32, most = SIZE_MAX;
    for (int bits = -1; bits <= 40; ++bits) {
      const bool has = C::has_bits(bits);
      const matrix_shape s = ar::packed_shape(C{}, bits, 32, 32);
      EXPECT_EQ(s != matrix_shape(), has) << "every layout holds 32 x 32";
      const auto pack = [&](ar::matrix_view<const std::uint8_t> c, ar::matrix_view<word> w) { return ar::pack(C{}, bits, c, w); };
      const auto unpack = [&](ar::matrix_view<const word> w, ar::matrix_view<std::uint8_t> c) { return ar::unpack(C{}, bits, w, c); };
      if (!has) {
        EXPECT_EQ(pack({code.data(), 32, 32}, {words.data(), 32, 32}), errc::bad_value);
        EXPECT_EQ(unpack({words.data(), 32, 32}, {code.data(), 32, 32}), errc::bad_value);
        continue;
      }
      for (const auto& [rows, cols] : {std::pair{s.rows + 1, s.cols}, {s.rows - 1, s.cols}, {s.rows, s.cols + 1}, {s.rows, s.cols - 1}, {std::size_t{0}, std::size_t{0}}}) {
        EXPECT_EQ(pack({code.data(), 32, 32}, {words.data(), rows, cols}), errc::bad_shape) << rows << " x " << cols;
        EXPECT_EQ(unpack({words.data(), rows, cols}, {code.data(), 32, 32}), errc::bad_shape) << rows << " x " << cols;
      }
      EXPECT_EQ(pack({nullptr, 32, 32}, {words.data(), s.rows, s.cols}), errc::bad_shape);
      EXPECT_EQ(pack({code.data(), 32, 32}, {nullptr, s.rows, s.cols}), errc::bad_shape);
      EXPECT_EQ(pack({code.data(), 32, 32, 31}, {words.data(), s.rows, s.cols}), errc::bad_shape) << "rows that overlap";
      EXPECT_EQ(pack({code.data(), 32, 32}, {words.data(), s.rows, s.cols, s.cols - 1}), errc::bad_shape);
      // Sizes whose products wrap, to nothing or to something small: whatever the layout makes of them, nothing may be touched.
      for (const std::size_t rows : {half, quarter, root, most, most - 31})
        for (const std::size_t cols : {std::size_t{32}, half, quarter, root, most, most - 31}) {
          if (std::uint64_t n = 0; ar::checked_mul(rows, cols, n) && n <= PTRDIFF_MAX) continue;  // a size that memory could have
          const matrix_shape w = ar::packed_shape(C{}, bits, rows, cols);
          EXPECT_EQ(pack({code.data(), rows, cols}, {words.data(), w.rows, w.cols}), errc::bad_shape) << rows << " x " << cols;
          EXPECT_EQ(unpack({words.data(), w.rows, w.cols}, {code.data(), rows, cols}), errc::bad_shape);
          EXPECT_EQ(pack({code.data(), 32, 32}, {words.data(), rows, cols}), errc::bad_shape);
        }
      // Nothing to do, in any amount, is done at once.
      EXPECT_NE(pack({nullptr, most, 0}, {nullptr, most, 0}), errc::bad_value);
      EXPECT_NE(pack({nullptr, 0, most - 31}, {nullptr, 0, 0}), errc::bad_value);
      if (bits < 8) {
        for (const std::size_t at : {0u, 31u, 512u, 1023u}) {
          code[at] = static_cast<std::uint8_t>(1u << bits);
          EXPECT_EQ(pack({code.data(), 32, 32}, {words.data(), s.rows, s.cols}), errc::bad_value) << "a code of " << bits + 1 << " bits";
          code[at] = 0;
        }
      }
      EXPECT_EQ(words, untouched);
    }
    if constexpr (ar::ZeroCodec<C>) {
      std::vector<std::int32_t> zero(64, 1);
      std::vector<std::uint32_t> fields(64, 7);
      const auto before = fields;
      for (int bits = 1; bits <= 8; ++bits) {
        if (!C::has_bits(bits)) continue;
        const auto pack = [&](ar::matrix_view<const std::int32_t> z, ar::matrix_view<std::uint32_t> w) {
          return ar::pack_zeros(C{}, ar::zero_convention::v2, bits, z, w);
        };
        const matrix_shape s = ar::packed_zero_shape(C{}, bits, 32, 1);
        ASSERT_NE(s, matrix_shape());
        EXPECT_EQ(pack({zero.data(), 32, 1}, {fields.data(), s.rows + 1, s.cols}), errc::bad_shape);
        EXPECT_EQ(pack({zero.data(), 32, 1}, {fields.data(), s.rows, s.cols + 1}), errc::bad_shape);
        EXPECT_EQ(pack({nullptr, 32, 1}, {fields.data(), s.rows, s.cols}), errc::bad_shape);
        for (const std::size_t rows : {half, quarter, most, most - 31}) {
          const matrix_shape w = ar::packed_zero_shape(C{}, bits, rows, 32);
          EXPECT_EQ(pack({zero.data(), rows, 32}, {fields.data(), w.rows, w.cols}), errc::bad_shape);
        }
      }
      EXPECT_EQ(fields, before);
    }
  });
}

/// 32 rows of 32 codes through constant evaluation: plain code on all machines.
template <class C, int Bits>
struct constant {
  static constexpr std::size_t rows = 32, cols = 32;
  static constexpr matrix_shape shape = ar::packed_shape(C{}, Bits, rows, cols);
  struct result {
    std::uint8_t code[rows * cols] = {}, back[rows * cols] = {};
    typename C::word words[shape.rows * shape.cols] = {};
    bool ok = true;
  };
  static constexpr result make() {
    result r;
    std::uint32_t state = 12345;
    for (auto& c : r.code) {
      state = state * 1664525u + 1013904223u;
      c = static_cast<std::uint8_t>(state >> 24 & ((1u << Bits) - 1));
    }
    r.ok = ar::pack(C{}, Bits, {r.code, rows, cols}, {r.words, shape.rows, shape.cols}) == errc::ok &&
           ar::unpack(C{}, Bits, {r.words, shape.rows, shape.cols}, {r.back, rows, cols}) == errc::ok;
    return r;
  }
};

template <class C, int Bits>
void compare_constant() {
  if constexpr (C::has_bits(Bits)) {
    using run = constant<C, Bits>;
    static constexpr typename run::result want = run::make();
    static_assert(want.ok);
    SCOPED_TRACE(std::string(C::name) + ", " + std::to_string(Bits) + " bits");
    const auto got = run::make();
    EXPECT_TRUE(std::equal(std::begin(want.code), std::end(want.code), std::begin(want.back)));
    EXPECT_TRUE(std::equal(std::begin(want.words), std::end(want.words), std::begin(got.words)));
    EXPECT_TRUE(std::equal(std::begin(want.back), std::end(want.back), std::begin(got.back)));
  }
}

TEST(Codecs, ConstantExpressionsGiveWhatVectorsGive) {
  for_each(ar::all_codecs{}, [](auto t) {
    using C = typename decltype(t)::codec;
    compare_constant<C, 1>();
    compare_constant<C, 2>();
    compare_constant<C, 3>();
    compare_constant<C, 4>();
    compare_constant<C, 5>();
    compare_constant<C, 6>();
    compare_constant<C, 7>();
    compare_constant<C, 8>();
  });
}

}  // namespace
