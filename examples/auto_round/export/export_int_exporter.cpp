// Checks and exporter of packed integers.
#include "export/export_int_exporter.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "export/export_layer_layout.hpp"

namespace auto_round::exporting {
namespace {

class int_exporter final : public safetensors_exporter {
 public:
  int_exporter(const job& run, int_layout layout, bool g_idx) : safetensors_exporter(run), layout_(layout), g_idx_(g_idx) {}
  result<void> start(const std::vector<std::pair<std::string, std::string>>& texts) { return prepare(texts); }

 private:
  /// Of a layer_decision or a quantized_layer. MLX computes with scales of any type, and what comes from another checkpoint keeps its own.
  template <class Layer>
  int_matrix matrix(const Layer& layer) const {
    int_matrix m = int_matrix_of(layout_, layer.scheme, layer.rows, layer.cols);
    m.g_idx = g_idx_;
    if (layout_ == int_layout::mlx && run_.how == method::stored && layer.scale_type) m.numbers = number_type(*layer.scale_type);
    return m;
  }
  std::vector<io::tensor_decl> packed_tensors(const layer_decision& layer) const override {
    return int_tensors(matrix(layer), layer.name);
  }
  std::string packed_type(const layer_decision& layer) const override { return describe_int_scheme(layer.scheme); }
  io::dtype bias_type(io::dtype source) const override { return run_.model_free || run_.how == method::stored ? source : io::dtype::f16; }
  result<std::vector<part>> pack(const tune::quantized_layer& layer) const override {
    return pack_int(matrix(layer), layer);
  }
  std::vector<float> read_back(const tune::quantized_layer& layer) const override {
    return stored_weight(matrix(layer), layer);
  }

  int_layout layout_;
  bool g_idx_;
};

/// "2, 3, 4 and 8".
std::string list_of(unsigned widths) {
  std::vector<int> all;
  for (int b = 1; b <= 8; ++b) {
    if ((widths >> b & 1u) != 0) all.push_back(b);
  }
  if (all.size() == 1) return fmt::format("{}", all.front());
  const int last = all.back();
  all.pop_back();
  return fmt::format("{} and {}", fmt::join(all, ", "), last);
}

bool is_short(const layer_decision& l) {
  const auto group = static_cast<std::uint64_t>(l.scheme.group_size);
  return l.scheme.group_size > 0 && l.cols > group && l.cols % group != 0;
}

}  // namespace

result<holding> accepts_int(std::string_view format, const ar::scheme_fields& s, const int_limits& limits) {
  const std::string holds = fmt::format("format {} holds integer weights of {} bits", format, list_of(limits.widths));
  const bool mx = s.data_type == "mx_int";
  if ((s.data_type != "int" && !(mx && limits.falls_back)) || s.group_rows != 0 || s.super_bits) {
    return fail(error_kind::unsupported, fmt::format("{}, not data type {}{}", holds, s.data_type, s.super_bits ? " of GGUF" : ""));
  }
  if (s.bits < 1 || s.bits > 8 || (limits.widths >> s.bits & 1u) == 0) return fail(error_kind::unsupported, fmt::format("{}, not {}", holds, s.bits));
  if (s.group_size == 0) {
    return fail(error_kind::unsupported, fmt::format("format {} has no scale for a whole tensor; use --group_size -1 or a positive number", format));
  }
  if (s.act_bits.value_or(16) < 16 && !limits.falls_back)
    return fail(error_kind::unsupported, fmt::format("{}, without quantized activations", holds));
  return mx || s.act_bits.value_or(16) < 16 ? holding::fake : holding::packed;
}

result<void> decide_int(job& run, const int_limits& limits, int_layout layout) {
  const auto check = [&](const ar::scheme_fields& scheme, const std::string& layer) -> result<void> {
    auto answer = accepts_int(run.format, scheme, limits);
    if (!answer) return fail(answer.error().kind, answer.error().message, {}, layer);
    if (*answer == holding::packed) return {};
    return fail(error_kind::unsupported, fmt::format("format {} cannot store quantized activations or MX integers", run.format), {}, layer);
  };
  if (auto r = check(run.scheme, {}); !r) return r;
  apply_multiple_of_32_rule(run.layers);
  const layer_decision* short_layer = nullptr;
  for (const layer_decision& l : run.layers) {
    if (!l.quantize) continue;
    if (l.chosen) {
      if (auto r = check(l.scheme, l.name); !r) return r;
      if (limits.one_scheme && !ar::same_scheme(l.scheme, run.scheme)) {
        return fail(error_kind::unsupported,
                    fmt::format("format {} has one scheme for all layers that are quantized; auto_round and auto_gptq hold mixed ones", run.format),
                    {}, l.name);
      }
    }
    if (!is_storable(int_matrix_of(layout, l.scheme, l.rows, l.cols))) {
      return fail(
          error_kind::unsupported,
          fmt::format("format {} cannot pack {} x {} weights with {} bits; keep the layer in 16 bits", run.format, l.rows, l.cols, l.scheme.bits), {},
          l.name);
    }
    if (!is_short(l)) continue;
    if (!limits.short_groups) {
      return fail(error_kind::unsupported,
                  fmt::format("rows have {} values, no multiple of group size {}: format {} needs whole groups; use a --group_size that divides "
                              "them, or format auto_round",
                              l.cols, l.scheme.group_size, run.format),
                  {}, l.name);
    }
    if (short_layer == nullptr) short_layer = &l;
  }
  const bool floats = std::ranges::any_of(run.layers, [&](const layer_decision& l) { return l.quantize && l.scale_type.value_or(run.scale_type) == ar::real::f32; });
  if (floats && run.how != method::stored)
    run.warnings.push_back(fmt::format("format {} stores scales in float16: those of --scale_dtype fp32 are rounded to it behind the codes; llm_compressor keeps them", run.format));
  if (short_layer != nullptr) {
    run.warnings.push_back(
        fmt::format("rows of {} have {} values, no multiple of group size {}: the last group is short, which the Python auto-round, vLLM and "
                    "MLX cannot load; a smaller --group_size that divides it is safer",
                    short_layer->name, short_layer->cols, short_layer->scheme.group_size));
  }
  return {};
}

result<std::unique_ptr<exporter>> make_int_exporter(const job& run, int_layout layout, bool g_idx,
                                                    const std::vector<std::pair<std::string, std::string>>& texts) {
  auto e = std::make_unique<int_exporter>(run, layout, g_idx);
  if (auto r = e->start(texts); !r) return forward_error(r);
  return std::unique_ptr<exporter>(std::move(e));
}

}  // namespace auto_round::exporting
