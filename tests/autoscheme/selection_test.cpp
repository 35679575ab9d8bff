// links: ar_autoscheme
// What AutoScheme does otherwise than auto-round: bits that are really written, and schemes that do not fit a layer's shape inside the budget.
#include "autoscheme/selection.hpp"

#include <gtest/gtest.h>

namespace {

using namespace auto_round;
using namespace auto_round::autoscheme;

option named(const std::string& name) { return {name, *ar::find_preset(name), name.starts_with("GGUF:")}; }

double bits_per_weight(const std::string& name, std::uint64_t rows = 512, std::uint64_t cols = 1024) {
  const layer l{"layer", rows, cols};
  const option o = named(name);
  return static_cast<double>(bits_of(l, o.scheme, o.gguf, {.exact = true})) / static_cast<double>(l.weights());
}

TEST(ExactAccounting, IsWhatTheFormatsStore) {
  EXPECT_EQ(bits_per_weight("W2A16"), 2.140625);  // GPTQ words: 16 bits of scale and a zero point for each group
  EXPECT_EQ(bits_per_weight("W3A16"), 3.1484375);
  EXPECT_EQ(bits_per_weight("W4A16G32"), 4.625);
  EXPECT_EQ(bits_per_weight("MXFP4"), 4.25);
  EXPECT_EQ(bits_per_weight("MXFP8"), 8.25);
  EXPECT_EQ(bits_per_weight("MXINT4"), 4.25);
  EXPECT_EQ(bits_per_weight("NVFP4"), 4.5 + 32.0 / (512 * 1024));  // and one scale for the tensor
  EXPECT_EQ(bits_per_weight("INT8"), 8 + 16.0 / 1024);
  EXPECT_EQ(bits_per_weight("FP8_BLOCK"), 8 + 16.0 / (128 * 128));
  EXPECT_EQ(bits_per_weight("BF16"), 16);
  EXPECT_EQ(bits_per_weight("GGUF:Q2_K_S"), 2.625);
  EXPECT_EQ(bits_per_weight("GGUF:Q3_K_S"), 3.4375);
  EXPECT_EQ(bits_per_weight("GGUF:Q4_K_S"), 4.5);
  EXPECT_EQ(bits_per_weight("GGUF:Q5_K_S"), 5.5);
  EXPECT_EQ(bits_per_weight("GGUF:Q6_K"), 6.5625);
  EXPECT_EQ(bits_per_weight("GGUF:Q4_0"), 4.5);
  EXPECT_EQ(bits_per_weight("GGUF:Q4_1"), 5);
  EXPECT_EQ(bits_per_weight("GGUF:Q5_0"), 5.5);
  EXPECT_EQ(bits_per_weight("GGUF:Q5_1"), 6);
  EXPECT_EQ(bits_per_weight("GGUF:Q8_0"), 8.5);
}

TEST(ExactAccounting, CountsTheLastShortGroupAndThePaddingOfWords) {
  // 3 bits, 96 columns: 9 whole words a row; one group of 96, whose 32 zero points fill 3 words.
  EXPECT_EQ(bits_of({"l", 32, 96}, ar::find_preset("W3A16")[0], false, {.exact = true}), 32u * 9 * 32 + 3 * 32 + 32 * 16);
}

TEST(Fitting, EachTypeFallsBackToWhatTheShapeTakes) {
  const auto name_of = [](const std::string& name, std::uint64_t rows, std::uint64_t cols) {
    const option o = named(name);
    const ar::scheme_fields s = fitting({"l", rows, cols}, o.scheme, o.gguf);
    return s.bits >= 16 ? std::string("BF16") : std::string(s.super_bits ? "K" : s.sym ? "_0" : "_1") + std::to_string(s.bits);
  };
  EXPECT_EQ(name_of("GGUF:Q4_K_S", 64, 512), "K4");
  EXPECT_EQ(name_of("GGUF:Q2_K_S", 64, 576), "_05");
  EXPECT_EQ(name_of("GGUF:Q3_K_S", 64, 576), "_05");
  EXPECT_EQ(name_of("GGUF:Q4_K_S", 64, 576), "_14");
  EXPECT_EQ(name_of("GGUF:Q5_K_S", 64, 576), "_15");
  EXPECT_EQ(name_of("GGUF:Q6_K", 64, 576), "_08");
  EXPECT_EQ(name_of("GGUF:Q6_K", 64, 48), "BF16");
  EXPECT_EQ(name_of("GGUF:Q4_0", 64, 48), "BF16");
  EXPECT_EQ(name_of("W4A16", 64, 96), "_04");
  EXPECT_EQ(name_of("W4A16", 60, 96), "BF16");  // packed integers: multiples of 32
  EXPECT_EQ(name_of("INT8", 60, 90), "_08");
  EXPECT_EQ(name_of("NVFP4", 60, 80), "_04");
  EXPECT_EQ(name_of("NVFP4", 60, 88), "BF16");
  EXPECT_EQ(name_of("MXFP4", 60, 80), "BF16");
  const option k = named("GGUF:Q4_K_S");
  EXPECT_FALSE(fitting({"embedding", 512, 64, true}, k.scheme, true).super_bits);
}

request gguf_mix(std::uint64_t cols) {
  request r;
  for (const char* name : {"GGUF:Q2_K_S", "GGUF:Q4_K_S", "GGUF:Q6_K"}) r.options.push_back(named(name));
  for (int i = 0; i < 6; ++i) r.layers.push_back({"b." + std::to_string(i), 64, cols});
  for (const double loss : {9.0, 1.0, 0.1}) r.scores.emplace_back(6, loss);
  return r;
}

TEST(Selection, FallbacksAreInsideTheBudget) {
  // Rows of 576: Q2_K becomes Q5_0, Q4_K Q4_1 and Q6_K Q8_0, so that an average of 4.7 bits means Q4_1 everywhere.
  auto s = selector::make(gguf_mix(576));
  ASSERT_TRUE(s);
  EXPECT_EQ(s->least_avg_bits(), 4.625);
  const auto found = s->select(4.7);
  ASSERT_TRUE(found);
  EXPECT_LE(found->avg_bits(), 4.7);
  for (const ar::scheme_fields& scheme : found->schemes) EXPECT_TRUE(ar::same_scheme(scheme, *ar::find_preset("GGUF:Q4_1")));

  // auto-round counts K types and ends far above its target, which no mix of the types that are really used can reach.
  EXPECT_FALSE(s->select(3.7));
  request r = gguf_mix(576);
  r.reference = true;
  auto peer = selector::make(std::move(r));
  ASSERT_TRUE(peer);
  EXPECT_GT(peer->select(3.7)->avg_bits(), 4.6);
}

TEST(Selection, EveryTargetIsMetFromBelow) {
  for (const bool exact : {false, true}) {
    request r = gguf_mix(512);
    r.count.exact = exact;
    for (std::size_t l = 0; l < 6; ++l) r.scores[0][l] = 3.0 + static_cast<double>(l * l);
    auto s = selector::make(r);
    ASSERT_TRUE(s);
    double before = 1e9;
    for (double target = s->least_avg_bits(); target <= s->most_avg_bits(); target += 0.05) {
      const auto found = s->select(target);
      ASSERT_TRUE(found) << describe(found.error());
      EXPECT_LE(found->avg_bits(), target + 1e-3);  // targets so near to an end mean the end
      EXPECT_LE(found->loss, before);
      before = found->loss;
    }
  }
}

TEST(Selection, FixedLayersCountButAreNotChosen) {
  request r = gguf_mix(512);
  r.layers[2].fixed = *ar::find_preset("BF16");
  auto s = selector::make(r);
  ASSERT_TRUE(s);
  EXPECT_NEAR(s->least_avg_bits(), (5 * 2.75 + 16) / 6, 1e-12);
  const auto found = s->select(5.5);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->schemes[2].bits, 16);
  EXPECT_EQ(found->choice[2], r.options.size());
  EXPECT_LE(found->avg_bits(), 5.5);
}

TEST(Selection, SharedLayersAndExpertsGetOneScheme) {
  request r = gguf_mix(512);
  const char* const names[] = {"m.0.q", "m.0.k", "m.0.experts.0.up", "m.0.experts.1.up", "m.1.q", "m.1.k"};
  for (std::size_t l = 0; l < 6; ++l) {
    r.layers[l].name = names[l];
    r.scores[0][l] = 2.0 + static_cast<double>(l);
  }
  r.blocks = {"m.0", "m.1"};
  r.shared_layers = {{"\\.q$", "\\.k$"}};
  r.moe = true;
  auto s = selector::make(r);
  ASSERT_TRUE(s);
  for (const double target : {3.0, 3.7, 4.2, 5.0, 6.0}) {
    const auto found = s->select(target);
    ASSERT_TRUE(found);
    for (const std::size_t l : {0u, 2u, 4u}) EXPECT_EQ(found->choice[l], found->choice[l + 1]) << target;
  }
}

TEST(Selection, TargetsOutOfReachAreRefusedWithWhatCanBeReached) {
  auto s = selector::make(gguf_mix(512));
  ASSERT_TRUE(s);
  const auto low = s->select(2.5), high = s->select(9.0);
  ASSERT_FALSE(low);
  ASSERT_FALSE(high);
  EXPECT_EQ(low.error().kind, error_kind::usage);
  EXPECT_NE(low.error().message.find("2.750"), std::string::npos) << low.error().message;
  EXPECT_NE(high.error().message.find("GGUF:Q6_K 7.250"), std::string::npos) << high.error().message;
}

TEST(Selection, ScoresWithoutANumberAreRefused) {
  request r = gguf_mix(512);
  r.scores[1][3] = std::numeric_limits<double>::quiet_NaN();
  const auto s = selector::make(r);
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().kind, error_kind::input);
  EXPECT_EQ(s.error().tensor, "b.3");
}

}  // namespace
