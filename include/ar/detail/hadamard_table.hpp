// Hadamard matrices of the orders 1, 2 and every multiple of 4 up to 256, each by its construction; nothing is stored but the short rows of the
// orders that no formula gives. Entry for entry those of the reference's tables. Source: auto-round 0.16.1 (Sloane's collection); for the
// constructions Paley 1933, Williamson 1944, Baumert and Hall 1965, Goethals and Seidel 1970.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ar/config.hpp"

namespace ar {

/// The reference has two collections, which differ in the matrix of order 20: `general` has Hall's, `spinquant` Paley's (and only 11 orders).
enum class hadamard_tables : unsigned char { general, spinquant };

inline namespace AR_ABI {
namespace hadamard_parts {

/// A square matrix of signs of at most 256 rows, one bit an entry.
struct sign_matrix {
  static constexpr std::size_t max_order = 256;
  std::size_t order = 1;
  std::uint64_t bits[max_order][max_order / 64] = {{1}};

  constexpr bool positive(std::size_t i, std::size_t j) const noexcept { return (bits[i][j / 64] >> (j % 64) & 1u) != 0; }
  constexpr void set(std::size_t i, std::size_t j, bool plus) noexcept {
    const std::uint64_t bit = std::uint64_t{1} << (j % 64);
    bits[i][j / 64] = plus ? bits[i][j / 64] | bit : bits[i][j / 64] & ~bit;
  }
};

/// [[A, A], [A, -A]] in place of A.
constexpr void double_order(sign_matrix& m) noexcept {
  const std::size_t n = m.order;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      const bool plus = m.positive(i, j);
      m.set(i, j + n, plus), m.set(i + n, j, plus), m.set(i + n, j + n, !plus);
    }
  m.order = 2 * n;
}

/// The quadratic character of a prime below 256: 0, 1 or -1.
struct quadratic_character {
  std::size_t prime;
  bool square[256] = {};
  constexpr explicit quadratic_character(std::size_t q) noexcept : prime(q) {
    for (std::size_t i = 1; i < q; ++i) square[i * i % q] = true;
  }
  constexpr int operator()(std::size_t a) const noexcept { return a % prime == 0 ? 0 : square[a % prime] ? 1 : -1; }
};

enum class paley : unsigned char { first, first_symmetric, second };

constexpr void make_paley(paley kind, std::size_t order, sign_matrix& m) noexcept {
  const std::size_t border = kind == paley::second ? order / 2 : order, q = border - 1;
  const quadratic_character chi(q);
  m.order = order;
  for (std::size_t i = 0; i < border; ++i)
    for (std::size_t j = 0; j < border; ++j) {
      if (kind == paley::first) {
        const int core = i == 0 ? (j == 0 ? 1 : -1) : j == 0 ? 1 : i == j ? 1 : chi(i + q - j);
        m.set(i, j, core > 0);
      } else if (kind == paley::first_symmetric) {
        m.set(i, j, i == 0 || j == 0 || chi(i - 1 + j - 1) > 0);
      } else {
        // C has a border of ones and a zero diagonal: [[C + I, C - I], [C - I, -C - I]].
        const int c = i == j ? 0 : i == 0 || j == 0 ? 1 : chi(i + q - j);
        m.set(i, j, c >= 0), m.set(i, j + border, c > 0), m.set(i + border, j, c > 0), m.set(i + border, j + border, c < 0);
      }
    }
}

/// Four rows of p signs, '+' or '-', and how their circulants make a matrix of order 4 p.
struct block_recipe {
  std::size_t order;                  ///< of the matrix; a multiple of 4 p by a power of two
  std::size_t p;
  bool halves;                        ///< rows are symmetric, only their first (p + 1) / 2 signs are given
  const char *a, *b, *c, *d;
  const signed char* pattern;         ///< [4 x 4] of 1 .. 4, negative for a block with its signs turned
};

inline constexpr signed char williamson[16] = {1, 2, 3, 4, -2, 1, -4, 3, -3, 4, 1, -2, -4, -3, 2, 1};
inline constexpr signed char williamson_transposed[16] = {1, 2, 3, 4, -2, 1, 4, -3, -3, -4, 1, 2, -4, 3, -2, 1};
inline constexpr signed char three_blocks[16] = {1, -1, 2, 3, 1, 1, 3, -2, -2, -3, 1, -1, -3, 2, 1, 1};

inline constexpr block_recipe williamson_recipes[] = {
    {52, 13, true, "+-+--++", "+---+++", "++-+--+", "+----+-", williamson},
    {92, 23, true, "+++-+++-+---", "+++---++-+-+", "+-++-++--+++", "++---+---+-+", williamson},
    {100, 25, true, "+-++++----++-", "+++-+++---+-+", "+-++-+++-++--", "+--++-+-+----", williamson},
    {116, 29, true, "++--+--+-+++-++", "++++-++-+---+++", "+-+---++--+-+++", "+++---++--+-+--", williamson},
    {156, 39, true, "+++--+-+-----+--++--", "++++---+--++----+-+-", "+++--++-+---+-+--+--", "+---++-+-+-----+++-+", williamson},
    {172, 43, true, "+---++--++++-+-+++-++-", "++-++++++----+-+--++-+", "+++-+-++--+-+-++++-+--", "++---++++-+--+--++----", williamson},
    {244, 61, true, "++--+--++--+-+-++++--+-----+---", "++--+--++--+-+-++++--+-----+---",
     "+---+-+-++++---++--+-++-+---+++", "++++-+-+----+++--++-+--+-+++---", williamson},
    {208, 13, true, "+-+--++", "-+++---", "--+-++-", "-++++-+", williamson_transposed},
    {232, 29, true, "++--+--+-+++-++", "----+--+-+++---", "-+-+++--++-+---", "---+++--++-+-++", williamson_transposed},
    {248, 31, true, "+--+++-+--+----+", "-+++++---+-+-++-", "------+++-+-+--+", "", three_blocks},
};

inline constexpr block_recipe goethals_seidel_recipes[] = {
    {188, 47, false, "+-+----+--+----++---++++---+-+----++++++--+---+", "+---+--++++++----+-+---+---+++--++++-++-++++-+-",
     "+--+--+-+++-----+---+---++--+-++-+++-+-+--+---+", "+--+--+-+++-----+---+-----++-+--+---+-+-++-+++-", nullptr},
    {236, 59, false, "+++++-++++-+--++--++++-+---+-++++-+---+-++---+--++++-++++--", "-++-+---+-++---+--++++-++++-++-+---+-++++--++--+-++++-++++-",
     "--++++-++++--+---++-+---+-+++-+-+++-+----++--++-+----+-----", "+--+-+++-+--+++-++----+----+-+-+---+-++++--++--+-++++-++++-", nullptr},
};

inline constexpr const char* hall_20[20] = {
    "++++++++++++++++++++", "++++++++++----------", "+++++-----+++++-----", "+-----++++-+++++----", "++---+++--+++---++--",
    "+-+--+++--+--++---++", "+--+-+--+++++-----++", "+---++--+++--++-++--", "--++-++-+-++-+-++---", "--++-+-+-++-+-++-+--",
    "-+--+++-+-+-+-++--+-", "-+--++-+-+++-+-+---+", "--+-+++--+-+++---++-", "--+-++-++--++-+-+--+", "-+-+-+-++--+-++--++-",
    "-+-+-++--+--+++-+--+", "---++-+++-+-++---+-+", "---++-++-+++--+-+-+-", "-++---+-++++--+--+-+", "-++----++++-++--+-+-",
};

/// The sign at place k of a row of p signs.
constexpr bool sign_at(const block_recipe& r, const char* row, std::size_t k) noexcept { return row[r.halves && k > r.p / 2 ? r.p - k : k] == '+'; }

constexpr void make_williamson(const block_recipe& r, sign_matrix& m) noexcept {
  const char* rows[4] = {r.a, r.b, r.c, r.d};
  m.order = 4 * r.p;
  for (std::size_t i = 0; i < m.order; ++i)
    for (std::size_t j = 0; j < m.order; ++j) {
      const int block = r.pattern[i / r.p * 4 + j / r.p];
      const bool plus = sign_at(r, rows[(block < 0 ? -block : block) - 1], (j % r.p + r.p - i % r.p) % r.p);
      m.set(i, j, plus == (block > 0));
    }
  while (m.order < r.order) double_order(m);
}

/// A is a circulant, the others are back-circulants: [[A, B, C, D], [-B, A, E, F], [-C, -E, A, G], [-D, -F, -G, A]], where E, F, G are -D, C, -B
/// read backwards.
constexpr void make_goethals_seidel(const block_recipe& r, sign_matrix& m) noexcept {
  constexpr signed char pattern[16] = {1, 2, 3, 4, -2, 1, 5, 6, -3, -5, 1, 7, -4, -6, -7, 1};
  const char* rows[8] = {nullptr, r.a, r.b, r.c, r.d, r.d, r.c, r.b};
  m.order = 4 * r.p;
  for (std::size_t i = 0; i < m.order; ++i)
    for (std::size_t j = 0; j < m.order; ++j) {
      const int block = pattern[i / r.p * 4 + j / r.p];
      const int which = block < 0 ? -block : block;
      const std::size_t x = i % r.p, y = j % r.p;
      std::size_t k = which == 1 ? (y + r.p - x) % r.p : (x + y) % r.p;
      bool plus = block > 0;
      if (which >= 5) k = (2 * r.p - 2 - k) % r.p;
      if (which == 5 || which == 7) plus = !plus;
      m.set(i, j, (rows[which][k] == '+') == plus);
    }
}

constexpr bool is_power_of_two(std::size_t n) noexcept { return n != 0 && (n & (n - 1)) == 0; }

inline constexpr unsigned char paley_first_orders[] = {12, 24, 32, 44, 48, 60, 68, 72, 80, 84, 104, 108, 132, 140, 152, 164, 168, 180, 192, 200};
inline constexpr unsigned char paley_symmetric_orders[] = {212, 224, 228, 240, 252};
inline constexpr unsigned char paley_second_orders[] = {28, 36, 76, 124, 148, 196, 204, 220};

/// Makes the matrix of an order that has a construction of its own; false for others.
constexpr bool make_own_order(hadamard_tables set, std::size_t order, sign_matrix& m) noexcept {
  const auto make = [&](paley kind) {
    make_paley(kind, order, m);
    return true;
  };
  for (const std::size_t n : paley_first_orders)
    if (n == order) return make(paley::first);
  for (const std::size_t n : paley_symmetric_orders)
    if (n == order) return make(paley::first_symmetric);
  for (const std::size_t n : paley_second_orders)
    if (n == order) return make(paley::second);
  for (const block_recipe& r : williamson_recipes)
    if (r.order == order) {
      make_williamson(r, m);
      return true;
    }
  for (const block_recipe& r : goethals_seidel_recipes)
    if (r.order == order) {
      make_goethals_seidel(r, m);
      return true;
    }
  if (order != 20) return false;
  if (set == hadamard_tables::spinquant) return make(paley::first);
  m.order = order;
  for (std::size_t i = 0; i < order; ++i)
    for (std::size_t j = 0; j < order; ++j) m.set(i, j, hall_20[i][j] == '+');
  return true;
}

/// Any order of the tables; false if there is none.
constexpr bool make_hadamard_table(hadamard_tables set, std::size_t order, sign_matrix& m) noexcept {
  m = sign_matrix{};
  if (order == 0 || order > sign_matrix::max_order) return false;
  if (is_power_of_two(order) && order != 32) {  // Sylvester's
    while (m.order < order) double_order(m);
    return true;
  }
  std::size_t core = order;
  while (core % 2 == 0 && !make_own_order(set, core, m)) core /= 2;
  if (core % 2 != 0) return false;
  if (order == 40) make_paley(paley::first, 20, m);  // in both collections on Paley's matrix
  while (m.order < order) double_order(m);
  return true;
}

}  // namespace hadamard_parts
}  // namespace AR_ABI
}  // namespace ar
