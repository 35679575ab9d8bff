// What an export format is: each export/<name>.cpp defines `const export_format export_<name>`; the list of formats is generated from the folder.
// An exporter knows tensor names, configuration keys and codecs; it does no arithmetic on weights beyond packing them.
#pragma once

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
#include "io/checkpoint_dir.hpp"
#include "io/json.hpp"
#include "model/decoder.hpp"
#include "model/spec.hpp"
#include "transform/rotation_files.hpp"
#include "tune/layer.hpp"
#include "tune/static_scales.hpp"

namespace auto_round::exporting {

/// What was decided about one linear layer (or, for GGUF, the embedding).
struct layer_decision {
  std::string name;                 ///< checkpoint name without ".weight"
  std::uint64_t rows = 0, cols = 0; ///< out_features, in_features
  std::int64_t block = -1;          ///< number of its decoder block; -1: outside the blocks (lm_head, embedding)
  int linear = -1;                  ///< index into model_spec::linears; -1 outside the blocks
  bool quantize = false;
  ar::scheme_fields scheme;         ///< resolved; meaningful if quantize
  bool chosen = false;              ///< the scheme was chosen for this layer alone: formats store it or refuse, but do not change it
  std::string reason;               ///< why it is not quantized, for people
  std::string kept_type;            ///< data_type that configuration files give to a layer kept in 16 bits: "fp" (shape rule), "float" (ignored)
  std::optional<ar::real> scale_type;  ///< if not the job's: the user's rule for this layer; of stored layers as in tune::quantized_layer
  bool any_order = false;              ///< the same: tune::quantized_layer::group is given
};

/// Round to nearest; the same with searched scales; tuned; not quantized here, but taken over as another checkpoint stores it: then nothing is rounded
/// that the format can hold as it is.
enum class method { rtn, opt_rtn, signround, stored };

/// One run: everything an exporter may want to know before the first weight is read.
struct job {
  const io::checkpoint_dir* source = nullptr;
  const model::model_spec* spec = nullptr;
  std::string model_name;                     ///< what the source calls the model, else the last component of its path
  std::string format;                         ///< as the user wrote it, lower case: "auto_round", "gguf:q4_k_s"
  ar::scheme_fields scheme;                   ///< model-wide, resolved
  std::vector<layer_decision> layers;         ///< blocks in order, layers in module order, then those outside the blocks
  std::vector<std::string> ignore_patterns;   ///< --ignore_layers, in order, as written
  method how = method::rtn;
  bool compat = false;                        ///< what the original gets wrong is repeated
  bool model_free = false;                    ///< the original would take its shard-wise route: other configuration keys, biases keep their type
  std::int64_t iters = 200;
  double lr = 0, minmax_lr = 0;               ///< 0: the default, 1 / iters
  std::int64_t gradient_accumulate_steps = 1;
  bool enable_minmax_tuning = true, enable_quanted_input = true;
  ar::real scale_type = ar::real::f16;        ///< what scales of integers are rounded to; GGUF: f32, its blocks have types of their own
  std::uint64_t max_shard_bytes = std::uint64_t{5} << 30;
  const model::weight_source* weights = nullptr;         ///< where tensors come from that are kept but changed; null: none are
  const transform::stored_rotation* rotation = nullptr;  ///< what a rotation adds to the checkpoint; null: nothing
  tune::attention_scales attention{};                    ///< static scales that attention gets
  const tune::static_maxima* maxima = nullptr;           ///< what calibration finds, filled in before exporters finish; null: nothing is static
  std::vector<std::string> warnings;                     ///< what `decide` has to say to the user

  bool changed(const std::string& name) const { return weights != nullptr && weights->changed(name); }
};

enum class action { quantize, keep, convert, drop };
const char* name_of(action a);  ///< "quantize", ...

/// One tensor of the source and what becomes of it; a packed layer's codes, scales and zero points are one entry.
struct tensor_plan {
  std::string name;                  ///< in the source
  std::string output_name;           ///< in the output, for people; empty if dropped
  std::vector<std::uint64_t> shape;  ///< in the source
  std::string source_type;           ///< "BF16"
  std::uint64_t source_bytes = 0;
  action what = action::keep;
  std::string output_type;           ///< "W4 g128 sym", "Q4_K", "F16"
  std::uint64_t output_bytes = 0;    ///< data without headers
  std::string note;                  ///< the reason, where one is worth a word
};

struct file_plan {
  std::string name;         ///< inside the output folder
  std::uint64_t bytes = 0;  ///< exact
};

/// What will be written; exact to the byte, known before any weight is read.
struct output_plan {
  std::vector<tensor_plan> tensors;  ///< every tensor of the source once, then what the output adds (source_type empty)
  std::vector<file_plan> files;
  std::uint64_t total_bytes() const;              ///< of all files
  std::uint64_t weight_bytes() const;             ///< output_bytes of all tensors
  double bits_per_weight() const;                 ///< weight_bytes() * 8 / elements of the source tensors that are stored
  double bits_per_quantized_weight() const;       ///< the same over quantized tensors only; 0 if there are none
  std::size_t quantized_layers() const;
};

/// One export of one run. Calls come in the order below, add() for each layer with `quantize`, from one thread at a time.
class exporter {
 public:
  virtual ~exporter() = default;
  virtual const output_plan& plan() const = 0;
  virtual result<void> begin(const std::string& directory) = 0;       ///< creates the files; `directory` exists and is empty
  virtual result<void> add(const tune::quantized_layer& layer) = 0;
  /// Whether that layer may be added in pieces, rows after rows (quantized_layer::first_row), and is read back by rows as fast.
  virtual bool takes_rows(const std::string& /*layer*/) const { return false; }
  /// The weight that a reader will compute from the layer if it is added.
  virtual result<std::vector<float>> weight_of(const tune::quantized_layer& layer) const = 0;
  /// Writes all other tensors, the index, configuration and side files, and closes everything.
  virtual result<void> finish() = 0;
  /// Digest (export_digest.hpp) of the dequantized weight that each added layer should have when it is read back, by tensor name.
  virtual const std::vector<std::pair<std::string, std::uint64_t>>& expected() const = 0;
};

/// A finished checkpoint opened for reading: weights as floats under the source's names, and what inspect and verify print.
class stored_model : public model::weight_source {
 public:
  struct entry {
    std::string name;                  ///< source name; the file's name if it has none
    std::string type;                  ///< "BF16", "W4 g128 sym", "Q4_K"
    std::vector<std::uint64_t> shape;  ///< of the weight, not of its packed words
    std::uint64_t bytes = 0;
    bool quantized = false;
    std::string file;
  };
  virtual std::string format() const = 0;                       ///< "safetensors", "auto_round (GPTQ words)", "gguf"
  virtual std::vector<entry> entries() const = 0;               ///< each weight once
  virtual std::uint64_t file_bytes() const = 0;                 ///< of the weight files
  virtual std::string tokenizer_directory() const = 0;          ///< where tokenizer.json is expected
  /// What reading weights does not find: configuration and tensors contradict each other, tensors that belong to nothing, weights stored twice.
  virtual result<void> check() const = 0;
  virtual const io::checkpoint_dir* directory() const { return nullptr; }  ///< the folder, if it is one of safetensors
  virtual void read_float_inputs() {}  ///< input_filters are empty from now on: layers read float rows
  /// The model in the words of config.json, whatever the checkpoint says it in.
  virtual std::string given_name() const { return {}; }  ///< what the checkpoint calls the model; empty: nothing, its folder does
  virtual io::json config() const { return directory() == nullptr ? io::json() : directory()->config(); }
  /// A quantized weight exactly as it is stored, and dequantized. error_kind::unsupported if no format has a place for what is stored.
  virtual result<tune::quantized_layer> stored_layer(const std::string& weight) const;
  virtual const transform::found_rotation* rotation() const { return nullptr; }  ///< how its weights were rotated; null: they were not
};

/// What becomes of layers of a scheme in a format: they are packed, or the format falls back to `fake` (the original does so, with a warning).
enum class holding { packed, fake };

struct export_format {
  std::string_view name;                          ///< the file's stem
  std::span<const std::string_view> spellings;    ///< what users type: "auto_round"; "gguf:q4_0", "gguf:q8_0", ...
  /// The scheme that the spelling itself prescribes (GGUF), or null.
  const ar::scheme_fields* (*own_scheme)(std::string_view spelling);
  /// Whether the format has a place for layers of this scheme; error_kind::unsupported says what it holds instead.
  result<holding> (*accepts)(std::string_view spelling, const ar::scheme_fields& scheme);
  /// Adjusts schemes and decisions to the format (type mix, embeddings), refuses what it cannot store (error_kind::unsupported), and warns.
  result<void> (*decide)(job&);
  result<std::unique_ptr<exporter>> (*make)(const job&);
  /// Opens a finished checkpoint (folder or file); a null pointer if it is of another format.
  result<std::unique_ptr<stored_model>> (*open)(const std::string& path);
  bool any_order = false;         ///< has a place for the group of each column (desc_act)
  bool attention_scales = false;  ///< has words for static scales of a KV cache and of queries
};

std::span<const export_format* const> all();
const export_format* find(std::string_view spelling);  ///< by user's spelling, lower case; null if unknown
/// A spelling of a file format of llama.cpp, "gguf:q4_0".
inline bool is_gguf(std::string_view spelling) { return spelling.starts_with("gguf:"); }
/// What users may type for a format.
std::vector<std::string> all_spellings();
/// Spellings of the formats that pack this scheme, separated by commas.
std::string spellings_that_hold(const ar::scheme_fields& scheme);
/// Opens whatever lies at `path`: a folder of one of our formats, a float checkpoint, or a GGUF file.
result<std::unique_ptr<stored_model>> open_model(const std::string& path);

}  // namespace auto_round::exporting
