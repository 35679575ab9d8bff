#include "tune/importance.hpp"

#include <algorithm>
#include <new>

#include "ar/calibrate.hpp"
#include "ar/dispatch.hpp"
#include "io/record_fields.hpp"
#include "model/block.hpp"
#include "model/head.hpp"
#include "model/rounded_block.hpp"
#include "tune/activations.hpp"
#include "tune/journal.hpp"
#include "tune/pass_file.hpp"
#include "tune/pieces.hpp"
#include "tune/run_parts.hpp"
#include "tune/static_scales.hpp"

namespace auto_round::tune {
namespace {

/// x^2 summed by columns, columns split among threads: the sum of a column does not depend on how.
ar::errc add_columns(const float* x, std::size_t tokens, std::size_t cols, bool first, std::vector<float>& sum) {
  constexpr std::size_t width = 256;  // columns of a thread's piece; blocks of 32 share an order of summation
  return for_pieces(cols, width, [&](std::size_t at, std::size_t n) {
    return ar::kernels().calibrate.add_importance({x + at, tokens, n, cols}, first, sum.data() + at);
  });
}

/// The pass behind its first `blocks` blocks.
void save_pass(const importance_options& o, std::int64_t blocks, const importance_matrix& all, const activations& chain) {
  io::record_writer numbers;
  numbers.put(blocks);
  numbers.put_all(to_record(all, o.maxima != nullptr ? o.maxima->maxima() : static_maxima()));
  // Without a file the pass is as good, only an interruption is dear.
  static_cast<void>(o.kept->save(numbers.take(), chain.bytes(), [&](std::uint64_t at, std::span<std::byte> piece) { chain.read_bytes(at, piece); }));
}

/// The blocks behind which the pass goes on, 0 where nothing is known; `chain` has its room.
std::int64_t load_pass(const importance_options& o, std::int64_t most, importance_matrix& all, activations& chain) {
  const auto numbers = o.kept == nullptr ? std::nullopt : o.kept->numbers();
  if (!numbers) return 0;
  io::record_reader in(*numbers);
  std::int64_t blocks = 0;
  std::vector<std::byte> statistics;
  importance_matrix sums;
  static_maxima maxima;
  in.get(blocks), in.get_all(statistics);
  if (!in.done() || blocks < 1 || blocks >= most || !from_record(statistics, sums, maxima)) return 0;
  if (!o.kept->stream(chain.bytes(), [&](std::uint64_t at, std::span<const std::byte> piece) { chain.write_bytes(at, piece); })) return 0;
  if (o.maxima != nullptr && !o.maxima->restore(std::move(maxima))) return 0;
  all = std::move(sums);
  return blocks;
}

/// `runner`: model::block_runner or what has its forward pass.
template <class Runner>
result<importance_matrix> collect(const model::weight_source& source, const text::calibration_set& set, const importance_options& o, Runner runner) {
  const model::model_spec& spec = source.spec();
  const auto samples = static_cast<std::size_t>(set.rows()), seqlen = static_cast<std::size_t>(set.seqlen);
  const std::size_t size = seqlen * static_cast<std::size_t>(spec.hidden_size), batch = std::min(samples, static_cast<std::size_t>(std::max<std::int64_t>(1, o.batch_size)));
  activations chain(o.spill_folder);
  if (auto r = chain.reset(samples, size, o.bf16_activations); !r) return forward_error(r);
  importance_matrix all;
  const std::int64_t known = load_pass(o, spec.num_layers, all, chain);
  if (known == 0) {
    if (auto r = embed_calibration(source, set, o.bf16_activations, chain); !r) return forward_error(r);
  } else if (o.on_known) {
    o.on_known(known);
  }
  std::vector<float> x(batch * size);
  for (std::int64_t b = known; b < spec.num_layers; ++b) {
    auto weights = model::read_block(source, b);
    if (!weights) return forward_error(weights);
    if (o.maxima != nullptr) runner.set_attention_filter(o.maxima->begin_block(b));
    std::vector<column_importance*> of(spec.linears.size());
    for (std::size_t i = 0; o.sums && i < of.size(); ++i) {
      if (!spec.has_linear(b, static_cast<int>(i))) continue;
      of[i] = &all[spec.linear_name(b, static_cast<int>(i))];
      of[i]->sum.resize(static_cast<std::size_t>(spec.linears[i].in_features));
    }
    ar::errc bad = ar::errc::ok;
    int bad_layer = 0;
    const auto hook = [&](int linear, const float* in, std::size_t tokens) {
      if (o.maxima != nullptr) o.maxima->input(linear, in, tokens);
      if (!o.sums || spec.reader(linear) != linear) return;
      column_importance& c = *of[static_cast<std::size_t>(linear)];
      if (const ar::errc e = c.add(in, tokens, c.sum.size()); e != ar::errc::ok && bad == ar::errc::ok) {
        bad = e;
        bad_layer = linear;
      }
    };
    std::vector<std::uint64_t> tokens_of(o.experts != nullptr ? static_cast<std::size_t>(std::max<std::int64_t>(0, spec.mixture.experts)) : 0);
    runner.count_expert_tokens(tokens_of.empty() ? nullptr : &tokens_of);
    for (std::size_t first = 0; first < samples; first += batch) {
      const std::size_t n = std::min(batch, samples - first);
      chain.load(first, n, x.data());
      runner.forward(*weights, x.data(), n, seqlen, x.data(), hook);
      chain.store(first, n, x.data());
    }
    runner.count_expert_tokens(nullptr);
    if (std::ranges::any_of(tokens_of, [](std::uint64_t n) { return n != 0; })) (*o.experts)[b] = std::move(tokens_of);
    if (bad != ar::errc::ok) {
      return fail(error_kind::input, "the float model gives activations that are not finite; no importance can be collected", {}, spec.linear_name(b, bad_layer));
    }
    for (std::size_t i = 0; i < of.size(); ++i) {
      if (of[i] == nullptr) continue;
      const auto reader = static_cast<std::size_t>(spec.reader(static_cast<int>(i)));
      of[i]->sequences = static_cast<std::int64_t>(samples);
      if (reader != i) {
        const std::int64_t sequences = of[i]->sequences;
        *of[i] = *of[reader];
        of[i]->sequences = sequences;
      }
    }
    source.done_with_block(b);
    if (auto r = chain.state(); !r) return forward_error(r);
    const bool stop = o.on_block && !o.on_block(b);
    if (o.kept != nullptr && b + 1 < spec.num_layers && (stop || o.kept->is_due(chain.bytes()))) save_pass(o, b + 1, all, chain);
    if (stop) return fail(error_kind::interrupted, "interrupted while collecting importance");
  }
  const std::string head = spec.head_name.substr(0, spec.head_name.rfind('.'));
  if (o.maxima != nullptr && o.maxima->wants(head)) {
    const auto norm = model::read_final_norm(source);
    if (!norm) return forward_error(norm);
    for (std::size_t s = 0; s < samples; ++s) {
      chain.load(s, 1, x.data());
      norm->normalize(x.data(), seqlen, x.data());
      o.maxima->input(head, x.data(), size);
    }
  }
  return all;
}

}  // namespace

ar::errc column_importance::add(const float* x, std::size_t rows, std::size_t cols) {
  sum.resize(cols);
  const ar::errc e = add_columns(x, rows, cols, tokens == 0, sum);
  if (e == ar::errc::ok) tokens += static_cast<std::int64_t>(rows);
  return e;
}

std::vector<float> column_importance::per_sequence() const {
  std::vector<float> mean = sum;
  if (sequences > 0) ar::finish_importance(mean.data(), mean.size(), static_cast<std::size_t>(sequences));
  return mean;
}

std::vector<float> importance_of(const importance_matrix& matrix, const std::string& layer) {
  const auto known = matrix.find(layer);
  return known != matrix.end() && known->second.tokens > 0 ? known->second.per_sequence() : std::vector<float>();
}

result<importance_matrix> collect_importance(const model::weight_source& source, const text::calibration_set& set, const importance_options& options) {
  if (set.rows() < 1) return fail(error_kind::usage, "the calibration set is empty");
  try {
    if (options.rounded && model::rounded_block::covers(source.spec())) return collect(source, set, options, model::rounded_block(source.spec(), options.hides_last));
    return collect(source, set, options, model::block_runner(source.spec(), options.precision));
  } catch (const std::bad_alloc&) {
    return fail(error_kind::unsupported, "out of memory while collecting importance; use fewer or shorter calibration samples (nsamples, seqlen)");
  }
}

}  // namespace auto_round::tune
