// The mlx format: words, scales and biases of MLX's affine quantization and the `quantization` of mlx-lm; auto_round:mlx has auto-round's
// quantization_config beside it. Loaded by mlx-lm. Reads what mlx_lm.convert writes, packed embeddings included.
#include <fmt/format.h>

#include <array>
#include <map>

#include "export/export_auto_round_config.hpp"
#include "export/export_format.hpp"
#include "export/export_int_exporter.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::array<std::string_view, 2> spellings = {"auto_round:mlx", "mlx"};
constexpr std::array<std::string_view, 1> methods = {"mlx"};
constexpr int_limits limits = {.widths = bit_widths({2, 3, 4, 5, 6, 8}), .falls_back = false};

result<holding> accepts(std::string_view spelling, const ar::scheme_fields& scheme) { return accepts_int(spelling, scheme, limits); }

result<void> decide(job& run) {
  if (auto r = decide_int(run, limits, int_layout::mlx); !r) return r;
  for (const layer_decision& l : run.layers) {
    const std::size_t group = int_matrix_of(int_layout::mlx, l.scheme, l.rows, l.cols).group_size;
    if (!l.quantize || group == 32 || group == 64 || group == 128) continue;
    run.warnings.push_back(fmt::format("the groups of {} have {} values; MLX computes with groups of 32, 64 and 128 only", l.name, group));
    break;
  }
  return {};
}

/// MLX's own predicate for a matrix that it would pack by itself if it were not told otherwise.
bool would_be_packed(std::uint64_t rows, std::uint64_t cols, int group_size) {
  return (group_size <= 0 || cols % static_cast<std::uint64_t>(group_size) == 0) && rows % 64 == 0;
}

io::json quantization(const job& run) {
  io::json q = io::json::object{};
  q.set("group_size", run.scheme.group_size).set("bits", run.scheme.bits);
  const auto stem = [](const std::string& weight) { return weight.substr(0, weight.rfind('.')); };
  const auto vocabulary = static_cast<std::uint64_t>(run.spec->vocab_size), hidden = static_cast<std::uint64_t>(run.spec->hidden_size);
  const bool vocabulary_fits = would_be_packed(vocabulary, hidden, run.scheme.group_size);
  if (vocabulary_fits) q.set(stem(run.spec->embed_name), false);
  for (const layer_decision& l : run.layers) {
    if (l.quantize) {
      io::json entry = io::json::object{};
      entry.set("group_size", int_matrix_of(int_layout::mlx, l.scheme, l.rows, l.cols).group_size).set("bits", l.scheme.bits);
      q.set(l.name, std::move(entry));
    } else if (would_be_packed(l.rows, l.cols, run.scheme.group_size)) {
      q.set(l.name, false);
    }
  }
  if (run.spec->tie_word_embeddings && vocabulary_fits) q.set(stem(run.spec->head_name), false);
  return q;
}

/// mlx-lm knows the rope's parameters one level up, those of Gemma's windows by another name, and scaling as rope_scaling. (The original writes the first of these
/// only, and scaled frequencies are then lost.)
void lift_rope(io::json& config) {
  const io::json all = config.at("rope_parameters");
  config.erase("rope_parameters");
  const io::json &whole = all.at("full_attention"), &windows = all.at("sliding_attention");
  const io::json& rope = whole.is_object() ? whole : all;
  const auto set = [&](const std::string& key, const io::json& value) {
    if (config.find(key) == nullptr && !value.is_null()) config.set(key, value);
  };
  for (const auto& [key, value] : rope.members()) set(key, value);
  set("rope_local_base_freq", windows.at("rope_theta"));
  const std::string& type = rope.at("rope_type").as_string();
  if (type.empty() || type == "default") return;
  io::json scaling = rope;
  for (const char* key : {"rope_theta", "partial_rotary_factor"}) scaling.erase(key);
  if (config.at("rope_scaling").is_null()) config.set("rope_scaling", std::move(scaling));
}

result<std::unique_ptr<exporter>> make(const job& run) {
  io::json config = plain_config(run);
  io::json q = quantization(run);
  if (run.format == "mlx") {
    config.set("quantization", q).set("quantization_config", std::move(q));
  } else {
    io::json own = io::json::object{};
    own.set("quant_method", "auto-round").set("packing_format", "mlx").set("bits", run.scheme.bits).set("group_size", run.scheme.group_size);
    own.set("sym", run.scheme.sym).set("data_type", run.scheme.data_type);
    config.set("quantization", std::move(q)).set("quantization_config", std::move(own));
  }
  lift_rope(config);
  return make_int_exporter(run, int_layout::mlx, false, {{"config.json", io::dump(config)}});
}

class mlx_packing final : public packing {
 public:
  struct rule {
    ar::scheme_fields scheme;
    bool packed = true;
  };

  static result<std::unique_ptr<packing>> read(const found_quantization& found) {
    auto p = std::make_unique<mlx_packing>();
    p->model_.scheme.bits = p->model_.scheme.group_size = 0;
    auto model = read_rule(found.config, p->model_, found.file);
    if (!model) return forward_error(model);
    p->model_ = *model;
    if (p->model_.scheme.bits == 0 || p->model_.scheme.group_size == 0)
      return fail(error_kind::input, "quantization does not say bits and group_size", found.file);
    for (const auto& [layer, value] : found.config.members()) {
      if (!value.is_object() && !value.is_bool()) continue;  // bits, group_size, mode
      rule r = p->model_;
      if (value.is_bool()) {
        r.packed = value.as_bool();
      } else {
        auto own = read_rule(value, r, found.file);
        if (!own) return forward_error(own);
        r = *own;
      }
      p->layers_.emplace(layer, r);
    }
    return std::unique_ptr<packing>(std::move(p));
  }

  std::string name() const override { return "mlx"; }

  /// As mlx-lm: what has scales is packed.
  result<std::unique_ptr<packed_layer>> find(const io::checkpoint_dir& dir, const std::string& layer, std::uint64_t rows,
                                             std::uint64_t cols) const override {
    if (dir.find(layer + ".scales") == nullptr) return std::unique_ptr<packed_layer>();
    const auto own = layers_.find(layer);
    return open_int_layer(dir, layer, int_layout::mlx, (own == layers_.end() ? model_ : own->second).scheme, rows, cols);
  }
  result<std::optional<bool>> promises(const std::string& layer) const override {
    const auto own = layers_.find(layer);
    return own == layers_.end() ? std::optional<bool>() : std::optional<bool>(own->second.packed);
  }
  bool is_part(std::string_view tensor) const override { return tensor.ends_with(".scales") || tensor.ends_with(".biases"); }

 private:
  static result<rule> read_rule(const io::json& config, rule r, const std::string& file) {
    const io::json &bits = config.at("bits"), &group = config.at("group_size");
    if (const std::string& mode = config.at("mode").as_string(); !mode.empty() && mode != "affine") {
      return fail(error_kind::unsupported, fmt::format("MLX's mode \"{}\" cannot be read so far; affine can", mode), file);
    }
    if (!bits.is_null() && (!bits.is_int() || bits.as_int() < 2 || bits.as_int() > 8))
      return fail(error_kind::input, "quantization has a number of bits that MLX has not", file);
    if (!group.is_null() && (!group.is_int() || group.as_int() == 0 || group.as_int() < -1 || group.as_int() > 1 << 30))
      return fail(error_kind::input, "quantization has a group_size that is none", file);
    r.scheme.bits = static_cast<int>(bits.as_int(r.scheme.bits));
    r.scheme.group_size = static_cast<int>(group.as_int(r.scheme.group_size));
    r.scheme.sym = false;
    return r;
  }

  rule model_;
  std::map<std::string, rule> layers_;
};

result<std::unique_ptr<stored_model>> open(const std::string& path) {
  return open_packed_folder(
      path, methods, [](const found_quantization& found, const io::checkpoint_dir&, const model::model_spec&) { return mlx_packing::read(found); });
}

}  // namespace

extern const export_format export_mlx;
constinit const export_format export_mlx = {"mlx", spellings, [](std::string_view) -> const ar::scheme_fields* { return nullptr; }, accepts, decide,
                                            make,  open};

}  // namespace auto_round::exporting
