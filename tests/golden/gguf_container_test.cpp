// links: ar_io
// Golden GGUF files of llama.cpp and auto-round: parsed, and written again byte for byte.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "io/file.hpp"
#include "io/gguf.hpp"
#include "support/golden.hpp"
#include "support/temp_dir.hpp"

namespace {

namespace fs = std::filesystem;
using auto_round::io::gguf_tensor_decl;
using auto_round::io::gguf_writer;

TEST(GgufContainer, PeersFilesAreWrittenAgainByteForByte) {
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(golden::root() / "gguf")) {
    if (entry.path().extension() != ".gguf") continue;
    SCOPED_TRACE(entry.path().string());
    const auto map = auto_round::io::mapped_file::open(entry.path().string());
    ASSERT_TRUE(map) << describe(map.error());
    const auto c = auto_round::io::parse_gguf(map->bytes(), entry.path().string());
    ASSERT_TRUE(c) << describe(c.error());

    const support::temp_dir dir;
    const std::vector<gguf_tensor_decl> decls(c->tensors.begin(), c->tensors.end());
    auto writer = gguf_writer::create(dir / "again.gguf", c->metadata, decls);
    ASSERT_TRUE(writer) << describe(writer.error());
    for (const auto& t : c->tensors) ASSERT_TRUE(writer->write(t.name, t.data.pin()));
    ASSERT_TRUE(writer->finish());
    const std::string again = *auto_round::io::read_text(dir / "again.gguf");
    EXPECT_EQ(again.size(), auto_round::io::gguf_size(c->metadata, decls));
    EXPECT_TRUE(again == golden::read_bytes(entry.path()));
    ++files;
  }
  EXPECT_GE(files, 1);
}

}  // namespace
