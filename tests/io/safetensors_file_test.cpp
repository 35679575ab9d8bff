// links: ar_io
// safetensors files: what is written is read back; every file that the reference refuses is refused, with the right kind of error, whatever a
// stranger wrote into it, and without memory that the file does not pay for.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "io/file.hpp"
#include "io/safetensors.hpp"
#include "support/peak_memory.hpp"
#include "support/temp_dir.hpp"

namespace {

using auto_round::error_kind;
using auto_round::io::dtype;
using auto_round::io::parse_safetensors;
using auto_round::io::safetensors_size;
using auto_round::io::safetensors_writer;
using auto_round::io::tensor_decl;

std::span<const std::byte> bytes_of(const std::string& s) { return std::as_bytes(std::span(s)); }

std::string length_prefix(std::uint64_t n) {
  std::string s(8, '\0');
  std::memcpy(s.data(), &n, 8);
  return s;
}

/// A file with this header and so many zero bytes of data.
std::string file_of(const std::string& header, std::size_t data_bytes) {
  return length_prefix(header.size()) + header + std::string(data_bytes, '\0');
}

/// The entry of one tensor.
std::string entry(const std::string& name, const std::string& type, const std::string& shape, const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + type + "\",\"shape\":[" + shape + "],\"data_offsets\":[" + offsets + "]}";
}

std::string one(const std::string& type, const std::string& shape, const std::string& offsets, std::size_t data_bytes) {
  return file_of("{" + entry("t", type, shape, offsets) + "}", data_bytes);
}

TEST(Safetensors, WhatIsWrittenIsReadBack) {
  const support::temp_dir dir;
  const std::vector<tensor_decl> decls = {{"b.weight", dtype::f32, {2, 3}},
                                          {"a", dtype::bf16, {4}},
                                          {"scalar", dtype::i64, {}},
                                          {"none", dtype::u8, {0, 7}},
                                          {"\xC3\xA9\"\\", dtype::i8, {1}}};
  const std::map<std::string, std::string> metadata = {{"format", "pt"}, {"note", "line\nbreak"}};
  auto writer = safetensors_writer::create(dir / "x.safetensors", decls, metadata);
  ASSERT_TRUE(writer) << describe(writer.error());
  std::string data(24, '\0');
  std::iota(data.begin(), data.end(), '\x01');
  // Out of order and in pieces.
  ASSERT_TRUE(writer->write("scalar", bytes_of(data).first(8)));
  ASSERT_TRUE(writer->write("b.weight", bytes_of(data).subspan(8, 16), 8));
  ASSERT_TRUE(writer->write("b.weight", bytes_of(data).first(8), 0));
  ASSERT_TRUE(writer->write("a", bytes_of(data).first(8)));
  ASSERT_TRUE(writer->write("\xC3\xA9\"\\", bytes_of(data).first(1)));
  ASSERT_TRUE(writer->finish());

  const auto text = auto_round::io::read_text(dir / "x.safetensors");
  ASSERT_TRUE(text);
  EXPECT_EQ(text->size(), safetensors_size(decls, metadata));
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, text->data(), 8);
  EXPECT_EQ(header_bytes % 8, 0u);
  std::map<std::string, std::string> metadata_read;
  const auto tensors = parse_safetensors(bytes_of(*text), "x.safetensors", &metadata_read);
  ASSERT_TRUE(tensors) << describe(tensors.error());
  EXPECT_EQ(metadata_read, metadata);
  ASSERT_EQ(tensors->size(), decls.size());
  for (std::size_t i = 0; i < decls.size(); ++i) {
    EXPECT_EQ((*tensors)[i].name, decls[i].name);
    EXPECT_EQ((*tensors)[i].type, decls[i].type);
    EXPECT_EQ((*tensors)[i].shape, decls[i].shape);
    EXPECT_EQ((*tensors)[i].bytes.size(), decls[i].bytes());
  }
  EXPECT_EQ(std::memcmp((*tensors)[0].bytes.memory(), data.data(), 24), 0);
}

// Header bytes made by the reference (Python safetensors 0.8, save_file of two tensors with {"format": "pt"}).
TEST(Safetensors, HeaderIsTheReferencesByteForByte) {
  const support::temp_dir dir;
  std::vector<tensor_decl> decls = {{"b", dtype::f16, {2}}, {"a", dtype::f32, {1, 2}}};
  auto_round::io::sort_as_reference(decls);
  auto writer = safetensors_writer::create(dir / "x", decls);
  ASSERT_TRUE(writer);
  ASSERT_TRUE(writer->write("a", bytes_of(std::string(8, 'x'))));
  ASSERT_TRUE(writer->write("b", bytes_of(std::string(4, 'y'))));
  ASSERT_TRUE(writer->finish());
  const std::string header = R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
                             R"("b":{"dtype":"F16","shape":[2],"data_offsets":[8,12]}})";
  std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
  EXPECT_EQ(*auto_round::io::read_text(dir / "x"), length_prefix(padded.size()) + padded + "xxxxxxxxyyyy");
}

TEST(Safetensors, WriterRefusesWhatWouldNotBeAFile) {
  const support::temp_dir dir;
  EXPECT_FALSE(safetensors_writer::create(dir / "x", {{"a", dtype::f32, {1}}, {"a", dtype::f32, {1}}}));
  EXPECT_FALSE(safetensors_writer::create(dir / "x", {{"__metadata__", dtype::f32, {1}}}));
  EXPECT_FALSE(safetensors_writer::create(dir / "x", {{"a", dtype::f32, {std::uint64_t{1} << 62}}}));
  EXPECT_FALSE(std::filesystem::exists(dir / "x"));
  {
    auto writer = safetensors_writer::create(dir / "x", {{"a", dtype::f32, {2}}});
    ASSERT_TRUE(writer);
    const std::string data(16, 'x');
    EXPECT_FALSE(writer->write("b", bytes_of(data).first(8))) << "not declared";
    EXPECT_FALSE(writer->write("a", bytes_of(data))) << "longer than declared";
    EXPECT_FALSE(writer->write("a", bytes_of(data).first(8), 1)) << "beyond its end";
    EXPECT_FALSE(writer->write("a", bytes_of(data).first(1), UINT64_MAX)) << "wraps";
    EXPECT_TRUE(writer->write("a", bytes_of(data).first(4), 4));
    const auto unfinished = writer->finish();
    ASSERT_FALSE(unfinished);
    EXPECT_EQ(unfinished.error().tensor, "a");
  }
  EXPECT_FALSE(std::filesystem::exists(dir / "x")) << "an unfinished file is removed";
}

TEST(Safetensors, FilesThatTheReferenceAcceptsAreAccepted) {
  struct good {
    const char* name;
    std::string bytes;
    std::size_t tensors;
  };
  const std::string pair = entry("a", "F32", "1", "0,4") + "," + entry("b", "F32", "1", "4,8");
  const std::vector<good> cases = {
      {"no tensors", file_of("{}", 0), 0},
      {"metadata only", file_of(R"({"__metadata__":{}})", 0), 0},
      {"metadata null", file_of(R"({"__metadata__":null})", 0), 0},
      {"blanks after the header", file_of("{" + pair + "} \t\r\n ", 8), 2},
      {"blanks before the header", file_of(" \n{" + pair + "}", 8), 2},
      {"blanks everywhere", file_of("{ \"a\" : { \"dtype\" : \"F32\" , \"shape\" : [ 1 ] , \"data_offsets\" : [ 0 , 4 ] } }", 4), 1},
      {"entries not in the order of their data", file_of("{" + entry("b", "F32", "1", "4,8") + "," + entry("a", "F32", "1", "0,4") + "}", 8), 2},
      {"fields in another order", file_of(R"({"a":{"data_offsets":[0,4],"shape":[1],"dtype":"F32"}})", 4), 1},
      {"unknown field", file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":[1,{"x":null}]}})", 4), 1},
      {"rank 0", one("F64", "", "0,8", 8), 1},
      {"rank 100",
       one(
           "U8",
           "1" +
               [] {
                 std::string s;
                 for (int i = 0; i < 99; ++i) s += ",1";
                 return s;
               }(),
           "0,1", 1),
       1},
      {"zero elements", one("F32", "0,5", "0,0", 0), 1},
      {"zero elements, other axis huge", one("F32", "0,18446744073709551615", "0,0", 0), 1},
      {"several empty tensors at one place",
       file_of("{" + entry("a", "F32", "0", "0,0") + "," + entry("b", "F32", "0", "0,0") + "," + entry("c", "I8", "3", "0,3") + "}", 3), 3},
      {"empty name", file_of("{" + entry("", "F32", "1", "0,4") + "}", 4), 1},
      {"name with a zero byte", file_of("{" + entry("a\\u0000", "F32", "1", "0,4") + "}", 4), 1},
      {"header not padded", file_of("{" + entry("odd", "I16", "2", "0,4") + "}", 4), 1},
  };
  for (const good& c : cases) {
    const auto r = parse_safetensors(bytes_of(c.bytes), "f");
    ASSERT_TRUE(r) << c.name << ": " << describe(r.error());
    EXPECT_EQ(r->size(), c.tensors) << c.name;
  }
  for (const char* type :
       {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}) {
    dtype t{};
    ASSERT_TRUE(auto_round::io::dtype_from_name(type, t));
    EXPECT_EQ(name_of(t), type);
    const std::size_t size = size_of(t) * 6;
    EXPECT_TRUE(parse_safetensors(bytes_of(one(type, "2,3", "0," + std::to_string(size), size)), "f")) << type;
  }
}

TEST(Safetensors, HostileFilesAreRefused) {
  struct hostile {
    const char* name;
    std::string bytes;
    const char* says;
    const char* tensor = "";
    error_kind kind = error_kind::input;
  };
  const auto header = [](const std::string& text) { return file_of(text, 4); };
  const auto field = [&](const std::string& fields) { return file_of("{\"t\":{" + fields + "}}", 4); };
  std::string deep = "{\"t\":{\"extra\":";
  for (int i = 0; i < 100'000; ++i) deep += "[";
  std::vector<hostile> cases = {
      // Length.
      {"empty file", "", "shorter than 8"},
      {"one byte", "x", "shorter than 8"},
      {"seven bytes", std::string(7, '\0'), "shorter than 8"},
      {"length 0", length_prefix(0), "unexpected end of input"},
      {"length 0, then a header", length_prefix(0) + "{}", "unexpected end of input"},
      {"length 1", length_prefix(1) + "{}", "unexpected end of input"},
      {"length one more than the file", length_prefix(3) + "{}", "cut short"},
      {"length 2^31", length_prefix(std::uint64_t{1} << 31) + "{}", "claims 2147483648"},
      {"length 2^63", length_prefix(std::uint64_t{1} << 63) + "{}", "claims"},
      {"length 2^64-1", length_prefix(UINT64_MAX) + "{}", "claims"},
      {"length 2^64-8, wraps when 8 is added", length_prefix(UINT64_MAX - 7) + "{}", "claims"},
      {"length at the cap, file short", length_prefix(100'000'000) + "{}", "cut short"},
      {"length one above the cap", length_prefix(100'000'001) + std::string(64, ' '), "claims 100000001"},
      {"a pickle", "PK\x03\x04" + std::string(60, 'x'), "claims"},
      {"an HTML page", "<!DOCTYPE html><html>" + std::string(60, ' '), "claims"},
      {"a pointer file of Git LFS", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "claims"},
      // JSON.
      {"header is an array", header("[]"), "no JSON object"},
      {"header is a number", header("1"), "no JSON object"},
      {"header is null", header("null"), "no JSON object"},
      {"header padded with zero bytes", file_of(std::string("{}\0\0", 4), 0), "zero byte, at byte 2"},
      {"byte order mark", file_of("\xEF\xBB\xBF{}", 0), "byte order mark"},
      {"unfinished", header("{\"t\""), "expected ':'", "t"},
      {"invalid UTF-8 in a name", header("{\"\xFF\":{}}"), "UTF-8"},
      {"lone surrogate in a name", header("{\"\\ud800\":{}}"), "surrogate"},
      {"100,000 open brackets", file_of(deep, 0), "too deep", "t"},
      {"two objects", file_of("{}{}", 0), "expected end of input"},
      {"trailing comma", header("{" + entry("t", "F32", "1", "0,4") + ",}"), "key"},
      {"comment", header("{} //"), "invalid literal"},
      // Entries.
      {"entry is a number", header("{\"t\":1}"), "no object", "t"},
      {"entry is an array", header("{\"t\":[\"F32\",[1],[0,4]]}"), "no object", "t"},
      {"entry is null", header("{\"t\":null}"), "no object", "t"},
      {"no dtype", field(R"("shape":[1],"data_offsets":[0,4])"), "missing", "t"},
      {"no shape", field(R"("dtype":"F32","data_offsets":[0,4])"), "missing", "t"},
      {"no offsets", field(R"("dtype":"F32","shape":[1])"), "missing", "t"},
      {"empty entry", field(""), "missing", "t"},
      {"dtype twice", field(R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])"), "twice", "t"},
      {"shape twice", field(R"("dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4])"), "twice", "t"},
      {"offsets twice", field(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4])"), "twice", "t"},
      {"dtype is a number", field(R"("dtype":4,"shape":[1],"data_offsets":[0,4])"), "no string", "t"},
      {"dtype unknown", one("F33", "1", "0,4", 4), "unknown", "t"},
      {"dtype in lower case", one("f32", "1", "0,4", 4), "unknown", "t"},
      {"dtype empty", one("", "1", "0,4", 4), "unknown", "t"},
      {"dtype of a megabyte", one(std::string(1 << 20, 'F'), "1", "0,4", 4), "unknown", "t"},
      {"dtype that the format has and we do not", one("F4", "8", "0,4", 4), "F4", "t", error_kind::unsupported},
      {"complex", one("C64", "1", "0,8", 8), "C64", "t", error_kind::unsupported},
      {"shape is a number", field(R"("dtype":"F32","shape":1,"data_offsets":[0,4])"), "arrays", "t"},
      {"shape is an object", field(R"("dtype":"F32","shape":{},"data_offsets":[0,4])"), "arrays", "t"},
      {"shape of strings", one("F32", "\"1\"", "0,4", 4), "no number", "t"},
      {"shape of arrays", one("F32", "[1]", "0,4", 4), "no number", "t"},
      {"shape 1.0", one("F32", "1.0", "0,4", 4), "whole number", "t"},
      {"shape 1e0", one("F32", "1e0", "0,4", 4), "whole number", "t"},
      {"shape -1", one("F32", "-1", "0,4", 4), "whole number", "t"},
      {"shape -0", one("F32", "-0", "0,0", 0), "whole number", "t"},
      {"shape 2^64", one("F32", "18446744073709551616", "0,4", 4), "whole number", "t"},
      {"shape 1e400", one("F32", "1e400", "0,4", 4), "too large", "t"},
      {"shape NaN", one("F32", "NaN", "0,4", 4), "NaN is not JSON", "t"},
      {"shape with 1,025 axes",
       one(
           "U8",
           "1" +
               [] {
                 std::string s;
                 for (int i = 0; i < 1024; ++i) s += ",1";
                 return s;
               }(),
           "0,1", 1),
       "more than 1024", "t"},
      {"one offset", one("F32", "1", "0", 4), "two numbers", "t"},
      {"three offsets", one("F32", "1", "0,4,4", 4), "more than 2", "t"},
      {"no offsets in the array", one("F32", "1", "", 4), "two numbers", "t"},
      {"offset 2^64", one("F32", "1", "0,18446744073709551616", 4), "whole number", "t"},
      {"metadata is a string", file_of(R"({"__metadata__":"x"})", 0), "no object"},
      {"metadata holds a number", file_of(R"({"__metadata__":{"a":1}})", 0), "no string"},
      {"metadata holds an object", file_of(R"({"__metadata__":{"a":{}}})", 0), "no string"},
      {"metadata twice", file_of(R"({"__metadata__":{},"__metadata__":{}})", 0), "twice"},
      {"a key of the metadata twice", file_of(R"({"__metadata__":{"a":"1","a":"2"}})", 0), "twice"},
      {"a tensor twice", file_of("{" + entry("t", "F32", "1", "0,4") + "," + entry("t", "F32", "1", "4,8") + "}", 8), "twice", "t"},
      {"a tensor twice, by escape", file_of("{" + entry("t", "F32", "1", "0,4") + "," + entry("\\u0074", "F32", "1", "4,8") + "}", 8), "twice", "t"},
      {"a name of 5,000 bytes", file_of("{" + entry(std::string(5000, 'n'), "F32", "1", "0,4") + "}", 4), "longer than 4096"},
      {"a name of a megabyte", file_of("{" + entry(std::string(1 << 20, 'n'), "F32", "1", "0,4") + "}", 4), "longer than 4096"},
      // Extents.
      {"end before begin", one("F32", "1", "4,0", 4), "must begin at 0", "t"},
      {"end past the file", one("F32", "2", "0,8", 4), "cut short", "t"},
      {"end far past the file", one("U8", "9223372036854775807", "0,9223372036854775807", 4), "cut short", "t"},
      {"end at 2^64-1", one("U8", "18446744073709551615", "0,18446744073709551615", 4), "cut short", "t"},
      {"does not begin at 0", one("F32", "1", "4,8", 8), "must begin at 0", "t"},
      {"a gap", file_of("{" + entry("a", "F32", "1", "0,4") + "," + entry("t", "F32", "1", "8,12") + "}", 12), "must begin at 4", "t"},
      {"an overlap", file_of("{" + entry("a", "F32", "2", "0,8") + "," + entry("t", "F32", "1", "4,8") + "}", 8), "must begin at 8", "t"},
      {"the same bytes twice", file_of("{" + entry("a", "F32", "1", "0,4") + "," + entry("t", "F32", "1", "0,4") + "}", 4), "must begin at 4", "t"},
      {"one byte follows", one("F32", "1", "0,4", 5), "1 bytes follow"},
      {"four bytes follow", one("F32", "1", "0,4", 8), "4 bytes follow"},
      {"data without tensors", file_of("{}", 1), "1 bytes follow"},
      {"shape larger than the extent", one("F32", "2", "0,4", 4), "needs 8 bytes and 4", "t"},
      {"shape smaller than the extent", one("F32", "1", "0,8", 8), "needs 4 bytes and 8", "t"},
      {"empty extent, one element", one("F32", "1", "0,0", 0), "needs 4 bytes", "t"},
      {"zero dimension, four bytes", one("F32", "0", "0,4", 4), "needs 0 bytes", "t"},
      {"product wraps to 0", one("F32", "4294967296,4294967296", "0,0", 0), "too large", "t"},
      {"product wraps to 1", one("U8", "9223372036854775809,2,1", "0,2", 2), "too large", "t"},
      {"product wraps although an axis is 0", one("U8", "4294967296,4294967296,0", "0,0", 0), "too large", "t"},
      {"elements fit, bytes wrap to 0", one("F32", "4611686018427387904", "0,0", 0), "too large", "t"},
      {"elements fit, bytes wrap to 4", one("F32", "4611686018427387905", "0,4", 4), "too large", "t"},
      {"F64 wraps to 8", one("F64", "2305843009213693953", "0,8", 8), "too large", "t"},
      {"axes of 2^64-1", one("U8", "18446744073709551615,18446744073709551615", "0,1", 1), "too large", "t"},
  };
  ASSERT_GE(cases.size(), 60u);
  for (const hostile& c : cases) {
    SCOPED_TRACE(c.name);
    const support::peak_memory memory;
    const auto r = parse_safetensors(bytes_of(c.bytes), "bad.safetensors");
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().kind, c.kind);
    EXPECT_EQ(r.error().file, "bad.safetensors");
    EXPECT_EQ(r.error().tensor, c.tensor);
    EXPECT_NE(r.error().message.find(c.says), std::string::npos) << r.error().message;
    EXPECT_LT(r.error().message.size(), 400u);
    EXPECT_LT(memory.bytes(), 64u * 1024 + 5 * c.bytes.size());
  }
}

TEST(Safetensors, AFileCutAnywhereIsRefused) {
  const std::string whole = file_of("{" + entry("a", "F32", "2,2", "0,16") + "," + entry("b", "I8", "3", "16,19") + "}", 19);
  ASSERT_TRUE(parse_safetensors(bytes_of(whole), "f"));
  for (std::size_t n = 0; n < whole.size(); ++n) {
    const std::string cut = whole.substr(0, n);
    const auto r = parse_safetensors(bytes_of(cut), "f");
    ASSERT_FALSE(r) << n;
    EXPECT_EQ(r.error().kind, error_kind::input);
  }
}

// Whatever a byte is changed to, the result is an error or tensors that lie within the file and have the sizes they claim.
TEST(Safetensors, EveryByteOfAHeaderMayBeAnything) {
  const std::string whole = file_of("{" + entry("a", "F32", "2,2", "0,16") + "," + entry("b", "I8", "3", "16,19") + "}", 19);
  for (std::size_t at = 0; at + 19 < whole.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = whole;
      changed[at] = static_cast<char>(value);
      const auto r = parse_safetensors(bytes_of(changed), "f");
      if (!r) continue;
      for (const auto& t : *r) {
        ASSERT_GE(t.bytes.memory(), bytes_of(changed).data());
        ASSERT_LE(t.bytes.memory() + t.bytes.size(), bytes_of(changed).data() + changed.size());
        ASSERT_EQ(t.bytes.size(), t.elements() * size_of(t.type));
      }
    }
  }
}

TEST(Safetensors, AHundredThousandTensorsAreReadWithinBounds) {
  std::string header = "{";
  for (int i = 0; i < 100'000; ++i)
    header += (i != 0 ? "," : "") + entry("t" + std::to_string(i * 7919 % 100'000), "U8", "1", std::to_string(i) + "," + std::to_string(i + 1));
  const std::string file = file_of(header + "}", 100'000);
  const support::peak_memory memory;
  const auto r = parse_safetensors(bytes_of(file), "f");
  ASSERT_TRUE(r) << describe(r.error());
  EXPECT_EQ(r->size(), 100'000u);
  EXPECT_LT(memory.bytes(), 8 * file.size());
}

// Headers as long as they may be, with nothing to keep in them: memory is a constant, not a multiple of the header.
TEST(Safetensors, HeadersOfNinetyMegabytesAreReadWithinBounds) {
  constexpr std::size_t kLong = 90'000'000;
  const auto repeated = [](const std::string& what, std::size_t size) {
    std::string s;
    s.reserve(size + what.size());
    while (s.size() < size) s += what;
    return s;
  };
  const struct {
    const char* name;
    std::string bytes;
    const char* says;  // nothing: it is a good file
  } cases[] = {
      {"blanks behind", file_of("{}" + std::string(kLong, ' '), 0), ""},
      {"blanks within", file_of("{" + std::string(kLong, '\n') + "}", 0), ""},
      {"twenty megabytes of numbers that nobody reads",
       file_of(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"other":[1)" + repeated(",23456789", 20'000'000) + "]}}", 4), ""},
      {"brackets that nobody reads", file_of(R"({"t":{"other":[[])" + repeated(",[]", kLong) + "]}}", 0), "longer than"},
      {"an open string", file_of("{\"" + std::string(kLong, 'n'), 0), "longer than"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    const support::peak_memory memory;
    const auto r = parse_safetensors(bytes_of(c.bytes), "f");
    EXPECT_EQ(static_cast<bool>(r), *c.says == '\0');
    if (!r) {
      EXPECT_NE(r.error().message.find(c.says), std::string::npos) << r.error().message;
    }
    EXPECT_LT(memory.bytes(), *c.says == '\0' ? std::size_t{64} << 10 : std::size_t{256} << 20);
  }
}

TEST(Safetensors, RandomTensorsSurviveTheRoundTrip) {
  std::mt19937 random(7);
  const support::temp_dir dir;
  for (int round = 0; round < 50; ++round) {
    std::vector<tensor_decl> decls;
    std::vector<std::string> data;
    const auto count = random() % 6;
    for (std::size_t i = 0; i < count; ++i) {
      tensor_decl d{"t" + std::to_string(i), static_cast<dtype>(random() % 16), {}};
      for (auto axes = random() % 4; axes > 0; --axes) d.shape.push_back(random() % 5);
      std::string bytes(d.bytes(), '\0');
      for (char& c : bytes) c = static_cast<char>(random());
      data.push_back(bytes);
      decls.push_back(d);
    }
    const std::string path = dir / std::to_string(round);
    auto writer = safetensors_writer::create(path, decls);
    ASSERT_TRUE(writer);
    for (std::size_t i = decls.size(); i-- > 0;) ASSERT_TRUE(writer->write(decls[i].name, bytes_of(data[i])));
    ASSERT_TRUE(writer->finish());
    const auto map = auto_round::io::mapped_file::open(path);
    ASSERT_TRUE(map);
    const auto tensors = parse_safetensors(map->bytes(), path);
    ASSERT_TRUE(tensors) << describe(tensors.error());
    ASSERT_EQ(tensors->size(), decls.size());
    for (const auto& t : *tensors) {
      const std::size_t i = static_cast<std::size_t>(std::stoi(t.name.substr(1)));
      EXPECT_EQ(t.shape, decls[i].shape);
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(t.bytes.memory()), t.bytes.size()), data[i]);
    }
  }
}

}  // namespace
