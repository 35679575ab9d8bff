// Layers to packed words and back through the library's codecs.
#include "export/export_int_layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ar/dispatch.hpp"
#include "ar/numeric/half.hpp"
#include "ar/pack.hpp"
#include "export/export_inventory.hpp"
#include "export/export_layer_layout.hpp"
#include "export/export_stored_layer.hpp"

namespace auto_round::exporting {
namespace {

/// The layout for the instruction set of this machine.
const ar::codec_kernels& codec_of(int_layout layout) {
  switch (layout) {
    case int_layout::gptq_v1:
    case int_layout::gptq_v2:
      return *ar::kernels().codec(ar::gptq_int32::name);
    case int_layout::gptq_planes:
      return *ar::kernels().codec(ar::gptq_planar::name);
    case int_layout::awq:
      return *ar::kernels().codec(ar::awq_int32::name);
    case int_layout::mlx:
      break;
  }
  return *ar::kernels().codec(ar::mlx_uint32::name);
}

ar::zero_convention convention(int_layout layout) { return layout == int_layout::gptq_v1 ? ar::zero_convention::v1 : ar::zero_convention::v2; }
bool has_biases(int_layout layout) { return layout == int_layout::mlx; }

/// Place of a group's number in the tensor of scales or biases.
std::size_t place(const int_matrix& m, std::size_t row, std::size_t group) {
  return m.layout == int_layout::mlx ? row * m.groups + group : group * m.rows + row;
}

/// Zero points [rows x groups] as integers.
std::vector<std::int32_t> integer_zeros(const tune::quantized_layer& layer, const int_matrix& m) {
  std::vector<std::int32_t> zero(m.rows * m.groups, 1 << (m.bits - 1));
  if (layer.zero_point.empty()) return zero;
  for (std::size_t i = 0; i < zero.size(); ++i) zero[i] = static_cast<std::int32_t>(std::lrint(layer.zero_point[i]));
  return zero;
}

bool sizes_fit(const tune::quantized_layer& layer, const int_matrix& m) {
  return layer.code.size() == m.rows * m.cols && layer.scale.size() == m.rows * m.groups &&
         (layer.group.empty() || (m.g_idx && layer.group.size() == m.cols)) && (layer.zero_point.empty() || layer.zero_point.size() == m.rows * m.groups) && (layer.bias.empty() || layer.bias.size() == m.rows * m.groups);
}

/// The bias of MLX: the weight of code 0, as it is stored already or from the zero point.
float bias_of(const tune::quantized_layer& layer, std::size_t i, std::int32_t zero) {
  return layer.bias.empty() ? -layer.scale[i] * static_cast<float>(zero) : layer.bias[i];
}

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  const auto raw = std::as_bytes(std::span(values));
  return {raw.begin(), raw.end()};
}

template <class T>
std::vector<T> copy_of(const io::tensor_ref& t) {
  const io::pinned_bytes stored = t.bytes.pin();
  std::vector<T> v(stored.size() / sizeof(T));
  std::memcpy(v.data(), stored.data(), v.size() * sizeof(T));  // safetensors data need not be aligned
  return v;
}

class packed_int_layer final : public packed_layer {
 public:
  packed_int_layer(const io::checkpoint_dir& dir, const int_matrix& m, const ar::scheme_fields& scheme, std::vector<const io::tensor_ref*> parts,
                   std::vector<std::int32_t> g_idx)
      : dir_(dir), m_(m), scheme_(scheme), parts_(std::move(parts)), g_idx_(std::move(g_idx)) {}

  std::string type() const override { return describe_int_scheme(scheme_) + (g_idx_.empty() ? "" : " act-order"); }
  const std::vector<const io::tensor_ref*>& parts() const override { return parts_; }

  result<void> read(std::span<float> weight) const override {
    auto n = unpack();
    if (!n) return forward_error(n);
    dequantize(*n, weight);
    return {};
  }

  result<tune::quantized_layer> stored() const override {
    auto n = unpack();
    if (!n) return forward_error(n);
    tune::quantized_layer layer;
    layer.scheme = scheme_;
    layer.rows = m_.rows;
    layer.cols = m_.cols;
    layer.weight.resize(m_.rows * m_.cols);
    dequantize(*n, layer.weight);
    layer.code = std::move(n->code);
    layer.scale = by_rows(n->scale);
    layer.bias = by_rows(n->bias);
    layer.zero_point.assign(n->zero.begin(), n->zero.end());
    layer.scale_type = real_of(parts_[2]->type);
    layer.group = g_idx_;
    if (has_biases(m_.layout)) find_zero_points(layer);
    return layer;
  }

  result<model::packed_pointer> packed() const override {
    auto n = unpack();
    if (!n) return forward_error(n);
    model::packed_codes p;
    p.rows = m_.rows, p.cols = m_.cols, p.bits = m_.bits;
    p.block_cols = m_.group_size;
    if (!model::set_codes(p, n->code)) return fail(error_kind::internal, "the layer's codes do not fit its width");
    p.scale = model::stored_numbers(parts_[2]->type, parts_[2]->bytes.pin());
    if (has_biases(m_.layout)) {
      p.bias = model::stored_numbers(parts_[1]->type, parts_[1]->bytes.pin());
    } else {
      p.scale.transpose(m_.groups, m_.rows);
      p.zero.assign(n->zero.begin(), n->zero.end());  // 0 to 256
    }
    p.group.assign(g_idx_.begin(), g_idx_.end());
    return model::code_matrix(std::move(p));
  }

 private:
  /// The layer as numbers; scales and biases in the order of their tensors.
  struct numbers {
    std::vector<std::uint8_t> code;
    std::vector<float> scale, bias;
    std::vector<std::int32_t> zero;  // [rows x groups]
  };

  result<numbers> unpack() const {
    numbers n;
    const auto words = copy_of<std::uint32_t>(*parts_[0]);
    n.code.resize(m_.rows * m_.cols);
    const ar::codec_kernels& codec = codec_of(m_.layout);
    const ar::matrix_shape packed = codec.packed_shape(m_.bits, m_.rows, m_.cols);
    ar::errc e = codec.unpack_words(m_.bits, ar::matrix_view<const std::uint32_t>(words.data(), packed.rows, packed.cols),
                                    ar::matrix_view<std::uint8_t>(n.code.data(), m_.rows, m_.cols));
    auto scale = io::read_f32(*parts_[2]);
    if (!scale) return forward_error(scale);
    n.scale = std::move(*scale);
    if (has_biases(m_.layout)) {
      auto read = io::read_f32(*parts_[1]);
      if (!read) return forward_error(read);
      n.bias = std::move(*read);
    } else if (e == ar::errc::ok) {
      const auto fields = copy_of<std::uint32_t>(*parts_[1]);
      const ar::matrix_shape shape = codec.packed_zero_shape(m_.bits, m_.rows, m_.groups);
      n.zero.resize(m_.rows * m_.groups);
      e = codec.unpack_zeros(convention(m_.layout), m_.bits, ar::matrix_view<const std::uint32_t>(fields.data(), shape.rows, shape.cols),
                             ar::matrix_view<std::int32_t>(n.zero.data(), m_.rows, m_.groups));
    }
    if (e != ar::errc::ok) return fail(error_kind::internal, std::string("packed words cannot be read: ") + ar::message(e));
    for (const io::tensor_ref* t : parts_) dir_.release(*t);
    return n;
  }

  void dequantize(const numbers& n, std::span<float> weight) const {
#pragma omp parallel for schedule(static)
    for (std::size_t r = 0; r < m_.rows; ++r) {
      for (std::size_t c = 0; c < m_.cols; ++c) {
        const std::size_t g = g_idx_.empty() ? c / m_.group_size : static_cast<std::size_t>(g_idx_[c]);
        const float s = n.scale[place(m_, r, g)];
        const std::int32_t q = n.code[r * m_.cols + c];
        weight[r * m_.cols + c] =
            n.bias.empty() ? s * static_cast<float>(q - n.zero[r * m_.groups + g]) : s * static_cast<float>(q) + n.bias[place(m_, r, g)];
      }
    }
  }

  /// Values of groups as [rows x groups].
  std::vector<float> by_rows(const std::vector<float>& stored) const {
    std::vector<float> out(stored.size());
    if (stored.empty()) return out;
    for (std::size_t r = 0; r < m_.rows; ++r)
      for (std::size_t g = 0; g < m_.groups; ++g) out[r * m_.groups + g] = stored[place(m_, r, g)];
    return out;
  }

  const io::checkpoint_dir& dir_;
  int_matrix m_;
  ar::scheme_fields scheme_;
  std::vector<const io::tensor_ref*> parts_;  // codes, zero points or biases, scales, g_idx
  std::vector<std::int32_t> g_idx_;           // empty: column / group_size
};

/// The group of every column, if it is not the plain one.
result<std::vector<std::int32_t>> read_g_idx(const io::checkpoint_dir& dir, const io::tensor_ref& t, const int_matrix& m, bool any_order) {
  auto group = copy_of<std::int32_t>(t);
  dir.release(t);  // or a page of each layer, and what the system maps around it, stays
  if (ar::gptq_int32::is_plain_g_idx(static_cast<int>(m.group_size), group)) return std::vector<std::int32_t>();
  if (!any_order) {
    return fail(error_kind::input,
                "the columns are assigned to groups out of order, as desc_act does, but the configuration says that desc_act is false",
                dir.files()[t.file], t.name);
  }
  for (std::size_t k = 0; k < group.size(); ++k) {
    if (group[k] < 0 || static_cast<std::size_t>(group[k]) >= m.groups)
      return fail(error_kind::input, fmt::format("column {} is assigned to group {}, but there are {}", k, group[k], m.groups), dir.files()[t.file],
                  t.name);
  }
  return group;
}

}  // namespace

int_matrix int_matrix_of(int_layout layout, const ar::scheme_fields& scheme, std::uint64_t rows, std::uint64_t cols) {
  int_matrix m;
  m.layout = layout;
  m.bits = scheme.bits;
  m.rows = static_cast<std::size_t>(rows);
  m.cols = static_cast<std::size_t>(cols);
  m.group_size =
      scheme.group_size <= 0 || static_cast<std::size_t>(scheme.group_size) > m.cols ? m.cols : static_cast<std::size_t>(scheme.group_size);
  m.groups = ar::ceil_div(m.cols, m.group_size);
  return m;
}

bool is_storable(const int_matrix& m) {
  const ar::codec_kernels& codec = codec_of(m.layout);
  const ar::matrix_shape none{};
  return codec.packed_shape(m.bits, m.rows, m.cols) != none && (has_biases(m.layout) || codec.packed_zero_shape(m.bits, m.rows, m.groups) != none);
}

std::vector<io::tensor_decl> int_tensors(const int_matrix& m, const std::string& layer) {
  const ar::codec_kernels& codec = codec_of(m.layout);
  const ar::matrix_shape words = codec.packed_shape(m.bits, m.rows, m.cols);
  if (m.layout == int_layout::mlx) {
    return {{layer + ".weight", io::dtype::u32, {words.rows, words.cols}},
            {layer + ".scales", m.numbers, {m.rows, m.groups}},
            {layer + ".biases", m.numbers, {m.rows, m.groups}}};
  }
  const ar::matrix_shape zeros = codec.packed_zero_shape(m.bits, m.rows, m.groups);
  std::vector<io::tensor_decl> all = {{layer + ".qweight", io::dtype::i32, {words.rows, words.cols}},
                                      {layer + ".qzeros", io::dtype::i32, {zeros.rows, zeros.cols}},
                                      {layer + ".scales", m.numbers, {m.groups, m.rows}}};
  if (m.g_idx) all.push_back({layer + ".g_idx", io::dtype::i32, {m.cols}});
  return all;
}

result<std::vector<packed_part>> pack_int(const int_matrix& m, const tune::quantized_layer& layer) {
  if (!sizes_fit(layer, m)) return fail(error_kind::internal, "codes or scales of the layer have unexpected sizes", {}, layer.name);
  std::vector<io::tensor_decl> tensors = int_tensors(m, layer.name);
  const ar::codec_kernels& codec = codec_of(m.layout);
  const ar::matrix_shape packed = codec.packed_shape(m.bits, m.rows, m.cols);
  std::vector<std::uint32_t> words(packed.rows * packed.cols);
  ar::errc e = codec.pack_words(m.bits, ar::matrix_view<const std::uint8_t>(layer.code.data(), m.rows, m.cols),
                                ar::matrix_view<std::uint32_t>(words.data(), packed.rows, packed.cols));
  std::vector<float> scales(m.rows * m.groups), biases(m.rows * m.groups);
  const std::vector<std::int32_t> zero = integer_zeros(layer, m);
  for (std::size_t r = 0; r < m.rows; ++r) {
    for (std::size_t g = 0; g < m.groups; ++g) {
      const std::size_t i = r * m.groups + g;
      scales[place(m, r, g)] = layer.scale[i];
      biases[place(m, r, g)] = bias_of(layer, i, zero[i]);
    }
  }
  const auto overflow = [&m](std::vector<float> numbers) {
    round_to_type(numbers, m.numbers);
    return !std::ranges::all_of(numbers, [](float x) { return std::isfinite(x); });
  };
  if (overflow(scales) || (has_biases(m.layout) && overflow(biases)))
    return fail(error_kind::input, "the weight is so large that its scale overflows half precision; leave this layer in float", {}, layer.name + ".weight");
  std::vector<packed_part> parts;
  parts.push_back({std::move(tensors[0]), bytes_of(words)});
  if (has_biases(m.layout)) {
    parts.push_back({std::move(tensors[1]), to_bytes(scales, m.numbers)});
    parts.push_back({std::move(tensors[2]), to_bytes(biases, m.numbers)});
  } else {
    const ar::matrix_shape shape = codec.packed_zero_shape(m.bits, m.rows, m.groups);
    std::vector<std::uint32_t> fields(shape.rows * shape.cols);
    if (e == ar::errc::ok) {
      e = codec.pack_zeros(convention(m.layout), m.bits, ar::matrix_view<const std::int32_t>(zero.data(), m.rows, m.groups),
                           ar::matrix_view<std::uint32_t>(fields.data(), shape.rows, shape.cols));
    }
    parts.push_back({std::move(tensors[1]), bytes_of(fields)});
    parts.push_back({std::move(tensors[2]), to_bytes(scales, m.numbers)});
    if (m.g_idx) {
      std::vector<std::int32_t> group = layer.group;
      if (group.empty()) {
        group.resize(m.cols);
        ar::gptq_int32::write_g_idx(static_cast<int>(m.group_size), group);
      }
      parts.push_back({std::move(tensors[3]), bytes_of(group)});
    }
  }
  if (e != ar::errc::ok) return fail(error_kind::internal, std::string("the layer cannot be packed: ") + ar::message(e), {}, layer.name);
  return parts;
}

std::vector<float> stored_weight(const int_matrix& m, const tune::quantized_layer& layer) {
  std::vector<std::int32_t> zero = integer_zeros(layer, m);
  if (m.layout == int_layout::gptq_v1) {  // which has no field for 0 in some widths
    for (std::int32_t& z : zero)
      z = ar::gptq_int32::zero_of_field(ar::zero_convention::v1, m.bits, ar::gptq_int32::zero_field(ar::zero_convention::v1, m.bits, z));
  }
  std::vector<float> weight(m.rows * m.cols), scale = layer.scale, bias(has_biases(m.layout) ? scale.size() : 0);
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = bias_of(layer, i, zero[i]);
  round_to_type(scale, m.numbers);
  round_to_type(bias, m.numbers);
  for (std::size_t r = 0; r < m.rows; ++r) {
    for (std::size_t c = 0; c < m.cols; ++c) {
      const std::size_t i = r * m.groups + (layer.group.empty() ? c / m.group_size : static_cast<std::size_t>(layer.group[c]));
      const std::int32_t q = layer.code[r * m.cols + c];
      weight[r * m.cols + c] = bias.empty() ? scale[i] * static_cast<float>(q - zero[i]) : scale[i] * static_cast<float>(q) + bias[i];
    }
  }
  return weight;
}

result<std::unique_ptr<packed_layer>> open_int_layer(const io::checkpoint_dir& dir, const std::string& layer, int_layout layout,
                                                     const ar::scheme_fields& scheme, std::uint64_t rows, std::uint64_t cols, bool any_order) {
  const int_matrix m = int_matrix_of(layout, scheme, rows, cols);
  if (!is_storable(m)) {
    return fail(error_kind::input,
                fmt::format("a layer of {} x {} cannot be packed with {} bits in the layout that the configuration names", m.rows, m.cols, m.bits),
                dir.path() + "/config.json", layer);
  }
  int_matrix stored = m;
  stored.g_idx = m.layout != int_layout::mlx && m.layout != int_layout::awq && dir.find(layer + ".g_idx") != nullptr;
  std::vector<const io::tensor_ref*> parts;
  for (const io::tensor_decl& expected : int_tensors(stored, layer)) {
    const io::tensor_ref* t = dir.find(expected.name);
    if (t == nullptr) return fail(error_kind::input, "a part of a packed layer is missing", dir.path(), expected.name);
    const bool number = expected.type == stored.numbers;
    const bool type_fits = number ? t->type == io::dtype::f16 || t->type == io::dtype::bf16 || t->type == io::dtype::f32 : t->type == expected.type;
    if (!type_fits || t->shape != expected.shape) {
      return fail(error_kind::input,
                  fmt::format("a part of a packed layer is {} {}, but the configuration calls for {} {}", io::name_of(t->type), shape_text(t->shape),
                              io::name_of(expected.type), shape_text(expected.shape)),
                  dir.files()[t->file], expected.name);
    }
    parts.push_back(t);
  }
  if (m.layout == int_layout::mlx) std::swap(parts[1], parts[2]);  // codes, offsets, scales
  std::vector<std::int32_t> group;
  if (stored.g_idx) {
    auto read = read_g_idx(dir, *parts[3], m, any_order);
    if (!read) return forward_error(read);
    group = std::move(*read);
  }
  return std::unique_ptr<packed_layer>(std::make_unique<packed_int_layer>(dir, m, scheme, std::move(parts), std::move(group)));
}

}  // namespace auto_round::exporting
