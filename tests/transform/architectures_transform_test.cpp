// links: ar_transform ar_arch ar_model ar_text OpenMP::OpenMP_CXX
// Smoothing and rotation on tiny models of every architecture: the float model computes what it computed, or the change is refused with a reason.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "model/decoder.hpp"
#include "support/distance.hpp"
#include "support/tiny_checkpoint.hpp"
#include "transform/awq.hpp"
#include "transform/rotation.hpp"

namespace {

using namespace auto_round;
using support::checkpoint;

text::calibration_set calibration(std::int64_t vocab) {
  text::calibration_set set;
  set.seqlen = 16;
  std::mt19937 random(3);
  for (int i = 0; i < 6 * 16; ++i) {
    set.ids.push_back(static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(vocab)));
    set.valid.push_back(1);
  }
  return set;
}

std::vector<float> logits_of(const model::weight_source& source) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 24; ++i) ids.push_back((i * 7 + 3) % 64);
  auto logits = model::logits(source, ids);
  EXPECT_TRUE(logits) << describe(logits.error());
  return logits ? std::move(*logits) : std::vector<float>();
}

class Transforms : public testing::TestWithParam<std::string> {
 protected:
  checkpoint model_{support::architecture_folder(GetParam())};
};

TEST_P(Transforms, SmoothedModelsComputeTheSame) {
  const model::model_spec& spec = model_.source.spec();
  transform::layer_schemes schemes;
  for (std::int64_t b = 0; b < spec.num_layers; ++b)
    for (int i = 0; i < static_cast<int>(spec.linears.size()); ++i)
      if (spec.has_linear(b, i)) schemes[spec.linear_name(b, i)] = {.bits = 3, .group_size = 16, .sym = true, .data_type = "int"};
  const std::vector<float> expected = logits_of(model_.source);
  for (const auto& [skip_moe, inputs] : {std::pair{true, false}, {false, false}, {false, true}}) {
    transform::awq_options o;
    o.mapping.skip_moe = skip_moe;
    if (inputs) {  // quantized, and scales that are searched
      o.search = transform::search_quantizer::init_scale;
      for (auto& [name, s] : schemes) s.act_bits = 4, s.act_group_size = 16, s.act_sym = true, s.act_data_type = "int", s.act_dynamic = true;
    }
    std::set<std::string> smoothed;
    transform::awq_events events;
    events.on_mapping = [&](const transform::awq_report& r) { smoothed.insert(r.smooth.substr(r.smooth.rfind('.') + 1)); };
    const auto changes = transform::run_awq(model_.source, calibration(spec.vocab_size), schemes, o, events);
    if (!changes) {
      EXPECT_EQ(changes.error().kind, error_kind::unsupported) << describe(changes.error());
      EXPECT_EQ(spec.architecture, "gpt_neox") << describe(changes.error());
      return;
    }
    const transform::awq_source source(model_.source, *changes);
    // Norms are divided and weights multiplied in float: two roundings of each weight.
    EXPECT_LT(support::largest_difference(logits_of(source), expected), 2e-5);
    std::size_t touched = 0;
    for (const auto& t : model_.dir.tensors()) touched += changes->touches(t.name);
    EXPECT_GT(touched, 2u);
    EXPECT_GE(smoothed.size(), 2u) << testing::PrintToString(smoothed);
    if (spec.mixture.experts > 0 && !skip_moe) {
      EXPECT_THAT(smoothed, testing::Contains(spec.architecture == "mixtral" ? "v_proj" : "up_proj"));
    }
  }
}

TEST_P(Transforms, RotatedModelsComputeTheSame) {
  const model::model_spec& spec = model_.source.spec();
  const std::vector<float> expected = logits_of(model_.source);
  for (const auto family : {transform::rotation_family::spinquant, transform::rotation_family::inplace, transform::rotation_family::transform}) {
    transform::rotation_options o;
    o.family = family;
    if (spec.head_dim != 8) o.r2 = false;
    auto places = transform::place_rotations(spec, o, transform::drawn_signs(1));
    if (!places) {
      // Heads of 10 values have no transform in blocks: a matter of the size, not of the architecture.
      EXPECT_TRUE(places.error().kind == error_kind::unsupported || (spec.plain() && places.error().kind == error_kind::usage)) << describe(places.error());
      EXPECT_TRUE(!spec.plain() || spec.head_dim != 8) << describe(places.error());
      continue;
    }
    EXPECT_TRUE(spec.plain());
    const transform::rotated_source rotated(model_.source, std::move(*places), {});
    EXPECT_LT(support::largest_difference(logits_of(rotated), expected), 2e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, Transforms, testing::ValuesIn(support::architectures()), [](const auto& p) { return p.param; });

}  // namespace
