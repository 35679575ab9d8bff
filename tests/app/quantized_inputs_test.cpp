// links: ar_export
// What layers of a checkpoint read: the configuration says how rows are quantized, a tensor with which static scale, and evaluations compute with just these
// numbers.
#include "export/export_quantized_inputs.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "ar/numeric/small_float.hpp"
#include "export/export_format.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"

namespace {

using namespace auto_round;
using nlohmann::ordered_json;

/// A folder whose o_proj of block 0 is FP8 and reads FP8 rows of a static scale.
class StaticInputs : public testing::Test {
 protected:
  static constexpr std::size_t width = 64;
  const std::string layer_ = "model.layers.0.self_attn.o_proj";

  result<std::unique_ptr<exporting::stored_model>> open(const std::vector<float>& input_scale, const char* input_type = "float") {
    support::tiny_model m;
    m.tensors[layer_ + ".weight"] = {"F8_E4M3", {width, width}, std::string(width * width, '\x30')};
    m.tensors[layer_ + ".weight_scale"] = floats({1}, {0.5f});
    if (!input_scale.empty()) m.tensors[layer_ + ".input_scale"] = floats({input_scale.size()}, input_scale);
    const ordered_json weights = {{"num_bits", 8}, {"type", "float"}, {"symmetric", true}, {"strategy", "tensor"}, {"dynamic", false}};
    ordered_json inputs = weights;
    inputs["type"] = input_type;
    m.config["quantization_config"] = {{"config_groups", {{"group_0", {{"targets", {layer_}}, {"weights", weights}, {"input_activations", inputs}}}}},
                                       {"quant_method", "compressed-tensors"}, {"format", "float-quantized"}, {"ignore", {"lm_head"}}};
    m.write(dir_.path() / "model");
    return exporting::open_model(dir_ / "model");
  }
  static support::tiny_tensor floats(std::vector<std::uint64_t> shape, const std::vector<float>& values) {
    support::tiny_tensor t{"F32", std::move(shape), std::string(values.size() * sizeof(float), '\0')};
    std::memcpy(t.bytes.data(), values.data(), t.bytes.size());
    return t;
  }
  support::temp_dir dir_;
};

TEST_F(StaticInputs, AreRoundedToTheGridOfTheStoredScale) {
  constexpr float scale = 0.25f;  // a power of two: quotients are exact
  const auto opened = open({scale});
  ASSERT_TRUE(opened.has_value()) << describe(opened.error());
  const auto filter = (*opened)->input_filter(0);
  ASSERT_TRUE(filter.has_value()) << describe(filter.error());
  ASSERT_TRUE(*filter);
  std::vector<float> x(2 * width);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::ldexp(std::sin(static_cast<float>(i) + 0.5f), static_cast<int>(i % 9));  // up to 256: beyond 112 they saturate
  std::vector<float> rows = x, other = x;
  const int o = (*opened)->spec().o;
  (*filter)(o, rows.data(), 2);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float clipped = std::min(std::max(x[i] / scale, -448.0f), 448.0f);
    EXPECT_EQ(rows[i], ar::f32_from_small<ar::e4m3fn>(ar::small_from_f32<ar::e4m3fn>(clipped)) * scale) << x[i];
  }
  (*filter)((*opened)->spec().q, other.data(), 2);  // reads float rows
  EXPECT_EQ(other, x);
  const auto second = (*opened)->input_filter(1);
  ASSERT_TRUE(second.has_value());
  EXPECT_FALSE(*second);
  (*opened)->read_float_inputs();
  EXPECT_FALSE(*(*opened)->input_filter(0));
}

TEST_F(StaticInputs, OfATypeThatIsNotUnderstoodAreRefused) {
  const auto opened = open({0.25f}, "int");
  ASSERT_TRUE(opened.has_value()) << describe(opened.error());
  const auto filter = (*opened)->input_filter(0);
  ASSERT_FALSE(filter.has_value());
  EXPECT_EQ(filter.error().kind, error_kind::unsupported);
}

TEST_F(StaticInputs, NeedAScaleThatIsAPositiveNumber) {
  for (const std::vector<float>& bad : {std::vector<float>{}, {0.0f}, {-1.0f}, {std::nanf("")}, {INFINITY}, {0.25f, 0.25f}}) {
    const auto opened = open(bad);
    ASSERT_TRUE(opened.has_value()) << describe(opened.error());
    const auto filter = (*opened)->input_filter(0);
    ASSERT_FALSE(filter.has_value());
    EXPECT_EQ(filter.error().kind, error_kind::input);
    EXPECT_NE(describe(filter.error()).find("input_scale"), std::string::npos) << describe(filter.error());
  }
}

}  // namespace
