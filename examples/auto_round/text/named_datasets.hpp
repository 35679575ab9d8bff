// Data sets that auto-round 0.16.1 knows by name (calib_dataset.py): where a local copy is looked for, which columns are the text, and the order of
// the records. Nothing is downloaded. And the sample that the program brings along.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "error.hpp"
#include "text/records.hpp"

namespace auto_round::text {

/// How the original shuffles the records of a data set.
enum class record_order {
  python,     ///< random.Random(seed).shuffle
  numpy,      ///< numpy.random.default_rng(seed).permutation of the row numbers
  streaming,  ///< in a buffer of a library; ours is python's, so that the order is another one
};

struct named_dataset {
  std::string_view full_name;   ///< "NeelNanda/pile-10k"
  std::string_view short_name;  ///< "pile-10k"
  record_columns columns;
  record_order order;
  std::string_view export_call; ///< Python that writes the local copy: datasets.load_dataset(...) without .to_json
};

std::span<const named_dataset> named_datasets();

/// By full or short name, or by a part of a short one, as in the original ("pile"). Null if there is none.
const named_dataset* find_named_dataset(std::string_view name);

/// The file in `folder` that holds it: SHORT.jsonl, SHORT.json, FULL.jsonl or FULL.json. error_kind::unsupported says how to make one.
result<std::string> local_copy(const named_dataset& set, const std::string& folder);

inline constexpr std::string_view builtin_dataset = "builtin";
/// Prose in several languages, dialogs, mathematics, code and tables, 66 KiB, written for this program; paragraphs are separated by empty lines.
std::string_view builtin_text();

}  // namespace auto_round::text
