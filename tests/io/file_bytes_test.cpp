// links: ar_io
// Files of tensors under a limit of the address space: read piece by piece, they are what they are when they are mapped whole, and damaged ones are refused
// with the same words.
#include "io/file_bytes.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/gguf.hpp"
#include "io/safetensors.hpp"
#include "support/temp_dir.hpp"

namespace {

using namespace auto_round;

std::string text_of(const io::pinned_bytes& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

/// While it lives, the system limits the address space, to more than there is.
class address_limit {
 public:
  address_limit() {
    getrlimit(RLIMIT_AS, &before_);
    rlimit limited = before_;
    if (limited.rlim_cur == RLIM_INFINITY) limited.rlim_cur = RLIM_INFINITY - 1;
    setrlimit(RLIMIT_AS, &limited);
  }
  ~address_limit() { setrlimit(RLIMIT_AS, &before_); }

 private:
  rlimit before_{};
};

/// f(file) of the file mapped whole, and under a limit.
template <class F>
void on_both(const std::string& path, const F& f) {
  for (const bool limited : {false, true}) {
    std::optional<address_limit> limit;
    if (limited) limit.emplace();
    auto file = io::tensor_file::open(path);
    ASSERT_TRUE(file) << describe(file.error());
    f(*file, limited);
  }
}

class FileBytes : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& content) const {
    EXPECT_TRUE(io::write_text(dir_ / name, content));
    return dir_ / name;
  }
  support::temp_dir dir_;
};

TEST_F(FileBytes, EveryPieceIsThatOfTheFile) {
  std::string content(3 * 4096 + 77, '\0');
  for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 131 % 251);
  on_both(write("data", content), [&](const io::tensor_file& file, bool limited) {
    EXPECT_EQ(file.bytes().memory() == nullptr, limited);
    EXPECT_EQ(text_of(file.bytes().pin()), content);
    for (const std::size_t begin : {std::size_t{0}, std::size_t{1}, std::size_t{4095}, std::size_t{4096}, content.size() - 1, content.size()})
      for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{4097}, content.size() - begin}) {
        if (n > content.size() - begin) continue;
        const io::file_bytes piece = file.bytes().subspan(begin, n);
        const io::pinned_bytes first = piece.pin(), second = piece.first(n / 2).pin();  // two at a time
        file.release(piece);
        EXPECT_EQ(text_of(first), content.substr(begin, n));
        EXPECT_EQ(text_of(second), content.substr(begin, n / 2));
      }
  });
  on_both(write("empty", ""), [&](const io::tensor_file& file, bool) { EXPECT_EQ(file.bytes().pin().size(), 0u); });
}

TEST_F(FileBytes, AFolderOrNothingIsRefusedUnderALimitToo) {
  const address_limit limit;
  EXPECT_FALSE(io::tensor_file::open(dir_.path()));
  EXPECT_FALSE(io::tensor_file::open(dir_ / "none"));
}

/// What is said against a file, either way; nothing if it is good.
template <class Parse>
std::string complaint(const std::string& path, const Parse& parse) {
  std::string said[2];
  on_both(path, [&](const io::tensor_file& file, bool limited) {
    const auto r = parse(file.bytes());
    said[limited] = r ? "" : describe(r.error());
  });
  EXPECT_EQ(said[0], said[1]);
  return said[1];
}

TEST_F(FileBytes, SafetensorsAreTheSameOrRefusedWithTheSameWords) {
  auto writer = io::safetensors_writer::create(dir_ / "x", {{"a", io::dtype::u8, {5000}}, {"b", io::dtype::f32, {3, 4}}});
  ASSERT_TRUE(writer);
  const std::string a(5000, 'a'), b(48, 'b');
  ASSERT_TRUE(writer->write("a", std::as_bytes(std::span(a))));
  ASSERT_TRUE(writer->write("b", std::as_bytes(std::span(b))));
  ASSERT_TRUE(writer->finish());
  const std::string whole = io::read_text(dir_ / "x").value();
  on_both(dir_ / "x", [&](const io::tensor_file& file, bool) {
    const auto tensors = io::parse_safetensors(file.bytes(), "x");
    ASSERT_TRUE(tensors);
    EXPECT_EQ(text_of((*tensors)[0].bytes.pin()), a);
    EXPECT_EQ(text_of((*tensors)[1].bytes.pin()), b);
    std::vector<float> part(2);
    ASSERT_TRUE(io::read_f32((*tensors)[1], 10, part));
  });
  const auto parse = [](const io::file_bytes& bytes) { return io::parse_safetensors(bytes, "f"); };
  for (std::size_t n = 0; n < whole.size(); n += n < 200 ? 1 : 997)
    EXPECT_NE(complaint(write("cut" + std::to_string(n), whole.substr(0, n)), parse), "") << n;
  EXPECT_NE(complaint(write("longer", whole + "x"), parse), "");
}

TEST_F(FileBytes, GgufHeadersOfAnyLengthAreReadWhereNobodyKnowsTheLength) {
  for (const std::size_t words : {std::size_t{10}, std::size_t{300'000}}) {  // 300,000 strings are more than is looked at first, and than four times as much
    io::gguf_array list;
    list.values = std::vector<std::string>(words, "a dozen bytes");
    const io::gguf_metadata metadata = {{"general.architecture", std::string("llama")}, {"words", std::make_shared<io::gguf_array>(list)}};
    const std::string path = dir_ / ("x" + std::to_string(words));
    auto writer = io::gguf_writer::create(path, metadata, {{"t", io::gguf_type::f32, {8, 2}}});
    ASSERT_TRUE(writer);
    const std::string t(64, 't');
    ASSERT_TRUE(writer->write("t", std::as_bytes(std::span(t))));
    ASSERT_TRUE(writer->finish());
    on_both(path, [&](const io::tensor_file& file, bool) {
      const auto c = io::parse_gguf(file.bytes(), path);
      ASSERT_TRUE(c) << describe(c.error());
      EXPECT_EQ(text_of(c->tensors.at(0).data.pin()), t);
      EXPECT_EQ(std::get<std::vector<std::string>>(std::get<std::shared_ptr<io::gguf_array>>(*c->find("words"))->values).size(), words);
    });
    const std::string whole = io::read_text(path).value();
    for (const std::size_t n : {std::size_t{3}, std::size_t{20}, whole.size() / 2, whole.size() - 65, whole.size() - 1}) {
      const std::string cut = write("cut" + std::to_string(words) + "-" + std::to_string(n), whole.substr(0, n));
      EXPECT_NE(complaint(cut, [](const io::file_bytes& bytes) { return io::parse_gguf(bytes, "f"); }), "") << n;
    }
  }
}

}  // namespace
