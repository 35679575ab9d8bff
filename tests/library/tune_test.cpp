// links: ar::dispatch
// Tuning as a specification: hand-written gradients equal automatic ones, the fused step equals gradient and sign step, every instruction set
// gives the scalar bits, rows are independent, policies do what they say, schedule and sampler.
#include "ar/tune.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "ar/detail/tune_scaled.hpp"
#include "ar/dispatch.hpp"

namespace {

using std::size_t;

// ---- A lane that carries a derivative: rounding passes it on (straight-through), clamps pass it on the closed interval. ----

struct dual {
  float x = 0, d = 0;
  friend dual operator+(dual a, dual b) { return {a.x + b.x, a.d + b.d}; }
  friend dual operator-(dual a, dual b) { return {a.x - b.x, a.d - b.d}; }
  friend dual operator-(dual a) { return {-a.x, -a.d}; }
  friend dual operator*(dual a, dual b) { return {a.x * b.x, a.d * b.x + a.x * b.d}; }
  friend dual operator/(dual a, dual b) { return {a.x / b.x, (a.d - a.x / b.x * b.d) / b.x}; }
  friend bool lane_lt(dual a, dual b) { return a.x < b.x; }
  friend dual lane_select(bool m, dual a, dual b) { return m ? a : b; }
  friend dual lane_min(dual a, dual b) { return b.x < a.x ? b : a; }
  friend dual lane_max(dual a, dual b) { return a.x < b.x ? b : a; }
  friend dual lane_round(dual a) { return {ar::lane_round(a.x), a.d}; }
  friend dual lane_round_f16(dual a) { return {ar::round_to_f16(a.x), a.d}; }
  friend dual lane_round_bf16(dual a) { return {ar::round_to_bf16(a.x), a.d}; }
};

}  // namespace

template <>
struct ar::lane_traits<dual> {
  static dual set(float x) { return {x, 0}; }
};

namespace {

struct shape {
  size_t rows, cols, group_size;
};

struct layer_data {
  std::vector<float> weight, wmin, wmax, v, min_scale, max_scale, init_scale, init_minimum, grad;
  ar::tune_layer view;

  layer_data(shape s, unsigned seed, bool with_init = false) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::uniform_real_distribution<float> offset(-0.6f, 0.6f), factor(-0.05f, 1.1f);
    const size_t n = s.rows * s.cols, groups = s.rows * ar::ceil_div(s.cols, s.group_size);
    weight.resize(n);
    v.resize(n);
    grad.resize(n);
    for (size_t i = 0; i < n; ++i) {
      weight[i] = normal(random) * 0.05f;
      v[i] = offset(random);
      grad[i] = normal(random);
    }
    min_scale.resize(groups);
    max_scale.resize(groups);
    for (float& x : min_scale) x = factor(random);
    for (float& x : max_scale) x = factor(random);
    if (with_init) {
      init_scale.resize(groups);
      for (float& x : init_scale) x = normal(random) * 0.02f;
    }
    wmin.resize(groups);
    wmax.resize(groups);
    EXPECT_EQ(ar::group_extrema({weight.data(), s.rows, s.cols}, s.group_size, wmin.data(), wmax.data()), ar::errc::ok);
    view = {s.rows, s.cols, s.group_size, weight.data(), wmin.data(), wmax.data(), v.data(), min_scale.data(), max_scale.data(),
            with_init ? init_scale.data() : nullptr};
  }
  /// Scales and, if `minimum`, minima for the fixed families.
  void fix(bool minimum) {
    init_scale.resize(min_scale.size());
    init_minimum.resize(min_scale.size());
    for (size_t i = 0; i < init_scale.size(); ++i) {
      init_scale[i] = i % 7 == 3 ? 0.0f : (minimum || i % 2 == 0 ? 1.0f : -1.0f) * (wmax[i] - wmin[i]) / 5;
      init_minimum[i] = -wmin[i] * 0.9f;
    }
    view.init_scale = init_scale.data();
    if (minimum) view.init_minimum = init_minimum.data();
  }
};

ar::tune_grid grid(ar::tune_family family, int bits) {
  ar::tune_grid g;
  g.family = family;
  g.bits = bits;
  if (family == ar::tune_family::superblock_asymmetric || family == ar::tune_family::superblock_symmetric) {
    g.super_bits = 6;
    g.superblock_groups = 8;
    g.scale_type = ar::real::f32;
  }
  return g;
}

struct gradients {
  std::vector<float> v, min_scale, max_scale;
};
gradients gradient_of(const ar::tune_grid& g, const layer_data& l) {
  gradients r;
  r.v.resize(l.v.size());
  r.min_scale.resize(l.min_scale.size());
  r.max_scale.resize(l.max_scale.size());
  EXPECT_EQ(ar::tune_gradient(g, l.view, 0, l.view.rows, l.grad.data(), true, false, {r.v.data(), r.min_scale.data(), r.max_scale.data()}), ar::errc::ok);
  return r;
}

constexpr size_t the_input = 1 << 20;

/// dL/dp of group `group` by automatic differentiation, L = sum of grad * wq; p is selected by 0: min_scale, 1: max_scale, 2 + j: v of element j,
/// the_input + j: weight j, whose group's extrema follow it.
template <class Grid>
float automatic(const ar::tune_grid& g, const layer_data& l, size_t group, size_t parameter) {
  const Grid grid(g);
  const ar::tune_span span(l.view, group);
  const auto clamped = [&](float f) { return std::min(std::max(f, g.factor_min), g.factor_max); };
  const auto moves = [&](float extremum) {
    return parameter >= the_input && extremum != 0.0f && l.weight[span.at + parameter - the_input] == extremum ? 1.0f : 0.0f;
  };
  const ar::group_range<dual> range{{l.wmin[group], moves(l.wmin[group])},
                                    {l.wmax[group], moves(l.wmax[group])},
                                    {clamped(l.min_scale[group]), parameter == 0 ? 1.0f : 0.0f},
                                    {clamped(l.max_scale[group]), parameter == 1 ? 1.0f : 0.0f},
                                    {l.init_scale.empty() ? 0.0f : l.init_scale[group], 0},
                                    {0, 0}};
  dual value[Grid::values];
  grid.prepare(range, !l.init_scale.empty(), value);
  double sum = 0;
  for (size_t j = 0; j < span.n; ++j) {
    const dual w{l.weight[span.at + j], parameter == the_input + j ? 1.0f : 0.0f}, v{l.v[span.at + j], parameter == 2 + j ? 1.0f : 0.0f};
    sum += static_cast<double>(l.grad[span.at + j]) * static_cast<double>(grid.decode(value, grid.code(value, w, v)).d);
  }
  return static_cast<float>(sum);
}

template <class Grid>
void expect_automatic_gradients(ar::tune_grid g, bool with_init) {
  g.clamp = ar::clamp_gradient::closed;
  g.scale_grad = ar::scale_gradient::f32;
  const layer_data l({6, 70, 32}, 7u + static_cast<unsigned>(g.bits), with_init);
  const gradients ours = gradient_of(g, l);
  const size_t groups = l.view.groups();
  for (size_t group = 0; group < l.view.rows * groups; ++group) {
    const ar::tune_span span(l.view, group);
    float size = 0;
    for (size_t j = 0; j < span.n; ++j) {
      size += std::abs(l.grad[span.at + j]) * std::max(l.wmax[group], -l.wmin[group]);
      EXPECT_NEAR(ours.v[span.at + j], automatic<Grid>(g, l, group, 2 + j), 1e-6f);
    }
    // The terms may cancel: the bound is relative to their sizes.
    EXPECT_NEAR(ours.min_scale[group], automatic<Grid>(g, l, group, 0), 2e-5f * size) << "group " << group;
    EXPECT_NEAR(ours.max_scale[group], automatic<Grid>(g, l, group, 1), 2e-5f * size) << "group " << group;
  }
}

TEST(TuneGradient, EqualsAutomaticDifferentiation) {
  for (int bits = 1; bits <= 8; ++bits) {
    SCOPED_TRACE(bits);
    expect_automatic_gradients<ar::tuned_symmetric>(grid(ar::tune_family::symmetric, bits), false);
    expect_automatic_gradients<ar::tuned_symmetric>(grid(ar::tune_family::symmetric, bits), true);
    ar::tune_grid asymmetric = grid(ar::tune_family::asymmetric, bits);
    expect_automatic_gradients<ar::tuned_asymmetric>(asymmetric, false);
    asymmetric.whole_zero = false;
    expect_automatic_gradients<ar::tuned_asymmetric>(asymmetric, false);
  }
}

// ---- Scaled small floats: every type that the library has, from its facts. ----

/// The scaled types for float weights, as the kernel table lists them.
std::vector<const ar::range_kernels*> scaled_types() {
  std::vector<const ar::range_kernels*> types;
  const ar::kernel_table& table = ar::kernels();
  for (size_t i = 0; i < table.range_type_count; ++i)
    if (table.range_types[i].facts != nullptr && table.range_types[i].weight_format == ar::real::f32) types.push_back(table.range_types + i);
  return types;
}
/// The grid of a type for this layer.
ar::tune_grid grid_of(const ar::range_kernels& type, const layer_data& l) {
  float largest = 0;
  for (const float w : l.weight) largest = std::max(largest, std::abs(w));
  return ar::scaled_grid(*type.facts, type.two_level() ? type.global_scale(largest) : -1.0f);
}

/// dL/dp of a group by the chain rule through the reference's forward as signround.md section 3 writes it, step by step in double; the numbers
/// where it rounds are those of the float forward. `parameter` as above.
double chain_rule(const ar::tune_grid& g, const layer_data& l, size_t group, size_t parameter) {
  struct number {
    double x = 0, d = 0;
    number operator*(number b) const { return {x * b.x, d * b.x + x * b.d}; }
    number operator/(number b) const { return {x / b.x, (d - x / b.x * b.d) / b.x}; }
    number operator+(number b) const { return {x + b.x, d + b.d}; }
  };
  const auto logarithm = [](number a) { return number{std::log2(a.x), a.d / (a.x * std::log(2.0))}; };
  const auto power = [](number e) { return number{std::exp2(e.x), std::exp2(e.x) * std::log(2.0) * e.d}; };
  const auto at = [](number a, double x) { return number{x, a.d}; };  // straight through
  const auto limited = [](number a, double lo, double hi) { return lo < a.x && a.x < hi ? a : number{std::clamp(a.x, lo, hi), 0}; };
  const ar::scaled_facts& f = *g.facts;
  const ar::tuned_scaled grid(g);
  const ar::tune_span span(l.view, group);
  const float most = std::max(l.wmax[group], -l.wmin[group]), factor = std::min(std::max(l.max_scale[group], g.factor_min), g.factor_max);
  const float init = l.init_scale.empty() ? 1.0f : l.init_scale[group];
  const ar::group_range<float> range{l.wmin[group], l.wmax[group], 1, factor, init, 0};
  float value[ar::tuned_scaled::values];
  grid.prepare(range, !l.init_scale.empty(), value);
  const double global = static_cast<double>(g.global_scale), scale = static_cast<double>(value[ar::tuned_scaled::scale]);
  number m{static_cast<double>(most * (factor * init)), parameter == 1 ? static_cast<double>(most * init) : 0.0};
  if (parameter >= the_input) {
    const float x = l.weight[span.at + parameter - the_input];
    if (std::abs(x) == most) m.d = x < 0 ? -static_cast<double>(factor * init) : static_cast<double>(factor * init);
  }
  const number limit{static_cast<double>(f.limit), 0}, six{6, 0};
  number s{1, 0};
  switch (f.rule) {
    case ar::scale_rule::one: break;
    case ar::scale_rule::power_floor: s = power(limited(at(logarithm(m), std::log2(scale)), -127, 127)); break;
    case ar::scale_rule::power_ceil: s = power(limited(at(logarithm(m / limit), std::log2(scale)), -127, 127)); break;
    case ar::scale_rule::quotient: s = at(limited(m / limit, static_cast<double>(f.least), 1e30), scale); break;
    case ar::scale_rule::e4m3_two_level: s = at(limited(number{global, 0} * m / six, -448, 448), scale) / number{global, 0}; break;
    case ar::scale_rule::e5m3_two_level: s = at(limited(number{global, 0} * m / six, 0, 114688), scale) / number{global, 0}; break;
    case ar::scale_rule::e5m3: s = at(limited(m / six, 0, 114688), scale); break;
  }
  double sum = 0;
  for (size_t j = 0; j < span.n; ++j) {
    const float w = l.weight[span.at + j], v = l.v[span.at + j];
    const float element = grid.code(value, w, v), t = grid.multiplies ? w * value[ar::tuned_scaled::forward] + v : w / value[ar::tuned_scaled::forward] + v;
    number y = at(number{static_cast<double>(w), parameter == the_input + j ? 1.0 : 0.0} / s + number{0, parameter == 2 + j ? 1.0 : 0.0}, static_cast<double>(t));
    const double most_element = static_cast<double>(f.grid.max), e = static_cast<double>(element);
    y = limited(y, -most_element, most_element);
    if (f.gradient == ar::rounding_gradient::straight_through) y = at(y, e);
    if (f.gradient == ar::rounding_gradient::saturating) y = t == 0.0f ? number{} : limited(at(y, e), -most_element, most_element);
    if (f.gradient == ar::rounding_gradient::binade) {
      const number size{std::abs(y.x), y.x < 0 ? -y.d : y.d};
      number exponent{std::log2(static_cast<double>(f.grid.min_normal)), 0};
      const int own = t == 0.0f ? -1000 : ar::floor_log2_rounded(std::abs(t));
      if (own > exponent.x) exponent = at(logarithm(size), own);
      const number steps = y / power(exponent);
      y = t == 0.0f ? number{} : limited(at(at(steps, e / power(exponent).x) * power(exponent), e), -most_element, most_element);
    }
    sum += static_cast<double>(l.grad[span.at + j]) * (y * s).d;
  }
  return sum;
}

TEST(TuneGradient, OfScaledTypesFollowsTheChainRule) {
  for (const ar::range_kernels* type : scaled_types())
    for (const bool with_init : {false, true}) {
      SCOPED_TRACE(testing::Message() << type->name << (with_init ? " with initial factors" : ""));
      layer_data l({6, 70, 32}, 17, with_init);
      for (float& x : l.init_scale) x = 0.5f + std::abs(x) * 40;
      for (float& x : l.max_scale) x = std::max(x, 0.01f);  // a range of zero has no gradient
      ar::tune_grid g = grid_of(*type, l);
      if (with_init) g.factor_max = 2.0f;
      const gradients ours = gradient_of(g, l);
      for (size_t group = 0; group < l.view.rows * l.view.groups(); ++group) {
        const ar::tune_span span(l.view, group);
        double size = 0;
        for (size_t j = 0; j < span.n; ++j) {
          size += static_cast<double>(std::abs(l.grad[span.at + j]) * std::max(l.wmax[group], -l.wmin[group]));
          const double expected = chain_rule(g, l, group, 2 + j);
          EXPECT_NEAR(static_cast<double>(ours.v[span.at + j]), expected, 1e-5 * std::abs(expected)) << "group " << group << " value " << j;
        }
        EXPECT_EQ(ours.min_scale[group], 0.0f);
        // The terms may cancel: the bound is relative to their sizes.
        EXPECT_NEAR(static_cast<double>(ours.max_scale[group]), chain_rule(g, l, group, 1), 1e-4 * size) << "group " << group;
      }
    }
}

/// Activations: no offsets, factors of 1.
layer_data activations(shape s, unsigned seed) {
  layer_data l(s, seed);
  std::fill(l.v.begin(), l.v.end(), 0.0f);
  std::fill(l.min_scale.begin(), l.min_scale.end(), 1.0f);
  std::fill(l.max_scale.begin(), l.max_scale.end(), 1.0f);
  return l;
}

TEST(InputGradient, ReachesTheExtremesThroughTheScale) {
  for (const ar::range_kernels* type : scaled_types()) {
    SCOPED_TRACE(type->name);
    const layer_data l = activations({5, 70, 32}, 23);
    const ar::tune_grid g = grid_of(*type, l);
    std::vector<float> dx(l.weight.size()), d_max(l.max_scale.size());
    ASSERT_EQ(ar::input_gradient(g, l.view, 0, 5, l.grad.data(), dx.data()), ar::errc::ok);
    for (size_t group = 0; group < l.view.rows * l.view.groups(); ++group) {
      const ar::tune_span span(l.view, group);
      double size = 0;
      for (size_t j = 0; j < span.n; ++j) size += static_cast<double>(std::abs(l.grad[span.at + j]));
      for (size_t j = 0; j < span.n; ++j)
        EXPECT_NEAR(static_cast<double>(dx[span.at + j]), chain_rule(g, l, group, the_input + j), 1e-4 * size) << "group " << group << " value " << j;
    }
    // Static scales: the same without the extremes, which go to the factor.
    std::vector<float> direct(l.weight.size());
    ASSERT_EQ(ar::input_gradient(g, l.view, 0, 5, l.grad.data(), direct.data(), d_max.data()), ar::errc::ok);
    const gradients d = gradient_of(g, l);
    EXPECT_EQ(d_max, d.max_scale);
    size_t differ = 0;
    for (size_t i = 0; i < dx.size(); ++i) differ += dx[i] != direct[i];
    EXPECT_LE(differ, l.max_scale.size());
  }
  for (const auto family : {ar::tune_family::symmetric, ar::tune_family::asymmetric})
    for (int bits : {4, 8}) {
      SCOPED_TRACE(testing::Message() << "family " << static_cast<int>(family) << " bits " << bits);
      const layer_data l = activations({5, 70, 32}, 41);
      ar::tune_grid g = grid(family, bits);
      g.clamp = ar::clamp_gradient::closed;  // as the automatic derivative
      g.scale_grad = ar::scale_gradient::f32;
      std::vector<float> dx(l.weight.size());
      ASSERT_EQ(ar::input_gradient(g, l.view, 0, 5, l.grad.data(), dx.data()), ar::errc::ok);
      for (size_t group = 0; group < l.view.rows * l.view.groups(); ++group) {
        const ar::tune_span span(l.view, group);
        float size = 0;
        for (size_t j = 0; j < span.n; ++j) size += std::abs(l.grad[span.at + j]);
        for (size_t j = 0; j < span.n; ++j) {
          const float expected = family == ar::tune_family::symmetric ? automatic<ar::tuned_symmetric>(g, l, group, the_input + j)
                                                                      : automatic<ar::tuned_asymmetric>(g, l, group, the_input + j);
          EXPECT_NEAR(dx[span.at + j], expected, 2e-5f * size) << "group " << group << " value " << j;
        }
      }
    }
}

TEST(InputGradient, OfRowsOfZerosIsFinite) {
  for (const ar::range_kernels* type : scaled_types()) {
    layer_data l = activations({2, 32, 32}, 3);
    std::fill(l.weight.begin(), l.weight.begin() + 32, 0.0f);
    l.wmin[0] = l.wmax[0] = 0.0f;
    std::vector<float> dx(64);
    ASSERT_EQ(ar::input_gradient(grid_of(*type, l), l.view, 0, 2, l.grad.data(), dx.data()), ar::errc::ok);
    for (const float x : dx) EXPECT_TRUE(std::isfinite(x)) << type->name;
  }
}

TEST(TuneFixed, RoundsToTheGivenGridAndTunesOffsetsOnly) {
  for (const bool minimum : {false, true}) {
    layer_data l({4, 90, 32}, 37);
    l.fix(minimum);
    ar::tune_grid g = grid(minimum ? ar::tune_family::fixed_asymmetric : ar::tune_family::fixed_symmetric, 3);
    ASSERT_EQ(ar::check(g, l.view), ar::errc::ok);
    std::vector<float> wq(l.weight.size());
    std::vector<std::uint8_t> code(wq.size());
    ASSERT_EQ(ar::tune_quantize(g, l.view, 0, 4, {wq.data(), code.data()}), ar::errc::ok);
    const gradients d = gradient_of(g, l);
    for (size_t group = 0; group < 4 * l.view.groups(); ++group) {
      const ar::tune_span span(l.view, group);
      const float s = l.init_scale[group], m = minimum ? l.init_minimum[group] : 0.0f, lo = minimum ? 0.0f : -4.0f;
      for (size_t i = span.at; i < span.at + span.n; ++i) {
        const float steps = s == 0 ? l.v[i] : (l.weight[i] + m) * (1.0f / s) + l.v[i], rounded = ar::lane_round(steps);
        const float q = std::clamp(rounded, lo, lo + 7);
        EXPECT_EQ(wq[i], s * q - m);
        EXPECT_EQ(static_cast<float>(code[i]), q - lo);
        EXPECT_EQ(d.v[i], lo < rounded && rounded < lo + 7 ? l.grad[i] * s : 0.0f);
      }
      EXPECT_EQ(d.max_scale[group], 0.0f);
    }
  }
}

TEST(TuneStep, AdamIsTorchsFirstStepsByHand) {
  // Two steps of AdamW(lr 0.1) on the gradients 2 and -1: 0 - 0.1, then the bias-corrected moments.
  float p = 0, mean = 0, square = 0, g = 2;
  ar::adam_step(&p, &g, 1, 0.1f, 1, &mean, &square);
  EXPECT_NEAR(p, -0.1f, 1e-7f);
  g = -1;
  ar::adam_step(&p, &g, 1, 0.1f, 2, &mean, &square);
  const double m = (0.9 * 0.2 - 0.1) / (1 - 0.81), v = (0.999 * 0.004 + 0.001) / (1 - 0.998001);
  EXPECT_NEAR(static_cast<double>(p), -0.1 - 0.1 * m / std::sqrt(v), 1e-6);
  const float before = p, mean_before = mean;
  g = std::nanf("");
  ar::adam_step(&p, &g, 1, 0.1f, 3, &mean, &square);
  EXPECT_EQ(p, before);
  EXPECT_EQ(mean, mean_before);
}

TEST(TuneQuantize, OfScaledTypesIsTheTunedForwardOfTheType) {
  for (const ar::range_kernels* type : scaled_types()) {
    SCOPED_TRACE(type->name);
    layer_data l({5, 90, 32}, 29, true);
    for (float& x : l.max_scale) x = std::min(std::max(x, 0.0f), 1.0f);
    for (float& x : l.init_scale) x = 1.0f + std::abs(x);
    std::fill(l.weight.begin(), l.weight.begin() + 32, 0.0f);  // a group of zeros
    l.wmin[0] = l.wmax[0] = 0.0f;
    const ar::tune_grid g = grid_of(*type, l);
    const size_t n = l.weight.size(), groups = l.min_scale.size();
    std::vector<float> weight(n), scale(groups), wq(n), theirs(n), their_scale(groups);
    std::vector<std::uint8_t> code(n), their_code(n);
    ASSERT_EQ(ar::tune_quantize(g, l.view, 0, 5, {weight.data(), code.data(), scale.data()}), ar::errc::ok);
    ASSERT_EQ(ar::fake_quantize(g, l.view, 0, 5, wq.data()), ar::errc::ok);
    ar::tensor_values tensor;
    tensor.global_scale = g.global_scale;
    const ar::matrix_view<const float> factors(l.max_scale.data(), 5, 3), init(l.init_scale.data(), 5, 3);
    ASSERT_EQ(type->quantize_tuned({0, tensor}, 32, {l.weight.data(), 5, 90}, {{l.v.data(), 5, 90}, {}, factors, init},
                                   {{their_scale.data(), 5, 3}, {}, {}, {their_code.data(), 5, 90}, {theirs.data(), 5, 90}}),
              ar::errc::ok);
    EXPECT_EQ(code, their_code);
    EXPECT_EQ(scale, their_scale);
    EXPECT_EQ(weight, theirs);
    EXPECT_EQ(weight, wq);
  }
}

TEST(TuneStep, AGroupOfZerosOfAScaledTypeDoesNotMove) {
  for (const ar::range_kernels* type : scaled_types()) {
    if (type->facts->rule == ar::scale_rule::one || type->facts->rule == ar::scale_rule::quotient) continue;  // their scale has a least value
    SCOPED_TRACE(type->name);
    layer_data l({2, 64, 32}, 31);
    std::fill(l.weight.begin(), l.weight.begin() + 32, 0.0f);
    l.wmin[0] = l.wmax[0] = 0.0f;
    for (float& x : l.max_scale) x = 0.75f;
    const ar::tune_grid g = grid_of(*type, l);
    const gradients d = gradient_of(g, l);
    EXPECT_TRUE(std::isnan(d.max_scale[0]));
    EXPECT_FALSE(std::isnan(d.max_scale[1]));
    gradients to{l.v, l.min_scale, l.max_scale};
    ASSERT_EQ(ar::tune_step(g, l.view, 0, 2, l.grad.data(), true, 0.1f, 0.1f, {to.v.data(), to.min_scale.data(), to.max_scale.data()}), ar::errc::ok);
    EXPECT_EQ(to.max_scale[0], 0.75f);
    EXPECT_NE(to.max_scale[1], 0.75f);
    float buffer[4] = {1, 1, 1, 1};
    ar::sign_step(to.max_scale.data(), d.max_scale.data(), 4, 0.1f, 0.5f, buffer);
    EXPECT_EQ(to.max_scale[0], 0.75f);
    EXPECT_EQ(buffer[0], 1.0f) << "momentum is kept";
  }
}

TEST(TuneGradient, StrictClampDropsTheOutermostCodesClosedKeepsThem) {
  for (const auto family : {ar::tune_family::symmetric, ar::tune_family::asymmetric, ar::tune_family::superblock_asymmetric, ar::tune_family::superblock_symmetric}) {
    const layer_data l({4, 512, 32}, 3);
    ar::tune_grid g = grid(family, 2);
    std::vector<std::uint8_t> code(l.weight.size());
    ASSERT_EQ(ar::tune_quantize(g, l.view, 0, 4, {nullptr, code.data()}), ar::errc::ok);
    const gradients strict = gradient_of(g, l);
    g.clamp = ar::clamp_gradient::closed;
    const gradients closed = gradient_of(g, l);
    size_t on_boundary = 0, beyond = 0;
    for (size_t i = 0; i < code.size(); ++i) {
      if (code[i] != 0 && code[i] != 3) {
        EXPECT_EQ(strict.v[i], closed.v[i]);
        EXPECT_NE(strict.v[i], 0.0f);
        continue;
      }
      EXPECT_EQ(strict.v[i], 0.0f);
      (closed.v[i] != 0.0f ? on_boundary : beyond) += 1;
    }
    EXPECT_GT(on_boundary, 0u);
    EXPECT_GT(beyond, 0u) << "values clamped from outside get no gradient in either policy";
  }
}

TEST(TuneGradient, HalfPrecisionScaleGradientsOverflowOnlyInTheReferencesPolicy) {
  layer_data l({1, 32, 32}, 5);
  l.min_scale[0] = 0.8f;  // the positive side decides
  l.max_scale[0] = 0.9f;
  for (float& x : l.grad) x *= 1e6f;
  ar::tune_grid g = grid(ar::tune_family::asymmetric, 4);
  const gradients reference = gradient_of(g, l);
  EXPECT_FALSE(std::isfinite(reference.max_scale[0]));
  g.scale_grad = ar::scale_gradient::f32;
  EXPECT_TRUE(std::isfinite(gradient_of(g, l).max_scale[0]));
}

TEST(TuneGradient, AccumulatesOverCalls) {
  const layer_data l({3, 96, 32}, 11);
  const ar::tune_grid g = grid(ar::tune_family::symmetric, 4);
  const gradients once = gradient_of(g, l);
  gradients twice = once;
  ASSERT_EQ(ar::tune_gradient(g, l.view, 0, 3, l.grad.data(), true, true, {twice.v.data(), twice.min_scale.data(), twice.max_scale.data()}), ar::errc::ok);
  for (size_t i = 0; i < once.v.size(); ++i) EXPECT_EQ(twice.v[i], 2.0f * once.v[i]);
  for (size_t i = 0; i < once.max_scale.size(); ++i) EXPECT_EQ(twice.max_scale[i], 2.0f * once.max_scale[i]);
}

// ---- The same bits everywhere ----

struct results {
  std::vector<float> wq, d_v, d_min, d_max, v, min_scale, max_scale, weight, scale, dx, d_range;
  std::vector<std::uint16_t> wq_bf16;
  std::vector<std::uint8_t> code;
};

/// Everything the kernels can do, the rows split at `split`.
results run(const ar::tune_kernels& k, const ar::tune_grid& g, const layer_data& l, size_t split) {
  const size_t n = l.weight.size(), groups = l.min_scale.size();
  results r;
  for (std::vector<float>* x : {&r.wq, &r.d_v, &r.v, &r.weight, &r.dx}) x->resize(n);
  for (std::vector<float>* x : {&r.d_min, &r.d_max, &r.min_scale, &r.max_scale, &r.scale, &r.d_range}) x->resize(groups);
  r.wq_bf16.resize(n);
  r.code.resize(n);
  for (const auto& [first, last] : {std::pair<size_t, size_t>{split, l.view.rows}, {0, split}}) {
    k.fake_quantize(g, l.view, first, last, r.wq.data());
    k.fake_quantize_bf16(g, l.view, first, last, r.wq_bf16.data());
    k.gradient(g, l.view, first, last, l.grad.data(), true, false, {r.d_v.data(), r.d_min.data(), r.d_max.data()});
    k.step(g, l.view, first, last, l.grad.data(), true, 0.005f, 0.01f, {r.v.data(), r.min_scale.data(), r.max_scale.data()});
    k.quantize(g, l.view, first, last, {r.weight.data(), r.code.data(), r.scale.data()});
    k.input_gradient(g, l.view, first, last, l.grad.data(), r.dx.data(), r.d_range.data());
    k.input_gradient(g, l.view, first, last, l.grad.data(), r.dx.data(), nullptr);
  }
  return r;
}

/// Equal values; NaN equals NaN, and the sign of zero does not count.
void expect_same(const std::vector<float>& a, const std::vector<float>& b, const char* what) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i)
    if (!(a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])))) {
      ADD_FAILURE() << what << " differs at " << i << ": " << a[i] << " and " << b[i];
      return;
    }
}
void expect_same(const results& a, const results& b) {
  expect_same(a.wq, b.wq, "wq");
  expect_same(a.d_v, b.d_v, "dL/dv");
  expect_same(a.d_min, b.d_min, "dL/dmin_scale");
  expect_same(a.d_max, b.d_max, "dL/dmax_scale");
  expect_same(a.v, b.v, "v");
  expect_same(a.min_scale, b.min_scale, "min_scale");
  expect_same(a.max_scale, b.max_scale, "max_scale");
  expect_same(a.weight, b.weight, "weight");
  expect_same(a.scale, b.scale, "scale");
  expect_same(a.dx, b.dx, "dL/dx");
  expect_same(a.d_range, b.d_range, "dL/d static range");
  EXPECT_EQ(a.wq_bf16, b.wq_bf16);
  EXPECT_EQ(a.code, b.code);
}

void expect_every_target_agrees(const ar::tune_grid& g, const layer_data& l) {
  const ar::kernel_table* tables[16];
  const size_t count = std::min<size_t>(ar::all_kernels(tables, 16), 16), rows = l.view.rows;
  ASSERT_GE(count, 1u);
  ASSERT_EQ(ar::check(g, l.view), ar::errc::ok);
  const results scalar = run(ar::tune_loops<float>::table(), g, l, 0);
  expect_same(scalar, run(ar::tune_loops<float>::table(), g, l, rows / 2));
  for (size_t t = 0; t < count; ++t) {
    SCOPED_TRACE(tables[t]->target);
    expect_same(scalar, run(tables[t]->tune, g, l, rows / 3));
  }
  for (size_t i = 0; i < scalar.wq.size(); ++i) ASSERT_EQ(scalar.wq_bf16[i], ar::bf16_from_f32(scalar.wq[i]));
  expect_same(scalar.wq, scalar.weight, "result");
}

TEST(TuneKernels, EveryInstructionSetAndEverySplitGivesTheScalarBits) {
  // Whole vectors, tails of every kind, padded last groups, groups below 8 values, rows of several levels of partial sums.
  const shape plain[] = {{5, 128, 32}, {3, 256, 128}, {4, 90, 40}, {3, 100, 64}, {7, 17, 5}, {4, 33, 7}, {2, 1, 1}, {3, 48, 16}, {2, 1111, 1111}, {1, 9000, 9000}, {2, 700, 600}};
  const shape blocks[] = {{5, 256, 32}, {3, 768, 32}, {2, 512, 16}};
  for (int bits : {2, 3, 4, 8})
    for (const auto family : {ar::tune_family::symmetric, ar::tune_family::asymmetric, ar::tune_family::superblock_asymmetric, ar::tune_family::superblock_symmetric}) {
      const bool superblocks = family == ar::tune_family::superblock_asymmetric || family == ar::tune_family::superblock_symmetric;
      for (const shape& s : superblocks ? std::vector<shape>(std::begin(blocks), std::end(blocks)) : std::vector<shape>(std::begin(plain), std::end(plain))) {
        SCOPED_TRACE(testing::Message() << "bits " << bits << " family " << static_cast<int>(family) << " " << s.rows << " x " << s.cols << " group " << s.group_size);
        const layer_data l(s, static_cast<unsigned>(bits + 10 * static_cast<int>(s.cols)), family == ar::tune_family::symmetric && bits == 4);
        ar::tune_grid g = grid(family, bits);
        if (s.group_size == 16 && superblocks) g.superblock_groups = 16;
        if (bits == 8) g.scale_type = superblocks ? ar::real::f32 : ar::real::bf16;
        if (bits == 3) g.whole_zero = false;  // of the asymmetric family
        expect_every_target_agrees(g, l);
      }
    }
  for (const bool minimum : {false, true})
    for (const shape& s : plain) {
      SCOPED_TRACE(testing::Message() << "fixed, " << s.rows << " x " << s.cols << " group " << s.group_size);
      layer_data l(s, static_cast<unsigned>(s.cols));
      l.fix(minimum);
      expect_every_target_agrees(grid(minimum ? ar::tune_family::fixed_asymmetric : ar::tune_family::fixed_symmetric, 4), l);
    }
  for (const ar::range_kernels* type : scaled_types())
    for (const shape& s : plain) {
      SCOPED_TRACE(testing::Message() << type->name << " " << s.rows << " x " << s.cols << " group " << s.group_size);
      const layer_data l(s, static_cast<unsigned>(s.cols), s.cols % 3 == 0);
      ar::tune_grid g = grid_of(*type, l);
      if (s.cols % 2 == 0) g.clamp = ar::clamp_gradient::closed;
      expect_every_target_agrees(g, l);
    }
}

TEST(TuneStep, IsGradientThenSignStep) {
  const layer_data l({8, 160, 64}, 21);
  for (const auto family : {ar::tune_family::symmetric, ar::tune_family::asymmetric}) {
    const ar::tune_grid g = grid(family, 3);
    gradients p{l.v, l.min_scale, l.max_scale};
    const gradients d = gradient_of(g, l);
    for (std::vector<float>* f : {&p.min_scale, &p.max_scale})
      for (float& x : *f) x = std::min(std::max(x, 0.0f), 1.0f);
    ar::sign_step(p.v.data(), d.v.data(), p.v.size(), 0.25f);
    ar::sign_step(p.min_scale.data(), d.min_scale.data(), p.min_scale.size(), 0.125f);
    ar::sign_step(p.max_scale.data(), d.max_scale.data(), p.max_scale.size(), 0.125f);
    layer_data in_place = l;
    in_place.view.v = in_place.v.data();
    in_place.view.min_scale = in_place.min_scale.data();
    in_place.view.max_scale = in_place.max_scale.data();
    ASSERT_EQ(ar::tune_step(g, in_place.view, 0, 8, l.grad.data(), true, 0.25f, 0.125f, {in_place.v.data(), in_place.min_scale.data(), in_place.max_scale.data()}),
              ar::errc::ok);
    EXPECT_EQ(in_place.v, p.v);
    EXPECT_EQ(in_place.min_scale, p.min_scale);
    EXPECT_EQ(in_place.max_scale, p.max_scale);
  }
}

TEST(TuneStep, ZeroAndNaNGradientsDoNotMove) {
  float p[3] = {1, 1, 1};
  const float g[3] = {0, std::nanf(""), -2};
  ar::sign_step(p, g, 3, 0.5f);
  EXPECT_EQ(p[0], 1.0f);
  EXPECT_EQ(p[1], 1.0f);
  EXPECT_EQ(p[2], 1.5f);
}

TEST(TuneStep, MomentumAddsUpGradients) {
  float p = 0, buffer = 0;
  const float g[] = {1, -0.5f, -0.5f};
  ar::sign_step(&p, g, 1, 1.0f, 0.9f, &buffer, true);
  EXPECT_EQ(p, -1.0f);
  ar::sign_step(&p, g + 1, 1, 1.0f, 0.9f, &buffer, false);  // 0.9 - 0.5 > 0
  EXPECT_EQ(p, -2.0f);
  ar::sign_step(&p, g + 2, 1, 1.0f, 0.9f, &buffer, false);  // 0.36 - 0.5 < 0
  EXPECT_EQ(p, -1.0f);
}

TEST(TuneStep, DescendsTheLossOfAPlainTarget) {
  // L = |wq - target|^2: rounding offsets that a few signed steps find must beat rounding to nearest.
  const layer_data l({4, 128, 32}, 33);
  layer_data t = l;
  std::fill(t.v.begin(), t.v.end(), 0.0f);
  std::fill(t.min_scale.begin(), t.min_scale.end(), 1.0f);
  std::fill(t.max_scale.begin(), t.max_scale.end(), 1.0f);
  t.view.weight = t.weight.data();
  t.view.v = t.v.data();
  t.view.min_scale = t.min_scale.data();
  t.view.max_scale = t.max_scale.data();
  std::vector<float> target = l.weight, wq(target.size()), grad(target.size());
  for (size_t i = 0; i < target.size(); ++i) target[i] += 0.01f * l.grad[i];
  const ar::tune_grid g = grid(ar::tune_family::symmetric, 4);
  double first = 0, last = 0;
  ar::linear_schedule schedule(0.05, 40);
  for (int i = 0; i < 40; ++i, schedule.advance()) {
    ASSERT_EQ(ar::fake_quantize(g, t.view, 0, 4, wq.data()), ar::errc::ok);
    last = 0;
    for (size_t k = 0; k < wq.size(); ++k) {
      grad[k] = 2000.0f * (wq[k] - target[k]);
      last += static_cast<double>(wq[k] - target[k]) * static_cast<double>(wq[k] - target[k]);
    }
    if (i == 0) first = last;
    ASSERT_EQ(ar::tune_step(g, t.view, 0, 4, grad.data(), true, schedule.lr(), schedule.lr(), {t.v.data(), t.min_scale.data(), t.max_scale.data()}), ar::errc::ok);
  }
  EXPECT_LT(last, 0.7 * first);
}

TEST(TuneCheck, RefusesWhatDoesNotFit) {
  const layer_data l({2, 64, 32}, 1);
  const auto with = [&](auto change) {
    ar::tune_grid g = grid(ar::tune_family::symmetric, 4);
    ar::tune_layer view = l.view;
    change(g, view);
    return ar::check(g, view);
  };
  EXPECT_EQ(with([](auto&, auto&) {}), ar::errc::ok);
  EXPECT_EQ(with([](auto& g, auto&) { g.bits = 0; }), ar::errc::bad_value);
  EXPECT_EQ(with([](auto& g, auto&) { g.bits = 9; }), ar::errc::bad_value);
  EXPECT_EQ(with([](auto& g, auto&) { g.superblock_groups = 3; }), ar::errc::bad_value);
  EXPECT_EQ(with([](auto& g, auto&) { g.factor_min = 2.0f; }), ar::errc::bad_value);
  EXPECT_EQ(with([](auto&, auto& v) { v.group_size = 0; }), ar::errc::bad_shape);
  EXPECT_EQ(with([](auto&, auto& v) { v.rows = SIZE_MAX / 2; }), ar::errc::bad_size);
  EXPECT_EQ(with([](auto& g, auto&) {
              g.family = ar::tune_family::superblock_asymmetric;
              g.super_bits = 6;
              g.superblock_groups = 8;  // 64 columns are a quarter of a super-block
            }),
            ar::errc::bad_shape);
  EXPECT_EQ(with([&](auto& g, auto& v) {
              g.family = ar::tune_family::asymmetric;
              v.init_scale = l.min_scale.data();
            }),
            ar::errc::bad_shape);
  const ar::range_kernels* two_level = nullptr;
  for (const ar::range_kernels* type : scaled_types())
    if (type->two_level()) two_level = type;
  ASSERT_NE(two_level, nullptr);
  EXPECT_EQ(with([&](auto& g, auto&) { g = ar::scaled_grid(*two_level->facts, 1.0f); }), ar::errc::ok);
  EXPECT_EQ(with([&](auto& g, auto&) { g = ar::scaled_grid(*two_level->facts); }), ar::errc::bad_value) << "no global scale";
  EXPECT_EQ(with([&](auto& g, auto&) { g = ar::scaled_grid(*two_level->facts, INFINITY); }), ar::errc::bad_value);
  EXPECT_EQ(with([&](auto& g, auto&) { g.family = ar::tune_family::scaled; }), ar::errc::bad_value) << "no facts";
  const ar::scaled_facts* bf16 = ar::kernels().range_type(two_level->name, ar::real::bf16)->facts;
  EXPECT_EQ(with([&](auto& g, auto&) { g = ar::scaled_grid(*bf16, 1.0f); }), ar::errc::bad_value) << "tuning is done in float";
  float out[128];
  EXPECT_EQ(ar::fake_quantize(grid(ar::tune_family::symmetric, 4), l.view, 1, 3, out), ar::errc::bad_shape) << "rows past the end";
  float extremum;
  EXPECT_EQ(ar::group_extrema({l.weight.data(), 1, 1}, 0, &extremum, &extremum), ar::errc::bad_shape);
}

// ---- Sums, schedule, sampler ----

TEST(RowSum, FollowsTheWrittenOrderFor128Values) {
  float x[128];
  std::mt19937 random(4);
  for (float& v : x) v = std::uniform_real_distribution<float>(-1, 1)(random);
  float t = 0;
  for (int l = 0; l < 8; ++l) {
    float slot[4];
    for (int k = 0; k < 4; ++k) slot[k] = ((x[8 * k + l] + x[32 + 8 * k + l]) + x[64 + 8 * k + l]) + x[96 + 8 * k + l];
    t += ((slot[0] + slot[1]) + slot[2]) + slot[3];
  }
  EXPECT_EQ(ar::detail::rowsum(x, 128), t);
}

TEST(RowSum, StaysNearTheExactSumForLongRows) {
  std::vector<float> x(1 << 20);
  std::mt19937 random(5);
  double exact = 0, size = 0;
  for (float& v : x) {
    v = std::uniform_real_distribution<float>(0, 1)(random);
    exact += static_cast<double>(v);
    size += std::abs(static_cast<double>(v));
  }
  // Four levels of sixteen: an error of a few dozen roundings, not of a million.
  EXPECT_NEAR(static_cast<double>(ar::detail::rowsum(x.data(), x.size())), exact, 64 * 0x1p-24 * size);
}

TEST(Schedule, FallsLinearlyToZero) {
  ar::linear_schedule s(0.005, 200);
  for (int t = 0; t < 200; ++t) {
    EXPECT_NEAR(s.lr(), 0.005 * (200 - t) / 200, 1e-7);
    s.advance();
  }
  EXPECT_EQ(s.lr(), 0.0f);
  s.advance();
  EXPECT_EQ(s.lr(), 0.0f);
  EXPECT_EQ(ar::default_learning_rate(200, 2), 1.0 / 200);
  EXPECT_EQ(ar::default_learning_rate(1000, 3), 2.0 / 1000);
  EXPECT_EQ(ar::default_learning_rate(1000, 4), 1.0 / 1000);
}

TEST(Sampler, EveryRoundIsAPermutationWithItsTailDropped) {
  ar::python_random random(1234);
  std::vector<std::int32_t> order(13);
  ar::batch_sampler sampler(random, order.data(), 13, 4);
  for (int round = 0; round < 5; ++round) {
    std::set<std::int32_t> seen;
    for (int batch = 0; batch < 3; ++batch) {
      const std::int32_t* b = sampler.next();
      for (int i = 0; i < 4; ++i) {
        EXPECT_TRUE(seen.insert(b[i]).second);
        EXPECT_TRUE(b[i] >= 0 && b[i] < 13);
      }
    }
  }
}

// ---- Constant expressions ----

constexpr float tuned_in_a_constant_expression() {
  constexpr float weight[8] = {0.1f, -0.2f, 0.3f, 0.45f, -0.5f, 0.6f, -0.7f, 0.8f};
  float wmin[1] = {}, wmax[1] = {}, v[8] = {}, lo[1] = {1}, hi[1] = {1}, wq[8] = {};
  if (ar::group_extrema({weight, 1, 8}, 8, wmin, wmax) != ar::errc::ok) return 0;
  const ar::tune_layer layer{1, 8, 8, weight, wmin, wmax, v, lo, hi, nullptr};
  constexpr float grad[8] = {0, 0, 0, 1, 0, 0, 0, 0};
  if (ar::tune_step({}, layer, 0, 1, grad, true, 0.5f, 0.0f, {v, lo, hi}) != ar::errc::ok) return 0;
  if (ar::fake_quantize({}, layer, 0, 1, wq) != ar::errc::ok) return 0;
  return v[3];
}
static_assert(tuned_in_a_constant_expression() == 0.5f, "a negative scale turns the gradient's sign");

}  // namespace
