// links: ar_tune OpenMP::OpenMP_CXX
// A pass over the calibration set that was cut short goes on from its file and finds the same bits; a file that cannot be believed costs only time.
#include "tune/pass_file.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "support/random_model.hpp"
#include "support/temp_dir.hpp"
#include "tune/importance.hpp"
#include "tune/journal.hpp"
#include "tune/static_scales.hpp"

namespace {

using namespace auto_round;
using tune::pass_file;
namespace fs = std::filesystem;

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

io::json key(const char* run) { return io::json(io::json::object{}).set("run", run); }

class PassFile : public testing::Test {
 protected:
  pass_file open(const char* run = "mine", bool restart = false) const {
    auto f = pass_file::open(path_, key(run), restart);
    if (!f) throw std::runtime_error(describe(f.error()));
    return std::move(*f);
  }
  /// A state of one number and a stream that begins with it.
  static bool save(pass_file& f, std::uint8_t number, std::size_t bytes) {
    return f.save(std::vector(1, std::byte{number}), bytes, [&](std::uint64_t at, std::span<std::byte> piece) {
      for (std::size_t i = 0; i < piece.size(); ++i) piece[i] = value(number, at + i);
    });
  }
  static std::byte value(std::uint8_t number, std::uint64_t at) { return static_cast<std::byte>(number + 7 * at + (at >> 13)); }
  /// The number of the state that is there, whole; nothing if there is none.
  static std::optional<std::uint8_t> state(const pass_file& f, std::size_t bytes) {
    const auto numbers = f.numbers();
    if (!numbers) return std::nullopt;
    std::vector<std::byte> all(bytes);
    if (!f.stream(bytes, [&](std::uint64_t at, std::span<const std::byte> piece) { std::ranges::copy(piece, all.begin() + static_cast<std::ptrdiff_t>(at)); }))
      return std::nullopt;
    const auto number = static_cast<std::uint8_t>(numbers->at(0));
    for (std::size_t i = 0; i < bytes; ++i) EXPECT_EQ(all[i], value(number, i));
    return number;
  }

  support::temp_dir dir_;
  const std::string path_ = dir_ / "pass";
  static constexpr std::size_t long_stream = (std::size_t{5} << 19) + 3;  // two and a half pieces
};

TEST_F(PassFile, TheLastStateIsFoundAgain) {
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{9}, long_stream}) {
    pass_file f = open();
    EXPECT_FALSE(f.any());
    EXPECT_FALSE(f.numbers());
    ASSERT_TRUE(save(f, 1, 5));
    ASSERT_TRUE(save(f, 2, bytes));
    EXPECT_TRUE(f.any());
    const pass_file again = open();
    EXPECT_TRUE(again.any());
    EXPECT_EQ(state(again, bytes), 2);
    EXPECT_FALSE(state(again, bytes + 1)) << "a stream of another size is another pass's";
    f.remove();
    EXPECT_FALSE(f.any());
    EXPECT_TRUE(fs::is_empty(fs::path(path_).parent_path()));
  }
}

TEST_F(PassFile, AnotherRunIsRefusedAndRestartForgets) {
  pass_file mine = open();
  save(mine, 1, 5);
  const auto other = pass_file::open(path_, key("yours"));
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().kind, error_kind::output);
  EXPECT_NE(other.error().message.find("run"), std::string::npos);
  EXPECT_EQ(other.error().file, path_);
  EXPECT_FALSE(open("yours", true).any());
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(PassFile, ACutOrDamagedFileHoldsNoStateOrTheRightOne) {
  {
    pass_file f = open();
    save(f, 3, long_stream);
  }
  const std::string whole = bytes_of(path_);
  for (std::size_t n = 0; n < whole.size(); n += whole.size() / 23) {
    put(path_, whole.substr(0, n));
    EXPECT_FALSE(state(open(), long_stream)) << "cut at byte " << n;
    std::string flipped = whole;
    flipped[n] = static_cast<char>(flipped[n] ^ 16);
    put(path_, flipped);
    if (n < 8) continue;  // of no log
    EXPECT_EQ(state(open(), long_stream).value_or(3), 3) << "damaged at byte " << n;
  }
}

TEST_F(PassFile, AFormerStateStaysWhereTheNextCannotBeWritten) {
  pass_file f = open();
  save(f, 4, 5);
  const std::string next = path_ + ".new";
  put(next, "a file of somebody else");
  EXPECT_FALSE(save(f, 5, 5));
  EXPECT_TRUE(f.lost());
  EXPECT_FALSE(f.is_due(0));
  EXPECT_EQ(bytes_of(next), "a file of somebody else");
  EXPECT_EQ(state(open(), 5), 4);
  // What a killed run was about to write is ours.
  fs::copy_file(path_, next, fs::copy_options::overwrite_existing);
  EXPECT_EQ(state(open(), 5), 4);
  EXPECT_FALSE(fs::exists(next));
}

/// What a pass finds: importance, maxima of layers and of attention; FP8 keys and values act on the blocks behind.
struct found {
  std::vector<std::byte> statistics;
  std::int64_t known = 0, blocks = 0;
};

result<found> collect(tune::pass_file* kept, const std::string& scratch, bool bf16, bool stop = false) {
  const support::random_model model;
  tune::attention_scales attention;
  attention.cache = tune::attention_scales::type::fp8;
  attention.queries = true;
  tune::maxima_collector maxima(model.spec(), {"layers.0.q", "layers.1.down"}, attention);
  found f;
  tune::importance_options o;
  o.batch_size = 4;
  o.bf16_activations = bf16;
  o.spill_folder = scratch;
  o.maxima = &maxima;
  o.kept = kept;
  o.on_known = [&](std::int64_t blocks) { f.known = blocks; };
  o.on_block = [&](std::int64_t) {
    ++f.blocks;
    return !stop;
  };
  const auto importance = tune::collect_importance(model, support::calibration(), o);
  if (!importance) return forward_error(importance);
  f.statistics = tune::to_record(*importance, maxima.maxima());
  return f;
}

TEST_F(PassFile, APassGoesOnBehindTheBlockWhereItWasCutShort) {
  for (const bool bf16 : {false, true})
    for (const std::string& scratch : {std::string(), dir_ / ""}) {
      const auto whole = collect(nullptr, scratch, bf16);
      ASSERT_TRUE(whole);
      pass_file cut = open();
      const auto stopped = collect(&cut, scratch, bf16, true);
      ASSERT_FALSE(stopped);
      EXPECT_EQ(stopped.error().kind, error_kind::interrupted);
      const std::string state = bytes_of(path_);
      pass_file left = open();
      const auto rest = collect(&left, scratch, bf16);
      ASSERT_TRUE(rest);
      EXPECT_EQ(rest->known, 1);
      EXPECT_EQ(rest->blocks, 1);
      EXPECT_EQ(rest->statistics, whole->statistics);
      EXPECT_EQ(bytes_of(path_), state) << "behind the last block there is nothing to go on with";
      // Without the end of its stream the pass begins anew.
      put(path_, state.substr(0, state.size() - 1));
      pass_file damaged = open();
      const auto anew = collect(&damaged, scratch, bf16);
      ASSERT_TRUE(anew);
      EXPECT_EQ(anew->known, 0);
      EXPECT_EQ(anew->statistics, whole->statistics);
      damaged.remove();
    }
}

TEST_F(PassFile, StatesThatAreNotOfThisPassAreNoStates) {
  const auto whole = collect(nullptr, {}, false);
  ASSERT_TRUE(whole);
  pass_file bf16 = open();
  ASSERT_FALSE(collect(&bf16, {}, true, true));
  pass_file other = open();
  const auto floats = collect(&other, {}, false);  // a stream of another size
  ASSERT_TRUE(floats);
  EXPECT_EQ(floats->known, 0);
  EXPECT_EQ(floats->statistics, whole->statistics);
  pass_file noise = open();
  save(noise, 6, 5);
  pass_file made_up = open();
  const auto anew = collect(&made_up, {}, false);
  ASSERT_TRUE(anew);
  EXPECT_EQ(anew->known, 0);
  EXPECT_EQ(anew->statistics, whole->statistics);
}

}  // namespace
