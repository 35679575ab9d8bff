// Model-free mode: what becomes of every tensor of a checkpoint whose model class nobody needs to know. Source: auto-round 0.16.1, model_free.py.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "error.hpp"
#include "export/export_format.hpp"
#include "export/export_source_layers.hpp"
#include "io/checkpoint_dir.hpp"
#include "io/json.hpp"
#include "plan.hpp"

namespace auto_round::plan {

/// A matrix or vector of the output: a tensor of the source, or a slice of one that holds the experts of a layer.
struct piece {
  std::string name;                         ///< "model.layers.0.mlp.experts.3.up_proj.weight"
  const io::tensor_ref* source = nullptr;
  std::uint64_t first = 0;                  ///< its first element in the source
  std::vector<std::uint64_t> shape;
  const io::tensor_ref* scale = nullptr;    ///< of FP8 weights in tiles: their scales; the weight is then computed in bfloat16
  const exporting::source_layer* packed = nullptr;  ///< of packed layers, whose codes `source` holds: likewise
  std::int64_t layer = -1;                  ///< index into model_free_plan::layers if it is a linear layer, else -1
  bool quantize = false;
  std::vector<io::tensor_decl> output;      ///< what is written, codes first

  std::uint64_t elements() const;
  io::dtype plain_type() const { return scale != nullptr || packed != nullptr ? io::dtype::bf16 : source->type; }  ///< if it is not quantized
};

/// One file of the source and the one that it becomes.
struct shard {
  std::uint32_t file = 0;    ///< index into checkpoint_dir::files()
  std::string name;          ///< of the output: "model-00001-of-00003.safetensors"
  std::vector<piece> pieces;
  std::uint64_t bytes = 0;   ///< of the output file
  std::uint64_t work = 0;    ///< values of the matrices that are quantized
};

struct model_free_plan {
  ar::scheme_fields scheme;  ///< what config.json says of the model
  std::string scheme_name, format;
  bool search = false;       ///< scales of MX types
  std::int64_t tile_rows = 0, tile_cols = 0;  ///< of FP8 sources
  std::shared_ptr<const exporting::source_layers> packed_layers;  ///< of packed sources; pieces refer to them
  std::vector<shard> shards;
  std::vector<exporting::layer_decision> layers;  ///< every matrix that could be quantized, in the order of the files
  struct text_file {
    std::string name, content;
  };
  std::vector<text_file> texts;                   ///< index, config.json, quantization_config.json, as far as they are written
  std::vector<exporting::file_plan> companions;   ///< files beside the source that come along
  std::vector<std::string> warnings;

  std::vector<exporting::file_plan> files() const;  ///< all that the output will hold, weights first, in the order of SHA256SUMS, which is the last
  std::uint64_t bytes() const;                      ///< of all files
  std::uint64_t weight_bytes() const;               ///< of the files of tensors
  std::size_t quantized() const;
  /// A matrix that is more than its share of a file's work is worked on by all threads, the others by one each.
  bool by_all_threads(const shard& s, const piece& p, int threads) const;
  std::uint64_t working_bytes(const piece& p) const;  ///< while it is worked on
  memory_estimate memory(int threads) const;
};

/// Schemes and formats: integers of 2, 4 and 8 bits to auto_round, auto_round:auto_gptq and fake; floats whose scales follow from
/// a group alone (MXFP4, MXFP8, NVFP4_E5M3) to auto_round, llm_compressor and fake; BF16 with rules.
/// Float sources, FP8 in tiles, and packed layers that tensors tell without a model class (export_source_layers.hpp), which become bfloat16 first.
/// error_kind::unsupported for others, usage as make_plan. `source` must outlive the plan.
result<model_free_plan> make_model_free_plan(const request& wanted, const io::checkpoint_dir& source);

/// True if such a plan can be made for the folder: to take this way by itself.
bool model_free_applies(const request& wanted, const std::string& folder);

/// The tensors of a layer as they are written: their types and shapes, codes first.
std::vector<io::tensor_decl> model_free_tensors(const ar::scheme_fields& scheme, const std::string& format, const piece& p);

/// The bytes of these tensors, of floats.
result<std::vector<std::vector<std::byte>>> model_free_floats(tune::quantized_layer layer);

std::string describe(const model_free_plan& plan, const memory_estimate& memory);
io::json to_json(const model_free_plan& plan, const memory_estimate& memory);

}  // namespace auto_round::plan
