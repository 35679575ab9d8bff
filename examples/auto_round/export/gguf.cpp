// The gguf formats: one file that llama.cpp runs, with its metadata, tokenizer and type mix.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <numbers>
#include <unordered_map>

#include "ar/numeric/half.hpp"
#include "arch/architecture_gguf.hpp"
#include "export/export_checksums.hpp"
#include "export/export_digest.hpp"
#include "export/export_folder.hpp"
#include "export/export_format.hpp"
#include "export/export_gguf_blocks.hpp"
#include "export/export_gguf_metadata.hpp"
#include "export/export_gguf_model.hpp"
#include "export/export_gguf_types.hpp"
#include "export/export_inventory.hpp"
#include "export/export_safetensors.hpp"
#include "io/file.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::size_t values_at_once = std::size_t{1} << 20;
constexpr std::string_view router_name = ".ffn_gate_inp.weight";

constexpr auto spellings = [] {
  std::array<std::string_view, gguf_recipes.size()> all;
  std::ranges::transform(gguf_recipes, all.begin(), &gguf_recipe::spelling);
  return all;
}();

const char* type_name(io::gguf_type t) { return io::gguf_type_info(static_cast<std::uint32_t>(t)).name; }

/// Beside blocks of this type stands what the whole tensor is multiplied by.
bool has_factor(io::gguf_type t) { return t == io::gguf_type::nvfp4; }

float factor_of(const tune::quantized_layer& layer) {
  return layer.tensor_factor ? *layer.tensor_factor : layer.global_scale == 0 ? 0.0f : 1 / layer.global_scale;
}

/// What a file is called after a model whose name may be any text: as llama.cpp does without blanks and slashes, and not endless.
std::string file_stem(const std::string& model_name) {
  constexpr std::size_t most = 128;
  std::size_t size = std::min(model_name.size(), most);
  while (size > 0 && size < model_name.size() && (static_cast<unsigned char>(model_name[size]) & 0xC0) == 0x80) --size;  // whole characters
  std::string stem = model_name.substr(0, size);
  for (char& c : stem)
    if (static_cast<unsigned char>(c) <= ' ' || c == '/' || c == 0x7F) c = '-';
  const std::size_t first = stem.find_first_not_of("-.");
  return first == std::string::npos ? "model" : stem.substr(first);
}

/// The weight's name without ".weight".
std::string stem(const std::string& name) { return name.substr(0, name.rfind('.')); }

/// Factors of llama3's frequency scaling, as llama.cpp's converter stores them. It computes them with torch in float, where a number divided by a
/// tensor is the number times the tensor's reciprocal; the last bit depends on that.
std::vector<float> rope_factors(const model::rope_spec& rope, std::int64_t head_dim) {
  const auto f = [](double v) { return static_cast<float>(v); };
  const float original_length = f(static_cast<double>(rope.original_max_position));
  const float low_wavelength = f(static_cast<double>(rope.original_max_position) / rope.low_freq_factor);
  const float high_wavelength = f(static_cast<double>(rope.original_max_position) / rope.high_freq_factor);
  std::vector<float> factors;
  for (std::int64_t i = 0; i < head_dim; i += 2) {
    const float frequency = 1.0f / std::pow(f(rope.theta), f(static_cast<double>(i)) / f(static_cast<double>(head_dim)));
    const float wavelength = 1.0f / frequency * f(2 * std::numbers::pi);
    if (wavelength < high_wavelength) {
      factors.push_back(1.0f);
    } else if (wavelength > low_wavelength) {
      factors.push_back(f(rope.factor));
    } else {
      const float smooth = (1.0f / wavelength * original_length - f(rope.low_freq_factor)) / f(rope.high_freq_factor - rope.low_freq_factor);
      factors.push_back(1.0f / ((1.0f - smooth) / f(rope.factor) + smooth));
    }
  }
  return factors;
}

/// Source names in the order of the file: per block its linear layers, then its norms; then embedding, final norm and head.
std::vector<std::string> file_order(const io::checkpoint_dir& source, const model::model_spec& spec) {
  std::vector<std::string> order;
  const auto add = [&](const std::string& name) {
    if (source.find(name) != nullptr) order.push_back(name);
  };
  for (std::int64_t l = 0; l < spec.num_layers; ++l) {
    for (std::size_t i = 0; i < spec.linears.size(); ++i) {
      add(spec.linear_name(l, static_cast<int>(i)) + ".weight");
      add(spec.linear_name(l, static_cast<int>(i)) + ".bias");
    }
    const std::string prefix = spec.block_prefix + std::to_string(l) + ".";
    add(prefix + spec.input_norm_name);
    add(prefix + spec.post_attention_norm_name);
    for (const model::part_desc& part : spec.parts) add(prefix + part.name);
  }
  add(spec.embed_name);
  add(spec.final_norm_name);
  if (!spec.tie_word_embeddings) add(spec.head_name);
  return order;
}

class gguf_exporter final : public exporter {
 public:
  explicit gguf_exporter(const job& run) : run_(run) {}

  result<void> prepare() {
    const gguf_recipe& recipe = *find_gguf_recipe(run_.format);
    std::unordered_map<std::string, const layer_decision*> decisions;
    for (const layer_decision& layer : run_.layers) decisions[layer.name + ".weight"] = &layer;
    std::uint64_t parameters = 0, expert_parameters = 0;
    std::unordered_map<std::string, bool> placed;
    for (const std::string& name : file_order(*run_.source, *run_.spec)) {
      if (name == run_.spec->embed_name) add_rope_factors();
      const io::tensor_ref& t = *run_.source->find(name);
      const auto decision = decisions.find(name);
      const bool quantize = decision != decisions.end() && decision->second->quantize;
      // Matrices that are not quantized are stored in half precision, everything else (what chooses experts, too) in float.
      const gguf_place place = place_in_gguf(*run_.spec, name);
      io::gguf_type type = t.shape.size() == 2 && !place.name.ends_with(router_name) ? matrix_type(t.type) : io::gguf_type::f32;
      if (quantize) {
        const auto stored_as = gguf_type_of(decision->second->scheme);
        if (!stored_as) return fail(error_kind::internal, "a layer has a scheme that GGUF cannot store", {}, name);
        type = *stored_as;
      }
      if (auto r = declare(t, place, type, quantize ? action::quantize : action::convert, decision != decisions.end() ? decision->second->reason : std::string()); !r) return r;
      placed[name] = true;
      parameters += t.elements();
      if (place.count > 1) expert_parameters += t.elements();
    }
    for (const io::tensor_ref& t : run_.source->tensors()) {
      if (!placed[t.name]) {
        plan_.tensors.push_back({t.name, {}, t.shape, std::string(io::name_of(t.type)), t.bytes.size(), action::drop, {}, 0,
                                 t.name == run_.spec->head_name ? "tied to " + run_.spec->embed_name : "llama.cpp computes it or has no use for it"});
      }
    }
    for (const auto& [name, factors] : rope_) parameters += factors.size();

    auto sources = read_gguf_sources(run_.source->path(), run_.source->config());
    if (!sources) return forward_error(sources);
    model::model_spec spec = *run_.spec;
    if (has_plain_factors(spec.rope)) spec.rope.type = model::rope_spec::kind::standard;  // a tensor says it
    auto metadata = build_gguf_metadata({run_.model_name, parameters, expert_parameters, recipe.file_type}, spec, *sources);
    if (!metadata) return forward_error(metadata);
    metadata_ = std::move(*metadata);
    file_name_ = fmt::format("{}-{}-{}.gguf", file_stem(run_.model_name), size_label(parameters, expert_parameters, spec.mixture.experts), recipe.label);
    plan_.files.push_back({file_name_, io::gguf_size(metadata_, declared_)});
    return plan_companions();
  }

  const output_plan& plan() const override { return plan_; }
  const std::vector<std::pair<std::string, std::uint64_t>>& expected() const override { return expected_; }

  result<void> begin(const std::string& directory) override {
    directory_ = directory;
    auto writer = io::gguf_writer::create(directory + "/" + file_name_, metadata_, declared_);
    if (!writer) return forward_error(writer);
    writer_ = std::make_unique<io::gguf_writer>(std::move(*writer));
    return {};
  }

  result<void> add(const tune::quantized_layer& layer) override {
    const std::string name = layer.name + ".weight";
    const auto type = gguf_type_of(layer.scheme);
    if (!type) return fail(error_kind::internal, "a layer arrives in a scheme that GGUF cannot store", {}, name);
    auto bytes = pack(layer, *type);
    if (!bytes) return forward_error(bytes);
    auto expected = read_back(*type, *bytes, layer);
    if (!expected) return forward_error(expected);
    if (layer.first_row == 0) {
      digester_ = {};
      expected_.emplace_back(name, 0);
    }
    digester_.add(*expected);
    expected_.back().second = digester_.value();
    const gguf_place place = place_in_gguf(*run_.spec, name);
    const std::uint64_t row = bytes->size() / layer.rows, before = place.index == 0 ? 0 : place.index * run_.source->find(name)->shape[0];
    if (has_factor(*type) && layer.first_row == 0) {
      const float factor = factor_of(layer);
      if (auto r = writer_->write(gguf_factor_name(place.name), std::as_bytes(std::span(&factor, 1)), place.index * sizeof(float)); !r) return r;
    }
    return writer_->write(place.name, *bytes, (before + layer.first_row) * row);
  }

  bool takes_rows(const std::string& layer) const override { return run_.how != method::stored && permuted_heads(*run_.spec, layer + ".weight") == 0; }

  result<std::vector<float>> weight_of(const tune::quantized_layer& layer) const override {
    const auto type = gguf_type_of(layer.scheme);
    if (!type) return fail(error_kind::internal, "a layer arrives in a scheme that GGUF cannot store", {}, layer.name);
    auto bytes = pack(layer, *type);
    if (!bytes) return forward_error(bytes);
    return read_back(*type, *bytes, layer);
  }

  result<void> finish() override {
    for (const auto& [tensor, type] : converted_) {
      if (auto r = convert(*tensor, type); !r) return r;
      run_.source->release(*tensor);
    }
    for (const auto& [name, factors] : rope_) {
      if (auto r = writer_->write(name, std::as_bytes(std::span<const float>(factors))); !r) return r;
    }
    if (auto r = writer_->finish(); !r) return r;
    std::vector<std::string> names = {file_name_};
    for (const std::string& name : companions_) {
      if (auto r = io::copy_file_durably(run_.source->path() + "/" + name, directory_ + "/" + name); !r) return r;
      names.push_back(name);
    }
    return write_checksums(directory_, names);
  }

 private:
  result<std::vector<std::byte>> pack(const tune::quantized_layer& layer, io::gguf_type type) const {
    const std::string name = layer.name + ".weight";
    const std::uint64_t heads = permuted_heads(*run_.spec, name);
    return run_.how == method::stored || is_fp4(type) ? store_gguf(layer, type, heads) : pack_gguf(layer, type, run_.source->find(name)->type, heads);
  }

  /// The layer's weight as its blocks say it.
  result<std::vector<float>> read_back(io::gguf_type type, std::span<const std::byte> bytes, const tune::quantized_layer& layer) const {
    auto weight = decode_rows(type, bytes, layer.rows, layer.cols, permuted_heads(*run_.spec, layer.name + ".weight"));
    if (weight && has_factor(type))
      for (float& v : *weight) v *= factor_of(layer);
    return weight;
  }

  /// Of a matrix that is not quantized. Where nothing shall be rounded, it keeps its type.
  io::gguf_type matrix_type(io::dtype source) const {
    if (run_.how != method::stored) return io::gguf_type::f16;
    return source == io::dtype::f16 ? io::gguf_type::f16 : source == io::dtype::bf16 ? io::gguf_type::bf16 : io::gguf_type::f32;
  }

  result<void> declare(const io::tensor_ref& t, const gguf_place& place, io::gguf_type type, action what, const std::string& note) {
    std::vector<std::uint64_t> ne(t.shape.rbegin(), t.shape.rend());
    if (place.count > 1) ne.push_back(place.count);
    const auto known = place.count > 1 ? experts_.find(place.name) : experts_.end();
    if (known == experts_.end()) {
      if (place.count > 1) experts_[place.name] = type;
      declared_.push_back({place.name, type, ne});
      if (what == action::quantize && has_factor(type)) declared_.push_back({gguf_factor_name(place.name), io::gguf_type::f32, {place.count}});
    } else if (known->second != type) {
      return fail(error_kind::unsupported, fmt::format("{} would be {} among experts that are {}: those of a block share one tensor of a GGUF file, and its type", t.name, type_name(type),
                                                       type_name(known->second)), {}, t.name);
    }
    const std::uint64_t bytes = io::gguf_tensor_decl{place.name, type, std::move(ne)}.bytes() / place.count + (what == action::quantize && has_factor(type) ? sizeof(float) : 0);
    plan_.tensors.push_back({t.name, place.name, t.shape, std::string(io::name_of(t.type)), t.bytes.size(), what, type_name(type), bytes, note});
    if (what == action::convert) converted_.emplace_back(&t, type);
    const bool same = gguf_offset(*run_.spec, t.name) == 0 && ((type == io::gguf_type::f32 && t.type == io::dtype::f32) || (type == io::gguf_type::f16 && t.type == io::dtype::f16) ||
                      (type == io::gguf_type::bf16 && t.type == io::dtype::bf16));
    if (same && what == action::convert) plan_.tensors.back().what = action::keep;
    return {};
  }

  void add_rope_factors() {
    const model::rope_spec& rope = run_.spec->rope;
    const auto add = [&](const std::string& name, std::vector<float> factors) {
      declared_.push_back({name, io::gguf_type::f32, {factors.size()}});
      plan_.tensors.push_back({name, name, {factors.size()}, {}, 0, action::convert, "F32", factors.size() * sizeof(float), "frequency factors of rope scaling, from config.json"});
      rope_.emplace_back(name, std::move(factors));
    };
    const auto floats = [](const std::vector<double>& v) { return std::vector<float>(v.begin(), v.end()); };
    if (rope.type == model::rope_spec::kind::llama3) {
      add("rope_freqs.weight", rope_factors(rope, run_.spec->head_dim));
    } else if (has_plain_factors(rope)) {
      add("rope_freqs.weight", floats(rope.short_factor));
    } else if (rope.type == model::rope_spec::kind::longrope) {
      add("rope_factors_long.weight", floats(rope.long_factor));
      add("rope_factors_short.weight", floats(rope.short_factor));
    }
  }

  /// Tokenizer files lie beside the file so that this program can evaluate it; llama.cpp reads the metadata.
  result<void> plan_companions() {
    std::vector<std::string> names = {file_name_};
    auto companions = companions_of(*run_.source);
    if (!companions) return forward_error(companions);
    for (file_plan& f : *companions) {
      if (!(f.name.starts_with("tokenizer") || f.name.starts_with("LICENSE") || f.name.starts_with("NOTICE"))) continue;
      companions_.push_back(f.name);
      names.push_back(f.name);
      plan_.files.push_back(std::move(f));
    }
    plan_.files.push_back({checksums_name, checksums_size(names)});
    return {};
  }

  result<void> convert(const io::tensor_ref& t, io::gguf_type type) {
    const bool changed = run_.changed(t.name);
    if (!changed)
      if (auto r = check_finite(*run_.source, t); !r) return r;
    const std::uint64_t heads = permuted_heads(*run_.spec, t.name), elements = t.elements();
    const std::size_t rows = static_cast<std::size_t>(t.shape.empty() ? 1 : t.shape[0]), width = rows == 0 ? 0 : static_cast<std::size_t>(elements) / rows;
    // By rows, because an embedding may be larger than all blocks of a small model; rows of heads change places, and are few.
    const std::size_t step = heads != 0 || width == 0 ? rows : std::max<std::size_t>(1, values_at_once / width);
    const gguf_place place = place_in_gguf(*run_.spec, t.name);
    const auto before = static_cast<std::size_t>(place.index * elements);  // values of the experts that lie before it
    for (std::size_t first = 0; first < rows; first += step) {
      const std::size_t n = std::min(step, rows - first);
      std::vector<float> values(n * width);
      if (auto r = changed ? run_.weights->read_part(t.name, elements, first * width, values) : io::read_f32(t, first * width, values); !r) return r;
      if (heads != 0) {
        const std::vector<float> read = values;
        for (std::size_t i = 0; i < rows; ++i)
          std::copy_n(read.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(permuted_row(i, rows, heads)) * width), width, values.begin() + static_cast<std::ptrdiff_t>(i * width));
      }
      if (const float offset = gguf_offset(*run_.spec, t.name); offset != 0)
        for (float& v : values) v += offset;
      if (auto r = write_converted(place.name, values, type, before + first * width); !r) return r;
      run_.source->release(t);
    }
    return {};
  }

  result<void> write_converted(const std::string& name, const std::vector<float>& values, io::gguf_type type, std::size_t at) {
    if (type == io::gguf_type::f32) return writer_->write(name, std::as_bytes(std::span<const float>(values)), at * sizeof(float));
    if (type == io::gguf_type::f16)
      if (auto r = check_halves(values, name); !r) return r;
    std::vector<std::uint16_t> halves(values.size());
    std::transform(values.begin(), values.end(), halves.begin(), type == io::gguf_type::bf16 ? ar::bf16_from_f32 : ar::f16_from_f32);
    return writer_->write(name, std::as_bytes(std::span<const std::uint16_t>(halves)), at * sizeof(std::uint16_t));
  }

  const job run_;
  output_plan plan_;
  std::string file_name_, directory_;
  io::gguf_metadata metadata_;
  std::vector<io::gguf_tensor_decl> declared_;
  std::unordered_map<std::string, io::gguf_type> experts_;  // tensors of theirs that are declared
  std::vector<std::pair<const io::tensor_ref*, io::gguf_type>> converted_;
  std::vector<std::pair<std::string, std::vector<float>>> rope_;  // tensors of frequency factors
  std::vector<std::string> companions_;
  std::unique_ptr<io::gguf_writer> writer_;
  digester digester_;  // of the layer that was added last
  std::vector<std::pair<std::string, std::uint64_t>> expected_;
};

const ar::scheme_fields* own_scheme(std::string_view spelling) {
  const gguf_recipe* recipe = find_gguf_recipe(spelling);
  return recipe == nullptr ? nullptr : scheme_of(recipe->base);
}

result<holding> accepts(std::string_view, const ar::scheme_fields& scheme) {
  if (gguf_type_of(scheme)) return holding::packed;
  return fail(error_kind::unsupported, "the scheme is no GGUF type");
}

/// Layers keep the types that they have or that hold them, and the recipe is a name, which must be that of most layers.
result<void> decide_stored(job& run, const gguf_recipe& recipe) {
  std::map<io::gguf_type, std::size_t> count;
  for (const layer_decision& layer : run.layers) {
    if (!layer.quantize) continue;
    const auto type = gguf_type_of(layer.scheme);
    if (!type) return fail(error_kind::unsupported, "no GGUF type holds the layer", {}, layer.name);
    const std::uint64_t block = io::gguf_type_info(static_cast<std::uint32_t>(*type)).block_elements;
    if (layer.cols % block != 0) return fail(error_kind::unsupported, fmt::format("rows of {} values are no multiple of the {} of a {} block", layer.cols, block, type_name(*type)), {}, layer.name);
    if (layer.block >= 0) ++count[*type];
  }
  const auto most = std::max_element(count.begin(), count.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most != count.end() && most->first != recipe.base) {
    return fail(error_kind::unsupported, fmt::format("most layers are of type {}; write a --format gguf: that is named after it", type_name(most->first)));
  }
  run.scale_type = ar::real::f32;
  return {};
}

/// Every matrix gets the type of the mix; head and embedding are quantized too.
result<void> decide(job& run) {
  const gguf_recipe& recipe = *find_gguf_recipe(run.format);
  const model::model_spec& spec = *run.spec;
  if (auto r = check_gguf_model(spec); !r) return r;
  const std::int64_t window = arch::largest_window(spec);
  if (window != 0 && window < spec.max_position_embeddings && !arch::gguf_of(spec).windows)
    run.warnings.push_back(fmt::format("blocks of this {} see a window of {} tokens, which llama.cpp does not know of: there they see all tokens before", spec.model_class, window));
  if (run.how == method::stored) return decide_stored(run, recipe);
  layer_decision embedding;
  embedding.name = stem(spec.embed_name);
  embedding.rows = static_cast<std::uint64_t>(spec.vocab_size);
  embedding.cols = static_cast<std::uint64_t>(spec.hidden_size);
  run.layers.push_back(embedding);
  for (layer_decision& layer : run.layers) {
    if (!layer.kept_type.empty()) continue;  // the user wants it as it is
    if (layer.chosen) {
      if (auto r = accepts(run.format, layer.scheme); !r) return fail(r.error().kind, r.error().message, {}, layer.name);
      continue;
    }
    const gguf_role role = layer.block >= 0                   ? gguf_role::linear
                           : layer.name == embedding.name ? gguf_role::embedding
                                                              : gguf_role::head;
    const io::gguf_type type = choose_gguf_type(recipe, spec, role, layer.linear, layer.block, layer.cols);
    const ar::scheme_fields* scheme = scheme_of(type);
    layer.quantize = scheme != nullptr;
    layer.reason = scheme != nullptr ? std::string() : fmt::format("{} columns are no multiple of 32", layer.cols);
    if (scheme != nullptr) layer.scheme = *scheme;
  }
  run.scale_type = ar::real::f32;
  return {};
}

result<std::unique_ptr<exporter>> make(const job& run) {
  auto e = std::make_unique<gguf_exporter>(run);
  if (auto r = e->prepare(); !r) return forward_error(r);
  return std::unique_ptr<exporter>(std::move(e));
}

}  // namespace

extern const export_format export_gguf;
constinit const export_format export_gguf = {"gguf", spellings, own_scheme, accepts, decide, make, open_gguf};

}  // namespace auto_round::exporting
