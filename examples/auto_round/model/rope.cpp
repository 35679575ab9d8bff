// The formulas of transformers' modeling_rope_utils.py.
#include "model/rope.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace auto_round::model {
namespace {

/// 1 / base^(2i/dim) for i < pairs, in float as torch does.
std::vector<float> plain_frequencies(double base, std::size_t dim, std::size_t pairs) {
  std::vector<float> inverse(pairs);
  for (std::size_t i = 0; i < pairs; ++i)
    inverse[i] = 1.0f / std::pow(static_cast<float>(base), static_cast<float>(2 * i) / static_cast<float>(dim));
  return inverse;
}

rope_frequencies yarn(const rope_spec& r, std::size_t dim, double original) {
  rope_frequencies f;
  if (r.attention_factor != 0)
    f.scaling = static_cast<float>(r.attention_factor);
  else if (r.mscale != 0 && r.mscale_all_dim != 0)
    f.scaling = static_cast<float>(yarn_magnitude(r.factor, r.mscale) / yarn_magnitude(r.factor, r.mscale_all_dim));
  else
    f.scaling = static_cast<float>(yarn_magnitude(r.factor, 1.0));

  // The pairs that turn `rotations` times over the original context.
  const auto correction = [&](double rotations) {
    return static_cast<double>(dim) * std::log(original / (rotations * 2 * std::numbers::pi)) / (2 * std::log(r.theta));
  };
  double low = correction(r.beta_fast), high = correction(r.beta_slow);
  if (r.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  f.inverse = plain_frequencies(r.theta, dim, dim / 2);
  for (std::size_t i = 0; i < f.inverse.size(); ++i) {
    const float ramp = std::clamp((static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f, 1.0f);
    const float kept = 1.0f - ramp;
    f.inverse[i] = f.inverse[i] / static_cast<float>(r.factor) * (1.0f - kept) + f.inverse[i] * kept;
  }
  return f;
}

rope_frequencies longrope(const rope_spec& r, std::size_t dim, double original, std::int64_t seqlen) {
  rope_frequencies f;
  if (r.attention_factor != 0)
    f.scaling = static_cast<float>(r.attention_factor);
  else
    f.scaling = r.factor <= 1 ? 1.0f : static_cast<float>(std::sqrt(1 + std::log(r.factor) / std::log(original)));
  const std::vector<double>& factors = static_cast<double>(seqlen) > original ? r.long_factor : r.short_factor;
  f.inverse.resize(dim / 2);
  for (std::size_t i = 0; i < f.inverse.size(); ++i)
    f.inverse[i] = 1.0f / (static_cast<float>(factors[i]) * std::pow(static_cast<float>(r.theta), static_cast<float>(2 * i) / static_cast<float>(dim)));
  return f;
}

rope_frequencies llama3(const rope_spec& r, std::size_t dim, double original) {
  rope_frequencies f{plain_frequencies(r.theta, dim, dim / 2)};
  const auto low = static_cast<float>(r.low_freq_factor), high = static_cast<float>(r.high_freq_factor);
  const auto factor = static_cast<float>(r.factor), context = static_cast<float>(original);
  for (float& inv : f.inverse) {
    const float wavelength = 2.0f * std::numbers::pi_v<float> / inv;
    if (wavelength > context / low) {
      inv /= factor;
    } else if (wavelength >= context / high) {
      const float smooth = (context / wavelength - low) / (high - low);
      inv = (1.0f - smooth) * inv / factor + smooth * inv;
    }
  }
  return f;
}

}  // namespace

double yarn_magnitude(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

rope_frequencies compute_rope(const model_spec& spec, std::int64_t seqlen, bool windowed) {
  const rope_spec& r = windowed && spec.own_window_rope ? spec.window_rope : spec.rope;
  const auto dim = static_cast<std::size_t>(spec.latent.rank > 0 ? spec.latent.turning : spec.rotary_dim != 0 ? spec.rotary_dim : spec.head_dim);
  const double original = static_cast<double>(r.original_max_position);
  switch (r.type) {
    case rope_spec::kind::standard:
      break;
    case rope_spec::kind::linear: {
      rope_frequencies f{plain_frequencies(r.theta, dim, dim / 2)};
      for (float& inv : f.inverse) inv /= static_cast<float>(r.factor);
      return f;
    }
    case rope_spec::kind::dynamic: {
      const auto longest = static_cast<double>(spec.max_position_embeddings);
      const double length = std::max(static_cast<double>(seqlen), longest), d = static_cast<double>(dim);
      return {plain_frequencies(r.theta * std::pow(r.factor * length / longest - (r.factor - 1), d / (d - 2)), dim, dim / 2)};
    }
    case rope_spec::kind::yarn:
      return yarn(r, dim, original);
    case rope_spec::kind::longrope:
      return longrope(r, dim, original, seqlen);
    case rope_spec::kind::llama3:
      return llama3(r, dim, original);
    case rope_spec::kind::proportional: {
      // A share of the pairs turns, with the exponents of the whole head; the rest stands still.
      const auto turning = static_cast<std::size_t>(std::floor(r.partial_rotary_factor * static_cast<double>(dim) / 2));
      rope_frequencies f{plain_frequencies(r.theta, dim, std::min(turning, dim / 2))};
      for (float& inv : f.inverse) inv /= static_cast<float>(r.factor);
      f.inverse.resize(dim / 2, 0.0f);
      return f;
    }
  }
  return {plain_frequencies(r.theta, dim, dim / 2)};
}

void rope_table::prepare(const model_spec& spec, std::size_t first_position, std::size_t positions, std::size_t sequence_length, bool windowed) {
  if (first == first_position && count == positions && seqlen == sequence_length) return;
  const rope_frequencies f = compute_rope(spec, static_cast<std::int64_t>(sequence_length), windowed);
  half = f.inverse.size();
  cos.resize(positions * half);
  sin.resize(positions * half);
  for (std::size_t p = 0; p < positions; ++p)
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(static_cast<float>(first_position + p) * f.inverse[i]);
      cos[p * half + i] = static_cast<float>(std::cos(angle)) * f.scaling;
      sin[p * half + i] = static_cast<float>(std::sin(angle)) * f.scaling;
    }
  first = first_position;
  count = positions;
  seqlen = sequence_length;
}

}  // namespace auto_round::model
