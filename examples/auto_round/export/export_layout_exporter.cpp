#include "export/export_layout_exporter.hpp"

#include <fmt/format.h>

#include <map>
#include <optional>
#include <string>

#include "tune/quantizer.hpp"

namespace auto_round::exporting {
namespace {

layout_context context_of(const job& run, dialect who, const std::string& layer, const ar::scheme_fields& scheme, std::optional<ar::real> scale_type, bool any_order) {
  layout_context c;
  c.any_order = any_order;
  c.scale_type = scale_type;
  c.who = who;
  const io::tensor_ref* weight = run.source->find(layer + ".weight");
  if (weight != nullptr) c.model_type = weight->type;
  c.keeps_negative_zeros = run.model_free || run.how == method::stored;
  // The original searches scales of integers in the arithmetic of the weights, and stores them so.
  const bool searched = run.how == method::opt_rtn && scheme.sym && tune::searches_by_default(scheme, run.compat);
  c.int_scale_type = run.compat && searched && c.model_type == io::dtype::bf16 ? io::dtype::bf16 : number_type(run.scale_type);
  return c;
}

class layout_exporter final : public safetensors_exporter {
 public:
  layout_exporter(const job& run, dialect who) : safetensors_exporter(run), who_(who) {
    for (const layer_decision& l : run.layers)
      if (l.quantize && l.scale_type && run.how != method::stored) own_scale_types_.emplace(l.name, *l.scale_type);
  }
  result<void> start(const std::vector<std::pair<std::string, std::string>>& texts) { return prepare(texts); }

 private:
  /// decide_layout() has made sure that there is one.
  layer_layout layout(const std::string& name, const ar::scheme_fields& scheme, std::uint64_t rows, std::uint64_t cols, std::optional<ar::real> scale_type, bool any_order) const {
    return layout_of(scheme, static_cast<std::size_t>(rows), static_cast<std::size_t>(cols), context_of(run_, who_, name, scheme, scale_type, any_order)).value_or(layer_layout{});
  }
  layer_layout layout(const tune::quantized_layer& l) const {
    const auto own = own_scale_types_.find(l.name);
    return layout(l.name, l.scheme, l.rows, l.cols, own != own_scale_types_.end() ? own->second : l.scale_type, !l.group.empty());
  }
  layer_layout layout(const layer_decision& l) const { return layout(l.name, l.scheme, l.rows, l.cols, l.scale_type, l.any_order); }

  std::vector<io::tensor_decl> packed_tensors(const layer_decision& l) const override { return tensors_of(layout(l), l.name); }
  std::string packed_type(const layer_decision& l) const override { return describe(layout(l), l.scheme.sym); }
  io::dtype bias_type(io::dtype source) const override {
    const auto l = layout_of(run_.scheme, 128, 128, {.who = who_});
    return l && l->scales != scale_form::number && !run_.model_free && run_.how != method::stored ? io::dtype::f16 : source;
  }
  result<std::vector<part>> pack(const tune::quantized_layer& l) const override { return pack_layer(layout(l), l); }
  std::vector<float> read_back(const tune::quantized_layer& l) const override { return stored_weight(layout(l), l); }

  dialect who_;
  std::map<std::string, std::optional<ar::real>> own_scale_types_;  // of layers with a rule that says it
};

bool has_block_scales(const ar::scheme_fields& s) {
  const auto l = layout_of(s, 128, 128, {.who = dialect::auto_round});
  return l && l->scales != scale_form::number;
}

}  // namespace

result<holding> accepts_layout(std::string_view format, const ar::scheme_fields& scheme, dialect who) {
  // Any multiple of all group sizes: shapes are looked at when layers are known.
  const std::size_t cols = scheme.group_size > 0 ? static_cast<std::size_t>(scheme.group_size) * 32 : 32;
  if (auto l = layout_of(scheme, 32, cols, {.who = who}); !l) {
    return fail(l.error().kind, fmt::format("format {}: {}", format, l.error().message));
  }
  return holding::packed;
}

result<void> decide_layout(job& run, dialect who) {
  if (ar::quantizes(run.scheme)) {
    if (auto r = accepts_layout(run.format, run.scheme, who); !r) return forward_error(r);
    if (has_block_scales(run.scheme)) apply_whole_groups_rule(run);
    else if (run.scheme.data_type == "int" && run.scheme.act_bits.value_or(16) >= 16) apply_multiple_of_32_rule(run.layers);
  }
  for (const layer_decision& l : run.layers) {
    if (!l.quantize) continue;
    auto layout = layout_of(l.scheme, static_cast<std::size_t>(l.rows), static_cast<std::size_t>(l.cols), context_of(run, who, l.name, l.scheme, l.scale_type, l.any_order));
    if (!layout) {
      return fail(layout.error().kind, fmt::format("format {}: {}; choose another scheme for it, or keep it in 16 bits with --ignore_layers", run.format, layout.error().message), {}, l.name);
    }
  }
  return {};
}

result<holding> accepts_fp8_tiles(std::string_view format, const ar::scheme_fields& s) {
  if (s.group_rows == 0 || s.act_bits.value_or(16) > 8) {
    return fail(error_kind::unsupported, fmt::format("format {} holds FP8 in tiles with dynamic FP8 activations (scheme FP8_BLOCK) only", format));
  }
  return accepts_layout(format, s, dialect::auto_round);
}

result<void> decide_fp8_tiles(job& run) {
  if (auto r = accepts_fp8_tiles(run.format, run.scheme); !r) return forward_error(r);
  for (const layer_decision& l : run.layers) {
    if (!l.quantize) continue;
    if (auto r = accepts_fp8_tiles(run.format, l.scheme); !r) return fail(r.error().kind, r.error().message, {}, l.name);
  }
  return decide_layout(run, dialect::auto_round);
}

result<std::unique_ptr<exporter>> make_layout_exporter(const job& run, dialect who, const std::vector<std::pair<std::string, std::string>>& texts) {
  auto e = std::make_unique<layout_exporter>(run, who);
  if (auto r = e->start(texts); !r) return forward_error(r);
  return std::unique_ptr<exporter>(std::move(e));
}

}  // namespace auto_round::exporting
