// Any bytes as the words of any codec: what is unpacked fits the width and packs to the same words where no bit is spare; the same for zero points.
// Any bytes as the tensors of any layout, converted to any other: equal weights as the layouts' readers compute them, or nothing written. Buffers
// have exactly the size that the layouts ask for, so that the sanitizers see a byte beyond.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "ar/pack.hpp"
#include "support/convertible.hpp"

namespace {

using support::must;

using source = support::fuzz_bytes;

template <class Word>
using pack_call = ar::errc (*)(int, ar::matrix_view<const std::uint8_t>, ar::matrix_view<Word>) noexcept;
template <class Word>
using unpack_call = ar::errc (*)(int, ar::matrix_view<const Word>, ar::matrix_view<std::uint8_t>) noexcept;

template <class Word>
void there_and_back(source& in, int bits, std::size_t rows, std::size_t cols, ar::matrix_shape s, pack_call<Word> pack, unpack_call<Word> unpack) {
  std::vector<Word> words(s.rows * s.cols), again(words.size());
  in.fill(words.data(), words.size() * sizeof(Word));
  std::vector<std::uint8_t> code(rows * cols, 0xFF), back(code.size());
  must(unpack(bits, {words.data(), s.rows, s.cols}, {code.data(), rows, cols}) == ar::errc::ok);
  for (const int c : code) must(c < 1 << bits);
  must(pack(bits, {code.data(), rows, cols}, {again.data(), s.rows, s.cols}) == ar::errc::ok);
  if (words.size() * sizeof(Word) * 8 == code.size() * static_cast<std::size_t>(bits)) must(words == again);
  must(unpack(bits, {again.data(), s.rows, s.cols}, {back.data(), rows, cols}) == ar::errc::ok);
  must(code == back);
}

void zeros_there_and_back(source& in, const ar::codec_kernels& k, int bits, std::size_t rows, std::size_t groups) {
  const ar::matrix_shape s = k.packed_zero_shape(bits, rows, groups);
  if (s == ar::matrix_shape()) return;
  std::vector<std::uint32_t> words(s.rows * s.cols), again(words.size());
  in.fill(words.data(), words.size() * 4);
  std::vector<std::int32_t> zero(rows * groups), back(zero.size());
  for (const auto convention : {ar::zero_convention::v1, ar::zero_convention::v2}) {
    const ar::errc e = k.unpack_zeros(convention, bits, {words.data(), s.rows, s.cols}, {zero.data(), rows, groups});
    must(e == ar::errc::ok || (e == ar::errc::unsupported && convention == ar::zero_convention::v1));
    if (e != ar::errc::ok) continue;
    must(k.pack_zeros(convention, bits, {zero.data(), rows, groups}, {again.data(), s.rows, s.cols}) == ar::errc::ok);
    if (words.size() * 32 == zero.size() * static_cast<std::size_t>(bits)) must(words == again);
    must(k.unpack_zeros(convention, bits, {again.data(), s.rows, s.cols}, {back.data(), rows, groups}) == ar::errc::ok);
    must(zero == back);
  }
}

void convert(source& in) {
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
  source in{data, size};
  if (in.below(2) == 0) {
    convert(in);
    return 0;
  }
  const auto codecs = ar::codecs();
  const ar::codec_kernels& k = codecs[in.below(codecs.size())];
  const int bits = 1 + static_cast<int>(in.below(8));
  const std::size_t unit = in.below(3) == 0 ? 1 : in.below(2) == 0 ? 8 : 32, rows = unit * (1 + in.below(6)), cols = unit * (1 + in.below(10));
  const ar::matrix_shape s = k.packed_shape(bits, rows, cols);
  if (s == ar::matrix_shape()) return 0;
  if (k.pack_words != nullptr) there_and_back<std::uint32_t>(in, bits, rows, cols, s, k.pack_words, k.unpack_words);
  if (k.pack_bytes != nullptr) there_and_back<std::uint8_t>(in, bits, rows, cols, s, k.pack_bytes, k.unpack_bytes);
  zeros_there_and_back(in, k, bits, rows, 1 + in.below(4));
  return 0;
}
