#include "tune/signround.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>

#include "ar/tune.hpp"
#include "model/head.hpp"
#include "model/linalg.hpp"
#include "tune/block_loop.hpp"
#include "tune/outside_layer.hpp"
#include "tune/quantizer.hpp"
#include "tune/run_parts.hpp"
#include "tune/stopwatch.hpp"

namespace auto_round::tune {
namespace {

class block_tuner {
 public:
  block_tuner(const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
              const signround_options& options, const tuning_events& events)
      : source_(source),
        spec_(source.spec()),
        set_(calibration),
        choices_(choices),
        o_(options),
        events_(events),
        samples_(static_cast<std::size_t>(calibration.rows())),
        seqlen_(static_cast<std::size_t>(calibration.seqlen)),
        hidden_(static_cast<std::size_t>(spec_.hidden_size)),
        float_chain_(options.spill_folder),
        input_(options.spill_folder),
        loop_(spec_, calibration, options, events) {}

  result<tuning_result> run() {
    stopwatch watch;
    if (auto r = embed_calibration(source_, set_, o_.bf16_activations, float_chain_); !r) return forward_error(r);
    watch.lap(out_.seconds.collect);
    for (std::int64_t first = 0; first < spec_.num_layers; first += o_.nblocks) {
      const std::int64_t count = std::min(o_.nblocks, spec_.num_layers - first);
      if (auto r = run_unit(first, count); !r) return forward_error(r);
      for (const activations* chain : {&float_chain_, &input_})
        if (auto r = chain->state(); !r) return forward_error(r);
    }
    if (tunes_head())
      if (auto r = run_head(); !r) return forward_error(r);
    return std::move(out_);
  }

 private:
  std::size_t sample_size() const { return seqlen_ * hidden_; }

  std::vector<std::uint8_t> generator() {
    static_assert(std::is_trivially_copyable_v<ar::python_random>);
    std::vector<std::uint8_t> bytes(sizeof(ar::python_random));
    std::memcpy(bytes.data(), &loop_.random(), bytes.size());
    return bytes;
  }

  /// What an earlier run made of the unit, with the generator where that run left it; nothing if it did not come so far.
  result<std::optional<recorded_block>> recorded(std::int64_t first_block) {
    if (!events_.recorded) return std::optional<recorded_block>();
    auto known = events_.recorded(first_block);
    if (!known || !*known) return known;
    if ((*known)->result.random.size() != sizeof(ar::python_random)) return fail(error_kind::internal, "a recorded block lacks the state of the generator");
    std::memcpy(&loop_.random(), (*known)->result.random.data(), sizeof(ar::python_random));
    return known;
  }

  std::string head_layer() const { return spec_.head_name.substr(0, spec_.head_name.rfind('.')); }
  bool tunes_head() const {
    const auto choice = choices_.find(head_layer());
    return choice != choices_.end() && choice->second.scheme.bits < 16;
  }

  /// The head, on what the final norm makes of the last block's output in both chains.
  result<void> run_head() {
    stopwatch watch;
    auto known = recorded(spec_.num_layers);
    if (!known) return forward_error(known);
    if (*known) return hand_over(std::move(**known));
    layer_choices one;
    one.insert(*choices_.find(head_layer()));
    auto plan = plan_layer(head_layer(), static_cast<std::size_t>(spec_.vocab_size), hidden_, one, o_);
    if (!plan) return forward_error(plan);
    auto weight = model::read_tensor(source_, spec_.head_name, {plan->rows, plan->cols});
    if (!weight) return forward_error(weight);
    plan->grid.global_scale = own_global_scale(plan->choice->scheme, *weight);
    auto norm = model::read_final_norm(source_);
    if (!norm) return forward_error(norm);
    const bool has_quantized = o_.enable_quanted_input;
    normalize(float_chain_, *norm);
    if (has_quantized) normalize(input_, *norm);
    watch.lap(out_.seconds.collect);
    const std::size_t drawn = std::min(samples_, static_cast<std::size_t>(o_.batch_size * o_.gradient_accumulate_steps));
    std::vector<std::int32_t> order(samples_);
    ar::batch_sampler sampler(loop_.random(), order.data(), samples_, drawn);
    block_result summary;
    summary.first_block = spec_.num_layers;
    summary.blocks = 0;
    summary.quantized = summary.layers = 1;
    auto layer = tune_outside(*plan, {weight->data(), &float_chain_, has_quantized ? &input_ : &float_chain_, &set_, [&] { return sampler.next(); }}, o_, events_, summary);
    if (!layer) return forward_error(layer);
    watch.lap(out_.seconds.step);
    summary.random = generator();
    recorded_block done{std::move(summary), {}};
    done.layers.push_back(std::move(*layer));
    return hand_over(std::move(done));
  }

  result<void> hand_over(recorded_block&& unit) {
    stopwatch watch;
    out_.blocks.push_back(unit.result);
    if (events_.on_block)
      if (auto r = events_.on_block(unit.result, std::move(unit.layers)); !r) return r;
    watch.lap(out_.seconds.pack);
    return {};
  }

  /// Puts what is recorded of block `index` where tuning would leave it.
  result<void> take_over(const std::vector<layer_plan>& plan, const block_result& known, recorded_layers& layers, std::int64_t index, tuned_block& block) {
    block.quantized = block.floats;
    block.quantized.linears_bf16.resize(plan.size());
    for (std::size_t i = 0; i < plan.size(); ++i) {
      if (plan[i].choice == nullptr) continue;
      auto layer = layers.next(plan[i]);
      if (!layer) return forward_error(layer);
      const std::vector<float>& weight = (*layer)->weight;
      if (block.inputs != nullptr) block.inputs->restore(static_cast<int>(i), (*layer)->act_max);
      if (o_.precision != linalg::precision::bf16) {
        block.quantized.linears[i] = weight;
        continue;
      }
      block.quantized.linears_bf16[i].resize(weight.size());
      linalg::to_bf16(weight.data(), weight.size(), block.quantized.linears_bf16[i].data());
    }
    for_each_vector(spec_, plan, index, block, [&](const std::string& name, std::vector<float>& value, std::vector<float>&, int) {
      const auto v = std::ranges::find(known.vectors, name, &std::pair<std::string, std::vector<float>>::first);
      if (v != known.vectors.end() && v->second.size() == value.size()) value = v->second;
    });
    return {};
  }

  void normalize(activations& chain, const model::output_head& norm) const {
    std::vector<float> x(sample_size());
    for (std::size_t s = 0; s < samples_; ++s) {
      chain.load(s, 1, x.data());
      norm.normalize(x.data(), seqlen_, x.data());
      chain.store(s, 1, x.data());
    }
  }

  result<void> run_unit(std::int64_t first_block, std::int64_t count) {
    stopwatch watch;
    stage_seconds& seconds = out_.seconds;
    std::vector<tuned_block> unit(static_cast<std::size_t>(count));
    std::vector<std::vector<layer_plan>> plans;
    for (std::int64_t i = 0; i < count; ++i) {
      auto plan = plan_layers(spec_, first_block + i, choices_, o_);
      if (!plan) return forward_error(plan);
      plans.push_back(std::move(*plan));
      auto weights = model::read_block(source_, first_block + i);
      if (!weights) return forward_error(weights);
      tuned_block& block = unit[static_cast<std::size_t>(i)];
      block.floats = std::move(*weights);
      set_global_scales(spec_, block.floats, o_.compat, plans.back());
      auto inputs = input_quantizer::make(spec_, plans.back());
      if (!inputs) return forward_error(inputs);
      block.inputs = std::move(*inputs);
    }
    auto known = recorded(first_block);
    if (!known) return forward_error(known);
    const bool tunes = !known->has_value();
    watch.lap(seconds.collect);

    // Tuned on the quantized chain where it exists, else on the float chain, whose input must then be kept beside the targets.
    const bool has_quantized = o_.enable_quanted_input && first_block > 0;
    // The float pass also collects importances; static scales of activations want to see the rows that the block is tuned on.
    const bool needs_maxima = tunes && std::ranges::any_of(unit, [](const tuned_block& b) { return b.inputs != nullptr && b.inputs->needs_maxima(); });
    const bool weighs = tunes && o_.enable_alg_ext;
    std::vector<std::vector<column_importance>> importance(weighs ? unit.size() : 0, std::vector<column_importance>(spec_.linears.size()));
    const auto observe = [&](std::size_t b, int linear, const float* x, std::size_t tokens) {
      if (unit[b].inputs != nullptr) unit[b].inputs->observe(linear, x, tokens);
    };
    const auto watch_floats = [&](std::size_t b, int linear, const float* x, std::size_t tokens) {
      if (!importance.empty()) importance[b][static_cast<std::size_t>(linear)].add(x, tokens, static_cast<std::size_t>(spec_.linears[static_cast<std::size_t>(linear)].in_features));
      if (!has_quantized) observe(b, linear, x, tokens);
    };
    block_loop::block_hook hook;
    if (weighs || (needs_maxima && !has_quantized)) hook = watch_floats;
    const auto experts = static_cast<std::size_t>(std::max<std::int64_t>(0, spec_.mixture.experts));
    std::vector<std::vector<std::uint64_t>> tokens_of(unit.size(), std::vector<std::uint64_t>(experts));
    auto* const counted = experts != 0 && events_.experts != nullptr ? &tokens_of : nullptr;
    if (!has_quantized) {
      std::swap(input_, float_chain_);
      if (auto r = float_chain_.reset(samples_, sample_size(), o_.bf16_activations); !r) return r;
      loop_.propagate(unit, false, input_, &float_chain_, hook, counted);
    } else {
      loop_.propagate(unit, false, float_chain_, &float_chain_, hook, counted);
      if (needs_maxima) loop_.propagate(unit, false, input_, nullptr, observe);
    }
    for (std::size_t i = 0; counted != nullptr && i < unit.size(); ++i)
      if (std::ranges::any_of(tokens_of[i], [](std::uint64_t n) { return n != 0; })) (*events_.experts)[first_block + static_cast<std::int64_t>(i)] = std::move(tokens_of[i]);
    if (needs_maxima)
      for (tuned_block& b : unit)
        if (b.inputs != nullptr) b.inputs->fill_unseen_experts();
    watch.lap(seconds.reference);

    recorded_block done;
    if (tunes) {
      if (auto r = tune(plans, importance, first_block, unit, done); !r) return r;
    } else {
      done = std::move(**known);
      recorded_layers layers(done);
      for (std::size_t i = 0; i < unit.size(); ++i)
        if (auto r = take_over(plans[i], done.result, layers, first_block + static_cast<std::int64_t>(i), unit[i]); !r) return r;
    }
    watch = {};
    if (o_.enable_quanted_input && (first_block + count < spec_.num_layers || tunes_head())) loop_.propagate(unit, true, input_, &input_);
    watch.lap(seconds.propagate);
    for (std::int64_t i = 0; i < count; ++i) source_.done_with_block(first_block + i);
    unit.clear();
    return hand_over(std::move(done));
  }

  result<void> tune(std::vector<std::vector<layer_plan>>& plans, const std::vector<std::vector<column_importance>>& importance, std::int64_t first_block,
                    std::vector<tuned_block>& unit, recorded_block& done) {
    block_result& summary = done.result;
    summary.first_block = first_block;
    summary.blocks = static_cast<std::int64_t>(unit.size());
    for (std::size_t i = 0; i < unit.size(); ++i) {
      const auto block = first_block + static_cast<std::int64_t>(i);
      if (auto r = loop_.prepare(plans[i], unit[i], block, i < importance.size() ? importance[i] : std::vector<column_importance>()); !r) return r;
      summary.layers += std::ranges::count_if(plans[i], [](const layer_plan& l) { return !l.name.empty(); });
      summary.quantized += std::ranges::count_if(plans[i], [](const layer_plan& l) { return l.choice != nullptr; });
    }
    if (summary.quantized != 0)
      if (auto r = loop_.run(unit, input_, float_chain_, samples_, summary, out_.seconds); !r) return r;
    stopwatch watch;
    done.layers = loop_.quantize(unit);
    for (tuned_block& block : unit)
      for (auto& v : block.vectors) summary.vectors.emplace_back(v.name, *v.value);
    summary.random = generator();
    watch.lap(out_.seconds.pack);
    return {};
  }

  const model::weight_source& source_;
  const model::model_spec& spec_;
  const text::calibration_set& set_;
  const layer_choices& choices_;
  const signround_options& o_;
  const tuning_events& events_;
  std::size_t samples_, seqlen_, hidden_;
  activations float_chain_, input_;  // outputs of the float blocks so far; inputs of the block that is tuned
  block_loop loop_;
  tuning_result out_;
};

}  // namespace

result<tuning_result> run_signround(const model::weight_source& source, const text::calibration_set& calibration, const layer_choices& choices,
                                    const signround_options& options, const tuning_events& events) {
  if (auto r = check_run(source.spec(), calibration, choices, options); !r) return forward_error(r);
  try {
    return block_tuner(source, calibration, choices, options, events).run();
  } catch (const std::bad_alloc&) {
    return fail(error_kind::unsupported, "out of memory while tuning; use fewer or shorter calibration samples (nsamples, seqlen) or a smaller batch_size");
  }
}

}  // namespace auto_round::tune
