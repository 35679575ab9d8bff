#include "transform/awq_mappings.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string_view>

#include "text/regex.hpp"

namespace auto_round::transform {
namespace {

using text::regex;
using rules = std::vector<mapping_rule>;

// ---- what each model class smooths (awq.md section 2.2) ----

const mapping_rule input_to_qkv = {R"(input_layernorm$)", {R"(q_proj$)", R"(k_proj$)", R"(v_proj$)"}};
const mapping_rule values_to_output = {R"(v_proj$)", {R"(o_proj$)"}};
const mapping_rule up_to_down = {R"(up_proj$)", {R"(down_proj$)"}};

mapping_rule mlp_norm(const char* norm) { return {norm, {R"(gate_proj$)", R"(up_proj$)"}}; }

struct rule_set {
  std::vector<std::string_view> classes;  // without the "ForCausalLM" or "ForConditionalGeneration" behind them
  rules of;
};

const rules& default_rules() {
  static const rules all = {input_to_qkv, values_to_output, mlp_norm(R"(post_attention_layernorm$)"), up_to_down};
  return all;
}

const std::vector<rule_set>& rule_sets() {
  static const std::vector<rule_set> all = {
      {{"Llama", "Mistral", "Mistral3", "Qwen2", "Qwen3", "Qwen2_5OmniThinker", "SeedOss", "Ernie4_5_Moe"}, default_rules()},
      {{"Gemma2", "Gemma3"}, {input_to_qkv, values_to_output, mlp_norm(R"(pre_feedforward_layernorm$)"), up_to_down}},
      {{"Cohere", "Cohere2", "Cohere2Vision"},
       {{R"(input_layernorm$)",
         {R"(self_attn\.q_proj$)", R"(self_attn\.k_proj$)", R"(self_attn\.v_proj$)", R"(mlp\.gate_proj$)", R"(mlp\.up_proj$)"}},
        values_to_output,
        up_to_down}},
      {{"Phi3", "Phi3V"},
       {{R"(input_layernorm$)", {R"(qkv_proj$)"}},
        {R"(qkv_proj$)", {R"(o_proj$)"}},
        {R"(post_attention_layernorm$)", {R"(gate_up_proj$)"}},
        {R"(gate_up_proj$)", {R"(down_proj$)"}}}},
      {{"OPT"},
       {{R"(self_attn_layer_norm$)", {R"(self_attn\.q_proj$)", R"(self_attn\.k_proj$)", R"(self_attn\.v_proj$)"}},
        {R"(self_attn\.v_proj$)", {R"(self_attn\.out_proj$)"}},
        {R"(final_layer_norm$)", {R"(fc1$)"}},
        {R"(fc1$)", {R"(fc2$)"}}}},
      {{"Bloom"},
       {{R"(input_layernorm$)", {R"(query_key_value$)"}},
        {R"(post_attention_layernorm$)", {R"(dense_h_to_4h$)"}},
        {R"(gelu_impl$)", {R"(dense_4h_to_h$)"}}}},
      {{"DeepseekV3", "GlmMoeDsa"},
       {{R"(input_layernorm$)", {R"((q|q_a)_proj$)", R"(kv_a_proj_with_mqa$)"}},
        {R"(q_a_layernorm$)", {R"(q_b_proj$)"}},
        {R"(kv_a_layernorm$)", {R"(kv_b_proj$)"}},
        mlp_norm(R"(post_attention_layernorm$)"),
        up_to_down}},
      {{"Qwen2Moe", "Qwen3Moe", "Glm4Moe"},
       {input_to_qkv,
        values_to_output,
        {R"(post_attention_layernorm$)", {R"(mlp\.experts\.[0-9]+\.gate_proj$)", R"(mlp\.experts\.[0-9]+\.up_proj$)"}},
        up_to_down}},
      {{"Llama4"},
       {input_to_qkv,
        values_to_output,
        {R"(post_attention_layernorm$)", {R"(feed_forward\.router$)", R"(feed_forward.*gate_proj$)", R"(feed_forward.*up_proj$)"}},
        up_to_down}},
      {{"Exaone4", "Olmo3"}, {values_to_output, up_to_down}},
      {{"Afmoe"},
       {{R"(input_layernorm$)", {R"(self_attn\.q_proj$)", R"(self_attn\.k_proj$)", R"(self_attn\.v_proj$)", R"(self_attn\.gate_proj$)"}},
        values_to_output,
        {R"(pre_mlp_layernorm$)", {R"(mlp.*gate_proj$)", R"(mlp.*up_proj$)"}},
        up_to_down}},
      {{"Bagel"},
       {{R"(input_layernorm$)", {R"(\.self_attn\.q_proj$)", R"(\.self_attn\.k_proj$)", R"(\.self_attn\.v_proj$)"}},
        {R"(post_attention_layernorm$)", {R"(\.mlp\.gate_proj$)", R"(\.mlp\.up_proj$)"}},
        {R"(\.mlp\.up_proj$)", {R"(\.mlp\.down_proj$)"}}}},
  };
  return all;
}

constexpr std::array<std::string_view, 3> hybrid_classes = {"Qwen3Next", "Qwen3_5", "Qwen3_5Moe"};

/// "LlamaForCausalLM" -> "Llama"
std::string_view stem_of(std::string_view model_class) {
  const std::size_t at = model_class.find("For");
  return at == std::string_view::npos ? model_class : model_class.substr(0, at);
}

// ---- names ----

std::string_view last_part(std::string_view name) { return name.substr(name.rfind('.') + 1); }
std::string_view before_last_part(std::string_view name) {
  const std::size_t at = name.rfind('.');
  return at == std::string_view::npos ? std::string_view() : name.substr(0, at);
}
bool below(std::string_view name, std::string_view parent) { return name.size() > parent.size() + 1 && name.starts_with(parent) && name[parent.size()] == '.'; }

/// Up to and including the last part that is a number and not the end of the name; empty if there is none.
std::string_view prefix_of(std::string_view name) {
  std::string_view found;
  for (std::size_t at = 0, dot = name.find('.'); dot != std::string_view::npos; at = dot + 1, dot = name.find('.', at)) {
    const std::string_view part = name.substr(at, dot - at);
    if (!part.empty() && std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c) != 0; })) found = name.substr(0, dot);
  }
  return found;
}

std::string common_ancestor(const std::vector<std::string>& names) {
  if (names.size() == 1) return names.front();
  std::string_view common = before_last_part(names.front());
  for (const std::string& n : names)
    while (!common.empty() && !below(n, common)) common = before_last_part(common);
  return std::string(common);
}

bool is_routed_expert(std::string_view name) {
  constexpr std::string_view experts = ".experts.";
  for (std::size_t at = name.find(experts); at != std::string_view::npos; at = name.find(experts, at + 1)) {
    std::size_t end = at + experts.size();
    const std::size_t digits = end;
    while (end < name.size() && std::isdigit(static_cast<unsigned char>(name[end])) != 0) ++end;
    if (end > digits && end < name.size() && name[end] == '.') return true;
  }
  return false;
}

/// Dynamic rules of models whose layers attend in different ways (section 2.3); none if this model is not such.
std::optional<rules> hybrid_rules(const std::vector<module_info>& modules, const mapping_facts& facts) {
  if (std::find(hybrid_classes.begin(), hybrid_classes.end(), stem_of(facts.model_class)) == hybrid_classes.end()) return std::nullopt;
  std::string full, linear;
  for (std::size_t i = 0; i < facts.layer_types.size(); ++i) {
    std::string* const list = facts.layer_types[i] == "full_attention" ? &full : facts.layer_types[i] == "linear_attention" ? &linear : nullptr;
    if (list != nullptr) *list += (list->empty() ? "" : "|") + std::to_string(i);
  }
  if (full.empty() || linear.empty()) return std::nullopt;
  rules all = {{R"(layers\.()" + full + R"()\.input_layernorm$)", {R"(self_attn\.q_proj$)", R"(self_attn\.k_proj$)", R"(self_attn\.v_proj$)"}}};
  mapping_rule linear_input = {R"(layers\.()" + linear + R"()\.input_layernorm$)", {}};
  bool moe = false;
  for (const module_info& m : modules) {
    moe = moe || m.name.find(".mlp.experts.") != std::string::npos;
    const std::string_view part = last_part(m.name);
    if (!part.starts_with("in_proj_") || !before_last_part(m.name).ends_with("linear_attn")) continue;
    const std::string pattern = R"(linear_attn\.)" + std::string(part) + "$";
    if (std::find(linear_input.balance.begin(), linear_input.balance.end(), pattern) == linear_input.balance.end()) linear_input.balance.push_back(pattern);
  }
  all.push_back(std::move(linear_input));
  if (moe) {
    all.push_back({R"(post_attention_layernorm$)", {R"(mlp\.experts\.[0-9]+\.gate_proj$)", R"(mlp\.experts\.[0-9]+\.up_proj$)", R"(mlp\.shared_expert\.gate_proj$)",
                                                   R"(mlp\.shared_expert\.up_proj$)"}});
  } else {
    all.push_back(mlp_norm(R"(post_attention_layernorm$)"));
  }
  all.push_back(up_to_down);
  return all;
}

// ---- resolution ----

bool one_of(std::string_view name, std::span<const std::string_view> names) { return std::find(names.begin(), names.end(), name) != names.end(); }

/// What a layer's name says about its input: that of the attention or the MLP as a whole, or something computed inside.
constexpr std::array<std::string_view, 22> room_readers = {
    "q_proj", "k_proj", "v_proj", "q_a_proj", "kv_a_proj_with_mqa", "qkv_proj", "query_key_value", "Wqkv",   "gate_proj",     "up_proj",      "gate_up_proj",
    "gate",   "router", "w1",     "w3",       "shared_expert_gate", "fc1",      "dense_h_to_4h",   "in_proj", "wk",        "weights_proj", "classifier"};
constexpr std::array<std::string_view, 11> inner_readers = {"o_proj", "out_proj", "dense", "down_proj", "w2", "fc2", "dense_4h_to_h", "q_b_proj", "kv_b_proj", "wq_b", "conv1d"};
constexpr std::array<std::string_view, 4> routers = {"gate", "router", "shared_expert_gate", "classifier"};
bool reads_room(std::string_view part) { return one_of(part, room_readers) || part.starts_with("in_proj_"); }

class resolver {
 public:
  resolver(const std::vector<module_info>& modules, const mapping_facts& facts, const mapping_options& options)
      : modules_(modules), facts_(facts), options_(options), strict_(options.policy == mapping_policy::strict) {}

  result<mapping_list> run() {
    choose_rules();
    for (std::size_t i = 0; i < modules_.size(); ++i) {
      by_name_.emplace(modules_[i].name, i);
      const std::string_view prefix = prefix_of(modules_[i].name);
      if (prefix.empty()) continue;
      const auto [at, fresh] = members_.try_emplace(prefix);
      if (fresh) prefixes_.push_back(prefix);
      at->second.push_back(i);
    }
    for (const mapping_rule& r : rules_) {
      compiled c;
      if (auto e = match(r.smooth, c.smooth); !e) return forward_error(e);
      for (const std::string& b : r.balance) {
        c.balance.emplace_back();
        if (auto e = match(b, c.balance.back()); !e) return forward_error(e);
      }
      compiled_.push_back(std::move(c));
    }
    for (const std::string_view prefix : prefixes_)
      for (const compiled& c : compiled_)
        for (const std::size_t i : members_[prefix])
          if (c.smooth[i] && !modules_[i].shape.empty()) add(prefix, c, i);
    if (out_.mappings.empty())
      return fail(error_kind::unsupported, fmt::format("AWQ finds nothing to smooth in a {}: none of its layers fit the mappings of that class", facts_.model_class));
    return std::move(out_);
  }

 private:
  struct compiled {
    std::vector<bool> smooth;  // by module
    std::vector<std::vector<bool>> balance;
  };

  void choose_rules() {
    explicit_ = !options_.rules.empty();
    if (explicit_) {
      rules_ = options_.rules;
      return;
    }
    if (auto hybrid = hybrid_rules(modules_, facts_)) {
      rules_ = std::move(*hybrid);
      return;
    }
    const std::string_view stem = stem_of(facts_.model_class);
    for (const rule_set& s : rule_sets())
      if (one_of(stem, s.classes) || (s.classes.front() == "Bagel" && stem.starts_with("Bagel"))) {
        rules_ = s.of;
        return;
      }
    rules_ = default_rules();
    out_.warnings.push_back(fmt::format("AWQ does not know the class {}; layers are matched by LLaMA's names", facts_.model_class));
  }

  result<void> match(const std::string& pattern, std::vector<bool>& out) {
    auto expression = regex::compile(pattern);
    if (!expression) {
      error e = expression.error();
      e.kind = error_kind::usage;
      return tl::unexpected<error>(std::move(e));
    }
    std::vector<text::span_match> found;
    out.resize(modules_.size());
    for (std::size_t i = 0; i < modules_.size(); ++i) {
      if (auto r = expression->find_all(modules_[i].name, space_, found); !r) return r;
      out[i] = !found.empty();
    }
    return {};
  }

  void collect(const compiled& c, std::string_view prefix, bool inside, std::vector<std::string>& out) const {
    for (const std::vector<bool>& matches : c.balance)
      for (const std::string_view p : prefixes_) {
        if (inside ? !below(p, prefix) : p != prefix) continue;
        for (const std::size_t i : members_.find(p)->second)
          if (matches[i] && modules_[i].linear) out.push_back(modules_[i].name);
      }
  }

  const module_info& module(const std::string& name) const { return modules_[by_name_.find(name)->second]; }

  void add(std::string_view prefix, const compiled& c, std::size_t smooth) {
    const module_info& s = modules_[smooth];
    awq_mapping m;
    m.smooth = s.name;
    collect(c, prefix, false, m.balance);
    if (m.balance.empty()) collect(c, prefix, true, m.balance);
    if (strict_ && s.shape.size() == 2) {
      // Rows of a layer are read by its neighbors alone; the same prefix may hold several MLPs.
      std::erase_if(m.balance, [&](const std::string& b) { return before_last_part(b) != before_last_part(s.name); });
    }
    if (m.balance.empty()) return;
    m.rows = s.shape[0];
    const auto inputs = [&](const std::string& name) { return module(name).shape.size() == 2 ? module(name).shape[1] : 0; };
    if (!std::all_of(m.balance.begin(), m.balance.end(), [&](const std::string& b) { return inputs(b) == s.shape[0]; }) &&
        !(strict_ && m.balance.size() == 1 && slice(s, inputs(m.balance.front()), m)))
      return;
    m.parent = common_ancestor(m.balance);
    if (options_.skip_moe && !explicit_) {
      if (is_routed_expert(m.smooth)) return;
      if (std::erase_if(m.balance, [](const std::string& b) { return is_routed_expert(b); }) > 0) {
        if (m.balance.empty()) return;
        m.parent = common_ancestor(m.balance);
      }
    }
    if (strict_ && !make_safe(prefix, m)) return;
    out_.mappings.push_back(std::move(m));
  }

  /// Fewer rows than columns, or the last rows of a fused layer: the values under grouped queries, the upper half of gate and up.
  bool slice(const module_info& s, std::uint64_t inputs, awq_mapping& m) const {
    const std::string_view part = last_part(s.name);
    if (s.shape.size() != 2 || inputs == 0) return false;
    if (part == "gate_up_proj" && s.shape[0] == 2 * inputs) {
      m.rows = inputs;
      return true;
    }
    const std::uint64_t heads = facts_.heads, kv = facts_.kv_heads;
    if (heads == 0 || kv == 0 || heads % kv != 0 || inputs % heads != 0) return false;
    const std::uint64_t head = inputs / heads, values = kv * head;
    if (!(part == "v_proj" && s.shape[0] == values) && !(part == "qkv_proj" && s.shape[0] == inputs + 2 * values)) return false;
    m.rows = values;
    m.tied = heads / kv;
    m.head = head;
    return true;
  }

  bool drop(const awq_mapping& m, const std::string& why) {
    out_.warnings.push_back(fmt::format("AWQ leaves {} as it is: {}", m.smooth, why));
    return false;
  }
  bool block_has(std::string_view prefix, std::string_view part) const { return by_name_.contains(fmt::format("{}.{}", prefix, part)); }

  /// Completes the set to all readers of what the smooth layer writes; false if the mapping must be dropped.
  bool make_safe(std::string_view prefix, awq_mapping& m) {
    const module_info& s = module(m.smooth);
    const std::string_view part = last_part(m.smooth), owner = before_last_part(m.smooth);
    if (s.shape.size() == 2) {
      if (part == "fc1" && facts_.activation != "relu")
        return drop(m, fmt::format("a factor passes through ReLU only, and the activation is {}", facts_.activation.empty() ? "not known" : facts_.activation));
      if (by_name_.contains(fmt::format("{}.v_norm", owner))) return drop(m, "its output is normed");
      return true;
    }
    if (s.shape.size() != 1) return drop(m, "its weight is neither a vector nor a matrix");
    if (owner != prefix) {
      // Norms inside attention: of compressed queries and of compressed keys and values.
      if (part == "q_a_layernorm") return complete(m, owner, s.shape[0], [](std::string_view p) { return p == "q_b_proj" || p == "wq_b"; }, {});
      if (part == "kv_a_layernorm") return complete(m, owner, s.shape[0], [](std::string_view p) { return p == "kv_b_proj"; }, {});
      return drop(m, "who reads the norm is not known");
    }
    const bool wrapped = block_has(prefix, "pre_feedforward_layernorm") || block_has(prefix, "post_feedforward_layernorm");
    if (part == "post_attention_layernorm" && wrapped) return drop(m, "it follows attention here and does not feed the MLP");
    std::set<std::string> rooms;
    for (const std::string& b : m.balance) {
      const std::string_view rest = std::string_view(b).substr(prefix.size() + 1);
      rooms.emplace(rest.substr(0, rest.find('.')));
    }
    // Blocks with a single norm run attention and MLP side by side on it.
    std::size_t norms = 0;
    std::set<std::string> all_rooms;
    for (const std::size_t i : members_[prefix]) {
      const std::string_view rest = std::string_view(modules_[i].name).substr(prefix.size() + 1);
      if (modules_[i].shape.size() == 1 && rest.find('.') == std::string_view::npos) ++norms;
      if (modules_[i].shape.size() == 2) all_rooms.emplace(rest.substr(0, rest.find('.')));
    }
    if (norms < 2 && rooms != all_rooms) return drop(m, "other layers of the block read the same norm");
    for (const std::string& room : rooms)
      if (!complete(m, fmt::format("{}.{}", prefix, room), s.shape[0], reads_room, inner_readers)) return false;
    return true;
  }

  /// Adds to the mapping what lies below `room` and reads a vector of `size` by its name; false if a name does not say what it reads.
  template <class F>
  bool complete(awq_mapping& m, std::string_view room, std::uint64_t size, const F& reads, std::span<const std::string_view> others) {
    for (const module_info& other : modules_) {
      if (!below(other.name, room) || other.shape.size() != 2 || other.shape[1] != size) continue;
      const std::string_view part = last_part(other.name);
      if (std::find(m.balance.begin(), m.balance.end(), other.name) != m.balance.end()) continue;
      if (reads(part)) {
        // Experts that are searched bring their neighbors; what the search leaves out is scaled all the same.
        const bool searched = other.linear && !one_of(part, routers) && !(options_.skip_moe && !explicit_ && is_routed_expert(other.name));
        (searched ? m.balance : m.others).push_back(other.name);
      } else if (!others.empty() && !one_of(part, others)) {
        return drop(m, fmt::format("whether {} reads it is not known", other.name));
      }
    }
    m.parent = common_ancestor(m.balance);
    return true;
  }

  const std::vector<module_info>& modules_;
  const mapping_facts& facts_;
  const mapping_options& options_;
  const bool strict_;
  bool explicit_ = false;
  rules rules_;
  std::vector<compiled> compiled_;
  regex::workspace space_;
  std::map<std::string_view, std::size_t> by_name_;
  std::map<std::string_view, std::vector<std::size_t>> members_;  // of a prefix, in model order
  std::vector<std::string_view> prefixes_;                        // in the order of their first member
  mapping_list out_;
};

}  // namespace

result<mapping_list> resolve_mappings(const std::vector<module_info>& modules, const mapping_facts& facts, const mapping_options& options) {
  return resolver(modules, facts, options).run();
}

}  // namespace auto_round::transform
