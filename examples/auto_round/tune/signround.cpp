#include "tune/signround.hpp"

#include <algorithm>
#include <memory>
#include <new>
#include <utility>

#include "tune/block_loop.hpp"
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
        loop_(spec_, calibration, options, events) {}

  result<tuning_result> run() {
    stopwatch watch;
    if (auto r = embed_calibration(source_, set_, o_.bf16_activations, float_chain_); !r) return forward_error(r);
    watch.lap(out_.seconds.collect);
    for (std::int64_t first = 0; first < spec_.num_layers; first += o_.nblocks) {
      const std::int64_t count = std::min(o_.nblocks, spec_.num_layers - first);
      if (auto r = run_unit(first, count); !r) return forward_error(r);
    }
    return std::move(out_);
  }

 private:
  std::size_t sample_size() const { return seqlen_ * hidden_; }

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
      unit[static_cast<std::size_t>(i)].floats = std::move(*weights);
    }
    watch.lap(seconds.collect);

    // Tuned on the quantized chain where it exists, else on the float chain, whose input must then be kept beside the targets.
    const bool has_quantized = o_.enable_quanted_input && first_block > 0;
    if (!has_quantized) {
      std::swap(input_, float_chain_);
      float_chain_.reset(samples_, sample_size(), o_.bf16_activations);
      loop_.propagate(unit, false, input_, float_chain_);
    } else {
      loop_.propagate(unit, false, float_chain_, float_chain_);
    }
    watch.lap(seconds.reference);

    block_result summary;
    summary.first_block = first_block;
    summary.blocks = count;
    for (std::size_t i = 0; i < unit.size(); ++i) {
      loop_.prepare(plans[i], unit[i]);
      summary.layers += static_cast<std::int64_t>(plans[i].size());
      summary.quantized += std::ranges::count_if(plans[i], [](const layer_plan& l) { return l.choice != nullptr; });
    }
    if (summary.quantized != 0)
      if (auto r = loop_.run(unit, input_, float_chain_, samples_, summary, seconds); !r) return r;
    watch = {};

    std::vector<quantized_layer> layers = loop_.quantize(unit);
    watch.lap(seconds.pack);
    if (o_.enable_quanted_input && first_block + count < spec_.num_layers) loop_.propagate(unit, true, input_, input_);
    watch.lap(seconds.propagate);

    for (std::int64_t i = 0; i < count; ++i) source_.done_with_block(first_block + i);
    out_.blocks.push_back(summary);
    unit.clear();
    if (events_.on_block)
      if (auto r = events_.on_block(summary, std::move(layers)); !r) return r;
    watch.lap(seconds.pack);
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
