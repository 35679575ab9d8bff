// links: ar_io
// GGUF files: what is written is read back; a file that lies about anything is refused, in time and memory that it pays for itself.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "io/file.hpp"
#include "io/gguf.hpp"
#include "support/peak_memory.hpp"
#include "support/temp_dir.hpp"

namespace {

using auto_round::error_kind;
using auto_round::io::gguf_array;
using auto_round::io::gguf_metadata;
using auto_round::io::gguf_size;
using auto_round::io::gguf_tensor_decl;
using auto_round::io::gguf_type;
using auto_round::io::gguf_type_info;
using auto_round::io::gguf_value;
using auto_round::io::gguf_writer;
using auto_round::io::parse_gguf;

std::span<const std::byte> bytes_of(const std::string& s) { return std::as_bytes(std::span(s)); }

template <class T>
std::string raw(T v) {
  std::string s(sizeof v, '\0');
  std::memcpy(s.data(), &v, sizeof v);
  return s;
}
std::string u8(int v) { return raw(static_cast<std::uint8_t>(v)); }
std::string u32(std::uint64_t v) { return raw(static_cast<std::uint32_t>(v)); }
std::string u64(std::uint64_t v) { return raw(v); }
std::string str(const std::string& s) { return u64(s.size()) + s; }

std::string head(std::uint64_t tensors, std::uint64_t keys, std::uint64_t version = 3) { return "GGUF" + u32(version) + u64(tensors) + u64(keys); }

/// A key and its value; `value` is written after the type id.
std::string kv(const std::string& key, std::uint64_t type, const std::string& value) { return str(key) + u32(type) + value; }
std::string array(std::uint64_t type, std::uint64_t count, const std::string& elements) { return u32(type) + u64(count) + elements; }

std::string info(const std::string& name, const std::vector<std::uint64_t>& ne, std::uint64_t type, std::uint64_t offset) {
  std::string s = str(name) + u32(ne.size());
  for (const std::uint64_t n : ne) s += u64(n);
  return s + u32(type) + u64(offset);
}

std::string padded(std::string s, std::size_t alignment = 32) {
  s.resize((s.size() + alignment - 1) / alignment * alignment, '\0');
  return s;
}

/// A file of these tensor entries with `data` zero bytes.
std::string file_of(const std::vector<std::string>& infos, std::size_t data, const std::vector<std::string>& pairs = {}, std::size_t alignment = 32) {
  std::string s = head(infos.size(), pairs.size());
  for (const std::string& p : pairs) s += p;
  for (const std::string& i : infos) s += i;
  return padded(s, alignment) + std::string(data, '\0');
}

gguf_metadata every_kind_of_value() {
  const auto array_of = [](auto values) { return std::make_shared<gguf_array>(gguf_array{std::move(values)}); };
  return {{"general.architecture", std::string("llama")},
          {"u8", std::uint8_t{255}},
          {"i8", std::int8_t{-128}},
          {"u16", std::uint16_t{65535}},
          {"i16", std::int16_t{-32768}},
          {"u32", std::uint32_t{4294967295u}},
          {"i32", std::int32_t{-7}},
          {"f32", 0.1f},
          {"yes", true},
          {"no", false},
          {"text", std::string("\xC3\xA9\0z", 4)},
          {"empty", std::string()},
          {"u64", std::numeric_limits<std::uint64_t>::max()},
          {"i64", std::numeric_limits<std::int64_t>::min()},
          {"f64", 0.1},
          {"a.u8", array_of(std::vector<std::uint8_t>{1, 2})},
          {"a.i8", array_of(std::vector<std::int8_t>{-1})},
          {"a.u16", array_of(std::vector<std::uint16_t>{1})},
          {"a.i16", array_of(std::vector<std::int16_t>{-1})},
          {"a.u32", array_of(std::vector<std::uint32_t>{1})},
          {"a.i32", array_of(std::vector<std::int32_t>{-1, 2, 3})},
          {"a.f32", array_of(std::vector<float>{0.5f})},
          {"a.bool", array_of(std::vector<bool>{true, false, true})},
          {"a.str", array_of(std::vector<std::string>{"<s>", "", "\xE2\x96\x81the"})},
          {"a.u64", array_of(std::vector<std::uint64_t>{1})},
          {"a.i64", array_of(std::vector<std::int64_t>{-1})},
          {"a.f64", array_of(std::vector<double>{0.5})},
          {"a.none", array_of(std::vector<std::uint32_t>{})}};
}

void expect_same(const gguf_metadata& a, const gguf_metadata& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].first, b[i].first);
    ASSERT_EQ(a[i].second.index(), b[i].second.index()) << a[i].first;
    if (const auto* const array = std::get_if<std::shared_ptr<gguf_array>>(&a[i].second)) {
      EXPECT_EQ((*array)->values, std::get<std::shared_ptr<gguf_array>>(b[i].second)->values) << a[i].first;
    } else {
      EXPECT_EQ(a[i].second, b[i].second) << a[i].first;
    }
  }
}

std::string write_file(const std::string& path, const gguf_metadata& metadata, const std::vector<gguf_tensor_decl>& tensors) {
  auto writer = gguf_writer::create(path, metadata, tensors);
  EXPECT_TRUE(writer) << describe(writer.error());
  char next = 'a';
  for (std::size_t i = tensors.size(); i-- > 0;) {
    const std::string data(tensors[i].bytes(), next++);
    EXPECT_TRUE(writer->write(tensors[i].name, bytes_of(data).subspan(1), 1));
    EXPECT_TRUE(writer->write(tensors[i].name, bytes_of(data).first(1)));
  }
  const auto done = writer->finish();
  EXPECT_TRUE(done) << describe(done.error());
  return *auto_round::io::read_text(path);
}

TEST(Gguf, WhatIsWrittenIsReadBack) {
  const support::temp_dir dir;
  const std::vector<gguf_tensor_decl> tensors = {{"blk.0.ffn_up.weight", gguf_type::q4_k, {512, 3}},
                                                 {"norm", gguf_type::f32, {5}},
                                                 {"scalar", gguf_type::f16, {}},
                                                 {std::string(63, 'n'), gguf_type::q8_0, {32, 2, 2, 2}}};
  for (const std::uint32_t alignment : {0u, 1u, 8u, 64u, 4096u}) {
    gguf_metadata metadata = every_kind_of_value();
    if (alignment != 0) metadata.emplace_back("general.alignment", alignment);
    const std::string text = write_file(dir / std::to_string(alignment), metadata, tensors);
    EXPECT_EQ(text.size(), gguf_size(metadata, tensors));
    EXPECT_EQ(text.size() % (alignment == 0 ? 32 : alignment), 0u) << "the last tensor is padded too";
    const auto c = parse_gguf(bytes_of(text), "f");
    ASSERT_TRUE(c) << describe(c.error());
    expect_same(c->metadata, metadata);
    ASSERT_EQ(c->tensors.size(), tensors.size());
    char next = 'a';
    for (std::size_t i = tensors.size(); i-- > 0;) {
      EXPECT_EQ(c->tensors[i].name, tensors[i].name);
      EXPECT_EQ(c->tensors[i].type, tensors[i].type);
      EXPECT_EQ(c->tensors[i].ne, tensors[i].ne);
      const auto data = c->tensors[i].data.pin();
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(data.data()), data.size()), std::string(tensors[i].bytes(), next++));
      EXPECT_EQ(static_cast<std::size_t>(data.data() - bytes_of(text).data()) % (alignment == 0 ? 32 : alignment), 0u);
    }
  }
}

TEST(Gguf, LooksUpMetadata) {
  const auto file = head(0, 2) + kv("a", 4, u32(5)) + kv("b", 8, str("x"));
  const auto c = parse_gguf(bytes_of(file), "f");
  ASSERT_TRUE(c) << describe(c.error());
  ASSERT_NE(c->find("a"), nullptr);
  EXPECT_EQ(std::get<std::uint32_t>(*c->find("a")), 5u);
  EXPECT_EQ(std::get<std::string>(*c->find("b")), "x");
  EXPECT_EQ(c->find("c"), nullptr);
}

TEST(Gguf, BlockSizesAreThoseOfGgml) {
  int known = 0;
  for (std::uint32_t id = 0; id < 100; ++id) known += gguf_type_info(id).name != nullptr ? 1 : 0;
  EXPECT_EQ(known, 35);
  for (const std::uint32_t removed : {4u, 5u, 31u, 32u, 33u, 36u, 37u, 38u, 43u, 0xFFFFFFFFu})
    EXPECT_EQ(gguf_type_info(removed).name, nullptr) << removed;
  EXPECT_STREQ(gguf_type_info(12).name, "Q4_K");
  EXPECT_EQ((gguf_tensor_decl{"t", gguf_type::q4_k, {512, 2}}).bytes(), 4u * 144);
  EXPECT_EQ((gguf_tensor_decl{"t", gguf_type::q4_0, {64}}).bytes(), 36u);
  EXPECT_EQ((gguf_tensor_decl{"t", gguf_type::q4_0, {33}}).bytes(), UINT64_MAX) << "no whole number of blocks";
}

TEST(Gguf, FilesThatReadersAcceptAreAccepted) {
  const std::vector<std::pair<const char*, std::string>> cases = {
      {"nothing in it", head(0, 0)},
      {"nothing in it, padded", padded(head(0, 0))},
      {"version 2", head(0, 0, 2)},
      {"last tensor not padded", file_of({info("t", {5}, 0, 0)}, 20)},
      {"last tensor padded", file_of({info("t", {5}, 0, 0)}, 32)},
      {"bytes after the last tensor", file_of({info("t", {5}, 0, 0)}, 1000)},
      {"no dimension: one element", file_of({info("t", {}, 0, 0)}, 4)},
      {"alignment 1", file_of({info("t", {5}, 0, 0), info("u", {1}, 24, 20)}, 21, {kv("general.alignment", 4, u32(1))}, 1)},
      {"text that is not UTF-8", head(0, 1) + kv("k", 8, str("\xFF\xFE"))},
  };
  for (const auto& [name, bytes] : cases) {
    const auto c = parse_gguf(bytes_of(bytes), "f");
    EXPECT_TRUE(c) << name << ": " << describe(c.error());
  }
}

TEST(Gguf, HostileFilesAreRefused) {
  struct hostile {
    const char* name;
    std::string bytes;
    const char* says;
    const char* tensor = "";
    error_kind kind = error_kind::input;
  };
  const auto pair = [](const std::string& p) { return head(0, 1) + p; };
  const auto value = [&](std::uint64_t type, const std::string& bytes) { return pair(kv("k", type, bytes)); };
  const auto tensor = [](const std::vector<std::uint64_t>& ne, std::uint64_t type, std::size_t data, std::uint64_t offset = 0) {
    return file_of({info("t", ne, type, offset)}, data);
  };
  const auto align = [](std::uint64_t type, const std::string& bytes) {
    return file_of({info("t", {8}, 0, 0)}, 32, {kv("general.alignment", type, bytes)});
  };
  std::string nested;
  for (int i = 0; i < 100'000; ++i) nested += u32(9) + u64(1);
  const std::uint64_t huge = std::uint64_t{1} << 62, none = UINT64_MAX;
  const std::vector<hostile> cases = {
      // Head.
      {"empty file", "", "no GGUF file"},
      {"three bytes", "GGU", "no GGUF file"},
      {"another magic", "GGML" + std::string(40, '\0'), "no GGUF file"},
      {"magic in lower case", "gguf" + u32(3) + u64(0) + u64(0), "no GGUF file"},
      {"magic alone", "GGUF", "ends inside"},
      {"version cut", "GGUF\x03", "ends inside"},
      {"counts missing", "GGUF" + u32(3), "ends inside"},
      {"second count cut", "GGUF" + u32(3) + u64(0) + "1234567", "ends inside"},
      {"version 0", head(0, 0, 0), "big-endian", "", error_kind::unsupported},
      {"version 1", head(0, 0, 1), "version 1", "", error_kind::unsupported},
      {"version 4", head(0, 0, 4), "version 4", "", error_kind::unsupported},
      {"version 2^32-1", head(0, 0, 0xFFFFFFFFu), "version", "", error_kind::unsupported},
      {"big-endian version 3", head(0, 0, 0x03000000u), "big-endian", "", error_kind::unsupported},
      {"1,000,001 tensors", head(1'000'001, 0), "claims 1000001 tensors"},
      {"2^63 tensors", head(std::uint64_t{1} << 63, 0), "claims"},
      {"2^64-1 tensors", head(none, 0), "claims"},
      {"a million tensors that are not there", head(1'000'000, 0), "ends inside"},
      {"100,001 keys", head(0, 100'001), "claims 100001"},
      {"2^64-1 keys", head(0, none), "claims"},
      {"100,000 keys that are not there", head(0, 100'000), "ends inside"},
      // Keys.
      {"key length 0", pair(kv("", 4, u32(1))), "empty"},
      {"key with a zero byte", pair(kv(std::string("a\0b", 3), 4, u32(1))), "zero byte"},
      {"key that is not UTF-8", pair(kv("a\xFF", 4, u32(1))), "UTF-8"},
      {"key of 65,536 bytes", pair(kv(std::string(65'536, 'k'), 4, u32(1))), "longer than 65535"},
      {"key length 2^48", pair(u64(std::uint64_t{1} << 48) + "k"), "longer than 65535"},
      {"key length 2^63", pair(u64(std::uint64_t{1} << 63) + "k"), "longer than 65535"},
      {"key length 2^64-1", pair(u64(none) + "k"), "longer than 65535"},
      {"key length past the end", pair(u64(100) + "k"), "ends inside"},
      {"key length cut", pair("1234"), "ends inside"},
      {"type missing", pair(str("k")), "ends inside"},
      {"value missing", pair(str("k") + u32(4)), "ends inside"},
      {"type 13", value(13, u64(0)), "type 13"},
      {"type 2^31", value(std::uint64_t{1} << 31, u64(0)), "type 2147483648"},
      {"type 2^32-1", value(0xFFFFFFFFu, u64(0)), "type 4294967295"},
      {"a key twice", head(0, 2) + kv("k", 4, u32(1)) + kv("k", 4, u32(1)), "twice"},
      {"a key twice with different types", head(0, 3) + kv("k", 4, u32(1)) + kv("j", 4, u32(1)) + kv("k", 8, str("")), "twice"},
      {"bool 2", value(7, u8(2)), "bool"},
      {"bool 255", value(7, u8(255)), "bool"},
      {"u8 cut", value(0, ""), "ends inside"},
      {"f64 cut", value(12, "1234567"), "ends inside"},
      // Strings.
      {"string past the end", value(8, u64(5) + "abcd"), "ends inside"},
      {"string of 2^48 bytes", value(8, u64(std::uint64_t{1} << 48)), "longer than"},
      {"string of 2^64-1 bytes", value(8, u64(none)), "longer than"},
      {"string of 64 MiB and one byte", value(8, u64((std::uint64_t{64} << 20) + 1)), "longer than"},
      {"string of 64 MiB that is not there", value(8, u64(std::uint64_t{64} << 20)), "ends inside"},
      // Arrays.
      {"array of arrays", value(9, array(9, 1, array(4, 1, u32(1)))), "elements of type 9"},
      {"100,000 nested arrays", value(9, nested), "elements of type 9"},
      {"array of type 13", value(9, array(13, 1, u64(0))), "elements of type 13"},
      {"array count 2^64-1", value(9, array(4, none, "")), "claims"},
      {"array whose bytes wrap", value(9, array(10, (std::uint64_t{1} << 61) + 1, u64(0))), "claims"},
      {"array of 10,000,001", value(9, array(0, 10'000'001, "")), "claims"},
      {"array of 10,000,000 that are not there", value(9, array(8, 10'000'000, "")), "ends inside"},
      {"array one element short", value(9, array(4, 3, u32(1) + u32(2))), "ends inside"},
      {"array of strings, one too long", value(9, array(8, 2, str("a") + u64(none))), "longer than"},
      {"array of bools with a 3", value(9, array(7, 2, u8(1) + u8(3))), "bool"},
      {"array without a count", value(9, u32(4)), "ends inside"},
      // Alignment.
      {"alignment 0", align(4, u32(0)), "power of two"},
      {"alignment 3", align(4, u32(3)), "power of two"},
      {"alignment 2^21", align(4, u32(1u << 21)), "power of two"},
      {"alignment 2^31", align(4, u32(1u << 31)), "power of two"},
      {"alignment as u64", align(10, u64(32)), "power of two"},
      {"alignment as text", align(8, str("32")), "power of two"},
      // Tensors.
      {"tensor entry missing", head(1, 0), "ends inside"},
      {"tensor entry cut", head(1, 0) + str("t") + u32(1) + u64(8) + u32(0) + "1234567", "ends inside"},
      {"tensor name empty", file_of({info("", {8}, 0, 0)}, 32), "empty"},
      {"tensor name that is not UTF-8", file_of({info("\xC3", {8}, 0, 0)}, 32), "UTF-8"},
      {"tensor name of 64 bytes", file_of({info(std::string(64, 'n'), {8}, 0, 0)}, 32), "longer than 63"},
      {"tensor name of a megabyte", file_of({info(std::string(1 << 20, 'n'), {8}, 0, 0)}, 32), "longer than 63"},
      {"tensor name with a zero byte", file_of({info(std::string("t\0u", 3), {8}, 0, 0)}, 32), "zero byte"},
      {"tensor name length 2^64-1", head(1, 0) + u64(none), "longer than 63"},
      {"a tensor twice", file_of({info("t", {8}, 0, 0), info("t", {8}, 0, 32)}, 64), "twice"},
      {"5 dimensions", tensor({1, 1, 1, 1, 1}, 0, 32), "4 dimensions", "t"},
      {"2^32-1 dimensions", head(1, 0) + str("t") + u32(0xFFFFFFFFu), "4 dimensions", "t"},
      {"dimension 0", tensor({0}, 0, 32), "dimension of the tensor is 0", "t"},
      {"dimension 0 beside a huge one", tensor({huge, 0}, 0, 32), "dimension of the tensor is 0", "t"},
      {"dimension -1", tensor({none}, 0, 32), "too large", "t"},
      {"dimension -32 of a block type", tensor({none - 31}, 2, 32), "too large", "t"},
      {"dimension 2^63", tensor({std::uint64_t{1} << 63}, 0, 32), "too large", "t"},
      {"dimensions 2^42+1", tensor({(std::uint64_t{1} << 42) + 1, (std::uint64_t{1} << 42) + 1}, 0, 32), "too large", "t"},
      {"product wraps to 0", tensor({std::uint64_t{1} << 32, std::uint64_t{1} << 32}, 0, 32), "too large", "t"},
      {"product wraps to 32", tensor({(std::uint64_t{1} << 59) + 1, 32}, 24, 32), "too large", "t"},
      {"bytes wrap", tensor({huge}, 0, 32), "too large", "t"},
      {"exabytes", tensor({std::uint64_t{1} << 60}, 24, 32), "cut short", "t"},
      {"row no multiple of 32", tensor({33}, 2, 64), "whole number of blocks", "t"},
      {"row no multiple of 256", tensor({128, 2}, 12, 512), "whole number of blocks", "t"},
      {"row half a block, two rows", tensor({16, 2}, 2, 64), "whole number of blocks", "t"},
      {"type 4, removed", tensor({32}, 4, 32), "type of the tensor is unknown", "t"},
      {"type 43", tensor({32}, 43, 32), "type of the tensor is unknown", "t"},
      {"type 2^31", tensor({32}, std::uint64_t{1} << 31, 32), "type of the tensor is unknown", "t"},
      // Data.
      {"data missing", tensor({8}, 0, 0), "cut short", "t"},
      {"data one byte short", tensor({8}, 0, 31), "cut short", "t"},
      {"offset not 0 for the first", tensor({8}, 0, 64, 32), "must begin at 0", "t"},
      {"offset unaligned", file_of({info("s", {1}, 0, 0), info("t", {1}, 0, 4)}, 64), "must begin at 32", "t"},
      {"offset past the end", file_of({info("s", {8}, 0, 0), info("t", {8}, 0, 1 << 20)}, 64), "must begin at 32", "t"},
      {"offset wraps", file_of({info("s", {8}, 0, 0), info("t", {8}, 0, none - 31)}, 64), "must begin at 32", "t"},
      {"an overlap", file_of({info("s", {16}, 0, 0), info("t", {8}, 0, 32)}, 96), "must begin at 64", "t"},
      {"the same bytes twice", file_of({info("s", {8}, 0, 0), info("t", {8}, 0, 0)}, 64), "must begin at 32", "t"},
      {"a gap", file_of({info("s", {8}, 0, 0), info("t", {8}, 0, 64)}, 96), "must begin at 32", "t"},
      {"not in the order of the data", file_of({info("s", {8}, 0, 32), info("t", {8}, 0, 0)}, 64), "must begin at 0", "s"},
      {"sizes add up to more than 2^64", file_of({info("a", {std::uint64_t{1} << 62}, 24, 0), info("b", {std::uint64_t{1} << 62}, 24, huge)}, 64),
       "cut short", "a"},
  };
  ASSERT_GE(cases.size(), 60u);
  for (const hostile& c : cases) {
    SCOPED_TRACE(c.name);
    const support::peak_memory memory;
    const auto r = parse_gguf(bytes_of(c.bytes), "bad.gguf");
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().kind, c.kind);
    EXPECT_EQ(r.error().file, "bad.gguf");
    EXPECT_EQ(r.error().tensor, c.tensor);
    EXPECT_NE(r.error().message.find(c.says), std::string::npos) << r.error().message;
    EXPECT_LT(r.error().message.size(), 500u);
    EXPECT_LT(memory.bytes(), 64u * 1024 + 8 * c.bytes.size());
  }
}

TEST(Gguf, AFileCutAnywhereIsRefused) {
  const support::temp_dir dir;
  const std::string whole = write_file(dir / "f", every_kind_of_value(), {{"a", gguf_type::q4_0, {32, 2}}, {"b", gguf_type::f32, {8}}});
  const std::size_t last_byte = whole.size();  // of the last tensor: 32 bytes, no padding
  for (std::size_t n = 0; n < last_byte; ++n) {
    const auto r = parse_gguf(bytes_of(whole).first(n), "f");
    ASSERT_FALSE(r) << n;
    EXPECT_EQ(r.error().kind, error_kind::input);
  }
}

// Whatever a byte is changed to, the result is an error or tensors that lie within the file and have the sizes they claim.
TEST(Gguf, EveryByteOfAHeaderMayBeAnything) {
  const std::string whole = file_of({info("a", {32, 2}, 2, 0), info("b", {8}, 0, 64)}, 96,
                                    {kv("k", 9, array(8, 2, str("x") + str("yz"))), kv("general.alignment", 4, u32(32)), kv("b", 7, u8(1))});
  ASSERT_TRUE(parse_gguf(bytes_of(whole), "f"));
  for (std::size_t at = 0; at + 96 < whole.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = whole;
      changed[at] = static_cast<char>(value);
      const auto r = parse_gguf(bytes_of(changed), "f");
      if (!r) continue;
      for (const auto& t : r->tensors) {
        ASSERT_GE(t.data.memory(), bytes_of(changed).data());
        ASSERT_LE(t.data.memory() + t.data.size(), bytes_of(changed).data() + changed.size());
        ASSERT_EQ(t.data.size(), t.bytes());
      }
    }
  }
}

TEST(Gguf, WriterRefusesWhatReadersWould) {
  const support::temp_dir dir;
  const std::string path = dir / "x";
  EXPECT_FALSE(gguf_writer::create(path, {}, {{"a", gguf_type::f32, {1}}, {"a", gguf_type::f32, {1}}}));
  EXPECT_FALSE(gguf_writer::create(path, {}, {{std::string(64, 'n'), gguf_type::f32, {1}}}));
  EXPECT_FALSE(gguf_writer::create(path, {}, {{"", gguf_type::f32, {1}}}));
  EXPECT_FALSE(gguf_writer::create(path, {}, {{"a", gguf_type::q4_k, {128}}}));
  EXPECT_FALSE(gguf_writer::create(path, {}, {{"a", static_cast<gguf_type>(4), {128}}}));
  EXPECT_FALSE(gguf_writer::create(path, {}, {{"a", gguf_type::f32, {1, 1, 1, 1, 1}}}));
  EXPECT_FALSE(gguf_writer::create(path, {}, {{"a", gguf_type::f32, {std::uint64_t{1} << 62}}}));
  EXPECT_FALSE(gguf_writer::create(path, {{"k", true}, {"k", true}}, {}));
  EXPECT_FALSE(gguf_writer::create(path, {{"", true}}, {}));
  EXPECT_FALSE(gguf_writer::create(path, {{"k", std::shared_ptr<gguf_array>()}}, {}));
  EXPECT_FALSE(gguf_writer::create(path, {{"general.alignment", std::uint32_t{3}}}, {}));
  EXPECT_FALSE(gguf_writer::create(path, {{"general.alignment", std::uint64_t{32}}}, {}));
  EXPECT_FALSE(std::filesystem::exists(path));
  {
    auto writer = gguf_writer::create(path, {}, {{"a", gguf_type::f32, {2}}});
    ASSERT_TRUE(writer);
    const std::string data(16, 'x');
    EXPECT_FALSE(writer->write("b", bytes_of(data).first(8)));
    EXPECT_FALSE(writer->write("a", bytes_of(data)));
    EXPECT_FALSE(writer->write("a", bytes_of(data).first(1), UINT64_MAX));
    EXPECT_TRUE(writer->write("a", bytes_of(data).first(4)));
    const auto unfinished = writer->finish();
    ASSERT_FALSE(unfinished);
    EXPECT_EQ(unfinished.error().kind, error_kind::internal);
    EXPECT_EQ(unfinished.error().tensor, "a");
  }
  EXPECT_FALSE(std::filesystem::exists(path)) << "an unfinished file is removed";
}

TEST(Gguf, AHundredThousandKeysAndTensorsAreReadWithinBounds) {
  std::string file = head(50'000, 50'000);
  for (int i = 0; i < 50'000; ++i) file += kv("k" + std::to_string(i), 7, u8(1));
  for (int i = 0; i < 50'000; ++i) file += info("t" + std::to_string(i), {32}, 24, static_cast<std::uint64_t>(i) * 32);
  file = padded(file) + std::string(50'000 * 32, '\0');
  const support::peak_memory memory;
  const auto c = parse_gguf(bytes_of(file), "f");
  ASSERT_TRUE(c) << describe(c.error());
  EXPECT_EQ(c->tensors.size(), 50'000u);
  EXPECT_LT(memory.bytes(), 10 * file.size());
}

}  // namespace
