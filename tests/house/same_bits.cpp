// The results of every data type and packed layout in one number, for tests/house/same_bits.sh: the same for every compiler, optimization and target.
#include <ar/dispatch.hpp>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <vector>

namespace {

struct fnv {
  std::uint64_t state = 0xCBF29CE484222325u;
  void add(const void* data, std::size_t bytes) {
    const auto* p = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < bytes; ++i) state = (state ^ p[i]) * 0x100000001B3u;
  }
  template <class T>
  void add(const std::vector<T>& v) {
    add(v.data(), v.size() * sizeof(T));
  }
};

/// Numbers as weights are, of all magnitudes that codes see, with ties and zeros among them; from integers, so that no library decides a bit.
std::vector<float> weights(std::size_t n) {
  std::vector<float> w(n);
  std::uint32_t x = 12345;
  for (std::size_t i = 0; i < n; ++i) {
    x = x * 1664525u + 1013904223u;
    const float unit = static_cast<float>(static_cast<std::int32_t>(x >> 8) - (1 << 23)) * 0x1p-23f;
    w[i] = i % 29 == 0 ? 0.0f : i % 7 == 0 ? static_cast<float>(static_cast<int>(x >> 28) - 8) * 0.0625f : unit * (i / 128 % 3 == 0 ? 0.02f : 3.0f);
  }
  return w;
}

/// What a packed layout makes of codes, and of any words: rows of whole vectors and a rest.
template <class Word, class Pack, class Unpack>
void add_layout(fnv& hash, const ar::codec_kernels& k, Pack pack, Unpack unpack) {
  const std::size_t shapes[][2] = {{1, 333}, {5, 96}, {64, 72}, {32, 544}, {136, 264}};
  for (int bits = 1; bits <= 8; ++bits)
    for (const auto& [rows, cols] : shapes) {
      const ar::matrix_shape s = k.packed_shape(bits, rows, cols);
      if (s == ar::matrix_shape()) continue;
      std::vector<std::uint8_t> code(rows * cols);
      std::vector<Word> packed(s.rows * s.cols), any(packed.size());
      std::uint32_t x = 54321;
      const auto next = [&x] { return (x = x * 1664525u + 1013904223u) >> 8; };
      for (auto& c : code) c = static_cast<std::uint8_t>(next() & ((1u << bits) - 1));
      for (auto& w : any) w = static_cast<Word>(next() << 8 ^ next());
      ar::errc e = pack(bits, {code.data(), rows, cols}, {packed.data(), s.rows, s.cols});
      if (e == ar::errc::ok) e = unpack(bits, {any.data(), s.rows, s.cols}, {code.data(), rows, cols});
      hash.add(&e, sizeof e);
      hash.add(packed);
      hash.add(code);
    }
}

std::uint64_t results(const ar::kernel_table& table) {
  fnv hash;
  const std::size_t rows = 6, cols = 256 + 29;  // whole vectors and a rest
  const std::vector<float> w = weights(rows * cols);
  const ar::matrix_view<const float> in(w.data(), rows, cols);
  std::vector<float> weight_of_column(cols), half(rows * cols);
  for (std::size_t i = 0; i < cols; ++i) weight_of_column[i] = static_cast<float>(i * 37 % 101) * 0.01f;
  for (std::size_t i = 0; i < half.size(); ++i) half[i] = static_cast<float>(static_cast<int>(i * 53 % 129) - 64) * 0x1p-7f;
  for (std::size_t i = 0; i < table.range_type_count; ++i) {
    const ar::range_kernels& k = table.range_types[i];
    for (const int bits : {2, 3, 4, 8}) {
      if (k.fixed_bits() != 0 && bits != 4) continue;
      for (const int group : {32, -1}) {
        ar::type_values type(bits);
        type.tensor.maximum = k.two_level() ? 3.0f : -1.0f;
        const std::size_t groups = group < 0 ? 1 : ar::ceil_div(cols, static_cast<std::size_t>(group));
        std::vector<float> scale(rows * groups), zero(rows * groups), back(w.size()), qdq(w.size());
        std::vector<std::uint8_t> code(w.size());
        ar::errc e = k.quantize(type, group, in, {code.data(), rows, cols}, {scale.data(), rows, groups}, {zero.data(), rows, groups});
        if (e == ar::errc::ok)
          e = k.dequantize(type, group, {code.data(), rows, cols}, {scale.data(), rows, groups}, {zero.data(), rows, groups},
                           {back.data(), rows, cols});
        if (e == ar::errc::ok) e = k.qdq(type, group, in, {qdq.data(), rows, cols});
        hash.add(&e, sizeof e);
        hash.add(code);
        hash.add(scale);
        if (k.has_zero_point) hash.add(zero);
        hash.add(back);
        hash.add(qdq);
        std::vector<float> searched(w.size()), tuned(w.size());
        for (const bool neuqi : {false, true}) {
          const ar::search_options how{.importance = weight_of_column.data(), .neuqi = neuqi};
          e = k.search(type, group, in, how, {.scale = {scale.data(), rows, groups}, .weight = {searched.data(), rows, cols}});
          hash.add(&e, sizeof e);
          hash.add(scale);
          hash.add(searched);
        }
        const ar::matrix_view<const float> offset(half.data(), rows, cols);
        e = k.quantize_tuned(type, group, in, {.v = offset}, {.weight = {tuned.data(), rows, cols}});
        hash.add(&e, sizeof e);
        hash.add(tuned);
      }
    }
  }
  const std::size_t block_rows = 5, block_cols = 512;
  const std::vector<float> x = weights(block_rows * block_cols);
  std::vector<float> importance(block_cols);
  for (std::size_t i = 0; i < block_cols; ++i) importance[i] = static_cast<float>(i * 37 % 101) * 0.01f;
  for (const ar::gguf_kernels& k : table.gguf_types())
    for (const bool weighted : {false, true}) {
      std::vector<std::uint8_t> blocks(x.size() / k.block_elements * k.block_bytes);
      std::vector<float> back(x.size());
      ar::errc e = k.quantize({x.data(), block_rows, block_cols}, weighted ? std::span<const float>(importance) : std::span<const float>(), blocks);
      if (e == ar::errc::ok) e = k.dequantize(blocks, {back.data(), block_rows, block_cols});
      hash.add(&e, sizeof e);
      hash.add(blocks);
      hash.add(back);
    }
  for (const ar::codec_kernels& k : table.codecs()) {
    if (k.pack_words != nullptr) add_layout<std::uint32_t>(hash, k, k.pack_words, k.unpack_words);
    if (k.pack_bytes != nullptr) add_layout<std::uint8_t>(hash, k, k.pack_bytes, k.unpack_bytes);
  }
  return hash.state;
}

}  // namespace

int main() {
  const ar::kernel_table* tables[16] = {};
  const std::size_t count = ar::all_kernels(tables, 16);
  const std::uint64_t first = results(*tables[0]);
  std::printf("%016llx", static_cast<unsigned long long>(first));
  bool same = true;
  for (std::size_t i = 0; i < count; ++i) {
    same = same && results(*tables[i]) == first;
    std::fprintf(stderr, " %s", tables[i]->target);
  }
  std::printf("\n");
  return same ? 0 : 1;
}
