#include "plan_convert.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "export/export_cache_scales.hpp"
#include "export/export_gguf_types.hpp"
#include "export/export_layer_layout.hpp"
#include "export/export_packed_model.hpp"
#include "export/export_stored_layer.hpp"
#include "export/export_unpacked_source.hpp"
#include "report/resources.hpp"

namespace auto_round::plan {
namespace {

using exporting::job;
using exporting::layer_decision;

/// What is known of a packed layer before it is converted.
struct packed_facts {
  ar::scheme_fields scheme;
  std::optional<ar::real> scale_type;
  bool symmetric = false, gguf = false, any_order = false;
  std::uint64_t rows = 0, cols = 0;
};

bool is_integer(const ar::scheme_fields& s) { return s.data_type.starts_with("int") && !s.super_bits; }

/// The same weights, which read float rows.
ar::scheme_fields weights_of(ar::scheme_fields s) {
  s.act_bits = 16;
  s.act_group_size.reset();
  s.act_sym.reset();
  s.act_data_type.reset();
  s.act_dynamic.reset();
  return s;
}

/// Packed as it is, not as something else in its place.
bool holds(const std::string& format, const ar::scheme_fields& s) {
  const auto answer = exporting::find(format)->accepts(format, s);
  return answer && (*answer == exporting::holding::packed || format == "fake");
}

/// The GGUF type whose codes and scales mean the same; null if there is none.
const ar::scheme_fields* gguf_scheme_like(const ar::scheme_fields& s) {
  if (is_integer(s)) return exporting::gguf_scheme_of_codes(s.bits, s.sym);
  const auto layout = exporting::layout_of(weights_of(s), 64, 64, {});
  if (!layout || layout->codes != exporting::element::e2m1 || layout->scales == exporting::scale_form::ue5m3) return nullptr;
  return exporting::scheme_of(layout->scales == exporting::scale_form::e8m0 ? io::gguf_type::mxfp4 : io::gguf_type::nvfp4);
}

std::string name_of(const ar::scheme_fields& s) {
  if (const std::string_view known = ar::preset_name(s); !known.empty()) return std::string(known);
  const auto layout = is_integer(s) || s.super_bits ? tl::unexpected<error>(error{}) : exporting::layout_of(s, 64, 64, {});
  return layout ? exporting::describe(*layout) : exporting::describe_int_scheme(s);
}

bool all_fake(const std::vector<std::string>& formats) {
  return std::all_of(formats.begin(), formats.end(), [](const std::string& f) { return f == "fake"; });
}

/// The dequantized weight alone, under a scheme that stands for any.
result<tune::quantized_layer> weight_alone(const exporting::stored_model& source, const std::string& weight, std::uint64_t rows, std::uint64_t cols) {
  tune::quantized_layer layer;
  layer.name = weight.substr(0, weight.rfind('.'));
  layer.rows = static_cast<std::size_t>(rows);
  layer.cols = static_cast<std::size_t>(cols);
  layer.weight.resize(layer.rows * layer.cols);
  if (auto r = source.read(weight, layer.weight); !r) return forward_error(r);
  return layer;
}

class planner {
 public:
  planner(const exporting::stored_model& source, const std::vector<std::string>& formats, std::uint64_t max_shard_bytes)
      : source_(source), formats_(formats), max_shard_bytes_(max_shard_bytes) {}

  result<conversion> run() {
    if (source_.rotation() != nullptr) {
      return fail(error_kind::unsupported, "the model is rotated, and conversions do not carry that over; quantize the float checkpoint that it was made from", source_.tokenizer_directory());
    }
    if (!all_fake(formats_)) {
      auto attention = exporting::read_attention_scales(source_.config().at("quantization_config"), source_.tokenizer_directory());
      if (!attention) return forward_error(attention);
      attention_ = *attention;
    }
    if (auto r = look_at_layers(); !r) return forward_error(r);
    if (auto r = choose_model_scheme(); !r) return forward_error(r);
    conversion c;
    c.plan.scheme = model_scheme_;
    c.plan.scheme_name = name_of(model_scheme_);
    for (const std::string& f : formats_) {
      const bool keeps = exporting::find(f)->attention_scales;
      auto view = exporting::unpacked_view(source_, f == "fake" ? exporting::outside_blocks::as_model : exporting::outside_blocks::exact, keeps ? nullptr : exporting::is_attention_scale);
      if (!view) return forward_error(view);
      c.dropped.emplace_back();
      for (const exporting::stored_model::entry& e : source_.entries())
        if (!keeps && exporting::is_attention_scale(e.name)) c.dropped.back().push_back(e.name);
      c.views.push_back(std::move(*view));
      c.expanded.emplace_back();
      auto run = decided(f, *c.views.back(), c.expanded.back());
      if (!run) return forward_error(run);
      for (const std::string& w : run->warnings) c.plan.warnings.push_back(w);
      c.plan.jobs.push_back(std::move(*run));
    }
    for (const job& run : c.plan.jobs) {
      auto e = exporting::find(run.format)->make(run);
      if (!e) return forward_error(e);
      c.plan.exporters.push_back(std::move(*e));
    }
    const auto entries = source_.entries();
    const auto input = std::find_if(entries.begin(), entries.end(), [&](const exporting::stored_model::entry& e) { return source_.directory() == nullptr && e.name.ends_with(".input_scale"); });
    if (input != entries.end()) c.plan.warnings.push_back(fmt::format("static scales of what layers read ({} and others) are dropped: layers of GGUF files read floats here", input->name));
    std::uint64_t largest = 0;
    for (const auto& [name, facts] : packed_) largest = std::max(largest, facts.rows * facts.cols);
    constexpr std::uint64_t conversion_bytes = 14;  // measured: codes, the weight, and nearly as many again for the format
    c.plan.memory.add({"converting", {{"the program", report::current_memory_bytes() + (std::uint64_t{1} << 20), {}}, {"the largest layer", largest * conversion_bytes, {}}}, {}});
    c.layers = order_;
    return c;
  }

 private:
  /// Reads the parameters of all packed layers once: whether zero points are needed is known by looking at all of them only.
  result<void> look_at_layers() {
    for (const exporting::stored_model::entry& e : source_.entries()) {
      if (!e.quantized) continue;
      packed_facts f;
      f.rows = e.shape.at(0);
      f.cols = e.shape.at(1);
      auto layer = source_.stored_layer(e.name);
      if (layer) {
        f.scheme = layer->scheme;
        f.scale_type = layer->scale_type;
        f.gguf = !layer->blocks.empty();
        f.any_order = !layer->group.empty();
        f.symmetric = is_integer(f.scheme) && exporting::is_symmetric(*layer);
      } else if (layer.error().kind != error_kind::unsupported || !all_fake(formats_)) {
        return forward_error(layer);
      }
      packed_.emplace(e.name, f);
    }
    if (packed_.empty()) return fail(error_kind::usage, "the model is not quantized; `auto-round quantize` does that", source_.tokenizer_directory());
    // One layer that needs zero points gives them to all of its width: formats want one scheme.
    std::map<std::pair<int, int>, bool> symmetric;
    const auto kind = [](const ar::scheme_fields& s) { return std::pair(s.bits, s.group_size); };
    for (const auto& [name, f] : packed_)
      if (is_integer(f.scheme) && in_block(name)) symmetric[kind(f.scheme)] = true;
    for (const auto& [name, f] : packed_)
      if (const auto at = symmetric.find(kind(f.scheme)); at != symmetric.end() && is_integer(f.scheme) && in_block(name)) at->second &= f.symmetric;
    for (const layer_decision& l : candidate_layers(source_.spec(), {}))
      if (packed_.contains(l.name + ".weight")) order_.push_back(l.name + ".weight");
    for (const auto& [name, f] : packed_)
      if (std::find(order_.begin(), order_.end(), name) == order_.end()) order_.push_back(name);
    for (auto& [name, f] : packed_) {
      if (!is_integer(f.scheme) || f.gguf) continue;
      const auto at = symmetric.find(kind(f.scheme));
      f.scheme.sym = at == symmetric.end() || !in_block(name) ? f.symmetric : at->second && f.symmetric;
    }
    return {};
  }

  bool in_block(const std::string& weight) const { return weight.starts_with(source_.spec().block_prefix); }

  /// The scheme of most layers inside the blocks.
  result<void> choose_model_scheme() {
    std::vector<std::pair<ar::scheme_fields, std::size_t>> count;
    for (const auto& [name, f] : packed_) {
      if (!in_block(name)) continue;
      const auto same = std::find_if(count.begin(), count.end(), [&](const auto& c) { return ar::same_scheme(c.first, f.scheme); });
      if (same == count.end()) count.emplace_back(f.scheme, 1);
      else ++same->second;
    }
    if (count.empty()) return fail(error_kind::unsupported, "no layer inside the blocks is packed; format fake unpacks the others", source_.tokenizer_directory());
    model_scheme_ = std::max_element(count.begin(), count.end(), [](const auto& a, const auto& b) { return a.second < b.second; })->first;
    return {};
  }

  static bool is_gguf(const std::string& format) { return exporting::find(format)->own_scheme(format) != nullptr; }

  /// A layer's scheme in the words of a format: GGUF types are integers or small floats elsewhere, and the other way round. A format that has no word for what
  /// layers read takes the weights alone.
  static ar::scheme_fields scheme_in(const std::string& format, const ar::scheme_fields& s, bool from_gguf) {
    if (is_gguf(format)) {
      const ar::scheme_fields* type = from_gguf ? nullptr : gguf_scheme_like(s);
      return type == nullptr ? s : *type;
    }
    ar::scheme_fields out = s;
    if (s.data_type.starts_with("int")) {
      out.data_type = "int";
      out.super_bits.reset();
      out.super_group_size.reset();
    }
    return out.act_bits.value_or(16) >= 16 || holds(format, out) ? out : weights_of(out);
  }

  std::vector<layer_decision> layers_for(const std::string& format, const std::set<std::string>& expanded) const {
    std::vector<layer_decision> layers = candidate_layers(source_.spec(), model_scheme_);
    const std::string& embedding = source_.spec().embed_name;
    if (packed_.contains(embedding) && (is_gguf(format) || format == "fake") && !expanded.contains(embedding)) {
      layer_decision l;
      l.name = embedding.substr(0, embedding.rfind('.'));
      layers.push_back(std::move(l));
    }
    for (layer_decision& l : layers) {
      const auto at = packed_.find(l.name + ".weight");
      l.chosen = true;
      l.quantize = at != packed_.end() && !expanded.contains(l.name + ".weight");
      l.reason.clear();
      if (!l.quantize) {
        l.reason = at == packed_.end() ? "not quantized in the source" : "expanded to floats";
        l.kept_type = "float";
        continue;
      }
      l.rows = at->second.rows;
      l.cols = at->second.cols;
      l.scheme = scheme_in(format, at->second.scheme, at->second.gguf);
      l.scale_type = at->second.scale_type;
      l.any_order = at->second.any_order;
    }
    return layers;
  }

  /// Tries to place all layers; a head or an embedding that has no place is expanded.
  result<job> decided(const std::string& format, const exporting::stored_model& view, std::vector<std::string>& expanded) const {
    job base;
    base.source = view.directory();
    base.spec = &view.spec();
    base.weights = &view;
    base.model_name = model_name_of(source_, base.source->path());
    base.format = format;
    base.how = exporting::method::stored;
    base.iters = 0;
    if (exporting::find(format)->attention_scales) base.attention = attention_;
    base.max_shard_bytes = max_shard_bytes_;
    base.scheme = scheme_in(format, model_scheme_, exporting::gguf_type_of(model_scheme_) && source_.directory() == nullptr);
    std::set<std::string> without_place;
    for (;;) {
      job run = base;
      run.layers = layers_for(format, without_place);
      auto placed = place(run);
      if (placed) {
        for (const auto& [name, facts] : packed_) {
          const bool packed = std::any_of(run.layers.begin(), run.layers.end(), [&](const layer_decision& l) { return l.quantize && l.name + ".weight" == name; });
          if (!packed) expanded.push_back(name);
        }
        if (format == "fake") expanded.clear();
        return run;
      }
      const std::string weight = placed.error().tensor + ".weight";
      if (!placed.error().tensor.empty() && !in_block(weight) && packed_.contains(weight) && without_place.insert(weight).second) continue;
      return refusal(format, std::move(placed.error()));
    }
  }

  /// Formats that write `fake` in place of what they cannot hold do not hold it.
  static result<void> place(job& run) {
    for (const layer_decision& l : run.layers) {
      if (!l.quantize) continue;
      auto answer = exporting::find(run.format)->accepts(run.format, l.scheme);
      if (!answer) return fail(answer.error().kind, answer.error().message, {}, l.name);
      if (*answer == exporting::holding::fake && run.format != "fake")
        return fail(error_kind::unsupported, fmt::format("format {} has no place for this scheme", run.format), {}, l.name);
      if (l.any_order && !exporting::find(run.format)->any_order)
        return fail(error_kind::unsupported, fmt::format("the columns are assigned to groups out of order (desc_act), which format {} has no place for; fake has", run.format), {}, l.name);
    }
    return exporting::find(run.format)->decide(run);
  }

  result<job> refusal(const std::string& format, error e) const {
    if (e.kind != error_kind::unsupported) return tl::unexpected<error>(std::move(e));
    const auto at = packed_.find(e.tensor + ".weight");
    const ar::scheme_fields& scheme = at == packed_.end() ? model_scheme_ : at->second.scheme;
    std::string others;
    for (const exporting::export_format* f : exporting::all()) {
      for (const std::string_view spelling : f->spellings) {
        const std::string name(spelling);
        const ar::scheme_fields mine = scheme_in(name, scheme, at != packed_.end() && at->second.gguf);
        const ar::scheme_fields* own = f->own_scheme(spelling);
        if (name == format || (at != packed_.end() && at->second.any_order && !f->any_order) || (own != nullptr && !ar::same_scheme(*own, mine))) continue;
        const auto answer = f->accepts(spelling, mine);
        if (answer && *answer == exporting::holding::packed) others += (others.empty() ? "" : ", ") + name;
      }
    }
    e.message += fmt::format("; formats for layers of this kind: {}; with another scheme the model is quantized anew (quantize --model)", others);
    return tl::unexpected<error>(std::move(e));
  }

  const exporting::stored_model& source_;
  const std::vector<std::string>& formats_;
  std::uint64_t max_shard_bytes_;
  std::map<std::string, packed_facts> packed_;  // by name of the weight
  std::vector<std::string> order_;
  ar::scheme_fields model_scheme_;
  tune::attention_scales attention_;  // static scales that the checkpoint has
};

}  // namespace

result<conversion> make_conversion(const exporting::stored_model& source, const std::vector<std::string>& formats, std::uint64_t max_shard_bytes) {
  return planner(source, formats, max_shard_bytes).run();
}

result<tune::quantized_layer> read_stored(const exporting::stored_model& source, const std::string& weight, const run_plan& plan) {
  auto layer = source.stored_layer(weight);
  if (layer) return layer;
  const bool fake = std::all_of(plan.jobs.begin(), plan.jobs.end(), [](const job& j) { return j.format == "fake"; });
  if (layer.error().kind != error_kind::unsupported || !fake) return layer;
  for (const layer_decision& l : plan.layers())
    if (l.name + ".weight" == weight) return weight_alone(source, weight, l.rows, l.cols);
  return layer;
}

result<tune::quantized_layer> adapted(const tune::quantized_layer& layer, const layer_decision& decision) {
  tune::quantized_layer mine = layer;
  const ar::scheme_fields& to = decision.scheme;
  const auto columns = [&](int group_size) { return group_size <= 0 ? layer.cols : std::min(layer.cols, static_cast<std::size_t>(group_size)); };
  if (is_integer(to) && mine.blocks.empty() && !mine.code.empty() && columns(to.group_size) != columns(layer.scheme.group_size)) {
    if (!exporting::split_groups(mine, columns(to.group_size)))
      return fail(error_kind::unsupported, fmt::format("groups of {} values cannot be split into groups of {}", columns(layer.scheme.group_size), columns(to.group_size)), {}, layer.name);
  }
  mine.scheme = to;
  return mine;
}

}  // namespace auto_round::plan
