// The library for numpy: quantize, dequantize, pack and GGUF blocks by name, on the best SIMD target of the machine. README.md shows its use.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <ar/dispatch.hpp>
#include <ar/pack.hpp>
#include <ar/resolve.hpp>
#include <ar/scheme.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace py = pybind11;

namespace {

/// ar_reference.Error, a ValueError.
struct error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
void check(ar::errc e, const std::string& what) {
  if (e != ar::errc::ok) throw error(what + ": " + ar::message(e));
}

template <class T>
using array = py::array_t<T, py::array::c_style | py::array::forcecast>;
using floats = array<float>;
using bytes = array<std::uint8_t>;

template <class T>
ar::matrix_view<const T> matrix(const array<T>& a, const char* name) {
  if (a.ndim() != 2) throw error(std::string(name) + " is not a matrix [rows, cols]");
  return {a.data(), static_cast<std::size_t>(a.shape(0)), static_cast<std::size_t>(a.shape(1))};
}
template <class T>
array<T> make(std::size_t rows, std::size_t cols) {
  return array<T>({static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(cols)});
}
template <class T>
ar::matrix_view<T> fill(array<T>& a) {
  return {a.mutable_data(), static_cast<std::size_t>(a.shape(0)), static_cast<std::size_t>(a.shape(1))};
}

ar::real format_of(const std::string& name) {
  if (name == "f32") return ar::real::f32;
  if (name == "f16") return ar::real::f16;
  if (name == "bf16") return ar::real::bf16;
  throw error("'" + name + "' is no format: f32, f16 or bf16");
}

/// What a user's words name: a kernel with the run-time fields of its scheme.
struct resolved {
  const ar::range_kernels* kernels;
  ar::type_values type;
  ar::group_shape group;
};

const ar::range_kernels* find(const std::string& name, ar::real weight, ar::real scale) { return ar::kernels().range_type(name, weight, scale); }

/// `scheme` is a preset ("W4A16") or a data type, with its width where there is a choice ("int_asym:3").
resolved resolve(const std::string& scheme, std::optional<int> group_size, int group_rows, const std::string& weight_format,
                 const std::string& scale_format, std::optional<float> maximum) {
  const ar::real weight = format_of(weight_format), scale = format_of(scale_format);
  resolved r{nullptr, {}, {32, 1}};
  if (const ar::scheme_fields* preset = ar::find_preset(scheme)) {
    ar::quantizer_choice choice;
    if (ar::resolve_quantizer({.data_type = preset->data_type, .bits = preset->bits, .sym = preset->sym, .tiles = preset->group_rows > 1}, choice) == ar::errc::ok)
      r.kernels = find(std::string(choice.data_type), weight, scale);
    r.type.bits = preset->bits;
    r.group = {preset->group_size, std::max(1, preset->group_rows)};
  } else {
    const std::size_t colon = scheme.find(':');
    r.kernels = find(scheme.substr(0, colon), weight, scale);
    if (colon != std::string::npos) {
      const std::string width = scheme.substr(colon + 1);
      if (width.size() != 1 || width[0] < '1' || width[0] > '9') throw error("'" + scheme + "': a width is one digit");
      r.type.bits = width[0] - '0';
    }
  }
  if (r.kernels == nullptr)
    throw error("'" + scheme +
                "' is neither a preset with a range of its own per group nor a data type (schemes(), data_types(); GGUF types have gguf_quantize)");
  if (group_size) r.group = {*group_size, group_rows};
  if (maximum) r.type.tensor.maximum = *maximum;
  return r;
}

/// The shape of scales for w, as the library counts groups.
ar::matrix_shape groups_of(const resolved& r, std::size_t rows, std::size_t cols) {
  if (r.group.size < -1 || r.group.rows < 1) throw error("a group size is positive, -1 (the row) or 0 (the matrix)");
  if (r.group.size == 0) return {1, 1};
  const std::size_t size = r.group.size < 0 ? std::max<std::size_t>(cols, 1) : static_cast<std::size_t>(r.group.size);
  return {ar::ceil_div(rows, static_cast<std::size_t>(r.group.rows)), ar::ceil_div(cols, size)};
}

py::tuple quantize(const floats& w, const std::string& scheme, std::optional<int> group_size, int group_rows, const std::string& weight_format,
                   const std::string& scale_format, std::optional<float> maximum) {
  const resolved r = resolve(scheme, group_size, group_rows, weight_format, scale_format, maximum);
  const auto in = matrix(w, "w");
  const ar::matrix_shape groups = groups_of(r, in.rows, in.cols);
  auto code = make<std::uint8_t>(in.rows, in.cols);
  auto scale = make<float>(groups.rows, groups.cols), zero = make<float>(groups.rows, groups.cols);
  check(r.kernels->quantize(r.type, r.group, in, fill(code), fill(scale), fill(zero)), "quantize");
  return py::make_tuple(code, scale, r.kernels->has_zero_point ? py::object(zero) : py::none());
}

floats dequantize(const bytes& code, const floats& scale, const std::optional<floats>& zero_point, const std::string& scheme,
                  std::optional<int> group_size, int group_rows, const std::string& weight_format, const std::string& scale_format,
                  std::optional<float> maximum) {
  const resolved r = resolve(scheme, group_size, group_rows, weight_format, scale_format, maximum);
  const auto in = matrix(code, "code");
  if (r.kernels->has_zero_point && !zero_point) throw error("dequantize: this data type has a zero point");
  auto out = make<float>(in.rows, in.cols);
  check(r.kernels->dequantize(r.type, r.group, in, matrix(scale, "scale"),
                              zero_point ? matrix(*zero_point, "zero_point") : ar::matrix_view<const float>(), fill(out)),
        "dequantize");
  return out;
}

floats qdq(const floats& w, const std::string& scheme, std::optional<int> group_size, int group_rows, const std::string& weight_format,
           const std::string& scale_format, std::optional<float> maximum) {
  const resolved r = resolve(scheme, group_size, group_rows, weight_format, scale_format, maximum);
  const auto in = matrix(w, "w");
  auto out = make<float>(in.rows, in.cols);
  check(r.kernels->qdq(r.type, r.group, in, fill(out)), "qdq");
  return out;
}

const ar::codec_kernels& codec_of(const std::string& name) {
  const ar::codec_kernels* k = ar::find_codec(name);
  if (k == nullptr) throw error("'" + name + "' is no codec (codecs())");
  return *k;
}
ar::matrix_shape shape_of(const ar::codec_kernels& k, int bits, std::size_t rows, std::size_t cols) {
  const ar::matrix_shape s = k.has_bits(bits) ? k.packed_shape(bits, rows, cols) : ar::matrix_shape{};
  if (s == ar::matrix_shape{})
    throw error(std::string(k.name) + " does not hold [" + std::to_string(rows) + ", " + std::to_string(cols) + "] codes of " + std::to_string(bits) +
                " bits");
  return s;
}

py::object pack(const std::string& codec, int bits, const bytes& code) {
  const ar::codec_kernels& k = codec_of(codec);
  const auto in = matrix(code, "code");
  const ar::matrix_shape s = shape_of(k, bits, in.rows, in.cols);
  if (k.pack_words != nullptr) {
    auto words = make<std::uint32_t>(s.rows, s.cols);
    check(k.pack_words(bits, in, fill(words)), "pack");
    return words;
  }
  auto packed = make<std::uint8_t>(s.rows, s.cols);
  check(k.pack_bytes(bits, in, fill(packed)), "pack");
  return packed;
}

bytes unpack(const std::string& codec, int bits, const py::array& packed, std::size_t rows, std::size_t cols) {
  const ar::codec_kernels& k = codec_of(codec);
  shape_of(k, bits, rows, cols);
  auto code = make<std::uint8_t>(rows, cols);
  if (k.unpack_words != nullptr) {
    const array<std::uint32_t> words(packed);
    check(k.unpack_words(bits, matrix(words, "packed"), fill(code)), "unpack");
  } else {
    const bytes plain(packed);
    check(k.unpack_bytes(bits, matrix(plain, "packed"), fill(code)), "unpack");
  }
  return code;
}

ar::zero_convention convention_of(const std::string& name) {
  if (name == "v1") return ar::zero_convention::v1;
  if (name == "v2") return ar::zero_convention::v2;
  throw error("'" + name + "' is no convention of zero points: v1 or v2");
}
ar::matrix_shape zero_shape_of(const ar::codec_kernels& k, int bits, std::size_t rows, std::size_t groups) {
  const ar::matrix_shape s = k.pack_zeros != nullptr && k.has_bits(bits) ? k.packed_zero_shape(bits, rows, groups) : ar::matrix_shape{};
  if (s == ar::matrix_shape{})
    throw error(std::string(k.name) + " does not hold [" + std::to_string(rows) + ", " + std::to_string(groups) + "] zero points of " +
                std::to_string(bits) + " bits");
  return s;
}

array<std::uint32_t> pack_zeros(const std::string& codec, int bits, const array<std::int32_t>& zero, const std::string& convention) {
  const ar::codec_kernels& k = codec_of(codec);
  const auto in = matrix(zero, "zero_point");
  const ar::matrix_shape s = zero_shape_of(k, bits, in.rows, in.cols);
  auto words = make<std::uint32_t>(s.rows, s.cols);
  check(k.pack_zeros(convention_of(convention), bits, in, fill(words)), "pack_zeros");
  return words;
}
array<std::int32_t> unpack_zeros(const std::string& codec, int bits, const array<std::uint32_t>& words, std::size_t rows, std::size_t groups,
                                 const std::string& convention) {
  const ar::codec_kernels& k = codec_of(codec);
  zero_shape_of(k, bits, rows, groups);
  auto zero = make<std::int32_t>(rows, groups);
  check(k.unpack_zeros(convention_of(convention), bits, matrix(words, "packed"), fill(zero)), "unpack_zeros");
  return zero;
}

const ar::gguf_kernels& gguf_of(const std::string& name) {
  const ar::gguf_kernels* k = ar::kernels().gguf_type(name);
  if (k == nullptr) throw error("'" + name + "' is no GGUF type (gguf_types())");
  return *k;
}

bytes gguf_quantize(const std::string& type, const floats& w, const std::optional<floats>& importance) {
  const ar::gguf_kernels& k = gguf_of(type);
  const auto in = matrix(w, "w");
  if (in.cols % k.block_elements != 0) throw error("gguf_quantize: " + type + " has blocks of " + std::to_string(k.block_elements) + " columns");
  auto blocks = make<std::uint8_t>(in.rows, in.cols / k.block_elements * k.block_bytes);
  std::span<const float> weights;
  if (importance) weights = {importance->data(), static_cast<std::size_t>(importance->size())};
  check(k.quantize(in, weights, {blocks.mutable_data(), static_cast<std::size_t>(blocks.size())}), "gguf_quantize");
  return blocks;
}
floats gguf_dequantize(const std::string& type, const bytes& blocks) {
  const ar::gguf_kernels& k = gguf_of(type);
  const auto in = matrix(blocks, "blocks");
  if (in.cols % k.block_bytes != 0) throw error("gguf_dequantize: " + type + " has blocks of " + std::to_string(k.block_bytes) + " bytes");
  auto out = make<float>(in.rows, in.cols / k.block_bytes * k.block_elements);
  check(k.dequantize({blocks.data(), static_cast<std::size_t>(blocks.size())}, fill(out)), "gguf_dequantize");
  return out;
}

template <class List>
std::vector<std::string> names_of(const List& list) {
  std::vector<std::string> names;
  for (const auto& item : list)
    if (std::find(names.begin(), names.end(), item.name) == names.end()) names.emplace_back(item.name);
  return names;
}

}  // namespace

PYBIND11_MODULE(ar_reference, m) {
  using namespace pybind11::literals;
  m.doc() = "Quantization math and packing layouts, the same bits as the C++ library ar. Matrices are float32 [rows, cols], rows are outputs.";
  py::register_exception<error>(m, "Error", PyExc_ValueError);
  m.def(
      "target", [] { return std::string(ar::kernels().target); }, "The SIMD target that runs.");
  m.def(
      "schemes", [] { return names_of(ar::presets); }, "Names of the presets.");
  m.def(
      "data_types", [] { return names_of(std::span(ar::kernels().range_types, ar::kernels().range_type_count)); },
      "Names of the data types for quantize.");
  m.def(
      "codecs", [] { return names_of(ar::codecs()); }, "Names of the packed layouts.");
  m.def(
      "gguf_types", [] { return names_of(ar::kernels().gguf_types()); }, "Names of the GGUF types.");
  m.def("quantize", quantize, "w"_a, "scheme"_a, "group_size"_a = py::none(), "group_rows"_a = 1, "weight_format"_a = "f32", "scale_format"_a = "f16",
        "maximum"_a = py::none(), "(code, scale, zero_point or None) of w. maximum: the tensor's largest magnitude, for types that need it.");
  m.def("dequantize", dequantize, "code"_a, "scale"_a, "zero_point"_a, "scheme"_a, "group_size"_a = py::none(), "group_rows"_a = 1,
        "weight_format"_a = "f32", "scale_format"_a = "f16", "maximum"_a = py::none(), "The weights of codes.");
  m.def("qdq", qdq, "w"_a, "scheme"_a, "group_size"_a = py::none(), "group_rows"_a = 1, "weight_format"_a = "f32", "scale_format"_a = "f16",
        "maximum"_a = py::none(), "The weights that a reader of the quantized w will see.");
  m.def("pack", pack, "codec"_a, "bits"_a, "code"_a, "Codes as a checkpoint stores them: uint32 words or bytes.");
  m.def("unpack", unpack, "codec"_a, "bits"_a, "packed"_a, "rows"_a, "cols"_a, "The codes [rows, cols].");
  m.def("pack_zeros", pack_zeros, "codec"_a, "bits"_a, "zero_point"_a, "convention"_a = "v2", "Zero points [rows, groups] as words.");
  m.def("unpack_zeros", unpack_zeros, "codec"_a, "bits"_a, "packed"_a, "rows"_a, "groups"_a, "convention"_a = "v2",
        "The zero points [rows, groups].");
  m.def("gguf_quantize", gguf_quantize, "type"_a, "w"_a, "importance"_a = py::none(), "Blocks [rows, bytes] as ggml makes them.");
  m.def("gguf_dequantize", gguf_dequantize, "type"_a, "blocks"_a, "The weights of blocks [rows, bytes].");
}
