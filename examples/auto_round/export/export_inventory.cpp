// Required tensors of a decoder-only model.
#include "export/export_inventory.hpp"

#include <fmt/format.h>

#include <cstring>
#include <span>

namespace auto_round::exporting {
namespace {

/// Index of the first value whose exponent bits are all set, or the number of values.
template <class T>
std::size_t first_not_finite(std::span<const std::byte> bytes, T exponent) {
  constexpr std::size_t block = 4096;  // looked at without a branch; almost always there is none to be found
  const std::size_t n = bytes.size() / sizeof(T), blocks = (n + block - 1) / block;
  const auto bad = [&](std::size_t i) {
    T v;
    std::memcpy(&v, bytes.data() + i * sizeof(T), sizeof(T));  // tensors in files need not be aligned
    return static_cast<T>((v & exponent) == exponent);
  };
  std::size_t first = n;
#pragma omp parallel for schedule(static) reduction(min : first)
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::size_t begin = b * block, end = std::min(n, begin + block);
    T any = 0;
    for (std::size_t i = begin; i < end; ++i) any = static_cast<T>(any | bad(i));
    for (std::size_t i = begin; any != 0 && i < end && i < first; ++i)
      if (bad(i) != 0) first = i;
  }
  return first;
}

}  // namespace

bool is_float(io::dtype t) { return t == io::dtype::f32 || t == io::dtype::f16 || t == io::dtype::bf16 || t == io::dtype::f64; }

result<void> check_finite(const io::checkpoint_dir& source, const io::tensor_ref& tensor) {
  if (!is_float(tensor.type)) return {};
  const std::size_t width = io::size_of(tensor.type);
  return source.for_pieces(tensor, [&](std::span<const std::byte> piece, std::size_t offset) -> result<void> {
    std::size_t first = 0;
    switch (tensor.type) {
      case io::dtype::f16: first = first_not_finite<std::uint16_t>(piece, 0x7C00); break;
      case io::dtype::bf16: first = first_not_finite<std::uint16_t>(piece, 0x7F80); break;
      case io::dtype::f32: first = first_not_finite<std::uint32_t>(piece, 0x7F800000); break;
      default: first = first_not_finite<std::uint64_t>(piece, 0x7FF0000000000000); break;
    }
    if (first == piece.size() / width) return {};
    return fail(error_kind::input, fmt::format("the tensor holds NaN or infinity (first at value {}); the checkpoint is damaged", offset / width + first),
                source.files()[tensor.file], tensor.name);
  });
}

std::string shape_text(const std::vector<std::uint64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

std::vector<required_tensor> required_tensors(const model::model_spec& spec) {
  const auto u = [](std::int64_t v) { return static_cast<std::uint64_t>(v); };
  std::vector<required_tensor> all;
  all.push_back({spec.embed_name, {u(spec.vocab_size), u(spec.hidden_size)}});
  for (std::int64_t l = 0; l < spec.num_layers; ++l) {
    const std::string prefix = spec.block_prefix + std::to_string(l) + ".";
    all.push_back({prefix + spec.input_norm_name, {u(spec.hidden_size)}});
    all.push_back({prefix + spec.post_attention_norm_name, {u(spec.hidden_size)}});
    for (const model::part_desc& part : spec.parts) {
      if (!spec.exists(part.where, l)) continue;
      all.push_back({prefix + part.name, {part.shape.begin(), part.shape.end()}});
    }
    for (std::size_t i = 0; i < spec.linears.size(); ++i) {
      if (!spec.has_linear(l, static_cast<int>(i))) continue;
      const model::linear_desc& d = spec.linears[i];
      const std::string name = spec.linear_name(l, static_cast<int>(i));
      all.push_back({name + ".weight", {u(d.out_features), u(d.in_features)}, true});
      if (d.bias) all.push_back({name + ".bias", {u(d.out_features)}});
    }
  }
  if (!spec.positions_name.empty()) all.push_back({spec.positions_name, {u(spec.max_position_embeddings + spec.positions_offset), u(spec.hidden_size)}});
  all.push_back({spec.final_norm_name, {u(spec.hidden_size)}});
  if (!spec.final_norm_bias_name.empty()) all.push_back({spec.final_norm_bias_name, {u(spec.hidden_size)}});
  if (!spec.tie_word_embeddings) all.push_back({spec.head_name, {u(spec.vocab_size), u(spec.hidden_size)}, true});
  return all;
}

result<void> check_count(std::uint64_t tensors, const model::model_spec& spec, const std::string& file) {
  std::uint64_t of_kind[2] = {0, 0}, wanted = 0;  // at most 100,000 blocks of some 200,000 layers: far from wrapping
  for (const model::linear_desc& d : spec.linears) {
    if (d.where != model::block_kind::mixture) ++of_kind[0];
    if (d.where != model::block_kind::dense) ++of_kind[1];
  }
  for (std::int64_t l = 0; l < spec.num_layers; ++l) wanted += of_kind[spec.is_mixture(l) ? 1 : 0];
  // A little more is an incomplete download, of which the first tensor that is missing is named.
  if (wanted <= 2 * tensors + 1000) return {};
  return fail(error_kind::input, fmt::format("{} linear layers are called for ({} blocks, {} experts), but the model has {} tensors", wanted, spec.num_layers,
                                             spec.mixture.experts, tensors), file);
}

result<void> check_inventory(const io::checkpoint_dir& source, const model::model_spec& spec, const std::function<bool(const std::string&)>& packed) {
  for (const required_tensor& need : required_tensors(spec)) {
    if (packed && packed(need.name)) continue;
    const io::tensor_ref* t = source.find(need.name);
    if (t == nullptr) return fail(error_kind::input, "a tensor that config.json calls for is missing; the download may be incomplete", source.path(), need.name);
    const std::string& file = source.files()[t->file];
    if (t->shape != need.shape) {
      return fail(error_kind::input, fmt::format("the tensor has shape {}, but config.json calls for {}", shape_text(t->shape), shape_text(need.shape)), file,
                  need.name);
    }
    if (!is_float(t->type)) {
      return fail(error_kind::unsupported, fmt::format("the weight has type {}; only F32, F16, BF16 and F64 weights can be quantized", io::name_of(t->type)),
                  file, need.name);
    }
  }
  return {};
}

}  // namespace auto_round::exporting
