#include "transform/awq.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <set>
#include <utility>

#include "io/record_fields.hpp"
#include "model/block.hpp"
#include "model/linalg.hpp"
#include "tune/importance.hpp"
#include "tune/quantizer.hpp"

namespace auto_round::transform {
namespace {

using ar::matrix_view;
using std::size_t;
using floats = std::vector<float>;

constexpr std::string_view weight_suffix = ".weight", bias_suffix = ".bias";

/// Sum of squared differences over the rows of a and b that count, in a fixed order.
double squared_difference(const float* a, const float* b, const std::uint8_t* counts, size_t rows, size_t n) {
  std::vector<double> of_row(rows, 0.0);
#pragma omp parallel for schedule(static)
  for (size_t r = 0; r < rows; ++r) {
    if (counts != nullptr && counts[r] == 0) continue;
    double sum = 0;
    for (size_t i = r * n; i < (r + 1) * n; ++i) {
      const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
      sum += d * d;
    }
    of_row[r] = sum;
  }
  double sum = 0;
  for (const double s : of_row) sum += s;
  return sum;
}

/// What one input of a block's layers (that of q, k and v; of o; of gate and up; of down) looked like over the calibration set.
struct input_statistics {
  floats sum, mean;      // of |x|, by channel
  size_t tokens = 0;
  floats gram;           // x'x, where a single layer is compared
  floats features;       // some rows, for clipping
  size_t rows = 0;       // of them
  tune::column_importance importance;  // where searches are weighted
  bool sampled = false;  // a single layer is compared that reads quantized rows: x'x does not tell their error
  floats sample;         // some rows, for that
};

/// Rows that a single layer with quantized inputs is compared on. As many tokens do as well as four times as many where attention and MLP are compared
/// (docs/design.md).
constexpr size_t sampled_rows = 2048;

}  // namespace

// ---- what becomes of the tensors ----

bool awq_changes::touches(const std::string& tensor) const {
  const auto at = of_.find(tensor);
  return at != of_.end() && (at->second.replaced || !at->second.scaled.empty() || (at->second.clip && !at->second.clip->only_init));
}

const awq_changes::clipped* awq_changes::initial_ranges(const std::string& tensor) const {
  const auto at = of_.find(tensor);
  return at != of_.end() && at->second.clip && at->second.clip->only_init ? at->second.clip.get() : nullptr;
}

result<void> awq_changes::apply(const std::string& tensor, std::span<float> values) const {
  const auto at = of_.find(tensor);
  if (at == of_.end()) return {};
  const change& c = at->second;
  if (c.replaced) {
    if (c.replaced->size() != values.size()) return fail(error_kind::internal, "AWQ has another size for a tensor", {}, tensor);
    std::copy(c.replaced->begin(), c.replaced->end(), values.begin());
  }
  const bool bias = tensor.ends_with(bias_suffix);
  for (const auto& [columns, factor] : c.scaled) {
    const size_t n = factor->size();
    const size_t cols = columns ? n : bias ? 1 : c.columns;
    if (n == 0 || cols == 0 || values.size() % cols != 0) return fail(error_kind::internal, "AWQ has another shape for a tensor", {}, tensor);
    const matrix_view<float> w(values.data(), values.size() / cols, cols);
    const ar::errc e = columns ? ar::awq::scale_columns(w, factor->data(), c.format, w) : ar::awq::unscale_rows(w, nullptr, factor->data(), n, c.format);
    if (e != ar::errc::ok) return fail(error_kind::internal, "AWQ has another shape for a tensor", {}, tensor);
  }
  if (!c.clip || c.clip->only_init) return {};
  return apply_clips({values.data(), values.size() / c.columns, c.columns}, c.clip->group_size, *c.clip->step, c.clip->options, c.format);
}

std::vector<std::byte> to_record(const awq_changes& changes) {
  io::record_writer out;
  out.put(static_cast<std::uint64_t>(changes.of_.size()));
  for (const auto& [tensor, c] : changes.of_) {
    out.put_all(tensor), out.put(static_cast<std::uint64_t>(c.columns)), out.put(c.format);
    out.put_all(c.replaced ? *c.replaced : floats());
    out.put(static_cast<std::uint64_t>(c.scaled.size()));
    for (const auto& [columns, factors] : c.scaled) out.put(static_cast<std::uint8_t>(columns)), out.put_all(*factors);
    out.put(static_cast<std::uint8_t>(c.clip != nullptr));
    if (c.clip != nullptr) out.put(c.clip->group_size), out.put(c.clip->options), out.put(static_cast<std::uint8_t>(c.clip->only_init)), out.put_all(*c.clip->step);
  }
  return out.take();
}

std::optional<awq_changes> changes_of_record(std::span<const std::byte> record) {
  io::record_reader in(record);
  awq_changes changes;
  for (std::uint64_t n = in.count(sizeof(std::uint64_t)); n > 0 && in.ok(); --n) {
    std::string tensor;
    std::uint64_t columns = 0;
    std::uint8_t flag = 0;
    floats values;
    in.get_all(tensor);
    awq_changes::change& c = changes.of_[tensor];
    in.get(columns), in.get(c.format), in.get_all(values);
    c.columns = static_cast<size_t>(columns);
    if (!values.empty()) c.replaced = std::make_shared<const floats>(std::move(values));
    for (std::uint64_t s = in.count(1 + sizeof(std::uint64_t)); s > 0 && in.ok(); --s) {
      floats factors;
      in.get(flag), in.get_all(factors);
      c.scaled.emplace_back(flag != 0, std::make_shared<const floats>(std::move(factors)));
    }
    in.get(flag);
    if (flag == 0) continue;
    auto ranges = std::make_shared<awq_changes::clipped>();
    std::vector<std::uint16_t> step;
    in.get(ranges->group_size), in.get(ranges->options), in.get(flag), in.get_all(step);
    ranges->only_init = flag != 0;
    ranges->step = std::make_shared<const std::vector<std::uint16_t>>(std::move(step));
    c.clip = std::move(ranges);
  }
  if (!in.done()) return std::nullopt;
  return changes;
}

result<void> awq_source::read(const std::string& name, std::span<float> out) const {
  if (auto r = source_.read(name, out); !r) return r;
  return changes_.apply(name, out);
}

result<void> awq_source::read_part(const std::string& name, std::uint64_t elements, std::uint64_t first, std::span<float> out) const {
  if (changes_.touches(name)) return weight_source::read_part(name, elements, first, out);
  return source_.read_part(name, elements, first, out);
}

// ---- the pass over the model ----

class awq_pass {
 public:
  awq_pass(const model::weight_source& source, const text::calibration_set& set, const layer_schemes& schemes, const awq_options& o, const awq_events& events)
      : source_(source),
        spec_(source.spec()),
        set_(set),
        schemes_(schemes),
        o_(o),
        events_(events),
        peer_(o.mapping.policy == mapping_policy::peer),
        weighted_(!peer_ && o.search != search_quantizer::rtn),
        hidden_(static_cast<size_t>(spec_.hidden_size)),
        runner_(spec_, linalg::precision::f32) {}

  result<awq_changes> run() {
    if (auto r = check(); !r) return forward_error(r);
    if (auto r = make_quantizers(); !r) return forward_error(r);
    auto list = resolve_mappings(modules(), facts(), o_.mapping);
    if (!list) return forward_error(list);
    for (const std::string& w : list->warnings) warn(w);
    mappings_ = std::move(list->mappings);
    // Smoothing alone changes nothing about what a block gives, up to rounding: where the compared samples are copied, one pass of the float block is enough.
    passed_on_ = !peer_ && probed_.size() < samples_ && (!o_.apply_clip || o_.clip_as_init);
    auto taken = take_over();
    if (!taken) return forward_error(taken);
    if (*taken == spec_.num_layers) return std::move(changes_);
    if (auto r = embed(); !r) return forward_error(r);
    for (std::int64_t b = 0; b < spec_.num_layers; ++b) {
      if (auto r = b < *taken ? pass_over(b) : do_block(b); !r) return forward_error(r);
      source_.done_with_block(b);
      if (events_.on_block && !events_.on_block(b + 1, spec_.num_layers)) return fail(error_kind::interrupted, "interrupted while smoothing");
    }
    return std::move(changes_);
  }

 private:
  enum class parent { attention, mlp, layer };
  /// A mapping of this block, in indices of its linear layers.
  struct task {
    const awq_mapping* mapping = nullptr;
    parent kind = parent::layer;
    std::vector<int> balance;
    int smooth = -1;  // -1: a norm
    tied_columns tie;
    floats x_mean;    // of the mapping, divided by what was folded
    floats folded;    // product of the factors of all rounds, one for each column of the inputs
  };

  // ---- preparation ----

  void warn(const std::string& text) const {
    if (events_.on_warning) events_.on_warning(text);
  }

  result<void> check() {
    const auto range = [](bool fine, const char* what) -> result<void> {
      if (fine) return {};
      return fail(error_kind::usage, std::string("AWQ: ") + what);
    };
    for (const auto& [fine, what] :
         {std::pair{o_.n_grid >= 1 && o_.n_grid <= 100000, "n_grid must be from 1 to 100000"}, {o_.batch_size >= 1, "batch_size must be at least 1"},
          {o_.smooth_batch_size >= 0, "smooth_batch_size must not be negative"}, {o_.clip_n_grid >= 1 && o_.clip_n_grid <= 10000, "clip_n_grid must be from 1 to 10000"},
          {o_.clip_max_shrink > 0 && o_.clip_max_shrink < 1, "clip_max_shrink must be between 0 and 1"},
          {o_.clip_n_sample_token >= 1, "clip_n_sample_token must be at least 1"}, {o_.smooth_iters >= 1, "smooth_iters must be at least 1"},
          {o_.apply_clip || !o_.clip_as_init, "clip_as_init needs apply_clip"}})
      if (auto r = range(fine, what); !r) return r;
    if (set_.rows() < 1 || set_.valid.size() != set_.ids.size()) return fail(error_kind::usage, "the calibration set is empty");
    seqlen_ = static_cast<size_t>(set_.seqlen);
    if (o_.seqlen > 0) seqlen_ = std::min(seqlen_, static_cast<size_t>(o_.seqlen));
    samples_ = static_cast<size_t>(set_.rows());
    batch_ = static_cast<size_t>(o_.batch_size);
    replay_ = o_.smooth_batch_size > 0 ? static_cast<size_t>(o_.smooth_batch_size) : batch_;
    counted_ = samples_ * seqlen_;
    const size_t every = o_.search_tokens <= 0 || peer_ ? 1 : sample_step(counted_, static_cast<size_t>(o_.search_tokens));
    for (size_t s = 0; s < samples_; s += std::min(every, samples_)) probed_.push_back(s);
    probe_counted_ = probed_.size() * seqlen_;
    if (!o_.leave_out_padding) return {};
    counts_.resize(samples_ * seqlen_);
    for (size_t s = 0; s < samples_; ++s) std::copy_n(set_.valid.begin() + static_cast<std::ptrdiff_t>(s * static_cast<size_t>(set_.seqlen)), seqlen_, counts_.begin() + static_cast<std::ptrdiff_t>(s * seqlen_));
    counted_ = static_cast<size_t>(std::count_if(counts_.begin(), counts_.end(), [](std::uint8_t c) { return c != 0; }));
    if (probed_.size() < samples_) {
      for (const size_t s : probed_)
        probe_counts_.insert(probe_counts_.end(), counts_.begin() + static_cast<std::ptrdiff_t>(s * seqlen_), counts_.begin() + static_cast<std::ptrdiff_t>((s + 1) * seqlen_));
    } else {
      probe_counts_ = counts_;
    }
    probe_counted_ = static_cast<size_t>(std::count_if(probe_counts_.begin(), probe_counts_.end(), [](std::uint8_t c) { return c != 0; }));
    if (counted_ == 0 || probe_counted_ == 0) return fail(error_kind::usage, "no token of the calibration set counts");
    return {};
  }

  result<void> make_quantizers() {
    for (const auto& [name, scheme] : schemes_) {
      if (scheme.bits >= 16) continue;
      const bool known = std::any_of(quantizers_.begin(), quantizers_.end(), [&, &s = scheme](const auto& q) { return q.first == s; });
      if (known) continue;
      auto q = make_fake_quantizer(scheme, o_.search);
      if (!q) {
        error e = q.error();
        e.tensor = name;
        return tl::unexpected<error>(std::move(e));
      }
      quantizers_.emplace_back(scheme, std::move(*q));
    }
    return {};
  }
  const ar::scheme_fields* scheme_of(const std::string& name) const {
    const auto at = schemes_.find(name);
    return at == schemes_.end() || at->second.bits >= 16 ? nullptr : &at->second;
  }
  const fake_quantizer& quantizer_of(const ar::scheme_fields& scheme) const {
    return std::find_if(quantizers_.begin(), quantizers_.end(), [&](const auto& q) { return q.first == scheme; })->second;
  }

  static std::string without_suffix(const std::string& name) { return name.substr(0, name.size() - weight_suffix.size()); }
  std::string norm_name(std::int64_t block, bool input) const {
    return spec_.block_prefix + std::to_string(block) + "." + (input ? spec_.input_norm_name : spec_.post_attention_norm_name);
  }

  std::vector<module_info> modules() const {
    std::vector<module_info> all;
    for (std::int64_t b = 0; b < spec_.num_layers; ++b) {
      for (size_t i = 0; i < spec_.linears.size(); ++i) {
        if (!spec_.has_linear(b, static_cast<int>(i))) continue;
        const model::linear_desc& d = spec_.linears[i];
        all.push_back({spec_.linear_name(b, static_cast<int>(i)), true, {static_cast<std::uint64_t>(d.out_features), static_cast<std::uint64_t>(d.in_features)}});
      }
      for (const bool input : {true, false}) all.push_back({without_suffix(norm_name(b, input)), false, {static_cast<std::uint64_t>(spec_.hidden_size)}});
      for (const model::part_desc& p : spec_.parts)
        if (spec_.exists(p.where, b) && p.name.ends_with(weight_suffix))
          all.push_back({without_suffix(spec_.block_name(b) + p.name), false, {p.shape.begin(), p.shape.end()}});
    }
    return all;
  }
  mapping_facts facts() const {
    return {spec_.model_class, {}, spec_.hidden_act, static_cast<std::uint64_t>(spec_.num_heads), static_cast<std::uint64_t>(spec_.num_kv_heads)};
  }

  result<void> embed() {
    x_.resize(samples_ * seqlen_ * hidden_);
    for (size_t s = 0; s < samples_; ++s) {
      const auto rows = model::embed(source_, std::span(set_.ids).subspan(s * static_cast<size_t>(set_.seqlen), seqlen_));
      if (!rows) return forward_error(rows);
      std::copy(rows->begin(), rows->end(), x_.begin() + static_cast<std::ptrdiff_t>(s * seqlen_ * hidden_));
    }
    return {};
  }

  // ---- one block ----

  bool reads_input(int linear) const { return spec_.reader(linear) == (spec_.latent.query_rank > 0 ? spec_.latent.query_down : spec_.q); }
  bool reads_middle(int linear) const {
    return is_expert(linear) ? is_expert_input(linear) : spec_.reader(linear) == (spec_.gate < 0 ? spec_.up : spec_.gate);
  }
  bool is_expert(int linear) const {
    const model::mixture_spec& m = spec_.mixture;
    return m.experts > 0 && ((linear >= m.first && linear < m.first + 3 * m.experts) || (m.shared >= 0 && linear >= m.shared && linear < m.shared + 3));
  }
  bool is_expert_input(int linear) const {
    const model::mixture_spec& m = spec_.mixture;
    return (linear - (m.shared >= 0 && linear >= m.shared ? m.shared : m.first)) % 3 != 2;
  }
  /// Of the layers that read the same rows, the first. Every token goes to as many experts, so that all their rows together stand for what the norm gives.
  int reader(int linear) const { return is_expert(linear) && is_expert_input(linear) ? spec_.mixture.first : spec_.reader(linear); }
  size_t in_features(int linear) const { return static_cast<size_t>(spec_.linears[static_cast<size_t>(linear)].in_features); }
  floats& weight(int linear) { return w_.linears[static_cast<size_t>(linear)]; }
  matrix_view<float> view(int linear) {
    floats& w = weight(linear);
    return {w.data(), w.size() / in_features(linear), in_features(linear)};
  }
  ar::real stored(const std::string& tensor) const { return o_.stored ? o_.stored(tensor) : ar::real::f32; }
  /// What folded weights of a layer are rounded to: nothing, as they are quantized next; the original holds them in the checkpoint's type.
  ar::real format_of(int linear) const { return peer_ ? stored(name(linear) + std::string(weight_suffix)) : ar::real::f32; }
  std::string name(int linear) const { return spec_.linear_name(block_, linear); }

  result<void> do_block(std::int64_t b) {
    block_ = b;
    auto w = model::read_block(source_, b);
    if (!w) return forward_error(w);
    w_ = std::move(*w);
    for (const bool input : {true, false}) norms_[input ? 0 : 1] = input ? w_.input_norm : w_.post_attention_norm;
    have_middle_ = have_probe_ = false;
    auto tasks = tasks_of_block();
    if (!tasks) return forward_error(tasks);
    if (auto r = collect(*tasks); !r) return r;
    if (o_.apply_smooth) {
      for (int round = 0; round < o_.smooth_iters; ++round)
        for (task& t : *tasks)
          if (auto r = smooth(t, round); !r) return r;
    }
    if (o_.apply_clip) {
      if (auto r = clip(*tasks); !r) return r;
    }
    // The next block reads what the changed one gives.
    if (!passed_on_) pass_on(w_);
    if (events_.on_changes) events_.on_changes(changes_of_block());
    return {};
  }

  void pass_on(const model::block_weights& w) {
    for (size_t s = 0; s < samples_; s += batch_) {
      const size_t n = std::min(batch_, samples_ - s);
      runner_.forward(w, row(x_, s), n, seqlen_, row(x_, s));
    }
  }

  awq_changes changes_of_block() const {
    awq_changes own;
    for (const auto& [tensor, change] : changes_.of_)
      if (tensor.starts_with(spec_.block_name(block_))) own.of_.emplace(tensor, change);
    return own;
  }

  /// Takes what an earlier run found in the first blocks; their number.
  result<std::int64_t> take_over() {
    std::int64_t b = 0;
    for (; events_.recorded && b < spec_.num_layers; ++b) {
      auto record = events_.recorded(b);
      if (!record) return forward_error(record);
      if (!*record) break;
      changes_.of_.merge((*record)->of_);
    }
    return b;
  }

  /// The next block reads what it reads behind do_block.
  result<void> pass_over(std::int64_t b) {
    const awq_source changed(source_, changes_);
    auto w = model::read_block(passed_on_ ? source_ : static_cast<const model::weight_source&>(changed), b);
    if (!w) return forward_error(w);
    pass_on(*w);
    return {};
  }

  float* row(floats& rows, size_t sample) const { return rows.data() + sample * seqlen_ * hidden_; }

  result<std::vector<task>> tasks_of_block() {
    std::vector<task> tasks;
    const std::string prefix = spec_.block_prefix + std::to_string(block_) + ".";
    const auto rotations = source_.rotations(block_);
    for (const awq_mapping& m : mappings_) {
      if (!m.smooth.starts_with(prefix)) continue;
      task t;
      t.mapping = &m;
      t.smooth = index_of(m.smooth);
      for (const std::string& b : m.balance) t.balance.push_back(index_of(b));
      t.tie = {static_cast<size_t>(m.tied), static_cast<size_t>(m.head)};
      const auto all = [&](auto which) { return std::all_of(t.balance.begin(), t.balance.end(), which); };
      if (t.balance.size() == 1) {
        t.kind = parent::layer;
      } else if (all([&](int i) { return reads_input(i); })) {
        t.kind = parent::attention;
      } else if (all([&](int i) { return reads_middle(i); })) {
        t.kind = parent::mlp;
      } else {
        warn(fmt::format("AWQ leaves {} as it is: the layers behind it do not end in one output", m.smooth));
        continue;
      }
      // Rotated inputs mix the channels that the factors would tell apart.
      if (rotations) {
        const int first = t.balance.front();
        const auto& of_input = reads_input(first) ? rotations->attention_input : reads_middle(first) ? rotations->mlp_input : first == spec_.o ? rotations->o_input : rotations->down_input;
        if (of_input) {
          warn(fmt::format("AWQ leaves {} as it is: what it feeds is rotated on the way", m.smooth));
          continue;
        }
      }
      if (!quantized_alike(t)) continue;
      tasks.push_back(std::move(t));
    }
    return tasks;
  }

  int index_of(const std::string& module) const {
    for (size_t i = 0; i < spec_.linears.size(); ++i)
      if (spec_.linear_name(block_, static_cast<int>(i)) == module) return static_cast<int>(i);
    return -1;
  }

  bool quantized_alike(const task& t) const {
    const std::string& smooth = t.mapping->smooth;
    const ar::scheme_fields* first = nullptr;
    if (t.smooth >= 0 && scheme_of(smooth) == nullptr) {
      warn(fmt::format("AWQ leaves {} as it is: it stays in 16 bits", smooth));
      return false;
    }
    for (const std::string& b : t.mapping->balance) {
      const ar::scheme_fields* s = scheme_of(b);
      if (s == nullptr) {
        warn(fmt::format("AWQ leaves {} as it is: {} stays in 16 bits", smooth, b));
        return false;
      }
      if (first == nullptr) first = s;
      if (s->bits != first->bits || s->group_size != first->group_size || s->group_rows != first->group_rows || s->sym != first->sym ||
          s->data_type != first->data_type || s->super_bits != first->super_bits || s->super_group_size != first->super_group_size) {
        warn(fmt::format("AWQ leaves {} as it is: the layers behind it have different schemes", smooth));
        return false;
      }
    }
    return true;
  }

  bool inputs_quantized(const task& t) const { return o_.quantize_inputs && !peer_ && tune::quantizes_activations(*scheme_of(t.mapping->balance.front())); }

  // ---- statistics ----

  result<void> collect(std::vector<task>& tasks) {
    statistics_.clear();
    for (const task& t : tasks) {
      input_statistics& s = statistics_[reader(t.balance.front())];
      if (t.kind != parent::layer) continue;
      s.sampled = inputs_quantized(t);
      if (!s.sampled) s.gram.assign(in_features(t.balance.front()) * in_features(t.balance.front()), 0.0f);
    }
    if (o_.apply_clip && o_.classic_clip)
      for (int i = 0; i < static_cast<int>(spec_.linears.size()); ++i)
        if (spec_.has_linear(block_, i)) statistics_[reader(i)];
    for (auto& [linear, s] : statistics_) s.sum.assign(in_features(linear), 0.0f);
    result<void> outcome;
    probe();
    floats y(passed_on_ ? 0 : std::min(batch_, samples_) * seqlen_ * hidden_), kept;
    std::map<int, size_t> seen;  // rows of this batch, by input
    size_t step = 1, at = 0;     // thinning of clip features; first token of the batch
    const size_t sample = sample_step(samples_ * seqlen_, sampled_rows);
    const auto hook = [&](int linear, const float* x, size_t tokens) {
      if (spec_.reader(linear) != linear) return;
      const bool routed = is_expert(linear);  // rows of an expert are not those of the batch, in number or order
      linear = reader(linear);
      const auto found = statistics_.find(linear);
      if (found == statistics_.end() || !outcome) return;
      input_statistics& s = found->second;
      const size_t n = in_features(linear), first = seen[linear];
      const std::uint8_t* const counts = counts_.empty() || routed ? nullptr : counts_.data() + at + first;
      size_t rows = tokens;
      if (counts != nullptr) {
        kept.resize(tokens * n);
        rows = 0;
        for (size_t t = 0; t < tokens; ++t)
          if (counts[t] != 0) std::copy_n(x + t * n, n, kept.data() + rows++ * n);
      }
      const float* const in = counts != nullptr ? kept.data() : x;
      if (ar::awq::add_magnitudes({in, rows, n}, false, s.sum.data()) != ar::errc::ok)
        outcome = fail(error_kind::input, "the activations of the float model hold NaN or infinity", source_.location(), name(linear) + std::string(weight_suffix));
      s.tokens += rows;
      if (weighted_ && rows > 0 && s.importance.add(in, rows, n) != ar::errc::ok)
        outcome = fail(error_kind::input, "the activations of the float model are too large for their squares", source_.location(), name(linear) + std::string(weight_suffix));
      if (s.sampled) {
        // Of an expert's rows those are as many as of the others'.
        const size_t every = routed ? std::max<size_t>(1, sample * static_cast<size_t>(spec_.mixture.active) / static_cast<size_t>(spec_.mixture.experts)) : sample;
        for (size_t t = 0; t < tokens; ++t)
          if ((first + t) % every == 0 && (counts == nullptr || counts[t] != 0)) s.sample.insert(s.sample.end(), x + t * n, x + (t + 1) * n);
      }
      if (!s.gram.empty() && rows > 0) linalg::gemm_tn({in, rows, n, n, false}, {in, rows, n, n, false}, s.gram.data(), n, true);
      if (o_.apply_clip)
        for (size_t t = 0; t < tokens; ++t)
          if ((first + t) % step == 0 && (counts == nullptr || counts[t] != 0)) {
            s.features.insert(s.features.end(), x + t * n, x + (t + 1) * n);
            ++s.rows;
          }
      seen[linear] = first + tokens;
    };
    for (size_t b = 0; b < samples_ && outcome; b += batch_) {
      const size_t n = std::min(batch_, samples_ - b);
      seen.clear();
      at = b * seqlen_;
      step = sample_step(n * seqlen_, static_cast<size_t>(o_.clip_n_sample_token));
      runner_.forward(w_, row(x_, b), n, seqlen_, passed_on_ ? row(x_, b) : y.data(), hook);
    }
    if (!outcome) return outcome;
    for (auto& [linear, s] : statistics_) {
      s.mean = s.sum;
      for (float& m : s.mean) m /= static_cast<float>(std::max<size_t>(1, s.tokens));
    }
    std::erase_if(tasks, [&](const task& t) {
      if (statistics_.at(reader(t.balance.front())).tokens > 0) return false;
      warn(fmt::format("AWQ leaves {} as it is: no token reached it", t.mapping->smooth));
      return true;
    });
    for (task& t : tasks) t.x_mean = tie_mean(statistics_.at(reader(t.balance.front())).mean, t.tie);
    return {};
  }

  // ---- smoothing ----

  result<void> smooth(task& t, int round) {
    const ar::scheme_fields& scheme = *scheme_of(t.mapping->balance.front());
    const size_t cols = in_features(t.balance.front());
    std::vector<balance_layer> layers;
    for (const int i : t.balance) layers.push_back({view(i), &quantizer_of(scheme), format_of(i), statistics_.at(reader(i)).importance.sum});
    floats w_mean;
    if (o_.duo_scaling != ar::awq::duo_scaling::off) {
      auto mean = weight_statistic(layers, scheme.group_size);
      if (!mean) return forward_error(mean);
      w_mean = tie_largest(*mean, t.tie);
    }
    // The original goes on with the inputs of the first round, which the folded norm no longer gives.
    const bool stale = peer_ && round > 0;
    floats now[2] = {w_.input_norm, w_.post_attention_norm};
    if (stale) std::tie(w_.input_norm, w_.post_attention_norm) = std::pair{norms_[0], norms_[1]};
    prepare_comparison(t);
    auto choice = search_factors(layers, t.x_mean, w_mean, t.tie, o_.duo_scaling, o_.n_grid,
                                 [&](std::span<const floats> weights, std::span<const float> s) { return error_with(t, weights, s); });
    if (stale) std::tie(w_.input_norm, w_.post_attention_norm) = std::pair{now[0], now[1]};
    if (!choice) return forward_error(choice);
    if (!*choice) {
      warn(fmt::format("AWQ leaves {} as it is: no candidate has a finite error", t.mapping->smooth));
      return {};
    }
    if (events_.on_mapping) events_.on_mapping({block_, t.mapping->smooth, (*choice)->point, (*choice)->loss, (*choice)->losses.front()});
    if ((*choice)->index == 0) return {};  // the identity
    return fold(t, std::move((*choice)->factors), cols);
  }

  /// The block's input for the samples that candidates are compared on.
  floats& probe() {
    if (probed_.size() == samples_) return x_;
    if (have_probe_) return probe_;
    probe_.resize(probed_.size() * seqlen_ * hidden_);
    for (size_t i = 0; i < probed_.size(); ++i) std::copy_n(row(x_, probed_[i]), seqlen_ * hidden_, row(probe_, i));
    have_probe_ = true;
    return probe_;
  }

  /// Reference outputs of the parent.
  void prepare_comparison(const task& t) {
    if (t.kind == parent::layer) {
      const int i = t.balance.front();
      const floats& x = statistics_.at(reader(i)).sample;
      if (!x.empty()) expected_ = product(x, weight(i), in_features(i));
      return;
    }
    floats& x = probe();
    if (t.kind == parent::mlp && !have_middle_) {
      middle_.resize(x.size());
      for (size_t s = 0; s < probed_.size(); s += batch_) {
        runner_.mlp_input(w_, row(x, s), std::min(batch_, probed_.size() - s), seqlen_, row(middle_, s));
      }
      have_middle_ = true;
    }
    expected_.resize(x.size());
    for (size_t s = 0; s < probed_.size(); s += replay_) replay(t, s, row(expected_, s));
  }

  /// The parent's output for the compared samples from `first` on.
  void replay(const task& t, size_t first, float* out) {
    const size_t n = std::min(replay_, probed_.size() - first), tokens = n * seqlen_;
    if (t.kind == parent::attention) runner_.attention_output(w_, row(probe(), first), n, seqlen_, out);
    else runner_.mlp_output(w_, row(middle_, first), tokens, out);
  }

  /// x w' of rows x and a weight w of n columns.
  static floats product(const floats& x, const floats& w, size_t n) {
    const size_t tokens = x.size() / n, rows = w.size() / n;
    floats y(tokens * rows);
    linalg::gemm_nt({x.data(), tokens, n, n, false}, {w.data(), rows, n, n, false}, y.data(), rows);
    return y;
  }

  /// Rows x as a layer of scheme `s` reads them behind the factors f of its columns, in the units of the unscaled ones.
  static result<void> quantize_rows(float* x, size_t tokens, std::span<const float> f, const ar::scheme_fields& s) {
    const size_t n = f.size();
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < tokens; ++t)
      for (size_t c = 0; c < n; ++c) x[t * n + c] /= f[c];
    if (auto r = tune::fake_quantize_activations(x, s, tokens, n, ar::real::f16); !r) return r;
#pragma omp parallel for schedule(static)
    for (size_t t = 0; t < tokens; ++t)
      for (size_t c = 0; c < n; ++c) x[t * n + c] *= f[c];
    return {};
  }

  /// Of the layers that a mapping balances, the inputs of which are quantized in replays; `outcome` tells what went wrong.
  void quantize_inputs(const task& t, std::span<const float> f, result<void>& outcome) {
    std::map<int, const ar::scheme_fields*> readers;
    for (const int i : t.balance) readers.emplace(spec_.reader(i), scheme_of(name(i)));
    runner_.set_input_filter([this, readers, f, &outcome](int linear, float* x, size_t tokens) {
      const auto found = readers.find(linear);
      if (found == readers.end() || !outcome) return;
      if (in_features(linear) != f.size()) outcome = fail(error_kind::internal, "AWQ has another number of factors than columns", {}, name(linear));
      else outcome = quantize_rows(x, tokens, f, *found->second);
    });
  }

  result<double> error_with(const task& t, std::span<const floats> weights, std::span<const float> f) {
    if (t.kind == parent::layer && inputs_quantized(t)) {
      const int i = t.balance.front();
      floats x = statistics_.at(reader(i)).sample;
      if (auto r = quantize_rows(x.data(), x.size() / f.size(), f, *scheme_of(name(i))); !r) return forward_error(r);
      const floats y = product(x, weights[0], f.size());
      return squared_difference(y.data(), expected_.data(), nullptr, x.size() / f.size(), weights[0].size() / f.size()) / static_cast<double>(y.size());
    }
    if (t.kind == parent::layer) {
      // |x d'|^2 summed over tokens is d (x'x) d'.
      const int i = t.balance.front();
      const floats &w = weight(i), &gram = statistics_.at(reader(i)).gram;
      const size_t n = in_features(i), rows = w.size() / n;
      floats d(w.size()), dg(w.size());
#pragma omp parallel for schedule(static)
      for (size_t k = 0; k < w.size(); ++k) d[k] = weights[0][k] - w[k];
      linalg::gemm_nn({d.data(), rows, n, n, false}, {gram.data(), n, n, n, false}, dg.data(), n);
      std::vector<double> of_row(rows);
#pragma omp parallel for schedule(static)
      for (size_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (size_t k = r * n; k < (r + 1) * n; ++k) sum += static_cast<double>(d[k]) * static_cast<double>(dg[k]);
        of_row[r] = sum;
      }
      double sum = 0;
      for (const double s : of_row) sum += s;
      return sum / (static_cast<double>(counted_) * static_cast<double>(rows));
    }
    std::vector<floats> own(t.balance.size());
    for (size_t k = 0; k < t.balance.size(); ++k) {
      own[k] = weights[k];
      own[k].swap(weight(t.balance[k]));
    }
    double error = 0;
    result<void> filtered;
    if (inputs_quantized(t)) quantize_inputs(t, f, filtered);
    floats out(std::min(replay_, probed_.size()) * seqlen_ * hidden_);
    for (size_t s = 0; s < probed_.size(); s += replay_) {
      replay(t, s, out.data());
      const size_t tokens = std::min(replay_, probed_.size() - s) * seqlen_;
      error += squared_difference(out.data(), row(expected_, s), probe_counts_.empty() ? nullptr : probe_counts_.data() + s * seqlen_, tokens, hidden_);
    }
    runner_.set_input_filter({});
    for (size_t k = 0; k < t.balance.size(); ++k) own[k].swap(weight(t.balance[k]));
    if (!filtered) return forward_error(filtered);
    return error / (static_cast<double>(probe_counted_) * static_cast<double>(hidden_));
  }

  awq_changes::change& change_of(const std::string& tensor, size_t columns, ar::real format) {
    awq_changes::change& c = changes_.of_[tensor];
    c.columns = columns;
    c.format = format;
    return c;
  }

  result<void> fold(task& t, floats s, size_t cols) {
    const std::string smooth = t.mapping->smooth + std::string(weight_suffix);
    const auto rows = std::make_shared<floats>(s);
    if (t.smooth < 0) {
      floats& norm = *norm_of(smooth);
      if (spec_.unit_offset) {
        // What is stored is the gain less 1.
        for (float& gain : norm) gain -= 1.0f;
        const floats before = norm;
        ar::awq::unscale_offset_norm(norm.data(), s.data(), s.size(), stored(smooth), peer_);
        if (!peer_) ar::awq::factors_after_rounding(before.data(), norm.data(), s.size(), true, s.data());
        change_of(smooth, 1, ar::real::f32).replaced = std::make_shared<floats>(norm);
        for (float& gain : norm) gain += 1.0f;
      } else {
        const floats before = norm;
        ar::awq::unscale_norm(norm.data(), s.data(), s.size(), stored(smooth));
        // With what the rounded norm has really lost in the columns, the float model stays what it was.
        if (!peer_) ar::awq::factors_after_rounding(before.data(), norm.data(), s.size(), false, s.data());
        change_of(smooth, 1, ar::real::f32).replaced = std::make_shared<floats>(norm);
      }
      const std::string bias = t.mapping->smooth + std::string(bias_suffix);
      if (floats* const b = norm_bias_of(bias); b != nullptr) {
        ar::awq::unscale_norm(b->data(), s.data(), s.size(), stored(bias));
        change_of(bias, 1, ar::real::f32).replaced = std::make_shared<floats>(*b);
      }
    } else {
      floats& bias = w_.bias[static_cast<size_t>(t.smooth)];
      const ar::real format = format_of(t.smooth);
      if (ar::awq::unscale_rows(view(t.smooth), bias.empty() ? nullptr : bias.data(), s.data(), s.size(), format) != ar::errc::ok)
        return fail(error_kind::internal, "factors do not fit the rows", {}, smooth);
      change_of(smooth, in_features(t.smooth), format).scaled.emplace_back(false, rows);
      if (!bias.empty()) change_of(t.mapping->smooth + std::string(bias_suffix), 1, format).scaled.emplace_back(false, rows);
    }
    const auto columns = std::make_shared<floats>(spread(s, cols, t.tie));
    std::vector<int> readers = t.balance;
    for (const std::string& other : t.mapping->others) {
      if (const int i = index_of(other); i >= 0) {
        readers.push_back(i);
        continue;
      }
      // A router: it is stored as it is, in float.
      const std::string tensor = other + std::string(weight_suffix);
      floats& router = w_.part(model::block_part::router);
      if (tensor != spec_.block_name(block_) + part_name(model::block_part::router)) return fail(error_kind::internal, "AWQ does not know what reads the norm", {}, tensor);
      const matrix_view<float> all(router.data(), router.size() / cols, cols);
      if (ar::awq::scale_columns(all, columns->data(), ar::real::f32, all) != ar::errc::ok) return fail(error_kind::internal, "factors do not fit the columns", {}, tensor);
      change_of(tensor, cols, ar::real::f32).scaled.emplace_back(true, columns);
    }
    for (const int i : readers) {
      if (ar::awq::scale_columns(view(i), columns->data(), format_of(i), view(i)) != ar::errc::ok)
        return fail(error_kind::internal, "factors do not fit the columns", {}, name(i));
      change_of(name(i) + std::string(weight_suffix), cols, format_of(i)).scaled.emplace_back(true, columns);
    }
    // What is known about the inputs, in the new units.
    input_statistics& known = statistics_.at(reader(t.balance.front()));
    for (size_t k = 0; k < known.features.size(); ++k) known.features[k] /= (*columns)[k % cols];
    if (peer_) return {};
    for (size_t k = 0; k < known.sample.size(); ++k) known.sample[k] /= (*columns)[k % cols];
    for (size_t k = 0; k < known.importance.sum.size(); ++k) known.importance.sum[k] /= (*columns)[k] * (*columns)[k];
    for (size_t k = 0; k < t.x_mean.size(); ++k) t.x_mean[k] /= s[k];
    for (size_t k = 0; k < known.gram.size(); ++k) known.gram[k] /= (*columns)[k % cols] * (*columns)[k / cols];
    return {};
  }

  /// The vector of a norm's weight, or of its bias, by the tensor's name.
  floats* norm_of(const std::string& tensor) {
    if (tensor == norm_name(block_, true)) return &w_.input_norm;
    if (tensor == norm_name(block_, false)) return &w_.post_attention_norm;
    return norm_bias_of(tensor);
  }
  floats* norm_bias_of(const std::string& tensor) {
    for (const model::part_desc& p : spec_.parts)
      if (p.part != model::block_part::router && tensor == spec_.block_name(block_) + p.name) return &w_.part(p.part);
    return nullptr;
  }
  std::string part_name(model::block_part part) const {
    for (const model::part_desc& p : spec_.parts)
      if (p.part == part) return p.name;
    return {};
  }

  // ---- clipping ----

  static bool any_of(std::string_view text, std::initializer_list<std::string_view> parts) {
    return std::any_of(parts.begin(), parts.end(), [&](std::string_view p) { return text.find(p) != std::string_view::npos; });
  }

  result<void> clip(const std::vector<task>& tasks) {
    std::vector<int> layers;
    if (o_.classic_clip) {
      for (size_t i = 0; i < spec_.linears.size(); ++i)
        if (spec_.has_linear(block_, static_cast<int>(i)) && !any_of(spec_.linears[i].name, {"q_", "k_", "query", "key", "Wqkv"})) layers.push_back(static_cast<int>(i));
    } else {
      for (const task& t : tasks)
        for (const int i : t.balance) {
          const std::string_view all = spec_.linears[static_cast<size_t>(i)].name;
          if (!any_of(all.substr(all.rfind('.') + 1), {"q_", "k_", "query", "key", "Wqkv", "wqkv"})) layers.push_back(i);
        }
    }
    for (const int i : layers) {
      const ar::scheme_fields* scheme = scheme_of(name(i));
      if (scheme == nullptr) continue;
      if (scheme->super_bits || scheme->data_type.ends_with("float_zp") || scheme->group_rows > 0) {
        if (block_ == 0) warn(fmt::format("AWQ does not clip {}: its data type has ranges of another kind", name(i)));
        continue;
      }
      const size_t cols = in_features(i);
      if (peer_ && scheme->group_size > 0 && cols % static_cast<size_t>(scheme->group_size) != 0) {
        warn(fmt::format("AWQ does not clip {}: rows are no multiple of the group size", name(i)));
        continue;
      }
      const input_statistics& s = statistics_.at(reader(i));
      if (s.rows == 0) continue;
      const size_t step = sample_step(s.rows, static_cast<size_t>(o_.clip_n_sample_token));
      clip_options c;
      c.n_grid = o_.clip_n_grid;
      c.max_shrink = o_.clip_max_shrink;
      c.symmetric = scheme->sym || o_.classic_clip;
      c.reference = peer_;
      auto found = search_clips(view(i), scheme->group_size, {s.features.data(), ar::ceil_div(s.rows, step), cols, step * cols}, quantizer_of(*scheme), c);
      if (!found) return forward_error(found);
      auto ranges = std::make_shared<awq_changes::clipped>();
      ranges->group_size = scheme->group_size;
      ranges->options = c;
      ranges->step = std::make_shared<std::vector<std::uint16_t>>(std::move(*found));
      ranges->only_init = o_.clip_as_init;
      if (!o_.clip_as_init) {
        if (auto r = apply_clips(view(i), scheme->group_size, *ranges->step, c, format_of(i)); !r) return r;
      }
      change_of(name(i) + std::string(weight_suffix), cols, format_of(i)).clip = std::move(ranges);
    }
    return {};
  }

  const model::weight_source& source_;
  const model::model_spec& spec_;
  const text::calibration_set& set_;
  const layer_schemes& schemes_;
  const awq_options& o_;
  const awq_events& events_;
  const bool peer_, weighted_;
  const size_t hidden_;
  size_t seqlen_ = 0, samples_ = 0, batch_ = 0, replay_ = 0, counted_ = 0;
  std::vector<std::uint8_t> counts_, probe_counts_;  // tokens that count; empty: all
  std::vector<size_t> probed_;                       // samples that candidates are compared on
  size_t probe_counted_ = 0;
  std::vector<std::pair<ar::scheme_fields, fake_quantizer>> quantizers_;
  std::vector<awq_mapping> mappings_;
  awq_changes changes_;

  model::block_runner runner_;
  floats x_;  // input of the block, [samples x seqlen x hidden]
  std::int64_t block_ = 0;
  model::block_weights w_;
  floats norms_[2];            // as they were before any folding
  floats probe_, middle_, expected_;  // of the probed samples: the input unless it is all of x_; behind attention; the parent's output
  bool have_probe_ = false, have_middle_ = false;
  bool passed_on_ = false;     // x_ is the output of the block already
  std::map<int, input_statistics> statistics_;
};

result<awq_changes> run_awq(const model::weight_source& source, const text::calibration_set& calibration, const layer_schemes& schemes,
                            const awq_options& options, const awq_events& events) {
  return awq_pass(source, calibration, schemes, options, events).run();
}

}  // namespace auto_round::transform
