// A portable single-threaded matrix product for machines without oneDNN: packed panels and a register-blocked kernel, compiled for every
// instruction set that Highway knows and chosen at run time.
#pragma once

#include <cstddef>

#include "model/linalg.hpp"

namespace auto_round::linalg {

/// Which operands are read transposed: nt is a * b^T, nn is a * b, tn is a^T * b (linalg.hpp has the shapes).
enum class product { nt, nn, tn };

/// Rows, columns and inner length of the result.
struct extents {
  std::size_t m = 0, n = 0, k = 0;
};

/// c[m x n] (+)= op(a) op(b) on the calling thread. Every element is one chain of fused multiply-adds for each of the equal parts (of at most
/// 320) that k is cut into, in order, so its bits do not depend on m, n or the position in the matrix.
void gemm_highway(product p, extents e, const operand& a, const operand& b, float* c, std::size_t c_stride, bool accumulate);

/// "AVX3", "AVX2", ...: the instruction set that gemm_highway uses here.
const char* gemm_highway_target();

}  // namespace auto_round::linalg
