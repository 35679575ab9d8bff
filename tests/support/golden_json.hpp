// JSON of golden data. Apart from golden.hpp, which most tests do without it: the header is as much to compile as a small test. Read in one unit, in
// the order of the file; throws on anything odd.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "support/golden.hpp"

namespace golden {

nlohmann::ordered_json parse_json(const std::string& text);
nlohmann::ordered_json read_json(const std::filesystem::path& path);

}  // namespace golden
