// Presets: look-up in any case, reverse look-up, equality that ignores activations nobody quantizes. The reference's full table is compared in
// golden/data_types_presets_test.cpp.
#include <gtest/gtest.h>

#include <string>

#include "ar/scheme.hpp"

namespace {

TEST(Presets, NamesAreFoundInAnyCase) {
  ASSERT_NE(ar::find_preset("w4a16"), nullptr);
  EXPECT_EQ(ar::find_preset("w4a16"), ar::find_preset("W4A16"));
  EXPECT_EQ(ar::find_preset("Gguf:Q4_k_S")->data_type, "int_asym_dq");
  EXPECT_EQ(ar::find_preset("Q4_K_S"), nullptr) << "the prefix belongs to the name";
  EXPECT_EQ(ar::find_preset(""), nullptr);
  EXPECT_EQ(ar::find_preset("W4A16 "), nullptr);
}

TEST(Presets, EveryNameLeadsBackToAnEqualScheme) {
  for (const ar::preset& p : ar::presets) {
    const ar::preset* first = nullptr;
    for (const ar::preset& q : ar::presets)
      if (first == nullptr && ar::same_scheme(p.fields, q.fields)) first = &q;
    EXPECT_EQ(ar::preset_name(p.fields), first->name);
  }
  EXPECT_EQ(ar::preset_name(*ar::find_preset("W4A16_MIXED")), "W4A16") << "a recipe starts from a plain scheme";
  EXPECT_EQ(ar::preset_name(*ar::find_preset("INT8_W8A8")), "INT8");
}

TEST(Presets, ActivationFieldsDoNotCountAtSixteenBits) {
  ar::scheme_fields s = *ar::find_preset("W4A16");
  s.act_data_type = "float";
  s.act_sym = true;
  s.act_bits.reset();
  EXPECT_EQ(ar::preset_name(s), "W4A16");
  s.act_bits = 8;
  EXPECT_EQ(ar::preset_name(s), "");
  s = *ar::find_preset("NVFP4_E5M3");
  s.act_dynamic = true;  // completed
  EXPECT_EQ(ar::preset_name(s), "");
}

TEST(Presets, QuantizesTellsWhetherAnythingHappens) {
  EXPECT_TRUE(ar::quantizes(*ar::find_preset("W8A16")));
  EXPECT_FALSE(ar::quantizes(*ar::find_preset("BF16")));
  EXPECT_TRUE(ar::quantizes({.bits = 16, .act_bits = 8}));
}

TEST(Schemes, PartsAreStaticOrDynamic) {
  struct type {};
  static_assert(sizeof(ar::scheme<type, ar::group<128>>) == 1);
  EXPECT_EQ((ar::scheme<type, ar::group<128>>{}.group_size()), 128);
  EXPECT_EQ(ar::scheme(type{}, ar::group(64)).group_size(), 64);
  EXPECT_EQ((ar::scheme<type>(ar::group<ar::dynamic>(-1)).group_size()), -1);
}

}  // namespace
