// links: ar_text
// The calibration set against the original: rows, order, batches, labels, untruncated ids and the random generators, for every case in the folder.
#include "text/calibration.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "ar/tune.hpp"
#include "support/golden_json.hpp"
#include "text/chat_template.hpp"
#include "text/numpy_random.hpp"
#include "text/records.hpp"

namespace {

using namespace auto_round;
using nlohmann::ordered_json;

const std::filesystem::path kTopic = golden::root() / "calibration";

text::tokenizer tokenizer_named(const std::string& name) {
  auto tok = text::tokenizer::open((kTopic / name).string());
  if (!tok) throw std::runtime_error(describe(tok.error()));
  return std::move(*tok);
}

// The names in a --dataset text are relative to data/; and the original removes all blanks first, which the program does only around separators.
std::string dataset_of(const ordered_json& c) {
  std::string out;
  for (const char ch : c["dataset"].get<std::string>()) {
    if (ch != ' ') out.push_back(ch);
  }
  std::string rooted;
  for (std::size_t at = 0; at <= out.size();) {
    const std::size_t end = std::min(out.find(',', at), out.size());
    rooted += (rooted.empty() ? "'" : ",'");
    const std::string part = out.substr(at, end - at);
    const std::size_t name = std::min(part.find(':'), part.size());
    rooted += (kTopic / "data" / part.substr(0, name)).string() + "'" + part.substr(name);
    at = end + 1;
  }
  return rooted;
}

// A seed in decimal as 32-bit words, least significant first.
std::vector<std::uint32_t> words_of(std::string decimal) {
  std::vector<std::uint32_t> words;
  do {
    std::uint64_t rest = 0;
    std::string quotient;
    for (const char d : decimal) {
      rest = rest * 10 + static_cast<std::uint64_t>(d - '0');
      if (const auto q = rest >> 32; q != 0 || !quotient.empty()) quotient.push_back(static_cast<char>('0' + q));
      rest &= 0xFFFFFFFF;
    }
    words.push_back(static_cast<std::uint32_t>(rest));
    decimal = quotient;
  } while (!decimal.empty());
  return words;
}

TEST(Calibration, EveryCaseGivesTheRowsOfTheOriginal) {
  const ordered_json cases = golden::read_json(kTopic / "cases.json");
  ASSERT_FALSE(cases.empty());
  const golden::file tensors("calibration", "calib.safetensors");
  for (const ordered_json& c : cases) {
    const std::string name = c["name"];
    SCOPED_TRACE(name + ": " + c["dataset"].get<std::string>());
    const text::tokenizer tok = tokenizer_named(c["tokenizer"]);
    const text::calibration_options options = {dataset_of(c), c["nsamples"], c["seqlen"], c["seed"], c["batch_size"]};
    const auto set = text::load_calibration(tok, options);
    const std::string note = c.value("note", "");
    if (c.contains("error") || note.starts_with("informational")) {
      // The original fails or is known to be wrong: rows must be full, or the error must say something.
      if (set) {
        EXPECT_EQ(set->ids.size(), static_cast<std::size_t>(set->rows() * set->seqlen));
      } else {
        EXPECT_GT(set.error().message.size(), 20u);
      }
      continue;
    }
    if (c["rows"] == 0) {
      ASSERT_FALSE(set);
      EXPECT_EQ(set.error().kind, error_kind::input);
      continue;
    }
    ASSERT_TRUE(set) << describe(set.error());
    EXPECT_EQ(set->seqlen, c["seqlen"].get<std::int64_t>());
    EXPECT_EQ(set->batch_rows, c["batch_rows"].get<std::vector<std::int64_t>>());
    ASSERT_EQ(set->rows(), std::accumulate(set->batch_rows.begin(), set->batch_rows.end(), std::int64_t{0}));
    EXPECT_EQ(set->ids, tensors[name + ".input_ids"].as<std::int32_t>());
    const auto labels = tensors[name + ".label_ids"].as<std::int32_t>();
    ASSERT_EQ(set->valid.size(), labels.size());
    for (std::size_t i = 0; i < labels.size(); ++i) {
      ASSERT_EQ(set->valid[i] != 0, labels[i] != -100) << "position " << i;
    }
  }
}

TEST(Calibration, EveryRecordHasTheIdsOfTheOriginal) {
  const golden::file tensors("calibration", "tokens.safetensors");
  int checked = 0;
  for (const auto& [name, offsets_tensor] : tensors.tensors()) {
    if (!name.ends_with(".offsets")) continue;
    SCOPED_TRACE(name);
    // <tokenizer>.<file>.<raw|chat>.offsets, where the file's name has a dot of its own.
    const std::string stem = name.substr(0, name.rfind('.'));
    const bool chat = stem.ends_with(".chat");
    const std::size_t first_dot = stem.find('.');
    const std::string file = stem.substr(first_dot + 1, stem.rfind('.') - first_dot - 1);
    const text::tokenizer tok = tokenizer_named(stem.substr(0, first_dot));
    const auto ids = tensors[stem + ".ids"].as<std::int32_t>(), offsets = offsets_tensor.as<std::int32_t>();
    const auto records = text::read_records((kTopic / "data" / file).string(), false);
    ASSERT_TRUE(records) << describe(records.error());
    ASSERT_EQ(records->size() + 1, offsets.size());
    const auto rendering = text::chat_template::parse(tok.chat_template());
    ASSERT_TRUE(rendering) << describe(rendering.error());
    for (std::size_t r = 0; r < records->size(); ++r) {
      std::string text = std::get<std::string>((*records)[r]);
      if (chat) {
        const auto rendered = rendering->render({{"system", "You are a helpful assistant."}, {"user", text}}, true, tok.bos_token(), tok.eos_token());
        ASSERT_TRUE(rendered) << describe(rendered.error());
        text = *rendered;
      }
      const auto got = tok.encode(text, true);
      ASSERT_TRUE(got);
      EXPECT_EQ(*got, std::vector<std::int32_t>(ids.begin() + offsets[r], ids.begin() + offsets[r + 1])) << "record " << r;
      ++checked;
    }
  }
  EXPECT_GT(checked, 0);
}

TEST(Calibration, GeneratorsGiveThePermutationsOfPythonAndNumpy) {
  const ordered_json rng = golden::read_json(kTopic / "rng.json");
  ASSERT_FALSE(rng["python_random_shuffle"].empty());
  ASSERT_FALSE(rng["numpy_permutation"].empty());
  for (const ordered_json& c : rng["python_random_shuffle"]) {
    const auto seed = words_of(c["seed"]);
    std::vector<std::int32_t> order(c["n"].get<std::size_t>());
    std::iota(order.begin(), order.end(), 0);
    ar::python_random(seed.data(), seed.size()).shuffle(order.data(), order.size());
    const auto wanted = c["order"].get<std::vector<std::int32_t>>();
    order.resize(wanted.size());
    EXPECT_EQ(order, wanted) << c["seed"] << ' ' << c["n"];
  }
  for (const ordered_json& c : rng["numpy_permutation"]) {
    auto order = text::numpy_permutation(words_of(c["seed"]), c["n"].get<std::uint32_t>());
    const auto wanted = c["order"].get<std::vector<std::uint32_t>>();
    order.resize(wanted.size());
    EXPECT_EQ(order, wanted) << c["seed"] << ' ' << c["n"];
  }
  for (const ordered_json& c : rng["python_random_floats"]) {
    const auto seed = words_of(c["seed"]);
    ar::python_random random(seed.data(), seed.size());
    for (const ordered_json& v : c["values"]) EXPECT_EQ(random.random(), std::strtod(v.get<std::string>().c_str(), nullptr));
  }
}

}  // namespace
