// links: ar_io
// Model folders: which files hold the weights, and that a folder which does not fit together is refused with the file and tensor at fault.
#include "io/checkpoint_dir.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "io/safetensors.hpp"
#include "support/temp_dir.hpp"

namespace {

namespace fs = std::filesystem;
using auto_round::error_kind;
using auto_round::io::checkpoint_dir;
using auto_round::io::dtype;
using auto_round::io::safetensors_writer;
using auto_round::io::tensor_decl;

/// Writes a shard with tensors of two F32 values each.
void write_shard(const std::string& path, const std::vector<std::string>& names) {
  std::vector<tensor_decl> decls;
  for (const std::string& n : names) decls.push_back({n, dtype::f32, {2}});
  auto writer = safetensors_writer::create(path, decls);
  ASSERT_TRUE(writer) << describe(writer.error());
  const float values[2] = {1, 2};
  for (const std::string& n : names) ASSERT_TRUE(writer->write(n, std::as_bytes(std::span(values))));
  ASSERT_TRUE(writer->finish());
}

const char* const kIndex = "model.safetensors.index.json";

/// A sound folder of two shards: a and b in the first, c in the second.
void write_sharded(const support::temp_dir& dir) {
  dir.write("config.json", R"({"model_type": "llama"})");
  write_shard(dir / "one.safetensors", {"a", "b"});
  write_shard(dir / "two.safetensors", {"c"});
  dir.write(kIndex, R"({"metadata": {"total_size": 24}, "weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}})");
}

TEST(CheckpointDir, OpensTheModelOfTheQuickStart) {
  const std::string path = AR_SOURCE_DIR "/examples/data/tiny-stories";
  const auto c = checkpoint_dir::open(path);
  ASSERT_TRUE(c) << describe(c.error());
  EXPECT_EQ(c->path(), path);
  EXPECT_EQ(c->config().at("model_type").as_string(), "llama");
  ASSERT_EQ(c->files().size(), 1u);
  EXPECT_TRUE(fs::path(c->files()[0]).is_absolute());
  EXPECT_FALSE(c->tensors().empty());
  for (const auto& t : c->tensors()) {
    EXPECT_EQ(c->find(t.name), &t);
    EXPECT_EQ(t.bytes.size(), t.elements() * size_of(t.type));
    c->release(t);
  }
  EXPECT_EQ(c->find("no.such.tensor"), nullptr);
  const auto& side = c->side_files();
  EXPECT_NE(std::find(side.begin(), side.end(), "tokenizer.json"), side.end());
  EXPECT_EQ(std::find(side.begin(), side.end(), "config.json"), side.end());
}

TEST(CheckpointDir, JoinsShards) {
  const support::temp_dir dir;
  write_sharded(dir);
  auto opened = checkpoint_dir::open(dir.path().string());
  ASSERT_TRUE(opened) << describe(opened.error());
  const checkpoint_dir c = std::move(*opened);
  ASSERT_EQ(c.tensors().size(), 3u);
  EXPECT_EQ(c.tensors()[2].name, "c");
  EXPECT_EQ(c.files(), (std::vector<std::string>{dir / "one.safetensors", dir / "two.safetensors"}));
  EXPECT_EQ(c.find("b")->file, 0u);
  EXPECT_EQ(c.find("c")->file, 1u);
  EXPECT_EQ(*auto_round::io::read_f32(*c.find("c")), (std::vector<float>{1, 2})) << "the map survives the move";
}

TEST(CheckpointDir, SideFilesAreWhatIsCopiedAlong) {
  const support::temp_dir dir;
  write_sharded(dir);
  for (const char* name : {"tokenizer.json", "chat_template.jinja", "README.md", ".gitattributes", "pytorch_model.bin", "old.gguf",
                           "consolidated.safetensors", "flax_model.msgpack"}) {
    dir.write(name, "x");
  }
  fs::create_directory(dir / "onnx");
  fs::create_symlink("nowhere", dir / "dangling.txt");
  const auto c = checkpoint_dir::open(dir.path().string());
  ASSERT_TRUE(c) << describe(c.error());
  EXPECT_EQ(c->side_files(), (std::vector<std::string>{"README.md", "chat_template.jinja", "tokenizer.json"}));
}

TEST(CheckpointDir, ASingleFileGoesBeforeAnIndex) {
  const support::temp_dir dir;
  write_sharded(dir);
  write_shard(dir / "model.safetensors", {"only"});
  const auto c = checkpoint_dir::open(dir.path().string());
  ASSERT_TRUE(c) << describe(c.error());
  EXPECT_EQ(c->tensors().size(), 1u);
}

TEST(CheckpointDir, LinksIntoACacheAreFollowed) {
  const support::temp_dir dir;
  fs::create_directory(dir / "blobs");
  fs::create_directory(dir / "snapshot");
  write_shard(dir / "blobs/abc", {"a"});
  dir.write("blobs/def", "{}");
  fs::create_symlink("../blobs/abc", dir / "snapshot/model.safetensors");
  fs::create_symlink("../blobs/def", dir / "snapshot/config.json");
  EXPECT_TRUE(checkpoint_dir::open(dir / "snapshot"));
}

TEST(CheckpointDir, FoldersThatDoNotFitTogetherAreRefused) {
  struct hostile {
    const char* name;
    std::function<void(const support::temp_dir&)> damage;  // of the sound folder of two shards
    const char* says;
    const char* file;  // end of the file named in the error
    const char* tensor = "";
    error_kind kind = error_kind::input;
  };
  const auto without = [](const char* name) { return [name](const support::temp_dir& d) { fs::remove(d / name); }; };
  const auto with = [](const char* name, std::string text) { return [name, text](const support::temp_dir& d) { d.write(name, text); }; };
  const auto map = [&](const std::string& weight_map) { return with(kIndex, "{\"weight_map\": " + weight_map + "}"); };
  const auto instead = [](const char* name, std::function<void(const std::string&)> make) {
    return [name, make](const support::temp_dir& d) {
      fs::remove(d / name);
      make(d / name);
    };
  };
  const auto folder = [](const std::string& path) { fs::create_directory(path); };
  const auto loop = [](const std::string& path) { fs::create_symlink(path, path); };
  const auto fifo = [](const std::string& path) { ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0); };
  const auto only_config = [](std::vector<std::string> names) {
    return [names](const support::temp_dir& d) {
      for (const auto& e : fs::directory_iterator(d.path())) {
        if (e.path().filename() != "config.json") fs::remove(e.path());
      }
      for (const std::string& n : names) d.write(n, "x");
    };
  };
  std::string many_shards = "{";
  for (int i = 0; i < 10'001; ++i)
    many_shards += (i != 0 ? "," : "") + std::string("\"t") + std::to_string(i) + "\":\"" + std::to_string(i) + ".safetensors\"";
  const std::vector<hostile> cases = {
      {"no config.json", without("config.json"), "config.json", ""},
      {"config.json empty", with("config.json", ""), "JSON", "config.json"},
      {"config.json cut short", with("config.json", "{\"a\": "), "unexpected end of input", "config.json"},
      {"config.json is an array", with("config.json", "[]"), "no JSON object", "config.json"},
      {"config.json with a key twice", with("config.json", R"({"a": 1, "a": 2})"), "twice", "config.json"},
      {"config.json is a folder", instead("config.json", folder), "folder", "config.json"},
      {"config.json links to itself", instead("config.json", loop), "cannot be read", "config.json"},
      {"config.json of 17 MiB", with("config.json", std::string(17 << 20, ' ')), "at most", "config.json"},
      {"config.json of a million values",
       with(
           "config.json", "[" +
                              [] {
                                std::string s;
                                for (int i = 0; i < 1'000'001; ++i) s += "0,";
                                return s;
                              }() +
                              "0]"),
       "values", "config.json"},
      {"no weights", only_config({}), "neither", ""},
      {"pickled weights", only_config({"pytorch_model.bin"}), "convert", "", "", error_kind::unsupported},
      {"pickled shards", only_config({"pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"}), "convert", "", "",
       error_kind::unsupported},
      {"GGUF weights", only_config({"model.gguf"}), "GGUF", "", "", error_kind::unsupported},
      {"index is no JSON", with(kIndex, "<html>"), "JSON", kIndex},
      {"index is an array", with(kIndex, "[]"), "weight_map", kIndex},
      {"index without weight_map", with(kIndex, R"({"metadata": {}})"), "weight_map", kIndex},
      {"weight_map is an array", map("[]"), "weight_map", kIndex},
      {"weight_map empty", map("{}"), "weight_map", kIndex},
      {"weight_map with a tensor twice", map(R"({"a": "one.safetensors", "a": "two.safetensors"})"), "twice", kIndex},
      {"shard is a number", map(R"({"a": 1})"), "plain file names", kIndex, "a"},
      {"shard is null", map(R"({"a": null})"), "plain file names", kIndex, "a"},
      {"shard is an object", map(R"({"a": {"b": "c"}})"), "plain file names", kIndex, "a"},
      {"shard without a name", map(R"({"a": ""})"), "plain file names", kIndex, "a"},
      {"shard above the folder", map(R"({"a": "../one.safetensors"})"), "plain file names", kIndex, "a"},
      {"shard far above the folder", map(R"({"a": "../../../../etc/passwd"})"), "plain file names", kIndex, "a"},
      {"shard with an absolute path", map(R"({"a": "/etc/passwd"})"), "plain file names", kIndex, "a"},
      {"shard in a folder below", map(R"({"a": "sub/one.safetensors"})"), "plain file names", kIndex, "a"},
      {"shard with a backslash", map(R"({"a": "..\\one.safetensors"})"), "plain file names", kIndex, "a"},
      {"shard with a zero byte", map(R"({"a": "one.safetensors\u0000.safetensors"})"), "plain file names", kIndex, "a"},
      {"shard is the folder", map(R"({"a": "."})"), "plain file names", kIndex, "a"},
      {"shard is the folder above", map(R"({"a": ".."})"), "plain file names", kIndex, "a"},
      {"shard with a name of 300 bytes", map("{\"a\": \"" + std::string(300, 'n') + "\"}"), "plain file names", kIndex, "a"},
      {"shard is a pickle", map(R"({"a": "one.bin"})"), "one.bin", kIndex, "a", error_kind::unsupported},
      {"shard is config.json", map(R"({"a": "config.json"})"), "config.json", kIndex, "a", error_kind::unsupported},
      {"10,001 shards", map(many_shards + "}"), "more than 10000", kIndex},
      {"a shard is missing", without("two.safetensors"), "two.safetensors", kIndex},
      {"a shard is named in capitals", map(R"({"a": "ONE.safetensors", "b": "ONE.safetensors"})"), "ONE.safetensors", kIndex},
      {"a shard is a folder", instead("two.safetensors", folder), "folder", "two.safetensors"},
      {"a shard is a FIFO", instead("two.safetensors", fifo), "regular file", "two.safetensors"},
      {"a shard links to itself", instead("two.safetensors", loop), "cannot be read", "two.safetensors"},
      {"a shard is empty", with("two.safetensors", ""), "shorter than 8", "two.safetensors"},
      {"a shard is a pointer of Git LFS", with("two.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "claims", "two.safetensors"},
      {"a shard is cut short", [](const support::temp_dir& d) { fs::resize_file(d / "two.safetensors", fs::file_size(d / "two.safetensors") - 1); },
       "cut short", "two.safetensors", "c"},
      {"a shard is longer", [](const support::temp_dir& d) { fs::resize_file(d / "two.safetensors", fs::file_size(d / "two.safetensors") + 1); },
       "follow", "two.safetensors"},
      {"shards swapped",
       [](const support::temp_dir& d) {
         fs::rename(d / "one.safetensors", d / "x");
         fs::rename(d / "two.safetensors", d / "one.safetensors");
         fs::rename(d / "x", d / "two.safetensors");
       },
       "the index says", "one.safetensors", "a"},
      {"index names a tensor that is nowhere",
       map(R"({"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors", "d": "two.safetensors"})"), "not there", "two.safetensors",
       "d"},
      {"index names the wrong shard", map(R"({"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"})"), "is in", "two.safetensors",
       "b"},
      {"index leaves a tensor out", map(R"({"a": "one.safetensors", "c": "two.safetensors"})"), "not named", "one.safetensors", "b"},
      {"a tensor in two shards",
       [](const support::temp_dir& d) {
         fs::remove(d / "two.safetensors");
         write_shard(d / "two.safetensors", {"c", "a"});
       },
       "also in", "two.safetensors", "a"},
      {"no tensor at all", [](const support::temp_dir& d) { write_shard(d / "model.safetensors", {}); }, "no tensor", ""},
      {"model.safetensors is a folder", [](const support::temp_dir& d) { fs::create_directory(d / "model.safetensors"); }, "folder",
       "model.safetensors"},
      {"model.safetensors dangles", [](const support::temp_dir& d) { fs::create_symlink("nowhere", d / "model.safetensors"); }, "cannot be read",
       "model.safetensors"},
  };
  ASSERT_GE(cases.size(), 25u);
  for (const hostile& c : cases) {
    SCOPED_TRACE(c.name);
    const support::temp_dir dir;
    write_sharded(dir);
    c.damage(dir);
    const auto r = checkpoint_dir::open(dir.path().string());
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().kind, c.kind);
    EXPECT_TRUE(r.error().file == dir.path().string() + (*c.file != '\0' ? "/" : "") + c.file) << r.error().file;
    EXPECT_EQ(r.error().tensor, c.tensor);
    EXPECT_NE(r.error().message.find(c.says), std::string::npos) << r.error().message;
    EXPECT_LT(r.error().message.size(), 500u);
  }
}

TEST(CheckpointDir, WhatIsNoFolderIsRefused) {
  const support::temp_dir dir;
  dir.write("file", "x");
  fs::create_symlink("loop", dir / "loop");
  for (const std::string& path : {dir / "absent", dir / "file", dir / "loop", std::string(), std::string(5000, 'n')}) {
    const auto r = checkpoint_dir::open(path);
    ASSERT_FALSE(r) << path;
    EXPECT_EQ(r.error().kind, error_kind::input);
    EXPECT_EQ(r.error().file, path);
  }
}

TEST(CheckpointDir, AModelCutShortAnywhereIsRefused) {
  const support::temp_dir dir;
  dir.write("config.json", "{}");
  write_shard(dir / "model.safetensors", {"a", "b"});
  const auto size = fs::file_size(dir / "model.safetensors");
  for (std::uintmax_t cut = 0; cut < 64; ++cut) {
    fs::resize_file(dir / "model.safetensors", size * cut / 64);
    const auto r = checkpoint_dir::open(dir.path().string());
    ASSERT_FALSE(r) << cut;
    EXPECT_EQ(r.error().kind, error_kind::input);
    fs::remove(dir / "model.safetensors");
    write_shard(dir / "model.safetensors", {"a", "b"});
  }
}

}  // namespace
