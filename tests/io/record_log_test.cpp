// links: ar_io
// The log of records: what is read is what was appended, whatever happened to the file.
#include "io/record_log.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "support/temp_dir.hpp"

namespace {

using auto_round::error_kind;
using auto_round::io::record_log;
namespace fs = std::filesystem;

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

std::string text(const record_log& log, std::size_t i) {
  const auto r = log.read(i);
  EXPECT_TRUE(r.has_value());
  return r ? std::string(reinterpret_cast<const char*>(r->data()), r->size()) : std::string();
}

class RecordLog : public testing::Test {
 protected:
  record_log open() {
    auto log = record_log::open(path_);
    if (!log) ADD_FAILURE() << log.error().message;
    return std::move(*log);
  }
  void append(record_log& log, const std::string& record) {
    const auto r = log.append(std::as_bytes(std::span(record)));
    EXPECT_TRUE(r.has_value()) << (r ? "" : r.error().message);
  }
  support::temp_dir dir_;
  const std::string path_ = dir_ / "log";
  const std::string long_record_ = std::string(5000, 'a') + "b" + std::string(70000, '\0');
};

TEST_F(RecordLog, GivesBackWhatWasAppendedAfterReopening) {
  {
    record_log log = open();
    EXPECT_EQ(log.size(), 0u);
    append(log, "first");
    append(log, "");
    append(log, long_record_);
    EXPECT_EQ(text(log, 2), long_record_);
  }
  record_log log = open();
  ASSERT_EQ(log.size(), 3u);
  EXPECT_EQ(text(log, 0), "first");
  EXPECT_EQ(text(log, 1), "");
  EXPECT_EQ(text(log, 2), long_record_);
  EXPECT_FALSE(log.read(3).has_value());
  append(log, "fourth");
  EXPECT_EQ(text(open(), 3), "fourth");
  ASSERT_TRUE(log.clear().has_value());
  EXPECT_EQ(log.size(), 0u);
  append(log, "anew");
  EXPECT_EQ(open().size(), 1u);
  ASSERT_TRUE(log.remove().has_value());
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(RecordLog, CutAnywhereItHoldsTheRecordsBeforeTheCutAndGoesOn) {
  std::vector<std::size_t> ends;
  {
    record_log log = open();
    ends.push_back(fs::file_size(path_));
    for (const std::string r : {"one", "two two", "three"}) {
      append(log, r);
      ends.push_back(fs::file_size(path_));
    }
  }
  const std::string whole = bytes_of(path_);
  for (std::size_t n = 0; n <= whole.size(); ++n) {
    put(path_, whole.substr(0, n));
    record_log log = open();
    const auto records = static_cast<std::size_t>(std::upper_bound(ends.begin() + 1, ends.end(), n) - ends.begin() - 1);
    ASSERT_EQ(log.size(), records) << n << " bytes";
    append(log, "next");
    const record_log again = open();
    ASSERT_EQ(again.size(), records + 1) << n << " bytes";
    EXPECT_EQ(text(again, records), "next");
  }
}

TEST_F(RecordLog, AFlippedBitGivesNoWrongRecord) {
  {
    record_log log = open();
    append(log, "one");
    append(log, "two");
  }
  const std::string whole = bytes_of(path_);
  int read_in_full = 0;
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    put(path_, damaged);
    auto log = record_log::open(path_);
    if (bit < 64) {  // the name of the format
      ASSERT_FALSE(log.has_value()) << bit;
      EXPECT_EQ(log.error().kind, error_kind::output);
      EXPECT_EQ(bytes_of(path_), damaged) << "a foreign file is not touched";
      continue;
    }
    ASSERT_TRUE(log.has_value()) << bit;
    const std::string records[] = {"one", "two"};  // some bits of a frame's header have no meaning
    ASSERT_LE(log->size(), 2u) << bit;
    for (std::size_t i = 0; i < log->size(); ++i) ASSERT_EQ(text(*log, i), records[i]) << bit;
    read_in_full += log->size() == 2;
  }
  EXPECT_LT(read_in_full, 40);
}

TEST_F(RecordLog, RefusesWhatIsNoLog) {
  for (const std::string content : {"precious data", "ar-log\n2 and more"}) {
    put(path_, content);
    EXPECT_FALSE(record_log::open(path_).has_value());
    EXPECT_EQ(bytes_of(path_), content);
  }
  EXPECT_FALSE(record_log::open(dir_ / "").has_value()) << "a folder";
  EXPECT_FALSE(record_log::open(dir_ / "no" + "/log").has_value());
}

TEST_F(RecordLog, ADamagedSizeCostsNoMemory) {
  std::string bytes = "ar-log\n";
  bytes += '\1';
  const std::string frame("\x28\xB5\x2F\xFD\xC0\x00\0\0\0\0\x80\0\0\0", 14);  // a zstd frame that promises 2^39 bytes
  bytes += std::string(1, static_cast<char>(frame.size())) + std::string(7, '\0') + frame;
  put(path_, bytes);
  EXPECT_EQ(open().size(), 0u);
}

}  // namespace
