// Layouts of packed layers through the library's codecs.
#include "export/export_layer_layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "ar/dispatch.hpp"
#include "ar/numeric/half.hpp"
#include "ar/numeric/small_float.hpp"
#include "ar/pack.hpp"
#include "export/export_inventory.hpp"
#include "tune/quantizer.hpp"

namespace auto_round::exporting {
namespace {

/// A layer as numbers: what lies between a quantized layer and its tensors.
struct layer_numbers {
  std::vector<std::uint8_t> code;   // [rows x cols]
  std::vector<float> scale;         // as read back
  std::vector<std::int32_t> zero;   // of integers, [scales]
  std::vector<std::int32_t> group;  // of the columns, where they are not in order; else empty
  float global_scale = 1;
  float multiplier = 1;             // of products, where the file has the inverse of global_scale
};

using values = std::array<float, 256>;

/// The number that each code stands for.
values values_of(const layer_layout& l) {
  values v{};
  for (std::size_t c = 0; c < v.size(); ++c) {
    const auto code = static_cast<std::uint8_t>(c);
    switch (l.codes) {
      case element::integer: v[c] = static_cast<float>(c); break;
      case element::quarters: v[c] = std::copysign(0.25f * static_cast<float>(c & 7u), (c & 8u) != 0 ? -1.0f : 1.0f); break;
      case element::e2m1: v[c] = ar::f32_from_small<ar::e2m1>(code); break;
      case element::e4m3: v[c] = ar::f32_from_small<ar::e4m3fn>(code); break;
    }
  }
  return v;
}

std::uint8_t scale_byte(scale_form form, float scale) {
  switch (form) {
    case scale_form::e8m0: return ar::e8m0_from_f32(scale);
    case scale_form::e4m3: return ar::small_from_f32<ar::e4m3fn>(scale);
    case scale_form::ue5m3: return ar::small_from_f32<ar::ue5m3>(scale);
    case scale_form::number: break;
  }
  return 0;
}

float scale_of_byte(scale_form form, std::uint8_t byte) {
  switch (form) {
    case scale_form::e8m0: return ar::f32_from_e8m0(byte);
    case scale_form::e4m3: return ar::f32_from_small<ar::e4m3fn>(byte);
    case scale_form::ue5m3: return ar::f32_from_small<ar::ue5m3>(byte);
    case scale_form::number: break;
  }
  return 0;
}

void dequantize(const layer_layout& l, const layer_numbers& n, std::span<float> weight) {
  const values value = values_of(l);
  const std::size_t groups = l.scale_cols();
#pragma omp parallel for schedule(static)
  for (std::size_t r = 0; r < l.rows; ++r) {
    const std::size_t first = r / l.block_rows * groups;
    const auto scale_at = [&](std::size_t g) {
      const float s = n.scale[first + g];
      return !l.global_scale || l.global_multiplies ? s : n.global_scale == 0.0f ? 0.0f : s / n.global_scale;
    };
    const auto zero_at = [&](std::size_t g) { return n.zero.empty() ? 0.0f : static_cast<float>(n.zero[first + g]); };
    const std::uint8_t* const code = n.code.data() + r * l.cols;
    float* const out = weight.data() + r * l.cols;
    if (!n.group.empty()) {
      for (std::size_t c = 0; c < l.cols; ++c) {
        const auto g = static_cast<std::size_t>(n.group[c]);
        out[c] = (value[code[c]] - zero_at(g)) * scale_at(g);
      }
      continue;
    }
    for (std::size_t g = 0; g < groups; ++g) {
      const float scale = scale_at(g), zero = zero_at(g);
      for (std::size_t c = g * l.block_cols; c < std::min(l.cols, (g + 1) * l.block_cols); ++c) out[c] = (value[code[c]] - zero) * scale * n.multiplier;
    }
  }
}

/// The layer's numbers as they will be stored. `code` and `scale` are the layer's, which may have given them away.
layer_numbers numbers_of(const layer_layout& l, const tune::quantized_layer& layer, std::vector<std::uint8_t> code, std::vector<float> scale) {
  layer_numbers n;
  n.code = std::move(code);
  n.scale = std::move(scale);
  if (l.codes == element::quarters) {
    // The library's codes are two's complement; the layout has a sign and a magnitude, and small negative weights keep their sign. From the weights, as
    // the original packs them: searched as it searches (compat), they have the elements of another format, and the nearest quarters are taken.
    for (std::size_t r = 0; r < l.rows; ++r) {
      for (std::size_t c = 0; c < l.cols; ++c) {
        const float w = layer.weight[r * l.cols + c], quarters = std::abs(w) / n.scale[r * l.scale_cols() + c / l.block_cols] * 4.0f;
        const auto magnitude = static_cast<std::uint8_t>(std::clamp(std::ceil(quarters - 0.5f), 0.0f, 7.0f));
        n.code[r * l.cols + c] = static_cast<std::uint8_t>(magnitude | (std::signbit(w) ? 8 : 0));
      }
    }
  }
  if (!l.negative_zeros) {
    const auto negative_zero = static_cast<std::uint8_t>(1u << (l.bits - 1));
    std::replace(n.code.begin(), n.code.end(), negative_zero, std::uint8_t{0});
  }
  if (l.scales == scale_form::number) {
    round_to_type(n.scale, l.scale_type);
  } else {
    for (float& s : n.scale) s = scale_of_byte(l.scales, scale_byte(l.scales, s));
  }
  if (l.codes == element::integer) {
    n.zero.assign(n.scale.size(), 1 << (l.bits - 1));
    for (std::size_t i = 0; i < layer.zero_point.size() && i < n.zero.size(); ++i) n.zero[i] = static_cast<std::int32_t>(std::lrint(layer.zero_point[i]));
  }
  n.global_scale = layer.global_scale;
  n.group = layer.group;
  return n;
}

const ar::codec_kernels& codec_of(const layer_layout& l) {
  static const ar::kernel_table& kernels = ar::kernels();  // asking what the CPU has takes some 30 us in a virtual machine, plans ask for each layer
  return *kernels.codec(l.codec);
}

ar::errc pack_codes(const layer_layout& l, const std::vector<std::uint8_t>& code, std::vector<std::byte>& out) {
  const ar::codec_kernels& k = codec_of(l);
  const ar::matrix_shape s = k.packed_shape(l.bits, l.rows, l.cols);
  const ar::matrix_view<const std::uint8_t> codes(code.data(), l.rows, l.cols);
  if (k.pack_words != nullptr) {
    std::vector<std::uint32_t> words(s.rows * s.cols);
    const ar::errc e = k.pack_words(l.bits, codes, {words.data(), s.rows, s.cols});
    const auto bytes = std::as_bytes(std::span(words));
    out.assign(bytes.begin(), bytes.end());
    return e;
  }
  out.resize(s.rows * s.cols);
  return k.pack_bytes(l.bits, codes, {reinterpret_cast<std::uint8_t*>(out.data()), s.rows, s.cols});
}

ar::errc unpack_codes(const layer_layout& l, std::span<const std::byte> bytes, std::vector<std::uint8_t>& code) {
  const ar::codec_kernels& k = codec_of(l);
  const ar::matrix_shape s = k.packed_shape(l.bits, l.rows, l.cols);
  code.resize(l.rows * l.cols);
  const ar::matrix_view<std::uint8_t> codes(code.data(), l.rows, l.cols);
  if (k.unpack_words == nullptr) return k.unpack_bytes(l.bits, {reinterpret_cast<const std::uint8_t*>(bytes.data()), s.rows, s.cols}, codes);
  std::vector<std::uint32_t> words(s.rows * s.cols);
  std::memcpy(words.data(), bytes.data(), bytes.size());  // tensors in files need not be aligned
  return k.unpack_words(l.bits, {words.data(), s.rows, s.cols}, codes);
}

std::vector<std::uint64_t> code_shape(const layer_layout& l) {
  const ar::matrix_shape s = codec_of(l).packed_shape(l.bits, l.rows, l.cols);
  return {s.rows, s.cols};
}

std::vector<std::uint64_t> scale_shape(const layer_layout& l) {
  const std::uint64_t r = l.scale_rows(), c = l.scale_cols();
  if (l.one_scale) return {1};
  if (l.flat_scales && c == 1) return {r};
  return {r, c};
}

const char* name_of(element e) { return e == element::quarters ? "MXINT4" : e == element::e2m1 ? "FP4" : e == element::e4m3 ? "FP8" : "W"; }

class layout_layer final : public packed_layer {
 public:
  layout_layer(const layer_layout& layout, const ar::scheme_fields& scheme, const io::checkpoint_dir& dir, std::string name)
      : l_(layout), scheme_(scheme), dir_(dir), name_(std::move(name)) {}

  /// Finds and checks the parts.
  result<void> open() {
    if (auto r = require(l_.code_name, {l_.code_type}, {code_shape(l_)}); !r) return forward_error(r);
    codes_ = parts_.back();
    if (l_.zero_points) {
      if (auto r = find_zero_points(); !r) return r;
    }
    if (l_.shape_tensor && find("weight_shape") != nullptr) {
      if (auto r = check_shape_tensor(); !r) return r;
    }
    if (auto r = find_order(); !r) return r;
    if (l_.global_scale) {
      if (auto r = require(l_.global_name, {io::dtype::f32}, {{1}, {}}); !r) return r;
      global_ = parts_.back();
    }
    for (const char* input : {"input_scale", "input_global_scale", "input_zero_point"}) {  // of no use for the weight, but the layer's
      const io::tensor_ref* t = find(input);
      if (t == nullptr) continue;
      parts_.push_back(t);
      if (std::string_view(input) != "input_zero_point") input_ = t;
    }
    const std::uint64_t r = l_.scale_rows(), c = l_.scale_cols();
    std::vector<std::vector<std::uint64_t>> shapes = {{r, c}};
    if (c == 1) shapes.push_back({r});
    if (r == 1 && c == 1) shapes.push_back({});
    std::vector<io::dtype> types = {io::dtype::f16, io::dtype::bf16, io::dtype::f32};
    if (l_.scales == scale_form::e8m0) types = {io::dtype::u8, io::dtype::f8_e8m0};
    if (l_.scales == scale_form::e4m3) types = {io::dtype::f8_e4m3};
    if (l_.scales == scale_form::ue5m3) types = {io::dtype::u8};
    if (l_.scales == scale_form::number && l_.codes == element::e4m3) types.push_back(io::dtype::f8_e8m0);
    if (auto found = require(l_.scale_name, types, shapes); !found) return found;
    scales_ = parts_.back();
    if (scales_->type == io::dtype::f8_e8m0) byte_scales_ = scale_form::e8m0;
    return {};
  }

  std::string type() const override { return describe(l_, zeros_ == nullptr) + (group_.empty() ? "" : " act-order"); }
  const std::vector<const io::tensor_ref*>& parts() const override { return parts_; }

  result<void> read(std::span<float> weight) const override {
    if (weight.size() != l_.rows * l_.cols) return fail(error_kind::internal, "the packed layer has another number of values", dir_.path(), name_);
    auto n = unpack();
    if (!n) return forward_error(n);
    dequantize(l_, *n, weight);
    return {};
  }

  result<tune::quantized_layer> stored() const override {
    auto n = unpack();
    if (!n) return forward_error(n);
    tune::quantized_layer layer;
    layer.scheme = scheme_;
    layer.rows = l_.rows;
    layer.cols = l_.cols;
    layer.weight.resize(l_.rows * l_.cols);
    dequantize(l_, *n, layer.weight);
    layer.code = std::move(n->code);
    layer.group = std::move(n->group);
    layer.scale = std::move(n->scale);
    layer.zero_point.assign(n->zero.begin(), n->zero.end());
    layer.global_scale = l_.global_scale ? n->global_scale : 0.0f;
    layer.scale_type = real_of(scales_->type);
    if (const io::tensor_ref* t = find("input_zero_point"); t != nullptr) return fail(error_kind::unsupported, "the layer has a zero point for its inputs, which no format of this program writes", file_of(*t), t->name);
    if (input_ != nullptr) {
      if (input_->elements() != 1) return fail(error_kind::unsupported, "the layer has several static scales of its inputs", file_of(*input_), input_->name);
      auto scale = io::read_f32(*input_);
      if (!scale) return forward_error(scale);
      layer.input_scale = scale->front();
      // Both get one type, which must hold either.
      if (real_of(input_->type) != layer.scale_type) layer.scale_type = ar::real::f32;
    }
    return layer;
  }

  result<model::packed_pointer> packed() const override {
    auto n = unpack();
    if (!n) return forward_error(n);
    model::packed_codes p;
    p.rows = l_.rows, p.cols = l_.cols, p.bits = l_.bits;
    p.block_rows = l_.block_rows, p.block_cols = l_.block_cols;
    if (!model::set_codes(p, n->code)) return fail(error_kind::internal, "the layer's codes do not fit its width", dir_.path(), name_);
    if (l_.codes == element::integer) {
      p.middle = static_cast<std::int16_t>(1 << (l_.bits - 1));
      if (zeros_ != nullptr) p.zero.assign(n->zero.begin(), n->zero.end());
    } else {
      const values all = values_of(l_);
      p.values.assign(all.begin(), all.begin() + (std::ptrdiff_t{1} << l_.bits));
    }
    std::array<float, 256> table{};
    for (std::size_t i = 0; i < table.size(); ++i) table[i] = scale_of_byte(byte_scales_, static_cast<std::uint8_t>(i));
    p.scale = model::stored_numbers(scales_->type, scales_->bytes.pin(), table);
    p.divisor = n->global_scale;
    p.group.assign(n->group.begin(), n->group.end());
    return model::code_matrix(std::move(p));
  }

 private:
  result<layer_numbers> unpack() const {
    layer_numbers n;
    if (const ar::errc e = unpack_codes(l_, codes_->bytes.pin(), n.code); e != ar::errc::ok) {
      return fail(error_kind::input, std::string("packed codes cannot be read: ") + ar::message(e), file_of(*codes_), codes_->name);
    }
    if (byte_scales_ == scale_form::number) {
      auto scales = io::read_f32(*scales_);
      if (!scales) return forward_error(scales);
      n.scale = std::move(*scales);
    } else {
      const io::pinned_bytes stored = scales_->bytes.pin();
      for (const std::byte b : stored) n.scale.push_back(scale_of_byte(byte_scales_, static_cast<std::uint8_t>(b)));
    }
    if (l_.codes == element::integer) {
      n.zero.assign(n.scale.size(), 1 << (l_.bits - 1));
      if (auto r = read_zero_points(n.zero); !r) return forward_error(r);
    }
    n.group = group_;
    if (global_ != nullptr) {
      auto g = io::read_f32(*global_);
      if (!g) return forward_error(g);
      const float whole = g->front();
      if (!std::isfinite(whole) || whole < 0) return fail(error_kind::input, "the scale of the whole tensor is no positive number", file_of(*global_), global_->name);
      const auto zeros = [&] { return std::ranges::all_of(n.scale, [](float s) { return s == 0; }) || std::ranges::all_of(n.code, [](std::uint8_t c) { return (c & 7u) == 0; }); };
      if (whole == 0 && !zeros()) return fail(error_kind::input, "the scale of the whole tensor is zero, but its codes are not", file_of(*global_), global_->name);
      n.global_scale = !l_.global_multiplies || whole == 0 ? whole : 1.0f / whole;
      if (l_.global_multiplies) n.multiplier = whole;
    }
    for (const io::tensor_ref* t : parts_) dir_.release(*t);
    return n;
  }

  const std::string& file_of(const io::tensor_ref& t) const { return dir_.files()[t.file]; }
  const io::tensor_ref* find(std::string_view part) const { return dir_.find(name_ + "." + std::string(part)); }

  result<void> require(std::string_view part, const std::vector<io::dtype>& types, const std::vector<std::vector<std::uint64_t>>& shapes) {
    const io::tensor_ref* t = find(part);
    if (t == nullptr) return fail(error_kind::input, "a part of a packed layer is missing", dir_.path(), name_ + "." + std::string(part));
    if (std::find(types.begin(), types.end(), t->type) == types.end() || std::find(shapes.begin(), shapes.end(), t->shape) == shapes.end()) {
      return fail(error_kind::input,
                  fmt::format("a part of a packed layer is {} {}, but the configuration calls for {} {}", io::name_of(t->type), shape_text(t->shape),
                              io::name_of(types.front()), shape_text(shapes.front())),
                  file_of(*t), t->name);
    }
    parts_.push_back(t);
    return {};
  }

  result<void> find_zero_points() {
    const std::uint64_t r = l_.scale_rows(), c = l_.scale_cols();
    const io::tensor_ref* t = find("weight_zero_point");
    // compressed-tensors packs them where it packs the codes; older versions, and layouts of bytes, store signed bytes.
    if (t != nullptr && t->type == io::dtype::i8) {
      if (auto found = require("weight_zero_point", {io::dtype::i8}, {{r, c}, {r}}); !found) return found;
    } else {
      const ar::codec_kernels& k = codec_of(l_);
      if (k.packed_zero_shape == nullptr || k.unpack_zeros == nullptr) return require("weight_zero_point", {io::dtype::i8}, {{r, c}});
      const ar::matrix_shape s = k.packed_zero_shape(l_.bits, static_cast<std::size_t>(r), static_cast<std::size_t>(c));
      if (auto found = require("weight_zero_point", {io::dtype::i32}, {{s.rows, s.cols}}); !found) return found;
    }
    zeros_ = parts_.back();
    return {};
  }

  result<void> read_zero_points(std::vector<std::int32_t>& zero) const {
    if (zeros_ == nullptr) return {};
    const std::int32_t middle = 1 << (l_.bits - 1);
    const io::pinned_bytes stored = zeros_->bytes.pin();
    if (zeros_->type == io::dtype::i8) {
      for (std::size_t i = 0; i < zero.size(); ++i) zero[i] = static_cast<std::int8_t>(stored[i]) + middle;
      return {};
    }
    const ar::matrix_shape s = codec_of(l_).packed_zero_shape(l_.bits, l_.scale_rows(), l_.scale_cols());
    std::vector<std::uint32_t> words(s.rows * s.cols);
    std::memcpy(words.data(), stored.data(), stored.size());
    const ar::errc e = codec_of(l_).unpack_zeros(ar::zero_convention::v2, l_.bits, {words.data(), s.rows, s.cols}, {zero.data(), l_.scale_rows(), l_.scale_cols()});
    if (e != ar::errc::ok) return fail(error_kind::input, std::string("packed zero points cannot be read: ") + ar::message(e), file_of(*zeros_), zeros_->name);
    return {};
  }

  result<void> check_shape_tensor() {
    if (auto r = require("weight_shape", {io::dtype::i64, io::dtype::i32}, {{2}}); !r) return r;
    const io::tensor_ref& t = *parts_.back();
    const std::vector<std::int64_t> shape = integers_of(t);
    dir_.release(t);
    if (shape[0] != static_cast<std::int64_t>(l_.rows) || shape[1] != static_cast<std::int64_t>(l_.cols)) {
      return fail(error_kind::input, fmt::format("the packed layer says that it is {} x {}, but the model's is {} x {}", shape[0], shape[1], l_.rows, l_.cols), file_of(t), t.name);
    }
    return {};
  }

  /// Columns in the order of their activations (actorder "group"): the group of each, as compressed-tensors 0.13 reads them (later versions refuse them).
  /// A group of -1 means that nobody ordered the layer; whether the configuration names an order does not matter where groups are stored.
  result<void> find_order() {
    const io::tensor_ref* const t = find("weight_g_idx");
    if (t == nullptr) {
      if (!l_.order) return {};
      return fail(error_kind::input, "the configuration says that columns lie in an order of their own (actorder \"group\"), but the group of each column is missing", dir_.path(),
                  name_ + ".weight_g_idx");
    }
    if (auto r = require("weight_g_idx", {io::dtype::i32, io::dtype::i64}, {{l_.cols}}); !r) return r;
    const std::vector<std::int64_t> order = integers_of(*t);
    dir_.release(*t);
    const bool grouped = l_.block_rows == 1 && l_.block_cols < l_.cols;
    if (!grouped || std::ranges::find(order, -1) != order.end()) return {};
    std::vector<std::int32_t> group;
    for (std::size_t c = 0; c < order.size(); ++c) {
      if (order[c] < 0 || order[c] >= static_cast<std::int64_t>(l_.scale_cols()))
        return fail(error_kind::input, fmt::format("column {} is assigned to group {}, but there are {}", c, order[c], l_.scale_cols()), file_of(*t), t->name);
      group.push_back(static_cast<std::int32_t>(order[c]));
    }
    if (ar::gptq_int32::is_plain_g_idx(static_cast<int>(l_.block_cols), group)) return {};
    if (l_.scales != scale_form::number) return fail(error_kind::unsupported, fmt::format("columns of {} in an order of their own cannot be read", describe(l_)), file_of(*t), t->name);
    group_ = std::move(group);
    return {};
  }

  layer_layout l_;
  ar::scheme_fields scheme_;
  scale_form byte_scales_ = l_.scales;  // powers of two may stand in for numbers
  const io::checkpoint_dir& dir_;
  std::string name_;
  std::vector<const io::tensor_ref*> parts_;
  const io::tensor_ref *codes_ = nullptr, *scales_ = nullptr, *zeros_ = nullptr, *global_ = nullptr, *input_ = nullptr;
  std::vector<std::int32_t> group_;  // of each column; empty: they lie in order
};

}  // namespace

std::size_t layer_layout::scale_rows() const { return ar::ceil_div(rows, block_rows); }
std::size_t layer_layout::scale_cols() const { return ar::ceil_div(cols, block_cols); }

result<layer_layout> layout_of(const ar::scheme_fields& s, std::size_t rows, std::size_t cols, const layout_context& context) {
  const bool ct = context.who == dialect::compressed_tensors;
  const auto unsupported = [](std::string why) { return fail(error_kind::unsupported, std::move(why)); };
  const ar::range_kernels* type = s.super_bits ? nullptr : tune::tuned_kernels(s.data_type, s.bits, s.sym, s.group_rows > 0);
  if (type == nullptr) return unsupported(fmt::format("there is no packed layout for data type \"{}\" with {} bits", s.data_type, s.bits));
  const int act_bits = s.act_bits.value_or(16);
  const bool fixed_inputs = act_bits <= 8 && (!s.act_dynamic.value_or(true) || s.act_data_type.value_or("").find("static") != std::string_view::npos);
  layer_layout l;
  l.bits = s.bits;
  l.rows = rows;
  l.cols = cols;
  l.block_rows = s.group_rows > 0 ? static_cast<std::size_t>(s.group_rows) : s.group_size == 0 ? rows : 1;
  l.one_scale = s.group_size == 0;
  l.block_cols = s.group_size <= 0 ? cols : static_cast<std::size_t>(s.group_size);
  const ar::scaled_facts* facts = type->facts;
  if (facts == nullptr) {
    if (!ct) return unsupported("integer and floating layers cannot be mixed in this format; llm_compressor can hold both");
    if (s.bits < 1 || s.bits > 8) return unsupported(fmt::format("integers have 1 to 8 bits, not {}", s.bits));
    l.scale_type = context.scale_type ? number_type(*context.scale_type) : context.int_scale_type;
    if (act_bits >= 16) {
      l.codec = ar::ct_int32::name;
      l.code_name = "weight_packed";
      l.code_type = io::dtype::i32;
      l.shape_tensor = true;
      l.zero_points = !s.sym;
      l.order = context.any_order;
    } else if (s.bits == 8 && act_bits == 8 && s.sym && s.group_size == -1) {
      l.codec = ar::int8_bytes::name;
      l.code_type = io::dtype::i8;
    } else {
      return unsupported("integer weights with quantized activations are packed as symmetric W8A8 with a scale for each row only");
    }
  } else if (facts->rule == ar::scale_rule::quotient) {
    if (facts->grid.bits != 8 || facts->grid.max != ar::small_max<ar::e4m3fn>) return unsupported("of FP8 weights, E4M3 is packed only");
    l.codes = element::e4m3;
    l.code_type = io::dtype::f8_e4m3;
    l.negative_zeros = context.keeps_negative_zeros;
    l.scale_type = context.model_type == io::dtype::f32 || context.model_type == io::dtype::f64 ? io::dtype::f32 : io::dtype::bf16;
    if (s.group_rows > 0) {
      l.codec = s.group_rows == 128 && s.group_size == 128 ? ar::fp8_block_bytes::name : ar::fp8_bytes::name;
      if (!ct) l.scale_name = "weight_scale_inv";
    } else {
      l.codec = ar::fp8_bytes::name;
      l.flat_scales = !ct;
      if (!ct && act_bits <= 8 && !fixed_inputs) return unsupported("FP8 with a scale for each row needs static activations or none; llm_compressor holds dynamic ones");
      if (ct && !fixed_inputs) l.scale_type = io::dtype::f32;
    }
    if (context.scale_type) l.scale_type = number_type(*context.scale_type);
    l.order = ct && context.any_order;
    if (fixed_inputs) {
      l.input_name = "input_scale";
      l.input_type = l.scale_type;
    }
  } else {
    l.scale_type = io::dtype::u8;
    const bool four = facts->grid.bits == 4, floats = !facts->grid.twos_complement;
    const bool fp4 = four && floats, fp8 = facts->grid.bits == 8 && floats && facts->grid.max == ar::small_max<ar::e4m3fn>;
    switch (facts->rule) {
      case ar::scale_rule::power_floor:
      case ar::scale_rule::power_ceil:
        if (!four && !fp8) return unsupported(fmt::format("there is no packed layout for data type \"{}\" with {} bits", s.data_type, s.bits));
        if (four && !floats && ct) return unsupported("compressed-tensors has no layout for MXINT4; format auto_round has one");
        l.codes = fp4 ? element::e2m1 : fp8 ? element::e4m3 : element::quarters;
        l.codec = four ? ar::mxfp4_nibbles::name : ar::mxfp8_bytes::name;
        l.scales = scale_form::e8m0;
        break;
      case ar::scale_rule::e4m3_two_level:
      case ar::scale_rule::e5m3:
        l.codes = element::e2m1;
        l.codec = ar::nvfp4_nibbles::name;
        l.global_scale = facts->two_level();
        l.scales = l.global_scale ? scale_form::e4m3 : scale_form::ue5m3;
        if (l.global_scale) l.scale_type = io::dtype::f8_e4m3;
        l.negative_zeros = context.keeps_negative_zeros;
        if (l.global_scale && act_bits <= 8) l.input_name = "input_global_scale";
        break;
      default: return unsupported(fmt::format("there is no packed layout for data type \"{}\" with {} bits", s.data_type, s.bits));
    }
    l.code_name = four ? "weight_packed" : "weight";
    l.code_type = four ? io::dtype::u8 : io::dtype::f8_e4m3;
    const int group = codec_of(l).group;
    if (s.group_size != group) return unsupported(fmt::format("the layout has groups of {}, not {}", group, s.group_size));
  }
  if (l.block_rows == 1 && cols % l.block_cols != 0) return unsupported(fmt::format("{} columns are no multiple of the group size {}", cols, s.group_size));
  return l;
}

std::string describe(const layer_layout& l, bool symmetric) {
  if (l.codes == element::integer && l.codec == ar::int8_bytes::name) return l.block_cols == l.cols ? "INT8 per row" : fmt::format("INT8 g{}", l.block_cols);
  if (l.codes == element::integer) {
    const std::string group = l.one_scale ? "per tensor" : l.block_cols == l.cols ? "per row" : fmt::format("g{}", l.block_cols);
    return fmt::format("W{} {} {}", l.bits, group, symmetric ? "sym" : "asym");
  }
  switch (l.scales) {
    case scale_form::e8m0: return l.codes == element::quarters ? "MXINT4" : fmt::format("MX{}", name_of(l.codes));
    case scale_form::e4m3: return "NVFP4";
    case scale_form::ue5m3: return "NVFP4 E5M3";
    case scale_form::number: break;
  }
  if (l.one_scale) return "FP8 per tensor";
  if (l.block_rows > 1) return fmt::format("FP8 {}x{}", l.block_rows, l.block_cols);
  return l.block_cols == l.cols ? "FP8 per row" : fmt::format("FP8 g{}", l.block_cols);
}

std::vector<io::tensor_decl> tensors_of(const layer_layout& l, const std::string& layer) {
  const auto name = [&](std::string_view part) { return layer + "." + std::string(part); };
  std::vector<io::tensor_decl> all = {{name(l.code_name), l.code_type, code_shape(l)}, {name(l.scale_name), l.scale_type, scale_shape(l)}};
  if (l.zero_points) {
    const ar::matrix_shape s = codec_of(l).packed_zero_shape(l.bits, l.scale_rows(), l.scale_cols());
    all.push_back({name("weight_zero_point"), io::dtype::i32, {s.rows, s.cols}});
  }
  if (l.shape_tensor) all.push_back({name("weight_shape"), io::dtype::i64, {2}});
  if (l.order) all.push_back({name("weight_g_idx"), io::dtype::i32, {l.cols}});
  if (l.global_scale) all.push_back({name("weight_global_scale"), io::dtype::f32, {1}});
  if (!l.input_name.empty()) all.push_back({name(l.input_name), l.input_type, {1}});
  return all;
}

namespace {

result<void> check_sizes(const layer_layout& l, const tune::quantized_layer& layer) {
  const std::size_t scales = l.scale_rows() * l.scale_cols();
  if (layer.code.size() == l.rows * l.cols && layer.scale.size() == scales && (layer.zero_point.empty() || layer.zero_point.size() == scales) && layer.group.size() == (l.order ? l.cols : 0)) return {};
  return fail(error_kind::internal, "codes or scales of the layer have unexpected sizes", {}, layer.name);
}

result<std::vector<packed_part>> pack_numbers(const layer_layout& l, const tune::quantized_layer& layer, const layer_numbers& n) {
  std::vector<packed_part> parts;
  for (io::tensor_decl& d : tensors_of(l, layer.name)) parts.push_back({std::move(d), {}});
  ar::errc e = pack_codes(l, n.code, parts[0].data);
  if (l.scales == scale_form::number) {
    parts[1].data = to_bytes(n.scale, l.scale_type);
  } else {
    for (const float s : n.scale) parts[1].data.push_back(static_cast<std::byte>(scale_byte(l.scales, s)));
  }
  std::size_t next = 2;
  if (l.zero_points && e == ar::errc::ok) {
    const ar::matrix_shape s = codec_of(l).packed_zero_shape(l.bits, l.scale_rows(), l.scale_cols());
    std::vector<std::uint32_t> words(s.rows * s.cols);
    e = codec_of(l).pack_zeros(ar::zero_convention::v2, l.bits, {n.zero.data(), l.scale_rows(), l.scale_cols()}, {words.data(), s.rows, s.cols});
    const auto bytes = std::as_bytes(std::span(words));
    parts[next++].data.assign(bytes.begin(), bytes.end());
  }
  if (e != ar::errc::ok) return fail(error_kind::internal, std::string("the layer cannot be packed: ") + ar::message(e), {}, layer.name);
  if (l.shape_tensor) {
    const std::array<std::int64_t, 2> shape = {static_cast<std::int64_t>(l.rows), static_cast<std::int64_t>(l.cols)};
    const auto bytes = std::as_bytes(std::span(shape));
    parts[next++].data.assign(bytes.begin(), bytes.end());
  }
  if (l.order) {
    const auto bytes = std::as_bytes(std::span(n.group));
    parts[next++].data.assign(bytes.begin(), bytes.end());
  }
  if (l.global_scale) parts[next++].data = to_bytes(std::array{n.global_scale}, io::dtype::f32);
  if (!l.input_name.empty()) {
    const auto scale = input_scale(layer);
    if (!scale) return forward_error(scale);
    parts[next++].data = to_bytes(std::array{*scale}, l.input_type);
  }
  return parts;
}

}  // namespace

result<std::vector<packed_part>> pack_layer(const layer_layout& l, const tune::quantized_layer& layer) {
  if (auto r = check_sizes(l, layer); !r) return forward_error(r);
  return pack_numbers(l, layer, numbers_of(l, layer, layer.code, layer.scale));
}

result<std::vector<packed_part>> pack_layer(const layer_layout& l, tune::quantized_layer&& layer) {
  if (auto r = check_sizes(l, layer); !r) return forward_error(r);
  const layer_numbers n = numbers_of(l, layer, std::move(layer.code), std::move(layer.scale));
  return pack_numbers(l, layer, n);
}

std::vector<float> stored_weight(const layer_layout& l, const tune::quantized_layer& layer) {
  std::vector<float> weight(l.rows * l.cols);
  dequantize(l, numbers_of(l, layer, layer.code, layer.scale), weight);
  return weight;
}

ar::real real_of(io::dtype type) { return type == io::dtype::f32 ? ar::real::f32 : type == io::dtype::f16 ? ar::real::f16 : ar::real::bf16; }
io::dtype number_type(ar::real type) { return type == ar::real::f32 ? io::dtype::f32 : type == ar::real::bf16 ? io::dtype::bf16 : io::dtype::f16; }

float input_scale(const ar::scheme_fields& s, float maximum) {
  const ar::range_kernels* type = tune::tuned_kernels(s.act_data_type.value_or(s.data_type), s.act_bits.value_or(16), s.act_sym.value_or(s.sym));
  if (type == nullptr || type->facts == nullptr) return 0;
  if (type->two_level()) return type->global_scale(maximum);
  ar::type_values values(*s.act_bits);
  values.tensor.maximum = maximum;
  const float any = 0;
  float scale = 0;
  return type->fit(values, -1, {&any, 1, 1}, {&scale, 1, 1}, {}) == ar::errc::ok ? scale : 0.0f;
}

result<float> input_scale(const tune::quantized_layer& layer) {
  if (layer.input_scale) return *layer.input_scale;
  if (layer.act_max < 0) return fail(error_kind::internal, "the static scale of the layer's inputs was not collected", {}, layer.name);
  return input_scale(layer.scheme, layer.act_max);
}

std::vector<std::int64_t> integers_of(const io::tensor_ref& t) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(t.elements()));
  const io::pinned_bytes stored = t.bytes.pin();
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (t.type == io::dtype::i64) {
      std::memcpy(&all[i], stored.data() + i * 8, 8);
    } else {
      std::int32_t v = 0;
      std::memcpy(&v, stored.data() + i * 4, 4);
      all[i] = v;
    }
  }
  return all;
}

result<std::unique_ptr<packed_layer>> read_layer(const layer_layout& layout, const ar::scheme_fields& scheme, const io::checkpoint_dir& dir,
                                                 const std::string& layer) {
  auto found = std::make_unique<layout_layer>(layout, scheme, dir, layer);
  if (auto r = found->open(); !r) return forward_error(r);
  return std::unique_ptr<packed_layer>(std::move(found));
}

}  // namespace auto_round::exporting
