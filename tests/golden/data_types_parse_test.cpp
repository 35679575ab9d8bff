// links: ar_plan ar_command
// Schemes as users write them, resolved field by field as the original resolves them (golden/data-types/parse.json); what it refuses is refused.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "plan.hpp"
#include "support/golden_json.hpp"

namespace {

using namespace auto_round;

bool scalar(const nlohmann::ordered_json& fields) {
  for (const auto& [key, value] : fields.items())
    if (value.is_array()) return false;
  return true;
}

plan::scheme_overrides overrides_of(const nlohmann::ordered_json& fields) {
  plan::scheme_overrides o;
  for (const auto& [key, value] : fields.items()) {
    if (key == "bits") o.bits = value.get<std::int64_t>();
    if (key == "group_size") o.group_size = value.get<std::int64_t>();
    if (key == "act_bits") o.act_bits = value.get<std::int64_t>();
    if (key == "act_group_size") o.act_group_size = value.get<std::int64_t>();
    if (key == "sym") o.sym = value.get<bool>();
    if (key == "act_sym") o.act_sym = value.get<bool>();
    if (key == "act_dynamic") o.act_dynamic = value.get<bool>();
    if (key == "data_type") o.data_type = value.get<std::string>();
    if (key == "act_data_type") o.act_data_type = value.get<std::string>();
  }
  return o;
}

TEST(Parse, SchemesResolveAsInTheOriginal) {
  int equal = 0, refused = 0, without_quantizer = 0, not_a_name = 0;
  for (const auto& e : golden::read_json(golden::root() / "data-types" / "parse.json")) {
    // Field maps and two-dimensional groups cannot be written on a command line.
    if (!e["scheme"].is_string() || !scalar(e["overrides"])) {
      ++not_a_name;
      continue;
    }
    SCOPED_TRACE(e.dump());
    std::vector<std::string> formats;
    if (e["format"].is_string()) {
      std::string text = e["format"].get<std::string>();
      for (std::size_t at = 0; (at = text.find(',')) != std::string::npos; text.erase(0, at + 1)) formats.push_back(text.substr(0, at));
      formats.push_back(text);
    }
    const auto got = plan::resolve_scheme(e["scheme"].get<std::string>(), overrides_of(e["overrides"]), formats);
    if (e.contains("error") || e["check"] != "ok") {
      EXPECT_FALSE(got.has_value());
      ++refused;
      continue;
    }
    if (!got) {
      // The original finds out when it prepares the first layer; the recipes are for another command line.
      EXPECT_EQ(got.error().kind, error_kind::unsupported) << got.error().message;
      ++without_quantizer;
      continue;
    }
    const auto& want = e["resolved"];
    const auto optional_int = [](const nlohmann::ordered_json& v) { return v.is_null() ? std::optional<int>() : std::optional<int>(v.get<int>()); };
    EXPECT_EQ(got->bits, want["bits"].get<int>());
    if (want["group_size"].is_array()) {
      EXPECT_EQ(got->group_rows, want["group_size"][0].get<int>());
      EXPECT_EQ(got->group_size, want["group_size"][1].get<int>());
    } else {
      EXPECT_EQ(got->group_size, want["group_size"].get<int>());
    }
    EXPECT_EQ(got->sym, want["sym"].get<bool>());
    EXPECT_EQ(std::string(got->data_type), want["data_type"].get<std::string>());
    EXPECT_EQ(got->act_bits, optional_int(want["act_bits"]));
    EXPECT_EQ(got->act_group_size, optional_int(want["act_group_size"]));
    if (!want["act_sym"].is_null()) {
      EXPECT_EQ(got->act_sym, want["act_sym"].get<bool>());
    }
    EXPECT_EQ(std::string(got->act_data_type.value_or("")), want["act_data_type"].get<std::string>());
    EXPECT_EQ(got->act_dynamic, want["act_dynamic"].get<bool>());
    EXPECT_EQ(got->super_bits, optional_int(want["super_bits"]));
    EXPECT_EQ(got->super_group_size, optional_int(want["super_group_size"]));
    ++equal;
  }
  EXPECT_GT(equal, 3 * without_quantizer);
  EXPECT_GT(refused, 0);
  std::printf("%d equal, %d refused as in the original, %d without a quantizer, %d that no command line can say\n", equal, refused, without_quantizer, not_a_name);
}

}  // namespace
