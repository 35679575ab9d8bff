#include "export/export_source_layers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "ar/dispatch.hpp"
#include "ar/numeric/small_float.hpp"
#include "ar/pack.hpp"
#include "export/export_layer_layout.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::array<std::string_view, 7> sure_parts = {".weight_packed", ".weight_scale", ".weight_scale_2", ".weight_global_scale", ".weight_zero_point", ".weight_shape", ".weight_g_idx"};
constexpr std::uint64_t tile = 128;  // of FP8 in blocks; no file says another

bool is_number(io::dtype t) { return t == io::dtype::f32 || t == io::dtype::f16 || t == io::dtype::bf16; }
bool is_power(io::dtype t) { return t == io::dtype::u8 || t == io::dtype::f8_e8m0; }

/// How many rows and columns of a matrix have one of the scales.
struct span_of_scale {
  std::uint64_t rows = 0, cols = 0;
};
std::optional<span_of_scale> span_of(const io::tensor_ref& scale, std::uint64_t rows, std::uint64_t cols) {
  if (rows == 0 || cols == 0 || scale.shape.size() > 2) return std::nullopt;
  if (scale.elements() == 1) return span_of_scale{rows, cols};
  const std::uint64_t r = scale.shape[0], c = scale.shape.size() == 2 ? scale.shape[1] : 1;
  if (r == rows && c != 0 && cols % c == 0) return span_of_scale{1, cols / c};
  if (r == ar::ceil_div(rows, tile) && c == ar::ceil_div(cols, tile)) return span_of_scale{tile, tile};
  return std::nullopt;
}

ar::scheme_fields weights_of(std::string_view preset) {
  ar::scheme_fields s = *ar::find_preset(preset);
  s.act_bits = 16;
  return s;
}

class finder {
 public:
  explicit finder(const io::checkpoint_dir& dir) : dir_(dir), config_(dir.config().at("quantization_config")) {}

  /// The layer whose codes lie in `t`; null if these are none.
  result<std::unique_ptr<packed_layer>> open(const io::tensor_ref& t, source_layer& to) {
    layer_ = &to;
    const std::string_view name = t.name;
    if (t.shape.size() != 2) return std::unique_ptr<packed_layer>();
    if (name.ends_with(".weight_packed")) {
      to.name = name.substr(0, name.size() - 14);
      return t.type == io::dtype::i32 ? words(t) : t.type == io::dtype::u8 ? nibbles(t, "weight_packed", "weight_scale") : std::unique_ptr<packed_layer>();
    }
    if (!name.ends_with(".weight")) return std::unique_ptr<packed_layer>();
    to.name = name.substr(0, name.size() - 7);
    if (t.type == io::dtype::f8_e4m3) return bytes(t);
    if (t.type == io::dtype::i8) return part("scale") != nullptr ? nibbles(t, "weight", "scale") : whole_numbers(t);
    if (t.type != io::dtype::u8) return std::unique_ptr<packed_layer>();
    if (part("weight_scale_2") != nullptr) return nibbles(t, "weight", "weight_scale", "weight_scale_2");
    return part("weight.scale2") != nullptr ? nibbles(t, "weight", "weight.scale", "weight.scale2") : std::unique_ptr<packed_layer>();
  }

 private:
  const io::tensor_ref* part(std::string_view what) const { return dir_.find(layer_->name + "." + std::string(what)); }

  tl::unexpected<error> unfit(const io::tensor_ref& t) const {
    return fail(error_kind::input, fmt::format("codes and scales of this layer do not fit each other in any known way: {} {}", io::name_of(t.type), fmt::join(t.shape, " x ")),
                dir_.files()[t.file], t.name);
  }
  tl::unexpected<error> without(std::string_view what, const io::tensor_ref& codes) const {
    return fail(error_kind::input, "the scales of a packed layer are missing", dir_.files()[codes.file], layer_->name + "." + std::string(what));
  }

  result<std::unique_ptr<packed_layer>> read(layer_layout l, const ar::scheme_fields& scheme, std::string_view code_name, io::dtype code_type, std::string_view scale_name) const {
    l.code_name = code_name;
    l.code_type = code_type;
    l.scale_name = scale_name;
    layer_->scheme = scheme;
    return read_layer(l, scheme, dir_, layer_->name);
  }

  /// Two codes of four bits in a byte.
  result<std::unique_ptr<packed_layer>> nibbles(const io::tensor_ref& t, std::string_view code_name, std::string_view scale_name, std::string_view global_name = {}) {
    const io::tensor_ref* scale = part(scale_name);
    if (scale == nullptr) return without(scale_name, t);
    if (t.shape[1] > (std::uint64_t{1} << 40)) return unfit(t);
    layer_->rows = t.shape[0];
    layer_->cols = 2 * t.shape[1];
    const auto span = span_of(*scale, layer_->rows, layer_->cols);
    if (!span || span->rows != 1) return unfit(*scale);
    ar::scheme_fields scheme;
    if (scale->type == io::dtype::f8_e4m3 && span->cols == 16) scheme = weights_of("NVFP4");
    else if (is_power(scale->type) && span->cols == 32) scheme = weights_of(quarters_ ? "MXINT4" : "MXFP4");
    else if (scale->type == io::dtype::u8 && span->cols == 16) scheme = weights_of("NVFP4_E5M3");
    else if (is_number(scale->type)) scheme = integers(4, *span, layer_->cols);
    else return unfit(*scale);
    auto l = layout_of(scheme, static_cast<std::size_t>(layer_->rows), static_cast<std::size_t>(layer_->cols), {.who = dialect::auto_round});
    if (scheme.data_type == "int") {
      l = plain(element::integer, 4, ar::mxfp4_nibbles::name, *span);
      l->zero_points = part("weight_zero_point") != nullptr;
    }
    if (!l) return fail(l.error().kind, l.error().message, dir_.files()[t.file], t.name);
    if (!global_name.empty()) {
      l->global_name = global_name;
      l->global_multiplies = true;
    }
    return read(*l, scheme, code_name, t.type, scale_name);
  }

  /// Integers in 32-bit words. How wide they are follows from the number of columns, which weight_shape says; 4 bits where it does not.
  result<std::unique_ptr<packed_layer>> words(const io::tensor_ref& t) {
    const io::tensor_ref *scale = part("weight_scale"), *shape = part("weight_shape");
    if (scale == nullptr) return without("weight_scale", t);
    layer_->rows = t.shape[0];
    layer_->cols = t.shape[1] * 8;
    if (shape != nullptr) {
      if (shape->elements() != 2 || (shape->type != io::dtype::i64 && shape->type != io::dtype::i32)) return unfit(*shape);
      const std::vector<std::int64_t> said = integers_of(*shape);
      if (said[0] != static_cast<std::int64_t>(t.shape[0]) || said[1] < 1 || said[1] > (std::int64_t{1} << 40)) return unfit(*shape);
      layer_->cols = static_cast<std::uint64_t>(said[1]);
    }
    const ar::codec_kernels& codec = *ar::kernels().codec(ar::ct_int32::name);
    int bits = 0, fitting = 0;
    for (int b = 1; b <= 8; ++b) {
      const ar::matrix_shape packed = codec.packed_shape(b, static_cast<std::size_t>(layer_->rows), static_cast<std::size_t>(layer_->cols));
      if (packed.rows != t.shape[0] || packed.cols != t.shape[1]) continue;
      bits = b;
      ++fitting;
    }
    const auto span = span_of(*scale, layer_->rows, layer_->cols);
    if (fitting != 1) return unfit(t);
    if (!span) return unfit(*scale);
    layer_layout l = plain(element::integer, bits, ar::ct_int32::name, *span);
    l.zero_points = part("weight_zero_point") != nullptr;
    l.shape_tensor = shape != nullptr;
    ar::scheme_fields scheme = integers(bits, *span, layer_->cols);
    scheme.sym = !l.zero_points;
    return read(l, scheme, "weight_packed", t.type, "weight_scale");
  }

  result<std::unique_ptr<packed_layer>> whole_numbers(const io::tensor_ref& t) {
    const io::tensor_ref* scale = part("weight_scale");
    if (scale == nullptr) return std::unique_ptr<packed_layer>();
    layer_->rows = t.shape[0];
    layer_->cols = t.shape[1];
    const auto span = span_of(*scale, layer_->rows, layer_->cols);
    if (!span) return unfit(*scale);
    layer_layout l = plain(element::integer, 8, ar::int8_bytes::name, *span);
    l.zero_points = part("weight_zero_point") != nullptr;
    ar::scheme_fields scheme = integers(8, *span, layer_->cols);
    scheme.sym = !l.zero_points;
    return read(l, scheme, "weight", t.type, "weight_scale");
  }

  /// FP8, but that with numbers in weight_scale_inv, whose tiles config.json tells; powers of two in it are those of DeepSeek V3.2.
  result<std::unique_ptr<packed_layer>> bytes(const io::tensor_ref& t) {
    const io::tensor_ref* tiles = part("weight_scale_inv");
    if (tiles != nullptr && !is_power(tiles->type) && !powers_) return std::unique_ptr<packed_layer>();
    const std::string_view name = tiles != nullptr ? "weight_scale_inv" : part("weight_scale") != nullptr ? "weight_scale" : "scale";
    const io::tensor_ref* scale = part(name);
    if (scale == nullptr) return std::unique_ptr<packed_layer>();
    layer_->rows = t.shape[0];
    layer_->cols = t.shape[1];
    const auto span = span_of(*scale, layer_->rows, layer_->cols);
    if (!span && tiles != nullptr && is_number(tiles->type)) return std::unique_ptr<packed_layer>();  // tiles of another size
    if (!span) return unfit(*scale);
    if (is_power(scale->type) && span->rows == 1 && span->cols == 32) {
      auto l = layout_of(weights_of("MXFP8"), static_cast<std::size_t>(layer_->rows), static_cast<std::size_t>(layer_->cols), {.who = dialect::auto_round});
      if (!l) return fail(l.error().kind, l.error().message, dir_.files()[t.file], t.name);
      return read(*l, weights_of("MXFP8"), "weight", t.type, name);
    }
    if (scale->type == io::dtype::u8) return unfit(*scale);
    ar::scheme_fields scheme = weights_of("FP8_BLOCK");
    scheme.group_rows = static_cast<int>(span->rows == 1 ? 0 : span->rows);
    scheme.group_size = static_cast<int>(span->cols);
    return read(plain(element::e4m3, 8, ar::fp8_bytes::name, *span), scheme, "weight", t.type, name);
  }

  layer_layout plain(element codes, int bits, std::string_view codec, const span_of_scale& span) const {
    layer_layout l;
    l.codes = codes;
    l.bits = bits;
    l.codec = codec;
    l.rows = static_cast<std::size_t>(layer_->rows);
    l.cols = static_cast<std::size_t>(layer_->cols);
    l.block_rows = static_cast<std::size_t>(span.rows);
    l.block_cols = static_cast<std::size_t>(span.cols);
    return l;
  }
  static ar::scheme_fields integers(int bits, const span_of_scale& span, std::uint64_t cols) {
    ar::scheme_fields s = weights_of("W4A16");
    s.bits = bits;
    s.group_size = span.rows != 1 ? 0 : span.cols == cols ? -1 : static_cast<int>(span.cols);
    return s;
  }

  const io::checkpoint_dir& dir_;
  const io::json& config_;
  bool quarters_ = config_.at("data_type").as_string().starts_with("mx_int"), powers_ = config_.at("scale_fmt").as_string() == "ue8m0";
  source_layer* layer_ = nullptr;
};

bool is_power_of_two(float s) { return ar::f32_from_e8m0(ar::e8m0_from_f32(s)) == s; }

}  // namespace

result<source_layers> source_layers::find(const io::checkpoint_dir& dir) {
  source_layers all;
  finder one(dir);
  for (const io::tensor_ref& t : dir.tensors()) {
    source_layer layer;
    auto weight = one.open(t, layer);
    if (!weight) return forward_error(weight);
    if (*weight == nullptr) continue;
    if (!t.name.ends_with(".weight") && dir.find(layer.name + ".weight") != nullptr)
      return fail(error_kind::input, "the layer has packed codes and a weight beside them", dir.files()[t.file], layer.name + ".weight");
    for (const io::tensor_ref* p : (*weight)->parts()) all.parts_.insert(p->name);
    for (const char* aside : {".weight.input_amax", ".weight.weight_amax", ".weight.original_shape"})
      if (dir.find(layer.name + aside) != nullptr) all.parts_.insert(layer.name + aside);
    layer.weight = std::move(*weight);
    all.layers_.emplace(t.name, std::move(layer));
  }
  const io::json& config = dir.config().at("quantization_config");
  if (all.layers_.empty() && config.is_null()) return all;
  for (const io::tensor_ref& t : dir.tensors()) {
    const bool sure = std::any_of(sure_parts.begin(), sure_parts.end(), [&](std::string_view p) { return t.name.ends_with(p); });
    if (sure && !all.is_part(t.name)) return fail(error_kind::input, "a part of a packed layer without its codes, or in a form that is not known", dir.files()[t.file], t.name);
  }
  for (const char* turned : {"transform_config", "rotation_config"})
    if (!config.at(turned).is_null() && (!config.at(turned).is_object() || !config.at(turned).members().empty()))
      return fail(error_kind::unsupported, fmt::format("the layers are rotated ({}), which cannot be undone here", turned), dir.path() + "/config.json");
  return all;
}

const source_layer* source_layers::of_codes(std::string_view tensor) const {
  const auto at = layers_.find(tensor);
  return at == layers_.end() ? nullptr : &at->second;
}

result<std::optional<tune::quantized_layer>> carried_over(const source_layer& layer, const ar::scheme_fields& scheme) {
  const std::optional<tune::quantized_layer> none;
  if (scheme.group_size <= 0 || layer.cols % static_cast<std::uint64_t>(scheme.group_size) != 0) return none;
  const ar::scheme_fields& has = layer.scheme;
  const bool same_type = has.data_type == scheme.data_type && has.bits == scheme.bits;
  // FP8 under powers of two is MXFP8 with scales that more of its groups share.
  const bool coarse = has.data_type == "fp" && scheme.data_type == "mx_fp" && scheme.bits == 8 && has.bits == 8;
  if (scheme.data_type == "int" || (!same_type && !coarse)) return none;
  auto stored = layer.weight->stored();
  if (!stored) return forward_error(stored);
  const std::uint64_t group = static_cast<std::uint64_t>(scheme.group_size), groups = layer.cols / group;
  const std::uint64_t block_rows = has.group_rows > 0 ? static_cast<std::uint64_t>(has.group_rows) : 1;
  const std::uint64_t block_cols = has.group_size > 0 ? static_cast<std::uint64_t>(has.group_size) : layer.cols, blocks = ar::ceil_div(layer.cols, block_cols);
  if (block_cols % group != 0) return none;
  if (coarse && !std::all_of(stored->scale.begin(), stored->scale.end(), is_power_of_two)) return none;
  std::vector<float> scale(layer.rows * groups);
  for (std::uint64_t r = 0; r < layer.rows; ++r)
    for (std::uint64_t g = 0; g < groups; ++g) scale[r * groups + g] = stored->scale[r / block_rows * blocks + g * group / block_cols];
  stored->scale = std::move(scale);
  stored->scheme = scheme;
  return std::optional(std::move(*stored));
}

}  // namespace auto_round::exporting
