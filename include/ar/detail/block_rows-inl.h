// The loops of the block types (GGUF) over a matrix, for a lane type V. Every lane works on another block: `lanes` rows at a time, whose blocks
// are taken in row-major order, so that also short rows fill the lanes. With V = float it is the reference and works in constant expressions.
#if defined(AR_DETAIL_BLOCK_ROWS_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_BLOCK_ROWS_INL_H
#else
#define AR_DETAIL_BLOCK_ROWS_INL_H
#endif

#include "ar/detail/bytes16.hpp"
#include "ar/detail/gguf_block32-inl.h"
#include "ar/detail/gguf_superblock-inl.h"
#include "ar/detail/rows-inl.h"

AR_BEGIN_TARGET
namespace rows {

template <class T>
inline constexpr std::size_t groups_of = T::block_size / T::sub_size;

/// Types without a weighted search say so; a row of importances is then checked and left alone.
template <class T>
inline constexpr bool ignores_importance = requires { requires T::ignores_importance; };

// ---------------------------------------------------------------------------------------------------------------------------------------------
// Blocks into lanes and back

/// Some blocks side by side: where the block of each lane lies. Lanes past the last block repeat it and are not written.
template <class V>
struct block_batch {
  static constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
  std::size_t row, here, per_row;  ///< first row of the group of rows; lanes in use; blocks of a row
  std::size_t row_of[lanes], column_block[lanes];
  constexpr std::size_t block(std::size_t lane) const noexcept { return row_of[lane] * per_row + column_block[lane]; }  ///< its number in the matrix
};

/// x[i] = element i of each lane's block, where lane l reads from[l].
template <class V>
AR_NOINLINE constexpr void turn_in(const float* const* from, std::size_t size, V* x) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
  if constexpr (lanes == 1) {
    for (std::size_t i = 0; i < size; ++i) x[i] = lane_load<V>(from[0] + i);
  } else {
#if AR_HAS_BYTES16
    if (size % 4 == 0) {  // tiles of 4 x 4, straight to their place
      for (std::size_t l = 0; l < lanes; l += 4)
        for (std::size_t i = 0; i < size; i += 4) {
          bits::u32x4 tile[4];
          for (std::size_t k = 0; k < 4; ++k) tile[k] = std::bit_cast<bits::u32x4>(bits::load16(from[l + k] + i));
          bits::transpose_32(tile);
          for (std::size_t k = 0; k < 4; ++k) bits::store16(std::bit_cast<bits::u8x16>(tile[k]), reinterpret_cast<std::uint8_t*>(x + i + k) + 4 * l);
        }
      return;
    }
#endif
    constexpr std::size_t chunk = 32;
    float turned[chunk * lanes];
    for (std::size_t at = 0; at < size; at += chunk) {
      const std::size_t n = size - at < chunk ? size - at : chunk;
      for (std::size_t l = 0; l < lanes; ++l)
        for (std::size_t i = 0; i < n; ++i) turned[i * lanes + l] = from[l][at + i];
      for (std::size_t i = 0; i < n; ++i) x[at + i] = lane_load<V>(turned + i * lanes);
    }
  }
}
/// The other way, for the first `here` lanes.
template <class V>
AR_NOINLINE constexpr void turn_out(const V* x, std::size_t size, float* const* to, std::size_t here) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
  if constexpr (lanes == 1) {
    for (std::size_t i = 0; i < size; ++i) lane_store(x[i], to[0] + i);
  } else {
    constexpr std::size_t chunk = 32;
    float turned[chunk * lanes];
    for (std::size_t at = 0; at < size; at += chunk) {
      const std::size_t n = size - at < chunk ? size - at : chunk;
      for (std::size_t i = 0; i < n; ++i) lane_store(x[at + i], turned + i * lanes);
      for (std::size_t l = 0; l < here; ++l)
        for (std::size_t i = 0; i < n; ++i) to[l][at + i] = turned[i * lanes + l];
    }
  }
}

/// x = the weights of the lanes' blocks of `size` columns.
template <class V>
AR_NOINLINE constexpr void load_blocks(matrix_view<const float> w, const block_batch<V>& b, std::size_t size, V* x) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
  const float* from[lanes] = {};
  for (std::size_t l = 0; l < lanes; ++l) from[l] = w.row(b.row_of[l]) + b.column_block[l] * size;
  turn_in<V>(from, size, x);
}
/// x = what a row of one number per column (a matrix whose rows are all the same: stride 0) says of the lanes' blocks.
template <class V>
constexpr void load_columns(const float* columns, const block_batch<V>& b, std::size_t size, V* x) noexcept {
  load_blocks<V>(matrix_view<const float>{columns, 0, b.per_row * size, 0}, b, size, x);
}
template <class V>
AR_NOINLINE constexpr void save_blocks(const V* x, const block_batch<V>& b, std::size_t size, matrix_view<float> out) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
  float* to[lanes] = {};
  for (std::size_t l = 0; l < b.here; ++l) to[l] = out.row(b.row_of[l]) + b.column_block[l] * size;
  turn_out<V>(x, size, to, b.here);
}

/// auto-round's parameters of the lanes' blocks, `n` numbers each.
template <class V>
AR_NOINLINE constexpr void load_parameters(const float* p, const block_batch<V>& b, std::size_t n, V* x) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
  if (p == nullptr) {
    for (std::size_t i = 0; i < n; ++i) x[i] = lane_set<V>(0.0f);
    return;
  }
  const float* from[lanes] = {};
  for (std::size_t l = 0; l < lanes; ++l) from[l] = p + b.block(l) * n;
  turn_in<V>(from, n, x);
}
template <class V>
AR_NOINLINE constexpr void save_parameters(const V* x, const block_batch<V>& b, std::size_t n, float* p) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
  if (p == nullptr) return;
  float* to[lanes] = {};
  for (std::size_t l = 0; l < b.here; ++l) to[l] = p + b.block(l) * n;
  turn_out<V>(x, n, to, b.here);
}
template <class T, class V>
constexpr void load_groups(const gguf_parameters<const float>& p, const block_batch<V>& b, typename T::template group_params<V>& g) noexcept {
  load_parameters<V>(p.scale, b, groups_of<T>, g.scale);
  load_parameters<V>(p.offset, b, groups_of<T>, g.offset);
  load_parameters<V>(T::groups > 1 ? p.d_scale : nullptr, b, 1, &g.d_scale);
  load_parameters<V>(T::groups > 1 ? p.d_offset : nullptr, b, 1, &g.d_offset);
}

/// own[l][i] = codes[i * lanes + l]. May read 16 bytes beyond the codes.
template <class T, class V>
constexpr void turn_codes(const std::uint8_t* codes, std::uint8_t (*own)[T::block_size]) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
#if AR_HAS_BYTES16
  if (!std::is_constant_evaluated() && lanes > 1) {
    for (std::size_t at = 0; at < T::block_size; at += 16) {
      bits::u8x16 tile[16];
      for (std::size_t k = 0; k < 16; ++k) tile[k] = bits::load16(codes + (at + k) * lanes);
      bits::transpose_8(tile);
      for (std::size_t l = 0; l < lanes; ++l) bits::store16(tile[l], own[l] + at);
    }
    return;
  }
#endif
  for (std::size_t i = 0; i < T::block_size; ++i)
    for (std::size_t l = 0; l < lanes; ++l) own[l][i] = codes[i * lanes + l];
}

/// Writes the lanes' codes and fields as blocks; `bytes` is the first block of the batch's matrix row by row, `stride` bytes a row.
template <class T, class V>
constexpr void store_blocks(const V* code, const typename T::template params<V>& p, const block_batch<V>& b, matrix_view<std::uint8_t> bytes) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>), count = param_count<T>;
  std::uint8_t codes[T::block_size * lanes + 16];  // (reads below go beyond their lanes)
  if (std::is_constant_evaluated())
    for (auto& c : codes) c = 0;
  for (std::size_t i = 0; i < T::block_size; ++i) lane_store_code(code[i], codes + i * lanes);
  std::uint8_t own[lanes][T::block_size];
  turn_codes<T, V>(codes, own);
  float plane[count][lanes] = {};
  const auto a = to_array<T, V>(p);
  for (std::size_t k = 0; k < count; ++k) lane_store(a.v[k], plane[k]);
  for (std::size_t l = 0; l < b.here; ++l) {
    param_array<float, count> s{};
    for (std::size_t k = 0; k < count; ++k) s.v[k] = plane[k][l];
    T::store(to_params<T, float>(s), own[l], bytes.row(b.row_of[l]) + b.column_block[l] * T::block_bytes);
  }
}

/// Mean square of each of up to `lanes` rows from `row` on, every row summed one after the other.
template <class V>
constexpr void mean_squares(matrix_view<const float> w, std::size_t row, float* mean) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
  const float* from[lanes] = {};
  for (std::size_t l = 0; l < lanes; ++l) from[l] = w.row(row + l < w.rows ? row + l : w.rows - 1);
  V sum = lane_set<V>(0.0f);
  for (std::size_t c = 0; c < w.cols; c += 32) {  // rows are whole blocks of at least 32
    V x[32];
    turn_in<V>(from, 32, x);
    for (std::size_t i = 0; i < 32; ++i) sum = sum + x[i] * x[i];
    for (std::size_t l = 0; l < lanes; ++l) from[l] += 32;
  }
  lane_store(sum / lane_set<V>(static_cast<float>(w.cols)), mean);
}

/// Calls work(batch) for all blocks of a matrix, and before the first of each row group work.start(row) where there is such a function.
template <class T, class V, class Work>
constexpr void for_each_batch(std::size_t rows, std::size_t cols, Work work) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
  const std::size_t per_row = cols / T::block_size;
  for (std::size_t row = 0; row < rows; row += lanes) {
    const std::size_t blocks = (rows - row < lanes ? rows - row : lanes) * per_row;
    if constexpr (requires { work.start(row); }) work.start(row);
    std::size_t r = row, c = 0;
    for (std::size_t first = 0; first < blocks; first += lanes) {
      block_batch<V> b{row, blocks - first < lanes ? blocks - first : lanes, per_row, {}, {}};
      for (std::size_t l = 0; l < lanes; ++l) {
        b.row_of[l] = l < b.here ? r : b.row_of[l - 1];
        b.column_block[l] = l < b.here ? c : b.column_block[l - 1];
        if (l < b.here && ++c == per_row) {
          c = 0;
          ++r;
        }
      }
      work(b);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// ggml's quantizer

/// Types of which a block's extent decides everything, unless there is an importance.
template <class T>
inline constexpr bool fits_extents = requires(gguf::block_extent<float> e, typename T::template params<float> p) { T::fit_extent(e, p); };

/// find_extent with lanes side by side in the block. Maxima have no order but for zeros of both signs, and for the sign of the extreme where -min
/// is max: such blocks are looked through in order.
template <class V>
constexpr gguf::block_extent<float> extent_of(const float* x, std::size_t n) noexcept {
  constexpr std::size_t step = static_cast<std::size_t>(lane_count<V>);
  V lo = lane_load<V>(x), hi = lo;
  for (std::size_t i = step; i < n; i += step) {
    const V v = lane_load<V>(x + i);
    lo = lane_min(lo, v);
    hi = lane_max(hi, v);
  }
  const float min = lane_reduce_min(lo), max = lane_reduce_max(hi);
  if (min == 0.0f || max == 0.0f || -min == max) return gguf::find_extent(x, n);
  return {min, max, max > -min ? max : min};
}

/// The lanes' blocks without importance, for types that fit extents: lanes hold blocks only to compute scales.
template <class T, class V>
constexpr void encode_as_they_lie(matrix_view<const float> w, const block_batch<V>& b, matrix_view<std::uint8_t> bytes) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>), count = param_count<T>;
  const float* from[lanes] = {};
  float min[lanes] = {}, max[lanes] = {}, extreme[lanes] = {}, inverse[lanes] = {}, low[lanes] = {}, plane[count][lanes] = {};
  for (std::size_t l = 0; l < lanes; ++l) {
    from[l] = w.row(b.row_of[l]) + b.column_block[l] * T::block_size;
    const gguf::block_extent<float> e = extent_of<V>(from[l], T::block_size);
    min[l] = e.min;
    max[l] = e.max;
    extreme[l] = e.extreme;
  }
  typename T::template params<V> p;
  const auto scaling = T::fit_extent(gguf::block_extent<V>{lane_load<V>(min), lane_load<V>(max), lane_load<V>(extreme)}, p);
  lane_store(scaling.inverse, inverse);
  lane_store(scaling.low, low);
  const auto fields = to_array<T, V>(p);
  for (std::size_t k = 0; k < count; ++k) lane_store(fields.v[k], plane[k]);
  std::uint8_t codes[lanes][T::block_size];
  for (std::size_t l = 0; l < b.here; ++l) {
    const gguf::extent_scaling<V> own{lane_set<V>(inverse[l]), lane_set<V>(low[l])};
    for (std::size_t i = 0; i < T::block_size; i += lanes) lane_store_code(T::code_in_extent(lane_load<V>(from[l] + i), own), codes[l] + i);
  }
  for (std::size_t l = 0; l < b.here; ++l) {
    param_array<float, count> s{};
    for (std::size_t k = 0; k < count; ++k) s.v[k] = plane[k][l];
    T::store(to_params<T, float>(s), codes[l], bytes.row(b.row_of[l]) + b.column_block[l] * T::block_bytes);
  }
}

/// Work of for_each_batch: encodes, or encodes and decodes again.
template <class T, class V>
struct quantize_batch {
  matrix_view<const float> w;
  const float* importance;
  matrix_view<std::uint8_t> bytes;
  matrix_view<float> decoded;  ///< where not null, the weights that a reader will see go here instead
  float mean[static_cast<std::size_t>(lane_count<V>)] = {};

  constexpr void start(std::size_t row) noexcept {
    if constexpr (T::weighs_by_row) {
      if (importance != nullptr) mean_squares<V>(w, row, mean);
    }
  }
  constexpr void operator()(const block_batch<V>& b) const noexcept {
    constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
    if constexpr (fits_extents<T> && lanes > 1) {
      if (importance == nullptr && decoded.data == nullptr) return encode_as_they_lie<T, V>(w, b, bytes);
    }
    V x[T::block_size], weight[T::block_size], code[T::block_size];
    load_blocks<V>(w, b, T::block_size, x);
    if (importance != nullptr) {
      load_columns<V>(importance, b, T::block_size, weight);
      if constexpr (T::weighs_by_row) {
        float own[lanes] = {};
        for (std::size_t l = 0; l < lanes; ++l) own[l] = mean[b.row_of[l] - b.row];
        const V square = lane_load<V>(own);
        for (std::size_t i = 0; i < T::block_size; ++i) weight[i] = gguf::block_weight(x[i], weight[i], square);
      }
    }
    typename T::template params<V> p;
    T::fit(static_cast<const V*>(x), importance == nullptr ? static_cast<const V*>(nullptr) : static_cast<const V*>(weight), code, p);
    if (decoded.data == nullptr) {
      store_blocks<T, V>(code, p, b, bytes);
    } else {
      for (std::size_t i = 0; i < T::block_size; ++i) x[i] = T::decode(code[i], p, i / T::sub_size);
      save_blocks<V>(x, b, T::block_size, decoded);
    }
  }
};

/// What every encoder asks of its weights and importances; nothing is written before.
template <BlockType T, class V>
[[nodiscard]] constexpr errc check_blocks(matrix_view<const float> w, const float* importance) noexcept {
  if (!shapes::well_formed(w) || w.cols % T::block_size != 0) return errc::bad_shape;
  if (extrema e; !finite_range<V>(w, e)) return errc::non_finite;
  if (importance == nullptr) return errc::ok;
  if (extrema e; !finite_range<V>({importance, 1, w.cols}, e) || e.lo < 0.0f) return errc::bad_value;
  return errc::ok;
}

template <BlockType T, class V>
[[nodiscard]] constexpr errc quantize(const T&, matrix_view<const float> w, const float* importance, matrix_view<std::uint8_t> bytes) noexcept {
  std::size_t blocks = 0;
  if (const errc e = shapes::block_shapes(w, bytes, T::block_size, T::block_bytes, blocks); e != errc::ok) return e;
  if (const errc e = check_blocks<T, V>(w, importance); e != errc::ok) return e;
  if (ignores_importance<T>) importance = nullptr;
  for_each_batch<T, V>(w.rows, w.cols, quantize_batch<T, V>{w, importance, bytes, {}});
  return errc::ok;
}

template <BlockType T, class V>
[[nodiscard]] constexpr errc qdq(const T&, matrix_view<const float> w, const float* importance, matrix_view<float> out) noexcept {
  if (!shapes::same_shape(w, out)) return errc::bad_shape;
  if (const errc e = check_blocks<T, V>(w, importance); e != errc::ok) return e;
  if (ignores_importance<T>) importance = nullptr;
  for_each_batch<T, V>(w.rows, w.cols, quantize_batch<T, V>{w, importance, {}, out});
  return errc::ok;
}

/// Weights of `blocks` consecutive blocks.
template <ReadableBlockType T, class V>
constexpr void dequantize_blocks(const std::uint8_t* bytes, std::size_t blocks, float* out) noexcept {
  constexpr std::size_t step = static_cast<std::size_t>(lane_count<V>);
  static_assert(T::sub_size % step == 0, "ar: vectors of more than 16 floats would need another loop");
  for (std::size_t b = 0; b < blocks; ++b, out += T::block_size) {
    std::uint8_t code[T::block_size];  // load writes all of them; zeroing them first is a call of memset on small machines
    typename T::template params<float> s;
    T::load(bytes + b * T::block_bytes, code, s);
    if constexpr (requires { T::terms(s, 0); }) {
      for (std::size_t i = 0; i < T::block_size; i += T::sub_size) {
        const gguf_terms<float> own = T::terms(s, i / T::sub_size);
        const gguf_terms<V> terms{lane_set<V>(own.step), lane_set<V>(own.low)};
        for (std::size_t k = i; k < i + T::sub_size; k += step) lane_store(T::decode(lane_load_code<V>(code + k), terms), out + k);
      }
    } else {
      const auto p = broadcast<T, V>(to_array<T, float>(s));
      for (std::size_t k = 0; k < T::block_size; k += step) lane_store(T::decode(lane_load_code<V>(code + k), p, 0), out + k);
    }
  }
}

template <ReadableBlockType T, class V>
[[nodiscard]] constexpr errc dequantize(const T&, matrix_view<const std::uint8_t> bytes, matrix_view<float> out) noexcept {
  std::size_t blocks = 0;
  if (const errc e = shapes::block_shapes(out, bytes, T::block_size, T::block_bytes, blocks); e != errc::ok) return e;
  for (std::size_t r = 0; r < out.rows; ++r) dequantize_blocks<T, V>(bytes.row(r), blocks, out.row(r));
  return errc::ok;
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// auto-round's parameters

/// What the searches need to know of a whole row of importances. An all-zero row counts as none.
template <class T>
constexpr gguf::search_rule rule_of(const float*& importance, std::size_t cols, gguf::search_rule rule) noexcept {
  if (importance == nullptr) return rule;
  bool any = false;
  for (std::size_t c = 0; c < cols; c += T::sub_size) {
    std::size_t tiny = 0;
    for (std::size_t i = c; i < c + T::sub_size; ++i) {
      any = any || importance[i] != 0.0f;
      rule.repair = rule.repair || importance[i] == 0.0f;
      tiny += importance[i] <= 1e-30f ? 1 : 0;
    }
    rule.fill = rule.fill || (tiny != 0 && tiny != T::sub_size && tiny <= (T::bits() == 2 ? 8u : 16u));
  }
  if (!any) importance = nullptr;
  return rule;
}

/// Every parameter that the type has is there (unless there is nothing to write).
template <class T, class P>
[[nodiscard]] constexpr bool parameters_fit(const gguf_parameters<P>& p, matrix_view<const float> w) noexcept {
  if (w.rows == 0 || w.cols == 0) return true;
  if (p.scale == nullptr || (T::asymmetric && p.offset == nullptr)) return false;
  return T::groups == 1 || (p.d_scale != nullptr && (!T::asymmetric || p.d_offset != nullptr));
}

/// Work of for_each_batch: searches parameters.
template <class T, class V>
struct search_batch {
  matrix_view<const float> w;
  const float* importance;
  gguf::search_rule rule;
  matrix_view<const float> v;
  gguf_parameters<float> out;

  constexpr void operator()(const block_batch<V>& b) const noexcept {
    V x[T::block_size], weight[T::block_size], offset[T::block_size];
    load_blocks<V>(w, b, T::block_size, x);
    if (importance != nullptr) load_columns<V>(importance, b, T::block_size, weight);
    if (v.data != nullptr) load_blocks<V>(v, b, T::block_size, offset);
    typename T::template group_params<V> g;
    T::search(static_cast<const V*>(x), importance == nullptr ? static_cast<const V*>(nullptr) : static_cast<const V*>(weight), rule,
              v.data == nullptr ? static_cast<const V*>(nullptr) : static_cast<const V*>(offset), g);
    save_parameters<V>(g.scale, b, groups_of<T>, out.scale);
    save_parameters<V>(g.offset, b, groups_of<T>, out.offset);
    if constexpr (T::groups > 1) {
      save_parameters<V>(&g.d_scale, b, 1, out.d_scale);
      save_parameters<V>(&g.d_offset, b, 1, out.d_offset);
    }
  }
};

/// Work of for_each_batch: what given parameters make of the weights, as weights or as blocks.
template <class T, class V>
struct apply_batch {
  matrix_view<const float> w, v;
  gguf::search_rule rule;
  gguf_parameters<const float> given;
  matrix_view<float> out;
  matrix_view<std::uint8_t> bytes;  ///< where not null, blocks go here instead

  constexpr void operator()(const block_batch<V>& b) const noexcept {
    V x[T::block_size], second[T::block_size];
    load_blocks<V>(w, b, T::block_size, x);
    typename T::template group_params<V> g;
    load_groups<T, V>(given, b, g);
    if (bytes.data != nullptr) {
      typename T::template params<V> p;
      T::encode_given(static_cast<const V*>(x), g, second, p);
      store_blocks<T, V>(second, p, b, bytes);
      return;
    }
    if (v.data != nullptr) load_blocks<V>(v, b, T::block_size, second);
    for (std::size_t i = 0; i < T::block_size; ++i)
      x[i] = T::qdq(x[i], v.data == nullptr ? static_cast<const V*>(nullptr) : second + i, rule, g, i / T::sub_size);
    save_blocks<V>(x, b, T::block_size, out);
  }
};

/// Work of for_each_batch: auto-round's packer for weights without parameters. Super-blocks are searched, replaced by what the parameters make
/// of them, and encoded from that; blocks of 32 have a rule of their own.
template <class T, class V>
struct pack_batch {
  matrix_view<const float> w;
  const float* importance;
  gguf::search_rule rule;
  matrix_view<std::uint8_t> bytes;

  constexpr void operator()(const block_batch<V>& b) const noexcept {
    V x[T::block_size], second[T::block_size];
    load_blocks<V>(w, b, T::block_size, x);
    typename T::template params<V> p;
    if constexpr (T::groups == 1) {
      T::encode_own(static_cast<const V*>(x), second, p);
    } else {
      if (importance != nullptr) load_columns<V>(importance, b, T::block_size, second);
      typename T::template group_params<V> g;
      const V* none = nullptr;
      T::search(static_cast<const V*>(x), importance == nullptr ? none : static_cast<const V*>(second), rule, none, g);
      for (std::size_t i = 0; i < T::block_size; ++i) x[i] = T::qdq(x[i], none, rule, g, i / T::sub_size);
      T::encode_given(static_cast<const V*>(x), g, second, p);
    }
    store_blocks<T, V>(second, p, b, bytes);
  }
};

template <class T, class V>
[[nodiscard]] constexpr errc search_blocks(matrix_view<const float> w, const float* importance, gguf::search_rule rule, matrix_view<const float> v,
                                    const gguf_parameters<float>& out) noexcept {
  if (v.data != nullptr && !shapes::same_shape(w, v)) return errc::bad_shape;
  if (!parameters_fit<T>(out, w)) return errc::bad_size;
  if (const errc e = check_blocks<T, V>(w, importance); e != errc::ok) return e;
  if (extrema e; v.data != nullptr && !finite_range<V>(v, e)) return errc::non_finite;
  rule = rule_of<T>(importance, w.cols, rule);
  if (T::groups == 1) importance = nullptr;  // blocks of 32 have no weighted search here
  for_each_batch<T, V>(w.rows, w.cols, search_batch<T, V>{w, importance, rule, v, out});
  return errc::ok;
}

template <class T, class V>
[[nodiscard]] constexpr errc qdq_given(matrix_view<const float> w, matrix_view<const float> v, gguf::search_rule rule, const gguf_parameters<const float>& given,
                                   matrix_view<float> out) noexcept {
  if (!shapes::same_shape(w, out) || (v.data != nullptr && !shapes::same_shape(w, v))) return errc::bad_shape;
  if (!parameters_fit<T>(given, w)) return errc::bad_size;
  if (const errc e = check_blocks<T, V>(w, nullptr); e != errc::ok) return e;
  for_each_batch<T, V>(w.rows, w.cols, apply_batch<T, V>{w, v, rule, given, out, {}});
  return errc::ok;
}

template <class T, class V>
[[nodiscard]] constexpr errc pack_given(matrix_view<const float> w, const gguf_parameters<const float>& given, matrix_view<std::uint8_t> bytes) noexcept {
  std::size_t blocks = 0;
  if (const errc e = shapes::block_shapes(w, bytes, T::block_size, T::block_bytes, blocks); e != errc::ok) return e;
  if (!parameters_fit<T>(given, w)) return errc::bad_size;
  if (const errc e = check_blocks<T, V>(w, nullptr); e != errc::ok) return e;
  for_each_batch<T, V>(w.rows, w.cols, apply_batch<T, V>{w, {}, {}, given, {}, bytes});
  return errc::ok;
}

template <class T, class V>
[[nodiscard]] constexpr errc pack_searched(matrix_view<const float> w, const float* importance, matrix_view<std::uint8_t> bytes) noexcept {
  std::size_t blocks = 0;
  if (const errc e = shapes::block_shapes(w, bytes, T::block_size, T::block_bytes, blocks); e != errc::ok) return e;
  if (const errc e = check_blocks<T, V>(w, importance); e != errc::ok) return e;
  const gguf::search_rule rule = rule_of<T>(importance, w.cols, {});
  for_each_batch<T, V>(w.rows, w.cols, pack_batch<T, V>{w, importance, rule, bytes});
  return errc::ok;
}

}  // namespace rows
AR_END_TARGET
#endif
