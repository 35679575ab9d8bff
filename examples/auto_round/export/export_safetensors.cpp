// Planning and copying for folder formats.
#include "export/export_safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "ar/numeric/half.hpp"
#include "ar/view.hpp"
#include "export/export_cache_scales.hpp"
#include "export/export_digest.hpp"
#include "export/export_inventory.hpp"

namespace auto_round::exporting {
namespace {

constexpr std::size_t copy_elements = std::size_t{1} << 20;  // conversion buffer, in values

bool is_tied_head(const model::model_spec& spec, const std::string& name) { return spec.tie_word_embeddings && name == spec.head_name; }

}  // namespace

std::vector<std::string> writing_order(const io::checkpoint_dir& source, const model::model_spec& spec) {
  std::vector<std::string> order;
  std::set<std::string, std::less<>> seen;
  const auto add = [&](const std::string& name) {
    if (source.find(name) != nullptr && seen.insert(name).second) order.push_back(name);
  };
  std::unordered_map<std::string, std::vector<std::string>> others;  // by block prefix: tensors that are no linear layer
  const auto block_of = [&](const std::string& name) {
    if (!name.starts_with(spec.block_prefix)) return std::string();
    const std::size_t dot = name.find('.', spec.block_prefix.size());
    return dot == std::string::npos ? std::string() : name.substr(0, dot + 1);
  };
  for (const io::tensor_ref& t : source.tensors()) {
    if (const std::string prefix = block_of(t.name); !prefix.empty()) others[prefix].push_back(t.name);
  }
  for (std::int64_t l = 0; l < spec.num_layers; ++l) {
    const std::string prefix = spec.block_prefix + std::to_string(l) + ".";
    add(prefix + spec.input_norm_name);
    add(prefix + spec.post_attention_norm_name);
    for (std::size_t i = 0; i < spec.linears.size(); ++i) {
      const std::string name = spec.linear_name(l, static_cast<int>(i));
      add(name + ".weight");
      add(name + ".bias");
    }
    for (const std::string& name : others[prefix]) add(name);
  }
  add(spec.embed_name);
  add(spec.final_norm_name);
  add(spec.head_name);
  for (const io::tensor_ref& t : source.tensors()) add(t.name);
  return order;
}

void apply_multiple_of_32_rule(std::vector<layer_decision>& layers) {
  for (layer_decision& layer : layers) {
    if (!layer.quantize || layer.chosen || (layer.rows % 32 == 0 && layer.cols % 32 == 0)) continue;
    layer.quantize = false;
    layer.reason = fmt::format("{} x {}: rows and columns must be multiples of 32", layer.rows, layer.cols);
    layer.kept_type = "fp";
  }
}

void apply_whole_groups_rule(job& run) {
  for (layer_decision& layer : run.layers) {
    if (!layer.quantize || layer.chosen || layer.scheme.group_size <= 0 || layer.cols % static_cast<std::uint64_t>(layer.scheme.group_size) == 0) continue;
    layer.quantize = false;
    layer.reason = fmt::format("{} columns are no multiple of the group size {}", layer.cols, layer.scheme.group_size);
    layer.kept_type = "fp";
  }
}

result<void> check_halves(std::span<const float> values, const std::string& tensor) {
  const auto beyond = std::ranges::find_if(values, [](float v) { return std::isfinite(v) && std::isinf(ar::round_to_f16(v)); });
  if (beyond == values.end()) return {};
  return fail(error_kind::unsupported, fmt::format("the tensor holds {}, which this format would store in half precision, where 65504 is the largest number; quantize the layer, or take another format", *beyond), {}, tensor);
}

std::vector<std::byte> to_bytes(std::span<const float> values, io::dtype type) {
  std::vector<std::byte> bytes(values.size() * io::size_of(type));
  if (type == io::dtype::f32) {
    const auto raw = std::as_bytes(values);
    std::copy(raw.begin(), raw.end(), bytes.begin());
    return bytes;
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t v = type == io::dtype::f16 ? ar::f16_from_f32(values[i]) : ar::bf16_from_f32(values[i]);
    bytes[2 * i] = static_cast<std::byte>(v & 0xFFu);
    bytes[2 * i + 1] = static_cast<std::byte>(v >> 8);
  }
  return bytes;
}

void round_to_type(std::span<float> values, io::dtype type) {
  if (type == io::dtype::f16) std::transform(values.begin(), values.end(), values.begin(), ar::round_to_f16);
  if (type == io::dtype::bf16) std::transform(values.begin(), values.end(), values.begin(), ar::round_to_bf16);
}

result<void> safetensors_exporter::prepare(const std::vector<std::pair<std::string, std::string>>& texts) {
  std::unordered_map<std::string, const layer_decision*> packed;
  std::unordered_map<std::string, const layer_decision*> kept;
  for (const layer_decision& layer : run_.layers) (layer.quantize ? packed : kept)[layer.name] = &layer;
  for (const std::string& name : writing_order(*run_.source, *run_.spec)) {
    const io::tensor_ref& t = *run_.source->find(name);
    tensor_plan entry{name, name, t.shape, std::string(io::name_of(t.type)), t.bytes.size(), action::keep, std::string(io::name_of(t.type)), t.bytes.size(), {}};
    const std::size_t dot = name.rfind('.');
    const std::string layer_name = name.substr(0, dot == std::string::npos ? name.size() : dot);
    const bool is_weight = name.ends_with(".weight"), is_bias = name.ends_with(".bias");
    if (is_tied_head(*run_.spec, name)) {
      entry.what = action::drop;
      entry.output_name.clear();
      entry.output_type.clear();
      entry.output_bytes = 0;
      entry.note = "tied to " + run_.spec->embed_name;
    } else if (const auto at = packed.find(layer_name); is_weight && at != packed.end()) {
      entry.what = action::quantize;
      entry.output_type = packed_type(*at->second);
      entry.output_bytes = 0;
      for (io::tensor_decl& d : packed_tensors(*at->second)) {
        entry.output_bytes += d.bytes();
        folder_.add_tensor(std::move(d));
      }
    } else {
      const bool changed = run_.changed(name);
      const io::dtype as_is = changed && t.type == io::dtype::f64 ? io::dtype::f32 : t.type;  // changed values are floats
      const io::dtype to = is_bias && at != packed.end() ? bias_type(as_is) : as_is;
      if (to != t.type) {
        entry.what = action::convert;
        entry.output_type = io::name_of(to);
        entry.output_bytes = t.elements() * io::size_of(to);
        entry.note = "biases of packed layers are stored in half precision";
      }
      if (changed && run_.how != method::stored) entry.note = "rewritten: the model's weights are transformed";
      if (const auto why = kept.find(layer_name); is_weight && why != kept.end()) entry.note = why->second->reason;
      folder_.add_tensor({name, to, t.shape});
      copies_.push_back({name, t.shape, to, changed ? nullptr : &t});
    }
    plan_.tensors.push_back(std::move(entry));
  }
  plan_added();
  for (const auto& [name, text] : texts) folder_.add_text(name, text);
  if (auto r = folder_.add_companions(*run_.source); !r) return r;
  folder_.lay_out(run_.max_shard_bytes);
  plan_.files = folder_.files();
  return {};
}

/// What the source does not have: the head of a model whose embeddings are no longer tied, and what a rotation adds.
void safetensors_exporter::plan_added() {
  const auto add = [&](const io::tensor_decl& d, const char* note) {
    tensor_plan entry{d.name, d.name, d.shape, {}, 0, action::keep, std::string(io::name_of(d.type)), d.bytes(), note};
    folder_.add_tensor(d);
    plan_.tensors.push_back(std::move(entry));
  };
  const std::string& head = run_.spec->head_name;
  if (!run_.spec->tie_word_embeddings && run_.source->find(head) == nullptr && run_.weights != nullptr) {
    const io::tensor_ref& embedding = *run_.source->find(run_.spec->embed_name);
    copied c{head, embedding.shape, embedding.type == io::dtype::f64 ? io::dtype::f32 : embedding.type, nullptr};
    add({c.name, c.to, c.shape}, "no longer tied to the embedding");
    copies_.push_back(std::move(c));
  }
  for (const io::tensor_decl& d : cache_tensors(run_)) add(d, "static scale of attention");
  if (run_.rotation == nullptr) return;
  for (const transform::stored_tensor& t : run_.rotation->tensors) add(t.tensor, "rotation");
}

result<void> safetensors_exporter::add(const tune::quantized_layer& layer) {
  auto parts = pack(layer);
  if (!parts) return forward_error(parts);
  for (const part& p : *parts) {
    if (auto r = folder_.write(p.tensor.name, p.data); !r) return r;
  }
  expected_.emplace_back(layer.name + ".weight", digest(read_back(layer)));
  return {};
}

result<void> safetensors_exporter::copy(const io::tensor_ref& tensor, io::dtype to) {
  if (auto r = check_finite(*run_.source, tensor); !r) return r;
  if (to == tensor.type)
    return run_.source->for_pieces(tensor, [&](std::span<const std::byte> piece, std::size_t offset) { return folder_.write(tensor.name, piece, offset); });
  // The only conversion there is: to half precision.
  std::vector<float> values(std::min<std::uint64_t>(copy_elements, tensor.elements()));
  std::vector<std::uint16_t> halves(values.size());
  for (std::uint64_t at = 0; at < tensor.elements();) {
    const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(values.size(), tensor.elements() - at));
    if (auto r = io::read_f32(tensor, at, std::span(values).first(n)); !r) return r;
    if (auto r = check_halves(std::span(values).first(n), tensor.name); !r) return r;
    std::transform(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(n), halves.begin(), ar::f16_from_f32);
    if (auto r = folder_.write(tensor.name, std::as_bytes(std::span(halves).first(n)), at * 2); !r) return r;
    at += n;
    run_.source->release(tensor, tensor.bytes.first(static_cast<std::size_t>(at) * io::size_of(tensor.type)));
  }
  return {};
}

/// By rows: an embedding may be larger than all blocks of a small model.
result<void> safetensors_exporter::write_changed(const copied& tensor) {
  const io::tensor_decl declared{tensor.name, tensor.to, tensor.shape};
  const std::uint64_t elements = declared.bytes() / io::size_of(tensor.to);
  const std::uint64_t row = tensor.shape.size() == 2 ? tensor.shape[1] : elements;
  std::vector<float> values;
  for (std::uint64_t at = 0; at < elements; at += values.size()) {
    values.resize(static_cast<std::size_t>(std::min(elements - at, std::max<std::uint64_t>(1, copy_elements / row) * row)));
    if (auto r = run_.weights->read_part(tensor.name, elements, at, values); !r) return r;
    if (tensor.to == io::dtype::f16)
      if (auto r = check_halves(values, tensor.name); !r) return r;
    if (auto r = folder_.write(tensor.name, to_bytes(values, tensor.to), at * io::size_of(tensor.to)); !r) return r;
  }
  return {};
}

result<void> safetensors_exporter::finish() {
  for (const copied& c : copies_) {
    if (auto r = c.source == nullptr ? write_changed(c) : copy(*c.source, c.to); !r) return r;
    if (c.source != nullptr) run_.source->release(*c.source);
  }
  for (const packed_part& p : cache_parts(run_))
    if (auto r = folder_.write(p.tensor.name, p.data); !r) return r;
  if (run_.rotation != nullptr) {
    for (const transform::stored_tensor& t : run_.rotation->tensors)
      if (auto r = folder_.write(t.tensor.name, t.data); !r) return r;
  }
  return folder_.finish();
}

}  // namespace auto_round::exporting
