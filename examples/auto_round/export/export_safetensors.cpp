// Planning and copying for folder formats.
#include "export/export_safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "ar/numeric/half.hpp"
#include "ar/view.hpp"
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

void apply_multiple_of_32_rule(job& run) {
  for (layer_decision& layer : run.layers) {
    if (!layer.quantize || (layer.rows % 32 == 0 && layer.cols % 32 == 0)) continue;
    layer.quantize = false;
    layer.reason = fmt::format("{} x {}: rows and columns must be multiples of 32", layer.rows, layer.cols);
    layer.kept_type = "fp";
  }
}

void apply_whole_groups_rule(job& run) {
  for (layer_decision& layer : run.layers) {
    if (!layer.quantize || layer.scheme.group_size <= 0 || layer.cols % static_cast<std::uint64_t>(layer.scheme.group_size) == 0) continue;
    layer.quantize = false;
    layer.reason = fmt::format("{} columns are no multiple of the group size {}", layer.cols, layer.scheme.group_size);
    layer.kept_type = "fp";
  }
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
      const io::dtype to = is_bias && at != packed.end() ? bias_type(t.type) : t.type;
      if (to != t.type) {
        entry.what = action::convert;
        entry.output_type = io::name_of(to);
        entry.output_bytes = t.elements() * io::size_of(to);
        entry.note = "biases of packed layers are stored in half precision";
      }
      if (const auto why = kept.find(layer_name); is_weight && why != kept.end()) entry.note = why->second->reason;
      folder_.add_tensor({name, to, t.shape});
      copies_.emplace_back(&t, to);
    }
    plan_.tensors.push_back(std::move(entry));
  }
  for (const auto& [name, text] : texts) folder_.add_text(name, text);
  if (auto r = folder_.add_companions(*run_.source); !r) return r;
  folder_.lay_out(run_.max_shard_bytes);
  plan_.files = folder_.files();
  return {};
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
  if (auto r = check_finite(tensor, run_.source->files()[tensor.file]); !r) return r;
  if (to == tensor.type) return folder_.write(tensor.name, tensor.bytes);
  // The only conversion there is: to half precision.
  std::vector<float> values(std::min<std::uint64_t>(copy_elements, tensor.elements()));
  std::vector<std::uint16_t> halves(values.size());
  for (std::uint64_t at = 0; at < tensor.elements();) {
    const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(values.size(), tensor.elements() - at));
    if (auto r = io::read_f32(tensor, at, std::span(values).first(n)); !r) return r;
    std::transform(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(n), halves.begin(), ar::f16_from_f32);
    if (auto r = folder_.write(tensor.name, std::as_bytes(std::span(halves).first(n)), at * 2); !r) return r;
    at += n;
  }
  return {};
}

result<void> safetensors_exporter::finish() {
  for (const auto& [tensor, to] : copies_) {
    if (auto r = copy(*tensor, to); !r) return r;
    run_.source->release(*tensor);
  }
  return folder_.finish();
}

}  // namespace auto_round::exporting
