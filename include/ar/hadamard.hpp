// Door: Hadamard rotations. An orthogonal matrix H / sqrt(n) of signs spreads outliers over all values; applied to the weights and to what they are
// multiplied with it changes nothing but what a quantizer sees. Orders n = k 2^m with k from tables of constructions (detail/hadamard_table.hpp), so
// nothing of size n x n is ever formed: a row costs n m additions and n k more where k is not 1.
//
// Everything works in place on the caller's buffers. The order of the additions is part of the contract: float and double results are the same on
// every target, and for k = 1 those of the reference in every type, bfloat16 and half included (the `rounding` argument). Source: auto-round 0.16.1
// (algorithms/transforms); golden/rotation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ar/detail/hadamard_table.hpp"
#include "ar/detail/mt19937.hpp"
#include "ar/errc.hpp"
#include "ar/numeric/half.hpp"
#include "ar/view.hpp"

namespace ar {

/// How an order n is split into k 2^m; the reference has three rules. `any`: powers of two have k = 1, else the largest k of the general tables.
enum class hadamard_rule : unsigned char {
  any,        ///< the reference's in-place rotation, and the rule of choice
  spinquant,  ///< k = 1, or the first of 172, 156, 140, 108, 60, 52, 40, 36, 28, 20, 12 that fits, from its own tables; else none
  random,     ///< the reference's random transform: the largest k, powers of two included (32 has Paley's matrix then)
};

inline namespace AR_ABI {

/// k of n = k 2^m by a rule; 0 if the rule has none. n >= 1.
constexpr std::size_t hadamard_factor(std::size_t n, hadamard_rule rule) noexcept {
  constexpr unsigned char spinquant_orders[] = {172, 156, 140, 108, 60, 52, 40, 36, 28, 20, 12};
  if (n == 0) return 0;
  if (rule != hadamard_rule::random && hadamard_parts::is_power_of_two(n)) return 1;
  const auto fits = [&](std::size_t k) { return n % k == 0 && hadamard_parts::is_power_of_two(n / k); };
  if (rule == hadamard_rule::spinquant) {
    for (const std::size_t k : spinquant_orders)
      if (fits(k)) return k;
    return 0;
  }
  for (std::size_t k = hadamard_parts::sign_matrix::max_order; k >= 4; k -= 4)
    if (fits(k)) return k;
  return fits(2) ? 2 : n == 1 ? 1 : 0;
}

/// The largest order by rule `any` that divides n, for rotations in blocks where n itself has none (29568 has 4224); n >= 1.
constexpr std::size_t largest_hadamard_divisor(std::size_t n) noexcept {
  std::size_t best = 1;
  for (std::size_t d = 1; d <= n / d; ++d) {
    if (n % d != 0) continue;
    if (d > best && hadamard_factor(d, hadamard_rule::any) != 0) best = d;
    if (n / d > best && hadamard_factor(n / d, hadamard_rule::any) != 0) best = n / d;
  }
  return best;
}

/// The matrix T(k) x H(2^m) of order n, as a transform. Holds the table of order k (8 KiB).
class hadamard {
 public:
  /// Order 1: the identity.
  constexpr hadamard() noexcept = default;
  /// The matrix of order n by a rule; errc::unsupported, and `out` as it was, if the rule has none.
  [[nodiscard]] static constexpr errc make(std::size_t n, hadamard_rule rule, hadamard& out) noexcept {
    const std::size_t k = hadamard_factor(n, rule);
    if (k == 0) return errc::unsupported;
    const auto set = rule == hadamard_rule::spinquant ? hadamard_tables::spinquant : hadamard_tables::general;
    if (!hadamard_parts::make_hadamard_table(set, k, out.table_)) return errc::unsupported;
    out.n_ = n;
    return errc::ok;
  }

  /// n.
  constexpr std::size_t order() const noexcept { return n_; }
  /// k: the order of the table.
  constexpr std::size_t factor() const noexcept { return table_.order; }
  /// 1 or -1: entry (i, j) of the matrix, i, j < n.
  constexpr int entry(std::size_t i, std::size_t j) const noexcept {
    const std::size_t m = n_ / table_.order;
    bool plus = table_.positive(i / m, j / m);
    for (std::size_t bits = i % m & j % m; bits != 0; bits &= bits - 1) plus = !plus;
    return plus ? 1 : -1;
  }
  /// 1 or -1: entry (i, j) of the table, i, j < k.
  constexpr int table_entry(std::size_t i, std::size_t j) const noexcept { return table_.positive(i, j) ? 1 : -1; }

 private:
  std::size_t n_ = 1;
  hadamard_parts::sign_matrix table_;
};

/// Roundings of the running values after each addition and the division: none (the arithmetic of T), or to a narrow format that float holds.
struct no_rounding {
  /// x.
  template <class T>
  AR_INLINE constexpr T operator()(T x) const noexcept {
    return x;
  }
};
/// To bfloat16.
struct bf16_rounding {
  /// The nearest bfloat16, ties to even.
  AR_INLINE constexpr float operator()(float x) const noexcept { return round_to_bf16(x); }
};
/// To half precision.
struct f16_rounding {
  /// The nearest half, ties to even.
  AR_INLINE constexpr float operator()(float x) const noexcept { return round_to_f16(x); }
};

namespace hadamard_parts {

constexpr std::size_t hadamard_piece = 16;  ///< vectors that go through the table together

/// u, v <- u + v, u - v for n values.
template <class T, class Rounding>
constexpr void butterfly_rows(T* u, T* v, std::size_t n, Rounding round) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    const T a = u[i], b = v[i];
    u[i] = round(a + b);
    v[i] = round(a - b);
  }
}

/// The first three levels over n consecutive values, n a multiple of 8.
template <class T, class Rounding>
constexpr void butterfly_eights(T* x, std::size_t n, Rounding round) noexcept {
  for (std::size_t at = 0; at < n; at += 8) {
    T a[8] = {}, b[8] = {};
    for (std::size_t i = 0; i < 8; i += 2) {
      a[i] = round(x[at + i] + x[at + i + 1]);
      a[i + 1] = round(x[at + i] - x[at + i + 1]);
    }
    for (std::size_t i = 0; i < 8; i += 4)
      for (std::size_t j = i; j < i + 2; ++j) {
        b[j] = round(a[j] + a[j + 2]);
        b[j + 2] = round(a[j] - a[j + 2]);
      }
    for (std::size_t j = 0; j < 4; ++j) {
      x[at + j] = round(b[j] + b[j + 4]);
      x[at + j + 4] = round(b[j] - b[j + 4]);
    }
  }
}

/// H(m) of x [n x cols] along its columns, m = n / k.
template <class T, class Rounding>
constexpr void butterflies(const hadamard& h, matrix_view<T> x, Rounding round) noexcept {
  const std::size_t n = h.order(), m = n / h.factor();
  const bool dense = x.contiguous();
  std::size_t half = 1;
  if (dense && x.cols == 1 && m % 8 == 0) {
    butterfly_eights(x.data, n, round);
    half = 8;
  }
  for (; half < m; half *= 2)
    for (std::size_t r = 0; r < n; r += 2 * half) {
      if (dense) {
        butterfly_rows(x.row(r), x.row(r + half), half * x.cols, round);
        continue;
      }
      for (std::size_t i = r; i < r + half; ++i) butterfly_rows(x.row(i), x.row(i + half), x.cols, round);
    }
}

/// The table times `count` <= hadamard_piece vectors of k values, `step` apart from lane[c] on.
template <class T, class Rounding>
constexpr void table_times_lanes(const hadamard& h, T* const* lane, std::size_t count, std::size_t step, bool transposed, T divisor, T* scratch,
                                 Rounding round) noexcept {
  const std::size_t k = h.factor();
  for (std::size_t j = 0; j < k; ++j)
    for (std::size_t c = 0; c < hadamard_piece; ++c) scratch[j * hadamard_piece + c] = c < count ? lane[c][j * step] : T(0);
  for (std::size_t i = 0; i < k; ++i) {
    T sum[hadamard_piece] = {};
    for (std::size_t j = 0; j < k; ++j) {
      const T sign = static_cast<T>(transposed ? h.table_entry(j, i) : h.table_entry(i, j));
      for (std::size_t c = 0; c < hadamard_piece; ++c) sum[c] += sign * scratch[j * hadamard_piece + c];
    }
    for (std::size_t c = 0; c < count; ++c) lane[c][i * step] = round(round(sum[c]) / divisor);
  }
}

/// x / divisor.
template <class T, class Rounding>
constexpr void divide(matrix_view<T> x, T divisor, Rounding round) noexcept {
  for (std::size_t r = 0; r < x.rows; ++r) {
    T* const row = x.row(r);
    for (std::size_t c = 0; c < x.cols; ++c) row[c] = round(row[c] / divisor);
  }
}

}  // namespace hadamard_parts

/// Values of scratch that a transform needs.
constexpr std::size_t hadamard_scratch(const hadamard& h) noexcept { return h.factor() == 1 ? 0 : h.factor() * hadamard_parts::hadamard_piece; }

/// sqrt(n), which makes the matrix orthogonal: correctly rounded, first to double, then to T. n < 2^53.
template <class T>
inline T hadamard_divisor(std::size_t n) noexcept {
  return static_cast<T>(__builtin_sqrt(static_cast<double>(n)));
}

/// Every row of x [rows x cols], cols a multiple of n, becomes y = x (T x H)^T / divisor, chunk by chunk of n values; or x (T x H) / divisor if
/// `transposed`, which undoes it where divisor is sqrt(n). T is float or double; a product with the table is summed in T in the order of its columns,
/// then rounded once. `scratch` holds hadamard_scratch(h) values and may be null if that is 0. errc::bad_shape, errc::bad_value for a divisor that is
/// not positive and finite; x is unchanged then.
template <class T, class Rounding = no_rounding>
[[nodiscard]] constexpr errc hadamard_rows(const hadamard& h, matrix_view<T> x, bool transposed, T divisor, T* scratch,
                                           Rounding round = {}) noexcept {
  static_assert(std::is_same_v<T, float> || (std::is_same_v<T, double> && std::is_same_v<Rounding, no_rounding>));
  if (x.cols % h.order() != 0 || x.stride < x.cols || (scratch == nullptr && hadamard_scratch(h) != 0)) return errc::bad_shape;
  if (!(divisor > 0 && divisor - divisor == 0)) return errc::bad_value;
  const std::size_t n = h.order(), m = n / h.factor();
  for (std::size_t r = 0; r < x.rows; ++r)
    for (std::size_t c = 0; c < x.cols; c += n) hadamard_parts::butterflies(h, matrix_view<T>(x.row(r) + c, n, 1), round);
  if (h.factor() == 1) {
    hadamard_parts::divide(x, divisor, round);
    return errc::ok;
  }
  // Vectors of neighboring chunks and rows go through the table side by side.
  T* lane[hadamard_parts::hadamard_piece] = {};
  std::size_t count = 0;
  for (std::size_t r = 0; r < x.rows; ++r)
    for (std::size_t c = 0; c < x.cols; c += n)
      for (std::size_t i = 0; i < m; ++i) {
        lane[count++] = x.row(r) + c + i;
        if (count < hadamard_parts::hadamard_piece) continue;
        hadamard_parts::table_times_lanes(h, lane, count, m, transposed, divisor, scratch, round);
        count = 0;
      }
  if (count != 0) hadamard_parts::table_times_lanes(h, lane, count, m, transposed, divisor, scratch, round);
  return errc::ok;
}

/// The same along the columns of x [rows x cols], rows a multiple of n: (T x H) times each chunk of n rows. With x a row of values viewed as
/// [n x cols], it mixes values that are `cols` apart, as rotations across attention heads do.
template <class T, class Rounding = no_rounding>
[[nodiscard]] constexpr errc hadamard_columns(const hadamard& h, matrix_view<T> x, bool transposed, T divisor, T* scratch,
                                              Rounding round = {}) noexcept {
  static_assert(std::is_same_v<T, float> || (std::is_same_v<T, double> && std::is_same_v<Rounding, no_rounding>));
  if (x.rows % h.order() != 0 || x.stride < x.cols || (scratch == nullptr && hadamard_scratch(h) != 0)) return errc::bad_shape;
  if (!(divisor > 0 && divisor - divisor == 0)) return errc::bad_value;
  const std::size_t n = h.order(), m = n / h.factor();
  for (std::size_t r = 0; r < x.rows; r += n) hadamard_parts::butterflies(h, matrix_view<T>(x.row(r), n, x.cols, x.stride), round);
  if (h.factor() == 1) {
    hadamard_parts::divide(x, divisor, round);
    return errc::ok;
  }
  T* lane[hadamard_parts::hadamard_piece] = {};
  for (std::size_t r = 0; r < x.rows; r += n)
    for (std::size_t i = r; i < r + m; ++i)
      for (std::size_t first = 0; first < x.cols; first += hadamard_parts::hadamard_piece) {
        const std::size_t left = x.cols - first, count = left < hadamard_parts::hadamard_piece ? left : hadamard_parts::hadamard_piece;
        for (std::size_t c = 0; c < count; ++c) lane[c] = x.row(i) + first + c;
        hadamard_parts::table_times_lanes(h, lane, count, m * x.stride, transposed, divisor, scratch, round);
      }
  return errc::ok;
}

/// The seed that the reference's random transforms share, as its generator takes it.
inline constexpr std::uint32_t hadamard_default_seed = static_cast<std::uint32_t>(67280421310721u);

/// The random diagonal of a rotation: n signs 1 and -1 from the low bits of the generator's numbers, one each. Signs first, then hadamard_rows, is
/// the multiplication of a row by the random matrix R = diag(signs) (T x H)^T / sqrt(n).
constexpr void random_signs(mt19937& generator, std::int8_t* signs, std::size_t n) noexcept {
  for (std::size_t i = 0; i < n; ++i) signs[i] = (generator.next() & 1u) != 0 ? std::int8_t{1} : std::int8_t{-1};
}

}  // namespace AR_ABI
}  // namespace ar
