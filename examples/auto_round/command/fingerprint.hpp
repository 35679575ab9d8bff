// What results depend on, in few words: keys of what is kept from one run to the next (scores, journals).
#pragma once

#include <span>
#include <string>

#include "ar/scheme.hpp"
#include "export/export_checksums.hpp"
#include "export/export_format.hpp"
#include "io/json.hpp"

namespace auto_round::command {

/// SHA-256 of the bytes of numbers or letters.
template <class Container>
std::string hash_of(const Container& values) {
  return exporting::sha256_hex(std::as_bytes(std::span(values)));
}

/// The model's files by name, size and time of change.
io::json files_of(const io::checkpoint_dir& source);
/// SHA-256 of the model's config.json, whatever the order of its keys.
std::string config_hash(const exporting::stored_model& source);

/// Sets "transformed" to a hash of the first block of `weights`, where they are not those of `source` itself.
result<void> add_transformed(io::json& key, const exporting::stored_model& source, const model::weight_source& weights);

/// All fields of a scheme on one line.
std::string describe(const ar::scheme_fields& scheme);

}  // namespace auto_round::command
