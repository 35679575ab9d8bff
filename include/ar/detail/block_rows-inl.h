// The loops of the block types (GGUF) over a matrix, for a lane type V. Every lane works on another block: `lanes` rows at a time, whose blocks
// are taken in row-major order, so that also short rows fill the lanes. With V = float it is the reference and works in constant expressions.
#if defined(AR_DETAIL_BLOCK_ROWS_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_BLOCK_ROWS_INL_H
#else
#define AR_DETAIL_BLOCK_ROWS_INL_H
#endif

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

/// Some blocks side by side: lane l holds block first + l of the rows from `row` on. Lanes past the last block repeat it and are not written.
struct block_batch {
  std::size_t row, first, here, per_row;
  constexpr std::size_t index(std::size_t lane) const noexcept { return first + (lane < here ? lane : here - 1); }
  constexpr std::size_t row_of(std::size_t lane) const noexcept { return row + index(lane) / per_row; }
  constexpr std::size_t column_block(std::size_t lane) const noexcept { return index(lane) % per_row; }
  constexpr std::size_t block(std::size_t lane) const noexcept { return row * per_row + index(lane); }  ///< number of the block in the matrix
};

/// x[i] = element i of each lane's block, where lane l reads from[l].
template <class V>
AR_NOINLINE constexpr void turn_in(const float* const* from, std::size_t size, V* x) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
  if constexpr (lanes == 1) {
    for (std::size_t i = 0; i < size; ++i) x[i] = lane_load<V>(from[0] + i);
  } else {
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
AR_NOINLINE constexpr void load_blocks(matrix_view<const float> w, const block_batch& b, std::size_t size, V* x) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
  const float* from[lanes] = {};
  for (std::size_t l = 0; l < lanes; ++l) from[l] = w.row(b.row_of(l)) + b.column_block(l) * size;
  turn_in<V>(from, size, x);
}
/// x = what a row of one number per column (a matrix whose rows are all the same: stride 0) says of the lanes' blocks.
template <class V>
constexpr void load_columns(const float* columns, const block_batch& b, std::size_t size, V* x) noexcept {
  load_blocks<V>(matrix_view<const float>{columns, 0, b.per_row * size, 0}, b, size, x);
}
template <class V>
AR_NOINLINE constexpr void save_blocks(const V* x, const block_batch& b, std::size_t size, matrix_view<float> out) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
  float* to[lanes] = {};
  for (std::size_t l = 0; l < b.here; ++l) to[l] = out.row(b.row_of(l)) + b.column_block(l) * size;
  turn_out<V>(x, size, to, b.here);
}

/// auto-round's parameters of the lanes' blocks, `n` numbers each.
template <class V>
AR_NOINLINE constexpr void load_parameters(const float* p, const block_batch& b, std::size_t n, V* x) noexcept {
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
AR_NOINLINE constexpr void save_parameters(const V* x, const block_batch& b, std::size_t n, float* p) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
  if (p == nullptr) return;
  float* to[lanes] = {};
  for (std::size_t l = 0; l < b.here; ++l) to[l] = p + b.block(l) * n;
  turn_out<V>(x, n, to, b.here);
}
template <class T, class V>
constexpr void load_groups(const gguf_parameters<const float>& p, const block_batch& b, typename T::template group_params<V>& g) noexcept {
  load_parameters<V>(p.scale, b, groups_of<T>, g.scale);
  load_parameters<V>(p.offset, b, groups_of<T>, g.offset);
  load_parameters<V>(T::groups > 1 ? p.d_scale : nullptr, b, 1, &g.d_scale);
  load_parameters<V>(T::groups > 1 ? p.d_offset : nullptr, b, 1, &g.d_offset);
}

/// Writes the lanes' codes and fields as blocks; `bytes` is the first block of the batch's matrix row by row, `stride` bytes a row.
template <class T, class V>
constexpr void store_blocks(const V* code, const typename T::template params<V>& p, const block_batch& b, matrix_view<std::uint8_t> bytes) noexcept {
  constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>), count = param_count<T>;
  std::uint8_t codes[T::block_size * lanes];
  if (std::is_constant_evaluated())
    for (auto& c : codes) c = 0;
  for (std::size_t i = 0; i < T::block_size; ++i) lane_store_code(code[i], codes + i * lanes);
  float plane[count][lanes] = {};
  const auto a = to_array<T, V>(p);
  for (std::size_t k = 0; k < count; ++k) lane_store(a.v[k], plane[k]);
  for (std::size_t l = 0; l < b.here; ++l) {
    std::uint8_t own[T::block_size] = {};
    for (std::size_t i = 0; i < T::block_size; ++i) own[i] = codes[i * lanes + l];
    param_array<float, count> s{};
    for (std::size_t k = 0; k < count; ++k) s.v[k] = plane[k][l];
    T::store(to_params<T, float>(s), own, bytes.row(b.row_of(l)) + b.column_block(l) * T::block_bytes);
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
    for (std::size_t first = 0; first < blocks; first += lanes) work(block_batch{row, first, blocks - first < lanes ? blocks - first : lanes, per_row});
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------
// ggml's quantizer

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
  constexpr void operator()(const block_batch& b) const noexcept {
    constexpr std::size_t lanes = static_cast<std::size_t>(lane_count<V>);
    V x[T::block_size], weight[T::block_size], code[T::block_size];
    load_blocks<V>(w, b, T::block_size, x);
    if (importance != nullptr) {
      load_columns<V>(importance, b, T::block_size, weight);
      if constexpr (T::weighs_by_row) {
        float own[lanes] = {};
        for (std::size_t l = 0; l < lanes; ++l) own[l] = mean[b.row_of(l) - b.row];
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
template <BlockType T, class V>
constexpr void dequantize_blocks(const std::uint8_t* bytes, std::size_t blocks, float* out) noexcept {
  constexpr std::size_t step = static_cast<std::size_t>(lane_count<V>);
  for (std::size_t b = 0; b < blocks; ++b, out += T::block_size) {
    std::uint8_t code[T::block_size];  // load writes all of them; zeroing them first is a call of memset on small machines
    typename T::template params<float> s{};
    T::load(bytes + b * T::block_bytes, code, s);
    const auto p = broadcast<T, V>(to_array<T, float>(s));
    for (std::size_t i = 0; i < T::block_size; i += T::sub_size) {
      if constexpr (T::sub_size % step == 0) {
        for (std::size_t k = i; k < i + T::sub_size; k += step) lane_store(T::decode(lane_load_code<V>(code + k), p, i / T::sub_size), out + k);
      } else {
        for (std::size_t k = i; k < i + T::sub_size; ++k) out[k] = T::decode(lane_load_code<float>(code + k), s, i / T::sub_size);
      }
    }
  }
}

template <BlockType T, class V>
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

  constexpr void operator()(const block_batch& b) const noexcept {
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

  constexpr void operator()(const block_batch& b) const noexcept {
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

  constexpr void operator()(const block_batch& b) const noexcept {
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
