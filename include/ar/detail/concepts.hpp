// What a data type and a codec must provide, and the static-or-dynamic building blocks of a scheme. Users include ar/scheme.hpp.
#pragma once

#include <climits>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ar/config.hpp"
#include "ar/numeric/real.hpp"

namespace ar {

/// Stands for "known at run time only" wherever a scheme takes a number (compare std::dynamic_extent).
inline constexpr int dynamic = INT_MIN;

/// A number that is a type when it is static and a member when it is dynamic. Same use in both cases: `x.value()`.
template <int N>
struct extent {
  constexpr extent() = default;
  AR_INLINE constexpr explicit extent(int) noexcept {}
  AR_INLINE static constexpr int value() noexcept { return N; }
};
template <>
struct extent<dynamic> {
  int number = 0;
  constexpr extent() = default;
  AR_INLINE constexpr explicit extent(int v) noexcept : number(v) {}
  AR_INLINE constexpr int value() const noexcept { return number; }
};

/// Values per group along a row: N > 0; -1 = the whole row; 0 = the whole tensor; dynamic = chosen at run time, `group<dynamic>{64}`.
/// A last group that is short is padded with zeros; a group longer than the row is the row.
template <int N = dynamic>
struct group : extent<N> {
  static_assert(N > 0 || N == -1 || N == 0 || N == dynamic, "ar: a group size is positive, -1 (row), 0 (tensor) or ar::dynamic");
  constexpr group() = default;
  AR_INLINE constexpr explicit group(int values) noexcept : extent<N>(values) {}
};
group(int) -> group<dynamic>;

/// Groups that span rows: Rows x Cols values, tiles of the matrix. Tiles at its edges may be smaller.
template <int Rows = dynamic, int Cols = dynamic>
struct tile : extent<Cols> {
  static_assert((Rows > 0 || Rows == dynamic) && (Cols > 0 || Cols == dynamic), "ar: a tile has at least one row and one column");
  [[no_unique_address]] extent<Rows> height{};
  constexpr tile() = default;
  AR_INLINE constexpr tile(int r, int c) noexcept : extent<Cols>(c), height(r) {}
};
tile(int, int) -> tile<dynamic, dynamic>;

/// A grouping as numbers: what group<> and tile<> say. Converts from a plain group size.
struct group_shape {
  int size = 0;  ///< values along a row, as in group<>
  int rows = 1;  ///< rows; more than one for tiles
  constexpr group_shape() = default;
  AR_INLINE constexpr group_shape(int s, int r = 1) noexcept : size(s), rows(r) {}
};

/// A list of types; nothing else.
template <class... T>
struct type_list {
  static constexpr std::size_t size = sizeof...(T);
};

/// A data type whose groups need nothing but their smallest and largest value. To add one, write dtype/<name>.hpp with a tag that has
///   name, bits() (code width), valid() (false if a run-time width is out of range), weight_format and scale_format (rounding policy),
///   code_offset() (added to the value that encode gives, so that a stored code is unsigned), or, where values are no whole numbers,
///   to_code(value) -> code and from_code(code) -> value,
///   template <class F> struct params (only members of type F: the scale, then the zero point if there is one),
///   from_range(lo, hi) -> params, encode(w, params) -> value, decode(value, params) -> weight,
/// and, where it applies, stored_params (how many of the parameters are stored; complete(params) computes the others from them), zero_scale = true
/// (a scale may be 0), qdq(w, params) (if it is not decode(encode(w))), the_tensor and needs_range() (numbers for the whole tensor), own_kernels = true
/// (types with the_facts: the dispatch unit makes kernels for this instance instead of those that all of them share),
/// each written over a lane type F (detail/lane.hpp), and the list `<name>_types` of the instances that are built for run-time dispatch.
template <class T>
concept RangeType = std::copyable<T> && requires(const T t, float x, typename T::template params<float> p) {
  { T::name } -> std::convertible_to<const char*>;
  { t.bits() } -> std::same_as<int>;
  { t.valid() } -> std::same_as<bool>;
  { T::weight_format } -> std::convertible_to<real>;
  { T::scale_format } -> std::convertible_to<real>;
  requires requires { { t.code_offset() } -> std::same_as<int>; } || requires {
    { t.to_code(x) } -> std::same_as<float>;
    { t.from_code(x) } -> std::same_as<float>;
  };
  { t.from_range(x, x) } -> std::same_as<typename T::template params<float>>;
  { t.encode(x, p) } -> std::same_as<float>;
  { t.decode(x, p) } -> std::same_as<float>;
  requires sizeof(p) % sizeof(float) == 0 && std::is_trivially_copyable_v<decltype(p)>;
};

/// A format of blocks that can be read: one byte layout (GGUF). To add one, write dtype/<name>.hpp with a tag that has
///   name, bits() (code width), block_size (values), sub_size (consecutive values that decode alike), block_bytes,
///   template <class F> struct params (only members of type F: what a block stores besides codes),
///   load(bytes, codes, params<float>) for the layout,
///   decode(code, params, sub block) -> weight, and where there is more than one sub block, terms(params, sub block) and decode(code, terms).
template <class T>
concept ReadableBlockType = std::copyable<T> && requires(const T t, float x, typename T::template params<float> p, const std::uint8_t* cbytes,
                                                        std::uint8_t* bytes) {
  { T::name } -> std::convertible_to<const char*>;
  { t.bits() } -> std::same_as<int>;
  requires T::block_size > 0 && T::sub_size > 0 && T::block_size % T::sub_size == 0 && T::block_bytes > 0;
  { t.decode(x, p, 0) } -> std::same_as<float>;
  T::load(cbytes, bytes, p);
  requires sizeof(p) % sizeof(float) == 0 && std::is_trivially_copyable_v<decltype(p)>;
};

/// A data type whose groups are fitted by a search with a fixed order of sums, and which has one byte layout (GGUF). The row driver puts a
/// different block into every lane, so the search is written as if for one block. Beside what a readable type has, it has
///   fit(x[block_size], importance[block_size] or null, code[block_size], params),
///   store(params<float>, codes, bytes) for the layout,
/// and, where a block's extent decides everything without importance, fit_extent(extent, params) and code_in_extent(x, scaling) (gguf_block32-inl.h):
/// blocks are then encoded as they lie.
template <class T>
concept BlockType = ReadableBlockType<T> && requires(const T t, const float* in, float* code, typename T::template params<float> p,
                                                     const std::uint8_t* cbytes, std::uint8_t* bytes) {
  t.fit(in, in, code, p);
  T::store(p, cbytes, bytes);
};

/// What a weight can be quantized to.
template <class T>
concept DataType = RangeType<T> || BlockType<T>;

/// What a zero-point field holds. `v2`: the zero point. `v1` (GPTQ's older files): one less.
enum class zero_convention : unsigned char { v1, v2 };

/// How a layout stores one scale per group of weights [rows x cols], whatever the scale's format.
enum class scale_order : unsigned char {
  rows_by_groups,  ///< [rows x groups]
  groups_by_rows,  ///< [groups x rows]
  blocks,          ///< [ceil(rows / group) x ceil(cols / group)]
};

/// A packed layout of unsigned codes [rows x cols]; rows are outputs. To add one, write codec/<name>.hpp with a tag of that name that has
///   name, word (what the packed tensor is made of: a byte or 32 bits), has_bits(width),
///   packed_rows/packed_cols(rows, cols, bits) (0 if the shape does not fit),
///   order and group (how scales lie; the group size if the layout has but one, otherwise 0),
///   pack<Bits, Moves>/unpack<Bits, Moves> over views, which may rely on shapes and widths that have been checked (ar/pack.hpp). Moves has the vocabulary of
///   detail/stream_rows.hpp: plain_moves, or a SIMD target's.
template <class T>
concept Codec = requires(std::size_t n, int bits) {
  { T::name } -> std::convertible_to<const char*>;
  requires sizeof(typename T::word) == 1 || sizeof(typename T::word) == 4;
  { T::has_bits(bits) } -> std::same_as<bool>;
  { T::packed_rows(n, n, bits) } -> std::same_as<std::size_t>;
  { T::packed_cols(n, n, bits) } -> std::same_as<std::size_t>;
  { T::order } -> std::convertible_to<scale_order>;
  { T::group } -> std::convertible_to<int>;
};

/// A codec that packs zero points as well: has_convention, packed_zero_rows/packed_zero_cols(rows, groups, bits), zero_field(convention, bits, z)
/// (-1 if the convention has no field for z), zero_of_field, pack_zeros<Bits>/unpack_zeros<Bits>.
template <class T>
concept ZeroCodec = Codec<T> && requires(std::size_t n, int bits, std::int32_t z) {
  { T::has_convention(zero_convention::v2) } -> std::same_as<bool>;
  { T::packed_zero_rows(n, n, bits) } -> std::same_as<std::size_t>;
  { T::packed_zero_cols(n, n, bits) } -> std::same_as<std::size_t>;
  { T::zero_field(zero_convention::v2, bits, z) } -> std::same_as<std::int32_t>;
  { T::zero_of_field(zero_convention::v2, bits, z) } -> std::same_as<std::int32_t>;
};

/// A data type with its grouping. Each part is static or dynamic; a fully static scheme is an empty object.
template <class Type, class Group = group<dynamic>>
struct scheme {
  using data_type = Type;
  using group_type = Group;
  [[no_unique_address]] Type type{};
  [[no_unique_address]] Group grouping{};

  constexpr scheme() = default;
  AR_INLINE constexpr scheme(Type t, Group g) noexcept : type(t), grouping(g) {}
  AR_INLINE constexpr explicit scheme(Group g) noexcept : grouping(g) {}
  AR_INLINE constexpr int group_size() const noexcept { return grouping.value(); }
  AR_INLINE constexpr int group_rows() const noexcept {
    if constexpr (requires { grouping.height; }) {
      return grouping.height.value();
    } else {
      return 1;
    }
  }
  AR_INLINE constexpr group_shape shape() const noexcept { return {group_size(), group_rows()}; }
};

}  // namespace ar
