// Door: from one packed layout to another without loss. A layout says how a whole quantized matrix is stored: its codes (ar/codec/ or the blocks of
// a GGUF type) and the scale and offset of every group. Reading gives codes and numbers, writing takes them, so a layout is described once and
// converts to and from all others.
//
// Without loss means: the weights that the reader of the target computes in float32 are those that the reader of the source computes, bit for bit.
// A reader computes scale * (code - zero_point), or scale * code + bias, each operation rounded. The two forms differ where a weight is zero: the
// first gives -0 under a negative scale, the second +0 always. zero_sign::any lets that pass, since no sum of products can tell.
// Codes and zero points are kept where the target can hold them, and otherwise moved together: a zero point of 3 becomes the fixed 8 of a symmetric
// layout if the codes leave room for 5 more. Groups of another size are split, or joined if their numbers are equal.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ar/codec/awq_int32.hpp"
#include "ar/codec/ct_int32.hpp"
#include "ar/codec/gptq_int32.hpp"
#include "ar/codec/gptq_planar.hpp"
#include "ar/codec/int8_bytes.hpp"
#include "ar/codec/mlx_uint32.hpp"
#include "ar/config.hpp"
#include "ar/errc.hpp"
#include "ar/numeric/half.hpp"
#include "ar/numeric/real.hpp"
#include "ar/pack.hpp"
#include "ar/view.hpp"

namespace ar {
inline namespace AR_ABI {

/// What a layout stores for a group beside its scale.
enum class group_offset : unsigned char {
  none,     ///< nothing: the zero point is 2^(bits-1)
  zero_v1,  ///< a zero point in convention v1
  zero_v2,  ///< a zero point
  bias,     ///< the weight of code 0, in the scale's format
};

/// Whether the sign of a weight that is zero counts.
enum class zero_sign : unsigned char { kept, any };

/// The tensors of a layout; those that it does not have stay empty. The layout's code_shape, scale_shape and offset_shape say their sizes.
template <class Word, class Number, class Offset>
struct packed_parts {
  matrix_view<Word> codes;      ///< qweight, weight_packed, weight, or blocks
  matrix_view<Number> scales;   ///< bits of f16 or bf16, or floats
  matrix_view<Offset> offsets;  ///< words of zero points, or biases
};

namespace converting {

/// A tile: so many rows and columns are read, checked and written at a time. Multiples of 32, where every layout can be cut.
inline constexpr std::size_t tile_rows = 32, tile_cols = 64;

/// The numbers of a group. `offset` is the zero point or the bias.
struct group_values {
  float scale = 0.0f, offset = 0.0f;
};
constexpr bool same_bits(float a, float b) noexcept { return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b); }
constexpr bool is_finite(float x) noexcept { return x - x == 0.0f; }

/// A stored number as a float, and whether a float is such a number.
template <real Format>
using stored = std::conditional_t<Format == real::f32, float, std::uint16_t>;
template <real Format>
constexpr float load_number(stored<Format> x) noexcept {
  if constexpr (Format == real::f16) return f32_from_f16(x);
  if constexpr (Format == real::bf16) return f32_from_bf16(x);
  if constexpr (Format == real::f32) return x;
}
template <real Format>
constexpr stored<Format> store_number(float x) noexcept {
  if constexpr (Format == real::f16) return f16_from_f32(x);
  if constexpr (Format == real::bf16) return bf16_from_f32(x);
  if constexpr (Format == real::f32) return x;
}
template <real Format>
constexpr bool holds_number(float x) noexcept {
  return same_bits(load_number<Format>(store_number<Format>(x)), x);
}

/// The part of a view that begins at `at` and has this shape.
template <class T>
constexpr matrix_view<T> part(matrix_view<T> m, matrix_shape at, matrix_shape shape) noexcept {
  return {m.row(at.rows) + at.cols, shape.rows, shape.cols, m.stride};
}
template <class T>
constexpr bool has_shape(matrix_view<T> m, matrix_shape s) noexcept {
  return shapes::well_formed(m) && m.rows == s.rows && m.cols == s.cols;
}

/// Groups along a row, for a size that may be -1 or 0: the whole row.
struct columns {
  std::size_t size = 1;
  constexpr std::size_t group(std::size_t k) const noexcept { return k / size; }
  constexpr std::size_t begin(std::size_t g) const noexcept { return g * size; }
};
constexpr columns columns_of(int group_size, std::size_t cols) noexcept {
  return {group_size <= 0 || static_cast<std::size_t>(group_size) > cols ? (cols == 0 ? 1 : cols) : static_cast<std::size_t>(group_size)};
}

}  // namespace converting

/// The layout of a codec with scales and offsets in tensors of their own. Width and group size (-1 a row; 0 the tensor, without offsets only) are
/// static or dynamic. The aliases in ar::layout name the layouts of the field.
template <Codec C, group_offset Offset, int Bits = dynamic, int Group = dynamic, real Format = real::f16>
struct codec_layout {
  static_assert(Bits == dynamic || C::has_bits(Bits), "ar: the codec has no such width");
  static_assert(C::order != scale_order::blocks, "ar: scales of two-dimensional blocks are not converted");
  static_assert(Group != 0 || Offset == group_offset::none, "ar: a group size of 0 (one scale for the tensor) has no offsets");
  /// What convert and its checks ask of a layout: what its parts are made of, which of them it has, width and group size, and whether they are admitted.
  /// @{
  using word = typename C::word;
  using number = converting::stored<Format>;
  using offset = std::conditional_t<Offset == group_offset::bias, number, std::uint32_t>;
  using input = packed_parts<const word, const number, const offset>;
  using output = packed_parts<word, number, offset>;
  static constexpr int static_bits = Bits, static_group = Group;
  static constexpr bool has_bias = Offset == group_offset::bias;
  static constexpr bool has_zeros = Offset == group_offset::zero_v1 || Offset == group_offset::zero_v2;

  [[no_unique_address]] extent<Bits> width{};
  [[no_unique_address]] group<Group> grouping{};

  constexpr codec_layout() = default;
  AR_INLINE constexpr codec_layout(int bits, int group_size) noexcept : width(bits), grouping(group_size) {}

  constexpr int bits() const noexcept { return width.value(); }
  constexpr int group_size() const noexcept { return grouping.value(); }
  constexpr bool valid() const noexcept {
    return C::has_bits(bits()) && group_size() >= -1 && (group_size() != 0 || Offset == group_offset::none) &&
           (C::group == 0 || group_size() == C::group);
  }
  /// @}

  /// Shapes of the parts of a matrix [rows x cols]; 0 x 0 for what there is not, or cannot be. `fits` compares views with them.
  /// @{
  constexpr matrix_shape code_shape(std::size_t rows, std::size_t cols) const noexcept { return packed_shape(C{}, bits(), rows, cols); }
  constexpr matrix_shape scale_shape(std::size_t rows, std::size_t cols) const noexcept { return ar::scale_shape(C{}, group_size(), rows, cols); }
  constexpr matrix_shape offset_shape(std::size_t rows, std::size_t cols) const noexcept {
    if constexpr (has_bias) return scale_shape(rows, cols);
    if constexpr (has_zeros) return packed_zero_shape(C{}, bits(), rows, ceil_div(cols, converting::columns_of(group_size(), cols).size));
    return {};
  }
  template <class Parts>
  constexpr bool fits(std::size_t rows, std::size_t cols, const Parts& p) const noexcept {
    const matrix_shape codes = code_shape(rows, cols), offsets = offset_shape(rows, cols);
    if (codes == matrix_shape{} || ((has_bias || has_zeros) && offsets == matrix_shape{})) return false;
    return converting::has_shape(p.codes, codes) && converting::has_shape(p.scales, scale_shape(rows, cols)) &&
           (!(has_bias || has_zeros) || converting::has_shape(p.offsets, offsets));
  }
  /// @}

  /// The zero points that can be stored so that every reader agrees. A v1 field of all ones reads back as 2^bits, or for 5 to 7 bits as 0 here and
  /// as 2^bits in the original: it is not written there. `holds` says the same of a scale and a bias.
  /// @{
  constexpr int lowest_zero() const noexcept { return Offset == group_offset::zero_v1 ? 1 : Offset == group_offset::zero_v2 ? 0 : 1 << (bits() - 1); }
  constexpr int highest_zero() const noexcept {
    const int top = (1 << bits()) - 1;
    if constexpr (has_zeros) return C::zero_of_field(convention, bits(), top) > top ? top + 1 : top;
    return 1 << (bits() - 1);
  }
  static constexpr bool holds(const converting::group_values& v) noexcept {
    return converting::holds_number<Format>(v.scale) && (!has_bias || converting::holds_number<Format>(v.offset));
  }
  /// @}

  /// A tile of codes that begins at `at`.
  /// @{
  constexpr void read_codes(const input& p, matrix_shape at, matrix_view<std::uint8_t> tile) const noexcept {
    run(packing::unpack_call<C, bits::plain_moves>{code_part(p.codes, at, tile), tile});
  }
  constexpr void write_codes(const output& p, matrix_shape at, matrix_view<const std::uint8_t> tile) const noexcept {
    run(packing::pack_call<C, bits::plain_moves>{tile, code_part(p.codes, at, tile)});
  }
  /// @}
  /// The numbers of group g of `count` rows from row n, a multiple of 32.
  /// @{
  constexpr void read_groups(const input& p, std::size_t n, std::size_t count, std::size_t g, converting::group_values* out) const noexcept {
    if constexpr (has_zeros) {
      std::int32_t zero[converting::tile_rows] = {};
      run(packing::unpack_zeros_call<C>{convention, zero_part(p.offsets, n, count, g), {zero, count, 1}});
      for (std::size_t r = 0; r < count; ++r) out[r].offset = static_cast<float>(zero[r]);
    }
    for (std::size_t r = 0; r < count; ++r) {
      out[r].scale = converting::load_number<Format>(at_group(p.scales, n + r, g));
      if constexpr (has_bias) out[r].offset = converting::load_number<Format>(at_group(p.offsets, n + r, g));
      if constexpr (!has_bias && !has_zeros) out[r].offset = static_cast<float>(1 << (bits() - 1));
    }
  }
  constexpr void write_groups(const output& p, std::size_t n, std::size_t count, std::size_t g, const converting::group_values* in) const noexcept {
    if constexpr (has_zeros) {
      std::int32_t zero[converting::tile_rows] = {};
      for (std::size_t r = 0; r < count; ++r) zero[r] = static_cast<std::int32_t>(in[r].offset);
      run(packing::pack_zeros_call<C>{convention, {zero, count, 1}, zero_part(p.offsets, n, count, g)});
    }
    for (std::size_t r = 0; r < count; ++r) {
      at_group(p.scales, n + r, g) = converting::store_number<Format>(in[r].scale);
      if constexpr (has_bias) at_group(p.offsets, n + r, g) = converting::store_number<Format>(in[r].offset);
    }
  }
  /// @}

 private:
  static constexpr zero_convention convention = Offset == group_offset::zero_v1 ? zero_convention::v1 : zero_convention::v2;

  template <class Call>
  constexpr void run(const Call& call) const noexcept {
    if constexpr (Bits != dynamic) {
      call.template run<Bits>();
    } else {
      packing::with_bits<C>(bits(), call);
    }
  }
  // Where a tile of codes lies: packed shapes are proportional, so the shape of what is before it is the place of its first word.
  template <class T, class Tile>
  constexpr matrix_view<T> code_part(matrix_view<T> words, matrix_shape at, Tile tile) const noexcept {
    return converting::part(words, {C::packed_rows(at.rows, at.cols, bits()), C::packed_cols(at.rows, at.cols, bits())},
                            {C::packed_rows(tile.rows, tile.cols, bits()), C::packed_cols(tile.rows, tile.cols, bits())});
  }
  template <class T>
  constexpr matrix_view<T> zero_part(matrix_view<T> words, std::size_t n, std::size_t count, std::size_t g) const noexcept {
    return converting::part(words, {C::packed_zero_rows(n, g, bits()), C::packed_zero_cols(n, g, bits())},
                            {C::packed_zero_rows(count, 1, bits()), C::packed_zero_cols(count, 1, bits())});
  }
  template <class T>
  constexpr T& at_group(matrix_view<T> m, std::size_t n, std::size_t g) const noexcept {
    if (group_size() == 0) return m(0, 0);
    return C::order == scale_order::groups_by_rows ? m(g, n) : m(n, g);
  }
};

/// The blocks of a GGUF type whose weights are d * (code - 2^(bits-1)) or d * code + m (Q4_0, Q5_0, Q8_0; Q4_1, Q5_1), d and m in half precision.
/// `codes` are the bytes of the tensor, [rows x cols / 32 * block_bytes].
template <class T>
struct gguf_layout {
  /// As in codec_layout.
  /// @{
  using word = std::uint8_t;
  using number = std::uint16_t;
  using offset = std::uint16_t;
  using input = packed_parts<const word, const number, const offset>;
  using output = packed_parts<word, number, offset>;
  using params = typename T::template params<float>;
  static constexpr int static_bits = T::bits(), static_group = static_cast<int>(T::block_size);
  static constexpr bool has_bias = requires(params p) { p.m; };
  static_assert(T::sub_size == T::block_size && sizeof(params) == (has_bias ? 2 : 1) * sizeof(float),
                "ar: only blocks with one scale, and a minimum at most, are converted");
  static_assert(
      T::decode(1.0f, params{}, 0) == 0.0f &&
          [] {
            params p{};
            p.d = 2.0f;
            if constexpr (has_bias) p.m = 3.0f;
            for (int c = 0; c < 1 << T::bits(); ++c)
              if (T::decode(static_cast<float>(c), p, 0) !=
                  (has_bias ? 2.0f * static_cast<float>(c) + 3.0f : 2.0f * static_cast<float>(c - (1 << (T::bits() - 1)))))
                return false;
            return true;
          }(),
      "ar: the type's codes are no whole numbers");

  static constexpr int bits() noexcept { return static_bits; }
  static constexpr int group_size() noexcept { return static_group; }
  static constexpr bool valid() noexcept { return true; }
  static constexpr matrix_shape code_shape(std::size_t rows, std::size_t cols) noexcept {
    std::uint64_t bytes = 0;
    if (cols % T::block_size != 0 || !checked_mul(cols / T::block_size, T::block_bytes, bytes)) return {};
    return rows == 0 || bytes == 0 ? matrix_shape{} : matrix_shape{rows, static_cast<std::size_t>(bytes)};
  }
  static constexpr matrix_shape scale_shape(std::size_t, std::size_t) noexcept { return {}; }
  static constexpr matrix_shape offset_shape(std::size_t, std::size_t) noexcept { return {}; }
  template <class Parts>
  static constexpr bool fits(std::size_t rows, std::size_t cols, const Parts& p) noexcept {
    return code_shape(rows, cols) != matrix_shape{} && converting::has_shape(p.codes, code_shape(rows, cols));
  }

  static constexpr int lowest_zero() noexcept { return 1 << (static_bits - 1); }
  static constexpr int highest_zero() noexcept { return 1 << (static_bits - 1); }
  static constexpr bool holds(const converting::group_values& v) noexcept {
    return converting::holds_number<real::f16>(v.scale) && (!has_bias || converting::holds_number<real::f16>(v.offset));
  }

  static constexpr void read_codes(const input& p, matrix_shape at, matrix_view<std::uint8_t> tile) noexcept {
    params unused{};
    for (std::size_t r = 0; r < tile.rows; ++r)
      for (std::size_t c = 0; c < tile.cols; c += T::block_size) T::load(block(p.codes, at.rows + r, at.cols + c), tile.row(r) + c, unused);
  }
  // Blocks with these codes and no scale yet: write_groups comes after.
  static constexpr void write_codes(const output& p, matrix_shape at, matrix_view<const std::uint8_t> tile) noexcept {
    for (std::size_t r = 0; r < tile.rows; ++r)
      for (std::size_t c = 0; c < tile.cols; c += T::block_size) T::store(params{}, tile.row(r) + c, block(p.codes, at.rows + r, at.cols + c));
  }
  static constexpr void read_groups(const input& p, std::size_t n, std::size_t count, std::size_t g, converting::group_values* out) noexcept {
    for (std::size_t r = 0; r < count; ++r) {
      std::uint8_t unused[T::block_size] = {};
      params v{};
      T::load(block(p.codes, n + r, g * T::block_size), unused, v);
      out[r] = {v.d, static_cast<float>(1 << (static_bits - 1))};
      if constexpr (has_bias) out[r].offset = v.m;
    }
  }
  static constexpr void write_groups(const output& p, std::size_t n, std::size_t count, std::size_t g, const converting::group_values* in) noexcept {
    for (std::size_t r = 0; r < count; ++r) {
      std::uint8_t code[T::block_size] = {};
      params v{};
      std::uint8_t* at = block(p.codes, n + r, g * T::block_size);
      T::load(at, code, v);
      v.d = in[r].scale;
      if constexpr (has_bias) v.m = in[r].offset;
      T::store(v, code, at);
    }
  }
  /// @}

 private:
  template <class B>
  static constexpr B* block(matrix_view<B> bytes, std::size_t n, std::size_t k) noexcept {
    return bytes.row(n) + k / T::block_size * T::block_bytes;
  }
};

/// The layouts of the field. Codes, conventions and shapes: docs/formats.md and the codecs' headers. GPTQ files with a g_idx must have a plain one
/// (gptq_int32::is_plain_g_idx).
namespace layout {
template <int Bits = dynamic, int Group = dynamic, real Format = real::f16>
using gptq_v1 = codec_layout<gptq_int32, group_offset::zero_v1, Bits, Group, Format>;  ///< auto_gptq; auto_round:auto_gptq
template <int Bits = dynamic, int Group = dynamic, real Format = real::f16>
using gptq_v2 = codec_layout<gptq_int32, group_offset::zero_v2, Bits, Group, Format>;  ///< auto_round, auto_round:gptqmodel
template <int Bits = dynamic, int Group = dynamic, real Format = real::f16>
using gptq_planes = codec_layout<gptq_planar, group_offset::zero_v2, Bits, Group, Format>;  ///< GPTQModel's gptq_p
template <int Bits = dynamic, int Group = dynamic, real Format = real::f16>
using awq = codec_layout<awq_int32, group_offset::zero_v2, Bits, Group, Format>;  ///< auto_awq
template <int Bits = dynamic, int Group = dynamic, real Format = real::f16>
using pack_quantized = codec_layout<ct_int32, group_offset::none, Bits, Group, Format>;  ///< compressed-tensors, symmetric
template <int Bits = dynamic, int Group = dynamic, real Format = real::f16>
using pack_quantized_asym = codec_layout<ct_int32, group_offset::zero_v2, Bits, Group, Format>;  ///< compressed-tensors with weight_zero_point
template <int Group = -1, real Format = real::f16>
using int_quantized = codec_layout<int8_bytes, group_offset::none, 8, Group, Format>;  ///< compressed-tensors' W8A8
template <int Bits = dynamic, int Group = dynamic, real Format = real::f16>
using mlx = codec_layout<mlx_uint32, group_offset::bias, Bits, Group, Format>;  ///< MLX affine
template <class T>
using gguf = gguf_layout<T>;  ///< blocks of a GGUF type
}  // namespace layout

/// What the static facts say: false if no matrix with a full range of codes can be converted, because the target has fewer bits, or because groups
/// of one size would straddle those of the other.
template <class From, class To>
inline constexpr bool can_convert = [] {
  if (From::static_bits != dynamic && To::static_bits != dynamic && From::static_bits > To::static_bits) return false;
  constexpr int a = From::static_group, b = To::static_group;
  if constexpr (a != dynamic && b != dynamic && a > 0 && b > 0) return a % b == 0 || b % a == 0;
  return true;
}();

namespace converting {

/// A layout with its tensors, as the walk below sees it: it is compiled once, not once for every pair. The bodies here are never called.
struct source {
  int bits = 0;
  bool has_bias = false;
  columns groups{};
  constexpr virtual void read_codes(matrix_shape, matrix_view<std::uint8_t>) const noexcept {}
  constexpr virtual void read_groups(std::size_t, std::size_t, std::size_t, group_values*) const noexcept {}

 protected:
  ~source() = default;
};
struct target {
  int bits = 0, lowest_zero = 0, highest_zero = 0;
  bool has_bias = false, one_group = false;  ///< one_group: for the whole tensor
  columns groups{};
  constexpr virtual bool holds(const group_values&) const noexcept { return false; }
  constexpr virtual void write_codes(matrix_shape, matrix_view<const std::uint8_t>) const noexcept {}
  constexpr virtual void write_groups(std::size_t, std::size_t, std::size_t, const group_values*) const noexcept {}

 protected:
  ~target() = default;
};

template <class L>
struct source_of final : source {
  const L& layout;
  const typename L::input& parts;
  constexpr source_of(const L& l, const typename L::input& p, std::size_t cols) noexcept : layout(l), parts(p) {
    bits = l.bits();
    has_bias = L::has_bias;
    groups = columns_of(l.group_size(), cols);
  }
  constexpr void read_codes(matrix_shape at, matrix_view<std::uint8_t> tile) const noexcept override { layout.read_codes(parts, at, tile); }
  constexpr void read_groups(std::size_t n, std::size_t count, std::size_t g, group_values* out) const noexcept override {
    layout.read_groups(parts, n, count, g, out);
  }
};
template <class L>
struct target_of final : target {
  const L& layout;
  const typename L::output& parts;
  constexpr target_of(const L& l, const typename L::output& p, std::size_t cols) noexcept : layout(l), parts(p) {
    bits = l.bits();
    lowest_zero = l.lowest_zero();
    highest_zero = l.highest_zero();
    has_bias = L::has_bias;
    one_group = l.group_size() == 0;
    groups = columns_of(l.group_size(), cols);
  }
  constexpr bool holds(const group_values& v) const noexcept override { return L::holds(v); }
  constexpr void write_codes(matrix_shape at, matrix_view<const std::uint8_t> tile) const noexcept override { layout.write_codes(parts, at, tile); }
  constexpr void write_groups(std::size_t n, std::size_t count, std::size_t g, const group_values* in) const noexcept override {
    layout.write_groups(parts, n, count, g, in);
  }
};

/// What the target stores for a group of the source, and what is added to its codes; false if it cannot.
constexpr bool choose(const source& from, const target& to, const group_values& in, group_values& out, int& shift) noexcept {
  shift = 0;
  out = in;
  if (to.has_bias) {
    // A bias of -0 leaves the sign of scale * code as it is.
    if (!from.has_bias) out.offset = in.offset == 0.0f ? -0.0f : -(in.scale * in.offset);
  } else {
    float zero = in.offset;
    if (from.has_bias) {
      zero = in.scale == 0.0f ? static_cast<float>(to.lowest_zero) : -in.offset / in.scale;
      if (!(zero > -1e6f && zero < 1e6f)) return false;
    }
    const int z = static_cast<int>(zero + (zero < 0.0f ? -0.5f : 0.5f));
    const int kept = z < to.lowest_zero ? to.lowest_zero : z > to.highest_zero ? to.highest_zero : z;
    shift = kept - z;
    out.offset = static_cast<float>(kept);
  }
  return to.holds(out);
}

/// The weight of a code, as a reader computes it.
constexpr float weight(bool has_bias, const group_values& v, int code) noexcept {
  return has_bias ? v.scale * static_cast<float>(code) + v.offset : v.scale * (static_cast<float>(code) - v.offset);
}

/// Moves the codes of one group and row; false if one has no place in the target, or another weight there.
constexpr bool move_codes(const source& from, const target& to, zero_sign sign, const group_values& in, const group_values& out, int shift,
                          std::uint8_t* code, std::size_t n) noexcept {
  int lowest = 255, highest = 0;
  for (std::size_t i = 0; i < n; ++i) {
    lowest = code[i] < lowest ? code[i] : lowest;
    highest = code[i] > highest ? code[i] : highest;
  }
  if (lowest + shift < 0 || highest + shift >= 1 << to.bits) return false;
  // Forms that are alike compute the same products from the same differences.
  if (from.has_bias != to.has_bias) {
    for (std::size_t i = 0; i < n; ++i) {
      const float was = weight(from.has_bias, in, code[i]), is = weight(to.has_bias, out, code[i] + shift);
      if (sign == zero_sign::any ? was != is : !same_bits(was, is)) return false;
    }
  }
  if (shift != 0)
    for (std::size_t i = 0; i < n; ++i) code[i] = static_cast<std::uint8_t>(code[i] + shift);
  return true;
}

/// Walks the matrix in tiles: checks all of it, or writes all of it.
[[nodiscard]] constexpr errc walk(bool write, const source& from, const target& to, std::size_t rows, std::size_t cols, zero_sign sign) noexcept {
  std::uint8_t buffer[tile_rows * tile_cols] = {};
  for (std::size_t n = 0; n < rows; n += tile_rows)
    for (std::size_t k = 0; k < cols; k += tile_cols) {
      const matrix_view<std::uint8_t> tile{buffer, rows - n < tile_rows ? rows - n : tile_rows, cols - k < tile_cols ? cols - k : tile_cols,
                                           tile_cols};
      // A group of the whole tensor has the numbers of its first row.
      const std::size_t first_row = to.one_group ? 0 : n, first_rows = to.one_group ? 1 : tile.rows;
      group_values mine[tile_rows], first[tile_rows], chosen;
      from.read_codes({n, k}, tile);
      for (std::size_t c = k, next = 0; c < k + tile.cols; c = next) {
        const std::size_t g = from.groups.group(c), t = to.groups.group(c);
        next = k + tile.cols;
        if (from.groups.begin(g + 1) < next) next = from.groups.begin(g + 1);
        if (to.groups.begin(t + 1) < next) next = to.groups.begin(t + 1);
        from.read_groups(n, tile.rows, g, mine);
        from.read_groups(first_row, first_rows, from.groups.group(to.groups.begin(t)), first);
        for (std::size_t r = 0; r < tile.rows; ++r) {
          group_values group;
          int shift = 0, unused = 0;
          if (!is_finite(mine[r].scale) || !is_finite(mine[r].offset)) return errc::non_finite;
          if (!choose(from, to, mine[r], chosen, shift) || !choose(from, to, first[to.one_group ? 0 : r], group, unused))
            return errc::not_representable;
          if (!same_bits(chosen.scale, group.scale) || !same_bits(chosen.offset, group.offset)) return errc::not_representable;
          if (!move_codes(from, to, sign, mine[r], chosen, shift, tile.row(r) + (c - k), next - c)) return errc::not_representable;
        }
      }
      if (!write) continue;
      to.write_codes({n, k}, tile);
      if (to.one_group && n != 0) continue;
      for (std::size_t t = ceil_div(k, to.groups.size); to.groups.begin(t) < k + tile.cols; ++t) {  // groups that begin in this tile
        from.read_groups(first_row, first_rows, from.groups.group(to.groups.begin(t)), mine);
        for (std::size_t r = 0; r < first_rows; ++r) {
          int unused = 0;
          if (!choose(from, to, mine[r], first[r], unused)) return errc::not_representable;  // never: it has been checked
        }
        to.write_groups(n, first_rows, t, first);
      }
    }
  return errc::ok;
}

}  // namespace converting

/// Converts a matrix [rows x cols] from one layout to another, without loss as said above; `out` must not overlap `in`.
/// errc::bad_value for a width or group size that a layout does not have, errc::bad_shape if a layout cannot hold the shape or a part has another
/// one than its layout says, errc::unsupported for what can_convert would refuse if it were static, errc::non_finite for scales or biases that are
/// not finite, errc::not_representable if these values have no place in the target: a zero point or scale that it cannot store (0 in v1; scales that
/// are no f16), a bias that is not exact, codes without room to move, groups that would have to be joined and differ. Nothing is written then. No
/// memory is allocated; a call needs about 8 KB of stack. Works in constant expressions.
template <class From, class To>
[[nodiscard]] constexpr errc convert(const From& from, const typename From::input& in, const To& to, const typename To::output& out, std::size_t rows,
                                     std::size_t cols, zero_sign sign = zero_sign::kept) noexcept {
  static_assert(can_convert<From, To>, "ar: the target has fewer bits than the source, or their groups straddle");
  if (!from.valid() || !to.valid()) return errc::bad_value;
  if (from.bits() > to.bits()) return errc::unsupported;
  if (rows == 0 || cols == 0) return errc::ok;
  const std::size_t a = converting::columns_of(from.group_size(), cols).size, b = converting::columns_of(to.group_size(), cols).size;
  if (a < cols && b < cols && a % b != 0 && b % a != 0) return errc::unsupported;
  if (!from.fits(rows, cols, in) || !to.fits(rows, cols, out)) return errc::bad_shape;
  const converting::source_of<From> source(from, in, cols);
  const converting::target_of<To> target(to, out, cols);
  if (const errc e = converting::walk(false, source, target, rows, cols, sign); e != errc::ok) return e;
  return converting::walk(true, source, target, rows, cols, sign);
}

}  // namespace AR_ABI
}  // namespace ar
