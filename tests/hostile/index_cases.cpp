// model.safetensors.index.json, and folders as such.
#include <sys/stat.h>

#include "hostile/model_files.hpp"

namespace hostile {
namespace {

constexpr const char* index_file = "@/model/model.safetensors.index.json";

std::string shard(int i) { return "model-0000" + std::to_string(i) + "-of-00002.safetensors"; }

/// Half of a sound model's tensors in each of two shards, and the index.
struct shards {
  std::map<std::string, support::tiny_tensor> part[2];
  json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", json::object()}};

  shards() {
    std::size_t i = 0;
    for (const auto& [name, t] : tiny_model().tensors) {
      const int which = static_cast<int>(i++ % 2);
      part[which][name] = t;
      index["weight_map"][name] = shard(which + 1);
    }
  }
};

void write_folder(const fs::path& dir, const shards& s) {
  tiny_model().write(dir);
  fs::remove(dir / "model.safetensors");
  for (int i = 0; i < 2; ++i) put(dir / shard(i + 1), tiny_model::safetensors(s.part[i]));
  put(dir / "model.safetensors.index.json", s.index.dump());
}

class list {
 public:
  void change(std::string name, std::function<void(shards&)> what, std::vector<std::string> says, int status = bad_input) {
    all_.push_back({std::move(name),
                    [what = std::move(what)](const fs::path& dir) {
                      shards s;
                      what(s);
                      write_folder(dir / "model", s);
                    },
                    rounds(), status, std::move(says)});
  }
  /// The first tensor lies in this shard, the index says.
  void first_in(std::string name, json where, std::vector<std::string> says, int status = bad_input) {
    says.emplace_back(index_file);
    change(std::move(name), [where = std::move(where)](shards& s) { s.index["weight_map"].begin().value() = where; }, std::move(says), status);
  }
  void index(std::string name, std::string text, std::vector<std::string> says) {
    says.emplace_back(index_file);
    folder(std::move(name),
           [text = std::move(text)](const fs::path& model) {
             write_folder(model, shards());
             put(model / "model.safetensors.index.json", text);
           },
           std::move(says));
  }
  void folder(std::string name, std::function<void(const fs::path& model)> write, std::vector<std::string> says, int status = bad_input) {
    all_.push_back({std::move(name), [write = std::move(write)](const fs::path& dir) { write(dir / "model"); }, rounds(), status, std::move(says)});
  }
  std::vector<one_case> take() { return std::move(all_); }

 private:
  std::vector<one_case> all_;
};

void maps(list& l) {
  l.change("sound", [](shards&) {}, {}, accepted);
  l.first_in("path that climbs out", "../../etc/passwd", {"plain file names", "../../etc/passwd"});
  l.first_in("path that climbs out to a model", "../model/" + shard(1), {"plain file names"});
  l.first_in("absolute path", "/etc/passwd.safetensors", {"plain file names"});
  l.first_in("path into a folder", "sub/" + shard(1), {"plain file names"});
  l.first_in("path with backslashes", "..\\model.safetensors", {"plain file names"});
  l.first_in("the folder itself", ".", {"plain file names"});
  l.first_in("the folder above", "..", {"plain file names"});
  l.first_in("empty name", "", {"plain file names"});
  l.first_in("name with a zero byte", std::string("model\0.safetensors", 18), {"plain file names"});
  l.first_in("name of 300 bytes", std::string(300, 'n') + ".safetensors", {"plain file names"});
  l.first_in("name of a megabyte", std::string(1u << 20, 'n'), {"plain file names"});
  l.first_in("number", 7, {"plain file names"});
  l.first_in("null", nullptr, {"plain file names"});
  l.first_in("list of shards", {shard(1), shard(2)}, {"plain file names"});
  l.first_in("object", json::object(), {"plain file names"});
  l.first_in("missing shard", "model-00003-of-00002.safetensors", {"model-00003-of-00002.safetensors", "not there"});
  l.first_in("a pickle", "pytorch_model-00001.bin", {"only safetensors"}, unsupported);
  l.first_in("a name of control characters", "\x1b]0;x\x07.safetensors", {"not there"});
  l.change("the other shard than the index says", [](shards& s) { s.index["weight_map"].begin().value() = shard(2); }, {"index says", shard(2)});
  l.change("a tensor in no shard", [](shards& s) { s.index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = shard(1); },
           {"not there", shard(1), "model.layers.9.mlp.up_proj.weight"});
  l.change("a tensor that the index does not name", [](shards& s) { s.index["weight_map"].erase("lm_head.weight"); }, {"not named by the index", "lm_head.weight", "@/model/model-0000"});
  l.change("a tensor in both shards", [](shards& s) {
    for (int i = 0; i < 2; ++i) s.part[i]["lm_head.weight"] = tiny_model().tensors["lm_head.weight"];
  }, {"also in", "lm_head.weight", "@/model/model-0000"});
  l.change("10,001 shards", [](shards& s) {
    for (int i = 0; i < 10'001; ++i) s.index["weight_map"]["t" + std::to_string(i)] = "s" + std::to_string(i) + ".safetensors";
  }, {"10000", index_file});
  l.change("total_size is a lie", [](shards& s) { s.index["metadata"]["total_size"] = -5; }, {}, accepted);
  l.change("metadata of another kind", [](shards& s) { s.index["metadata"] = json::array({1, "x"}); }, {}, accepted);
  l.index("weight_map is missing", "{}", {"weight_map"});
  l.index("weight_map is empty", R"({"weight_map":{}})", {"weight_map"});
  l.index("weight_map is a list", R"({"weight_map":["a"]})", {"weight_map"});
  l.index("weight_map is null", R"({"weight_map":null})", {"weight_map"});
  l.index("index is a list", "[]", {"weight_map"});
  l.index("a tensor twice", R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})", {"twice"});
}

void folders(list& l) {
  const auto sound = [](const fs::path& model) { write_folder(model, shards()); };
  l.folder("a shard is a folder", [=](const fs::path& model) {
    sound(model);
    fs::remove(model / shard(2));
    fs::create_directory(model / shard(2));
  }, {"@/model/" + shard(2)});
  l.folder("a shard is a pipe", [=](const fs::path& model) {
    sound(model);
    fs::remove(model / shard(2));
    mkfifo((model / shard(2)).c_str(), 0600);
  }, {"@/model/" + shard(2)});
  l.folder("a shard is a link to nothing", [=](const fs::path& model) {
    sound(model);
    fs::remove(model / shard(2));
    fs::create_symlink("/nonexistent/blob", model / shard(2));
  }, {"@/model/" + shard(2)});
  l.folder("a shard is a link to itself", [=](const fs::path& model) {
    sound(model);
    fs::remove(model / shard(2));
    fs::create_symlink(shard(2), model / shard(2));
  }, {"@/model/" + shard(2)});
  l.folder("a shard is a device without end", [=](const fs::path& model) {
    sound(model);
    fs::remove(model / shard(2));
    fs::create_symlink("/dev/zero", model / shard(2));
  }, {"@/model/" + shard(2)});
  l.folder("a shard is a sparse gigabyte of zeros", [=](const fs::path& model) {
    sound(model);
    fs::resize_file(model / shard(2), std::uintmax_t{1} << 30);
  }, {"bytes follow the last tensor", "@/model/" + shard(2)});
  l.folder("a shard is empty", [=](const fs::path& model) {
    sound(model);
    put(model / shard(2), "");
  }, {"shorter than 8 bytes", "@/model/" + shard(2)});
  l.folder("config.json is a folder", [=](const fs::path& model) {
    sound(model);
    fs::remove(model / "config.json");
    fs::create_directory(model / "config.json");
  }, {"@/model/config.json"});
  l.folder("config.json is a pipe", [=](const fs::path& model) {
    sound(model);
    fs::remove(model / "config.json");
    mkfifo((model / "config.json").c_str(), 0600);
  }, {"@/model/config.json"});
  l.folder("config.json is a device without end", [=](const fs::path& model) {
    sound(model);
    fs::remove(model / "config.json");
    fs::create_symlink("/dev/zero", model / "config.json");
  }, {"@/model/config.json"});
  l.folder("config.json of a sparse 17 MB", [=](const fs::path& model) {
    sound(model);
    fs::resize_file(model / "config.json", 17u << 20);
  }, {"@/model/config.json"});
  l.folder("no config.json", [=](const fs::path& model) {
    sound(model);
    fs::remove(model / "config.json");
  }, {"@/model"}, unsupported);
  l.folder("no weights", [=](const fs::path& model) {
    tiny_model().write(model);
    fs::remove(model / "model.safetensors");
  }, {"neither model.safetensors", "@/model"});
  l.folder("pickles only", [=](const fs::path& model) {
    tiny_model().write(model);
    fs::rename(model / "model.safetensors", model / "pytorch_model.bin");
  }, {"pickles", "@/model"}, unsupported);
  l.folder("a file where a folder should be", [=](const fs::path& model) { put(model, "x"); }, {"@/model"}, unsupported);
  l.folder("a pipe where a folder should be", [=](const fs::path& model) { mkfifo(model.c_str(), 0600); }, {"@/model"}, unsupported);
  l.folder("an empty folder", [=](const fs::path& model) { fs::create_directory(model); }, {"@/model"}, unsupported);
  l.folder("nothing at all", [=](const fs::path&) {}, {"no such folder", "@/model"});
  l.folder("a link to itself", [=](const fs::path& model) { fs::create_symlink("model", model); }, {"@/model"});
}

}  // namespace

std::vector<one_case> index_cases() {
  list l;
  maps(l);
  folders(l);
  return l.take();
}

}  // namespace hostile
