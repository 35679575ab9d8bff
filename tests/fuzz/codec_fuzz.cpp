// links: ar_dispatch
// runs: 4000
// Any bytes as the words of any codec: what is unpacked fits the width and packs to the same words where no bit is spare; the same for zero points.
// The kernels of every SIMD target give the bytes and errors of the plain code, and touch nothing in the gaps between rows.
// Any bytes as the tensors of any layout, converted to any other: equal weights as the layouts' readers compute them, or nothing written. Buffers
// have exactly the size that the layouts ask for, so that the sanitizers see a byte beyond.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "ar/dispatch.hpp"
#include "ar/pack.hpp"
#include "support/convertible.hpp"
#include "support/strided.hpp"

namespace {

using support::must;

using input = support::fuzz_bytes;

/// The codec of every SIMD target.
std::vector<const ar::codec_kernels*> of_targets(const ar::codec_kernels& plain) {
  const ar::kernel_table* tables[16] = {};
  const std::size_t count = ar::all_kernels(tables, 16);
  std::vector<const ar::codec_kernels*> found;
  for (std::size_t t = 0; t < count; ++t) found.push_back(tables[t]->codec(plain.name));
  return found;
}

template <class Word>
void there_and_back(input& in, const ar::codec_kernels& plain, int bits, std::size_t rows, std::size_t cols, std::size_t gap) {
  constexpr auto pack = support::calls<Word>::pack;
  constexpr auto unpack = support::calls<Word>::unpack;
  const ar::matrix_shape s = plain.packed_shape(bits, rows, cols);
  support::strided<Word> words(s.rows, s.cols, gap), again(words);
  support::strided<std::uint8_t> code(rows, cols, gap), back(code);
  for (std::size_t r = 0; r < s.rows; ++r) in.fill(words.view().row(r), s.cols * sizeof(Word));
  must((plain.*unpack)(bits, words.const_view(), code.view()) == ar::errc::ok);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) must(code.view()(r, c) < 1 << bits);
  must((plain.*pack)(bits, code.const_view(), again.view()) == ar::errc::ok);
  if (s.rows * s.cols * sizeof(Word) * 8 == rows * cols * static_cast<std::size_t>(bits)) must(words.memory == again.memory);
  must((plain.*unpack)(bits, again.const_view(), back.view()) == ar::errc::ok);
  must(code.memory == back.memory);
  const auto targets = of_targets(plain);
  for (const ar::codec_kernels* k : targets) {
    support::strided<std::uint8_t> unpacked(rows, cols, gap);
    support::strided<Word> packed(s.rows, s.cols, gap);
    must((k->*unpack)(bits, words.const_view(), unpacked.view()) == ar::errc::ok);
    must(unpacked.memory == code.memory);
    must((k->*pack)(bits, code.const_view(), packed.view()) == ar::errc::ok);
    must(packed.memory == again.memory);
  }
  if (bits == 8) return;
  // A code that does not fit: an error, and nothing is written.
  const std::size_t row = in.below(rows), col = in.below(cols);
  code.view()(row, col) = static_cast<std::uint8_t>((1u << bits) + in.below(256 - (std::size_t{1} << bits)));
  const auto before = again.memory;
  must((plain.*pack)(bits, code.const_view(), again.view()) == ar::errc::bad_value);
  for (const ar::codec_kernels* k : targets) must((k->*pack)(bits, code.const_view(), again.view()) == ar::errc::bad_value);
  must(again.memory == before);
}

void zeros_there_and_back(input& in, const ar::codec_kernels& plain, int bits, std::size_t rows, std::size_t groups) {
  const ar::matrix_shape s = plain.packed_zero_shape(bits, rows, groups);
  if (s == ar::matrix_shape()) return;
  std::vector<std::uint32_t> words(s.rows * s.cols), again(words.size());
  in.fill(words.data(), words.size() * 4);
  std::vector<std::int32_t> zero(rows * groups), back(zero.size());
  for (const auto convention : {ar::zero_convention::v1, ar::zero_convention::v2}) {
    const ar::errc e = plain.unpack_zeros(convention, bits, {words.data(), s.rows, s.cols}, {zero.data(), rows, groups});
    must(e == ar::errc::ok || (e == ar::errc::unsupported && convention == ar::zero_convention::v1));
    if (e != ar::errc::ok) continue;
    must(plain.pack_zeros(convention, bits, {zero.data(), rows, groups}, {again.data(), s.rows, s.cols}) == ar::errc::ok);
    if (words.size() * 32 == zero.size() * static_cast<std::size_t>(bits)) must(words == again);
    must(plain.unpack_zeros(convention, bits, {again.data(), s.rows, s.cols}, {back.data(), rows, groups}) == ar::errc::ok);
    must(zero == back);
    for (const ar::codec_kernels* k : of_targets(plain)) {
      std::vector<std::uint32_t> packed(words.size());
      std::vector<std::int32_t> unpacked(zero.size());
      must(k->unpack_zeros(convention, bits, {words.data(), s.rows, s.cols}, {unpacked.data(), rows, groups}) == ar::errc::ok);
      must(unpacked == zero);
      must(k->pack_zeros(convention, bits, {zero.data(), rows, groups}, {packed.data(), s.rows, s.cols}) == ar::errc::ok);
      must(packed == again);
    }
  }
}

void convert(input& in) {
  static const support::layout_table<> all;
  const std::size_t from = in.below(all.size), to = in.below(all.size);
  const int bits = 1 + static_cast<int>(in.below(8)), wide = std::min(8, bits + static_cast<int>(in.below(4)));
  const int sizes[] = {32, 32, 16, 24, 64, 128, -1, 0, 1, 7};
  const int group = sizes[in.below(10)], other = sizes[in.below(10)];
  const std::size_t unit = in.below(3) == 0 ? 1 : 32, rows = unit * (1 + in.below(3)), cols = unit * (1 + in.below(6));
  const auto sign = in.below(2) == 0 ? ar::zero_sign::kept : ar::zero_sign::any;
  const auto source = all.make[from](bits, group, rows, cols), target = all.make[to](wide, other, rows, cols);
  if (source == nullptr || target == nullptr || all.convert[from][to] == nullptr) return;
  const auto parts = source->bytes();
  for (const auto part : parts) in.fill(part.data(), part.size());
  // Arbitrary scales rarely convert: make some of them small whole numbers, and some groups alike, by way of the same writers.
  if (in.below(2) == 0) {
    std::vector<std::uint8_t> code(rows * cols);
    in.fill(code.data(), code.size());
    for (auto& c : code) c = static_cast<std::uint8_t>(c & ((1 << bits) - 1));
    std::vector<float> scale(rows * source->groups()), offset(scale.size());
    const bool alike = in.below(2) == 0;
    for (std::size_t i = 0; i < scale.size(); ++i) {
      scale[i] = alike && i != 0 ? scale[0] : static_cast<float>(static_cast<int>(in.below(64)) - 32);
      const int zero = source->lowest_zero() == 1 ? 1 + static_cast<int>(in.below(static_cast<std::size_t>(1) << bits))
                                                  : static_cast<int>(in.below(static_cast<std::size_t>(1) << bits));
      offset[i] = source->has_bias() ? -scale[i] * static_cast<float>(zero) : static_cast<float>(zero);
    }
    source->write(code, scale, offset);
  }
  const auto untouched = all.make[to](wide, other, rows, cols);
  if (all.convert[from][to](*source, *target, sign) != ar::errc::ok) {
    must(target->equals(*untouched));
    return;
  }
  must(support::same_weights(source->weights(), target->weights(), sign));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  input in{data, size};
  if (in.below(2) == 0) {
    convert(in);
    return 0;
  }
  const auto codecs = ar::codecs();
  const ar::codec_kernels& k = codecs[in.below(codecs.size())];
  const int bits = 1 + static_cast<int>(in.below(8));
  const std::size_t unit = in.below(3) == 0 ? 1 : in.below(2) == 0 ? 8 : 32;
  const bool large = in.below(4) == 0;  // tiles and strips of the kernels end at 64 to 256; few inputs, for the sake of the others' speed
  const std::size_t rows = unit * (1 + in.below(large ? 6 : 2)), cols = unit * (1 + in.below(large ? 10 : 3)), gap = in.below(3);
  if (k.packed_shape(bits, rows, cols) == ar::matrix_shape()) return 0;
  if (k.pack_words != nullptr) there_and_back<std::uint32_t>(in, k, bits, rows, cols, gap);
  if (k.pack_bytes != nullptr) there_and_back<std::uint8_t>(in, k, bits, rows, cols, gap);
  zeros_there_and_back(in, k, bits, rows, 1 + in.below(4));
  return 0;
}
