// What the layers of a finished checkpoint read: rows that an engine quantizes, as the configuration says. Evaluations compute with the same numbers.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "ar/scheme.hpp"
#include "error.hpp"
#include "io/checkpoint_dir.hpp"
#include "model/block.hpp"
#include "model/spec.hpp"

namespace auto_round::exporting {

struct input_scheme {
  int bits = 16, group_size = -1;  ///< as scheme_fields::act_bits and act_group_size
  bool sym = true, dynamic = true;
  std::string data_type;
  float maximum = -1;  ///< static scales: the largest magnitude that they are made for; negative for dynamic ones

  /// From the act_ fields; where they do not name a type or a group size, it is that of the weights.
  static input_scheme of(const ar::scheme_fields& scheme);
  bool quantized() const { return bits <= 8; }
  /// The same numbers for the same rows.
  bool reads_as(const input_scheme& other) const {
    return quantized() ? bits == other.bits && group_size == other.group_size && sym == other.sym && dynamic == other.dynamic && data_type == other.data_type && maximum == other.maximum
                       : !other.quantized();
  }
  ar::scheme_fields fields() const;  ///< refers to this
};

/// The tensor, behind a layer's name, of the static scale of its inputs (".input_scale", ".input_global_scale"); null if the scheme has none.
const char* static_input_name(const ar::scheme_fields& scheme);

/// With the layer's static scale, from input_global_scale or input_scale, where one is needed; error_kind::input, naming it, if it is not there or no positive number.
result<input_scheme> with_static_scale(input_scheme scheme, const io::checkpoint_dir& dir, const std::string& layer);

/// The filters of block `index`; empty if its layers read float rows. Layers that read the same rows in different ways get them each in its own.
/// error_kind::unsupported, naming a layer, for types that activations cannot have here.
using inputs_lookup = std::function<result<input_scheme>(const std::string& layer)>;
result<model::block_runner::input_filters> make_input_filters(const model::model_spec& spec, std::int64_t index, const inputs_lookup& inputs_of);

}  // namespace auto_round::exporting
