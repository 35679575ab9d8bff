// The preset table against the reference's (golden/data-types/presets.json): every preset, every field, and the order of the reverse look-up.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "ar/scheme.hpp"
#include "support/golden_json.hpp"

namespace {

template <class T>
void expect_field(const nlohmann::ordered_json& want, const std::optional<T>& got, const std::string& name) {
  if (want.is_null()) {
    EXPECT_FALSE(got.has_value()) << name;
  } else if constexpr (std::is_same_v<T, std::string_view>) {
    EXPECT_EQ(std::string(got.value_or("none")), want.get<std::string>()) << name;
  } else {
    ASSERT_TRUE(got.has_value()) << name;
    EXPECT_EQ(*got, want.get<T>()) << name;
  }
}

TEST(Presets, EqualTheReference) {
  const auto table = golden::read_json(golden::root() / "data-types" / "presets.json");
  ASSERT_GT(table.size(), 0u);
  EXPECT_EQ(table.size(), std::size(ar::presets));
  for (const auto& [name, want] : table.items()) {
    SCOPED_TRACE(name);
    const ar::scheme_fields* got = ar::find_preset(name);
    ASSERT_NE(got, nullptr);
    EXPECT_EQ(got->bits, want["bits"].get<int>());
    if (want["group_size"].is_array()) {
      EXPECT_EQ(got->group_rows, want["group_size"][0].get<int>());
      EXPECT_EQ(got->group_size, want["group_size"][1].get<int>());
    } else {
      EXPECT_EQ(got->group_rows, 0);
      EXPECT_EQ(got->group_size, want["group_size"].get<int>());
    }
    EXPECT_EQ(got->sym, want["sym"].get<bool>());
    EXPECT_EQ(std::string(got->data_type), want["data_type"].get<std::string>());
    expect_field(want["act_bits"], got->act_bits, "act_bits");
    expect_field(want["act_group_size"], got->act_group_size, "act_group_size");
    expect_field(want["act_sym"], got->act_sym, "act_sym");
    expect_field(want["act_data_type"], got->act_data_type, "act_data_type");
    expect_field(want["act_dynamic"], got->act_dynamic, "act_dynamic");
    expect_field(want["super_bits"], got->super_bits, "super_bits");
    expect_field(want["super_group_size"], got->super_group_size, "super_group_size");
    EXPECT_TRUE(want["rotation_config"].is_null());
  }
}

}  // namespace
