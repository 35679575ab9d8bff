// links: ar_io
// Golden importance matrices (golden/gguf): the same statistics in both forms of llama.cpp, read, and written again byte for byte.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "io/file.hpp"
#include "io/imatrix_file.hpp"
#include "support/golden.hpp"
#include "support/temp_dir.hpp"

namespace {

using auto_round::io::imatrix_entry;
using auto_round::io::imatrix_file;
using auto_round::io::read_imatrix;
using auto_round::io::write_imatrix;

imatrix_file read(const char* name) {
  const auto f = read_imatrix((golden::root() / "gguf" / name).string());
  EXPECT_TRUE(f.has_value()) << describe(f.error());
  return f ? *f : imatrix_file{};
}

TEST(Imatrix, BothFormsSayTheSame) {
  const imatrix_file gguf = read("imatrix_llama3_tiny.gguf"), dat = read("imatrix_llama3_tiny.dat");
  EXPECT_EQ(gguf.datasets, dat.datasets);
  EXPECT_EQ(gguf.chunk_count, dat.chunk_count);
  std::map<std::string, const imatrix_entry*> old;
  for (const imatrix_entry& e : dat.entries) old[e.name] = &e;
  int without_data = 0;
  for (const imatrix_entry& e : gguf.entries) {
    SCOPED_TRACE(e.name);
    const std::vector<float> mean = e.mean();
    if (old.count(e.name) == 0) {
      ++without_data;
      EXPECT_EQ(e.counts, std::vector<float>{0.0f}) << "the older form leaves out entries without data";
      for (const float m : mean) ASSERT_EQ(m, 1.0f);
      continue;
    }
    const std::vector<float> other = old[e.name]->mean();
    ASSERT_EQ(mean.size(), other.size());
    // Stored as mean times chunks: one rounding each way.
    for (std::size_t i = 0; i < mean.size(); ++i) ASSERT_NEAR(mean[i], other[i], 3e-7 * mean[i]);
  }
  EXPECT_EQ(gguf.entries.size(), dat.entries.size() + static_cast<std::size_t>(without_data));
  EXPECT_GT(dat.entries.size(), 0u);
}

TEST(Imatrix, IsWrittenAgainByteForByte) {
  const support::temp_dir dir;
  ASSERT_TRUE(write_imatrix(dir / "again.gguf", read("imatrix_llama3_tiny.gguf")));
  EXPECT_TRUE(*auto_round::io::read_text(dir / "again.gguf") == golden::read_bytes(golden::root() / "gguf" / "imatrix_llama3_tiny.gguf"));
  ASSERT_TRUE(write_imatrix(dir / "again.dat", read("imatrix_llama3_tiny.gguf")));
  EXPECT_TRUE(*auto_round::io::read_text(dir / "again.dat") == golden::read_bytes(golden::root() / "gguf" / "imatrix_llama3_tiny.dat"));
}

TEST(Imatrix, DamagedFilesAreErrors) {
  // Cut anywhere: an error, unless only the optional end of the older form is gone.
  const support::temp_dir dir;
  for (const std::string name : {"imatrix_llama3_tiny.gguf", "imatrix_llama3_tiny.dat"}) {
    const std::string whole = golden::read_bytes(golden::root() / "gguf" / name);
    const std::size_t entries = read(name.c_str()).entries.size();
    int n = 0;
    for (std::size_t cut = 0; cut < whole.size(); cut += 1 + cut / 4) {
      const std::string path = dir / (std::to_string(n++) + name);
      ASSERT_TRUE(auto_round::io::write_text(path, std::string_view(whole).substr(0, cut)));
      const auto f = read_imatrix(path);
      if (f) {
        EXPECT_EQ(f->entries.size(), entries) << cut;
      }
    }
    std::string bad = whole;
    bad.replace(bad.size() - 4000, 4, "\xff\xff\xff\xff", 4);  // in the values: NaN
    ASSERT_TRUE(auto_round::io::write_text(dir / ("nan" + name), bad));
    EXPECT_FALSE(read_imatrix(dir / ("nan" + name)));
  }
  ASSERT_TRUE(auto_round::io::write_text(dir / "many.dat", std::string("\xff\xff\xff\x7f", 4)));
  EXPECT_FALSE(read_imatrix(dir / "many.dat"));
  EXPECT_FALSE(read_imatrix((golden::root() / "gguf" / "models").string()));
}

}  // namespace
