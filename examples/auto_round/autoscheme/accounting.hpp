// How many bits a layer takes under a scheme, and which scheme it really gets where its shape does not fit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ar/scheme.hpp"

namespace auto_round::autoscheme {

/// A layer that counts for the average.
struct layer {
  std::string name;  ///< without ".weight"
  std::uint64_t rows = 0, cols = 0;  ///< of the weight: out_features and in_features; number of embeddings and their width
  bool embedding = false;
  std::optional<ar::scheme_fields> fixed{};  ///< decided elsewhere (16 bits too): counted, but neither scored nor chosen

  std::uint64_t weights() const { return rows * cols; }
};

/// A scheme to choose from.
struct option {
  std::string name;  ///< as the user knows it
  ar::scheme_fields scheme;
  bool gguf = false;  ///< stored in the blocks of GGUF files
};

struct accounting {
  bool exact = false;  ///< bits that are written; false: as auto-round 0.16.1 counts
  bool ignore_scale_zp_bits = false;
};

/// Bits of all weights of `l` under `scheme`. auto-round's count: codes, and for each group a scale of 16 bits (8 for MX and FP4 types) and a zero
/// point, which symmetric integers pay for too (GPTQ words store it); K types pay two values of super_bits a group and 64 bits a super-block. Groups
/// of an embedding run along its vocabulary there. Tiles, for which auto-round fails, count one scale each.
/// Exact: packed words with their padding, whole blocks of GGUF types, no zero points where none are stored; 16 bits a weight that is kept.
std::uint64_t bits_of(const layer& l, const ar::scheme_fields& scheme, bool gguf, const accounting& how);

/// The scheme that the layer gets when it asks for `scheme`: K types need rows of whole super-blocks and fall back to a type with blocks of 32, or to 16
/// bits, as in auto-round (which leaves embeddings alone); MX and NVFP4 need whole groups and integers that are packed need rows and columns that
/// are multiples of 32, or the layer stays in 16 bits.
ar::scheme_fields fitting(const layer& l, const ar::scheme_fields& scheme, bool gguf);

/// Without repetitions of the same scheme; the first of them stays.
std::vector<option> without_duplicates(std::vector<option> options);

}  // namespace auto_round::autoscheme
