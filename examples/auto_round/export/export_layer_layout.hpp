// How the codes and scales of a layer lie in safetensors: the layouts of compressed-tensors, auto-round's floating formats and block FP8. What tells
// them apart is data, so that packing, reading and the check of what was written are one text. Bits are packed by ar/pack.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ar/numeric/real.hpp"
#include "ar/scheme.hpp"
#include "error.hpp"
#include "export/export_packed_model.hpp"
#include "export/export_safetensors.hpp"
#include "io/checkpoint_dir.hpp"
#include "tune/layer.hpp"

namespace auto_round::exporting {

/// What a code stands for before its scale: a number less a zero point; a sign and quarters; small floats.
enum class element { integer, quarters, e2m1, e4m3 };
/// How a scale is stored.
enum class scale_form { number, e8m0, e4m3, ue5m3 };

struct layer_layout {
  element codes = element::integer;
  int bits = 8;
  std::string_view codec;                       ///< name of the packed layout, ar::codec_kernels::name
  std::string_view code_name = "weight";        ///< tensor of the codes, behind the layer's name
  io::dtype code_type = io::dtype::u8;
  scale_form scales = scale_form::number;
  std::string_view scale_name = "weight_scale";
  io::dtype scale_type = io::dtype::f16;
  std::size_t rows = 0, cols = 0;               ///< out_features, in_features
  std::size_t block_rows = 1, block_cols = 1;   ///< weights that share a scale
  bool one_scale = false;                       ///< for the whole matrix: [1], not [1, 1]
  bool flat_scales = false;                     ///< scales of rows are [rows], not [rows, 1]
  bool zero_points = false;                     ///< weight_zero_point, packed along the rows
  bool shape_tensor = false;                    ///< weight_shape: rows and columns
  bool global_scale = false;                    ///< of the whole tensor, which scales are divided by
  std::string_view global_name = "weight_global_scale";
  bool global_multiplies = false;               ///< of files that are read: weights are multiplied with it (ModelOpt)
  bool order = false;                           ///< weight_g_idx: the group of each column; where it is found, it is read anyway
  std::string_view input_name{};                ///< static scale of the inputs: "input_scale", "input_global_scale"; empty: none
  io::dtype input_type = io::dtype::f32;
  bool negative_zeros = true;                   ///< codes of -0 are kept

  std::size_t scale_rows() const;
  std::size_t scale_cols() const;
};

/// Who reads it: compressed-tensors, or auto-round itself and loaders of block FP8.
enum class dialect { compressed_tensors, auto_round };

/// What the files of a run are like, beyond a layer's scheme.
struct layout_context {
  dialect who = dialect::compressed_tensors;
  io::dtype model_type = io::dtype::bf16;      ///< of the weights; scales of FP8 have it
  io::dtype int_scale_type = io::dtype::f16;   ///< of integer schemes
  bool keeps_negative_zeros = false;           ///< in all layouts, as the original's shard-wise route does
  bool any_order = false;                      ///< columns do not lie in the order of their groups
  std::optional<ar::real> scale_type{};        ///< of scales that are numbers, whatever else would decide
};

/// The layout of a layer [rows x cols]; error_kind::unsupported, without the layer's name, if there is none for the scheme or the shape.
result<layer_layout> layout_of(const ar::scheme_fields& scheme, std::size_t rows, std::size_t cols, const layout_context& context);

/// For people: "W4 g128 sym", "MXFP4", "NVFP4", "FP8 128x128".
std::string describe(const layer_layout& layout, bool symmetric = true);

std::vector<io::tensor_decl> tensors_of(const layer_layout& layout, const std::string& layer);
/// error_kind::internal if codes, scales or zero points do not fit, or the static scale of the inputs is missing.
result<std::vector<packed_part>> pack_layer(const layer_layout& layout, const tune::quantized_layer& layer);
/// The same in less memory: codes and scales are taken from the layer.
result<std::vector<packed_part>> pack_layer(const layer_layout& layout, tune::quantized_layer&& layer);
/// The weight that a reader of these tensors computes in float.
std::vector<float> stored_weight(const layer_layout& layout, const tune::quantized_layer& layer);

/// The static scale of inputs whose largest magnitude is `maximum`, as an engine reads it: for types with a scale of the whole tensor (NVFP4) 2688 over
/// it, for FP8 the 448th of it.
float input_scale(const ar::scheme_fields& scheme, float maximum);
/// That of a layer: its own, or from its maximum. error_kind::internal if it has neither.
result<float> input_scale(const tune::quantized_layer& layer);
/// What scales of this type are stored in.
io::dtype number_type(ar::real type);
/// The type that holds numbers of a stored one; powers of two are numbers of bfloat16.
ar::real real_of(io::dtype type);

/// The numbers of an I64 or I32 tensor.
std::vector<std::int64_t> integers_of(const io::tensor_ref& t);

/// The packed layer in a folder. Types of scales and zero points are taken as they are found; `layout` says everything else. `scheme` is what the
/// configuration says of it, activations included. error_kind::input, naming file and tensor, for missing parts and for types, shapes and values that
/// contradict the layout.
result<std::unique_ptr<packed_layer>> read_layer(const layer_layout& layout, const ar::scheme_fields& scheme, const io::checkpoint_dir& dir,
                                                 const std::string& layer);

}  // namespace auto_round::exporting
