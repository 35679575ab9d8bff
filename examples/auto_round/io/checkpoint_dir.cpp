// Which files of a model folder hold its weights follows transformers: model.safetensors if it is there, else the shards of its index.
#include "io/checkpoint_dir.hpp"

#include <algorithm>
#include <filesystem>
#include <new>
#include <system_error>
#include <utility>

#include "io/file.hpp"
#include "io/safetensors.hpp"

namespace auto_round::io {
namespace {

namespace fs = std::filesystem;

constexpr json_limits kConfigLimits = {std::uint64_t{16} << 20, 1'000'000};
constexpr json_limits kIndexLimits = {100'000'000, 1'000'000};
constexpr std::size_t kMostShards = 10'000;  // each is one memory map, of which Linux grants 65,530, or one open file
constexpr std::size_t kPiece = std::size_t{4} << 20;  // whole values of every type
constexpr char kConfig[] = "config.json";
constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";

/// Files of a tokenizer and what else is published with every model, by their usual names.
bool belongs_to_any_model(std::string_view name) {
  constexpr std::string_view known[] = {"tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
                                        "chat_template.jinja", "chat_template.json", "generation_config.json"};
  return std::ranges::find(known, name) != std::end(known) || name.starts_with("LICENSE") || name.starts_with("NOTICE");
}

struct folder_entry {
  std::string name;
  bool regular;
};

/// The names in a folder, sorted.
result<std::vector<folder_entry>> list_folder(const std::string& dir) {
  std::error_code ec;
  if (const fs::file_status status = fs::status(dir, ec); !fs::is_directory(status)) {
    return fail(error_kind::input, fs::exists(status) ? "a model folder is expected and this is none" : "there is no such model folder", dir);
  }
  std::vector<folder_entry> names;
  for (auto it = fs::directory_iterator(dir, ec); !ec && it != fs::end(it); it.increment(ec)) {
    std::error_code broken_link;
    names.push_back({it->path().filename().string(), it->is_regular_file(broken_link)});
  }
  if (ec) return fail(error_kind::input, "the folder cannot be listed: " + ec.message(), dir);
  std::sort(names.begin(), names.end(), [](const folder_entry& a, const folder_entry& b) { return a.name < b.name; });
  return names;
}

bool has_suffix(const std::string& name, std::string_view suffix) {
  return name.size() >= suffix.size() && std::string_view(name).substr(name.size() - suffix.size()) == suffix;
}

/// Weights in any format: not to be copied beside quantized ones.
bool is_weight_file(const std::string& name) {
  for (const char* suffix :
       {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ckpt"}) {
    if (has_suffix(name, suffix)) return true;
  }
  return false;
}

tl::unexpected<error> no_weights(const std::string& dir, const std::vector<folder_entry>& entries) {
  const auto any = [&](auto matches) { return std::any_of(entries.begin(), entries.end(), [&](const folder_entry& e) { return matches(e.name); }); };
  if (any([](const std::string& n) {
        return has_suffix(n, ".bin") || has_suffix(n, ".pt") || has_suffix(n, ".pth") || has_suffix(n, ".ckpt") || has_suffix(n, ".bin.index.json");
      })) {
    return fail(
        error_kind::unsupported,
        "the weights are PyTorch pickles, which can run code when read; convert them to safetensors first (transformers: model.save_pretrained(dir))",
        dir);
  }
  if (any([](const std::string& n) { return has_suffix(n, ".gguf"); })) {
    return fail(error_kind::unsupported,
                "the folder holds GGUF files; give the float checkpoint (config.json and model.safetensors) they were made from", dir);
  }
  return fail(error_kind::input, "the folder holds neither model.safetensors nor model.safetensors.index.json", dir);
}

/// weight_map of the index as (tensor, shard), in file order, and the shards in order of first mention.
struct index_contents {
  std::vector<std::pair<std::string, std::size_t>> tensors;
  std::vector<std::string> shards;
};

result<index_contents> read_index(const std::string& path) {
  const result<json> index = read_json(path, kIndexLimits);
  if (!index) return forward_error(index);
  const json& map = index->at("weight_map");
  if (!map.is_object() || map.members().empty()) return fail(error_kind::input, "the index has no weight_map, or an empty one", path);
  index_contents contents;
  std::vector<std::pair<std::string_view, std::size_t>> known;  // shards, sorted by name
  for (const auto& [tensor, value] : map.members()) {
    const std::string& shard = value.as_string();
    // A plain name: a path would let a downloaded index point at any file of the machine.
    const bool plain = !shard.empty() && shard != "." && shard != ".." && shard.size() <= 255 &&
                       shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
    if (!plain)
      return fail(error_kind::input,
                  "the index names " + dump(value.is_string() ? json(shard.substr(0, 200)) : value, {-2}).substr(0, 300) +
                      " as a shard; only plain file names are accepted",
                  path, tensor);
    if (!has_suffix(shard, ".safetensors"))
      return fail(error_kind::unsupported, "the index names " + dump(json(shard), {-2}) + " as a shard; only safetensors files can be read", path,
                  tensor);
    auto at = std::lower_bound(known.begin(), known.end(), shard, [](const auto& k, const std::string& s) { return k.first < s; });
    if (at == known.end() || at->first != shard) {
      if (known.size() == kMostShards) return fail(error_kind::input, "the index names more than " + std::to_string(kMostShards) + " shards", path);
      at = known.insert(at, {shard, contents.shards.size()});
      contents.shards.push_back(shard);
    }
    contents.tensors.emplace_back(tensor, at->second);
  }
  return contents;
}

}  // namespace

struct checkpoint_dir::impl {
  std::vector<tensor_file> files;                                 // in the order of files_
  std::vector<std::pair<std::string_view, std::size_t>> by_name;  // sorted; the views point into tensors_
};

checkpoint_dir::checkpoint_dir() : impl_(std::make_unique<impl>()) {}
checkpoint_dir::checkpoint_dir(checkpoint_dir&&) noexcept = default;
checkpoint_dir& checkpoint_dir::operator=(checkpoint_dir&&) noexcept = default;
checkpoint_dir::~checkpoint_dir() = default;

result<checkpoint_dir> checkpoint_dir::open(const std::string& dir) {
  try {
    return open_checked(dir);
  } catch (const std::bad_alloc&) {
    return fail(error_kind::input, "the headers of this model need more memory than there is", dir);
  } catch (const fs::filesystem_error& e) {
    return fail(error_kind::input, "the folder cannot be read: " + e.code().message(), dir);
  }
}

result<checkpoint_dir> checkpoint_dir::open_checked(const std::string& dir) {
  const result<std::vector<folder_entry>> entries = list_folder(dir);
  if (!entries) return forward_error(entries);
  const auto there = [&](std::string_view name) {
    return std::any_of(entries->begin(), entries->end(), [&](const folder_entry& e) { return e.name == name; });
  };
  const auto inside = [&](const std::string& name) { return (fs::absolute(dir) / name).string(); };

  checkpoint_dir c;
  c.path_ = dir;
  if (!there(kConfig)) return fail(error_kind::input, "the model folder has no config.json", dir);
  result<json> config = read_json(inside(kConfig), kConfigLimits);
  if (!config) return forward_error(config);
  if (!config->is_object()) return fail(error_kind::input, "config.json is no JSON object", inside(kConfig));
  c.config_ = std::move(*config);

  index_contents index;
  if (there(kSingle)) {
    index.shards = {kSingle};
  } else if (there(kIndex)) {
    result<index_contents> read = read_index(inside(kIndex));
    if (!read) return forward_error(read);
    index = std::move(*read);
    for (const std::string& shard : index.shards) {  // all of them before the first is read: a missing one is the commonest fault
      if (!there(shard)) return fail(error_kind::input, "the index names the shard " + shard + ", which is not there; download it", inside(kIndex));
    }
  } else {
    return no_weights(dir, *entries);
  }

  for (const std::string& shard : index.shards) {
    const std::string path = inside(shard);
    result<tensor_file> opened = tensor_file::open(path);
    if (!opened) return forward_error(opened);
    result<std::vector<tensor_ref>> tensors = parse_safetensors(opened->bytes(), path);
    if (!tensors) return forward_error(tensors);
    for (tensor_ref& t : *tensors) {
      t.file = static_cast<std::uint32_t>(c.files_.size());
      c.tensors_.push_back(std::move(t));
    }
    c.files_.push_back(path);
    c.impl_->files.push_back(std::move(*opened));
  }
  if (c.tensors_.empty()) return fail(error_kind::input, "the files of the model hold no tensor", dir);

  c.index_names();
  if (auto r = c.check_names(); !r) return forward_error(r);
  // Both ways: what the index names lies in its shard, and there are no tensors beside (equal counts, as names are unique on both sides).
  for (const auto& [name, shard] : index.tensors) {
    const tensor_ref* const t = c.find(name);
    if (t == nullptr || t->file != shard) {
      return fail(
          error_kind::input,
          "the index says that the tensor is in this file, and it is " + (t == nullptr ? std::string("not there") : "in " + c.files_[t->file]),
          c.files_[shard], name);
    }
  }
  if (!index.tensors.empty() && index.tensors.size() != c.tensors_.size()) {
    std::vector<std::string_view> named;
    for (const auto& entry : index.tensors) named.push_back(entry.first);
    std::sort(named.begin(), named.end());
    for (const tensor_ref& t : c.tensors_) {
      if (!std::binary_search(named.begin(), named.end(), t.name))
        return fail(error_kind::input, "the tensor is not named by the index " + inside(kIndex), c.files_[t.file], t.name);
    }
  }

  for (const folder_entry& e : *entries) {
    if (e.regular && e.name.front() != '.' && e.name != kConfig && !is_weight_file(e.name)) c.side_files_.push_back(e.name);
  }
  return c;
}

void checkpoint_dir::index_names() {
  auto& by_name = impl_->by_name;
  by_name.clear();
  by_name.reserve(tensors_.size());
  for (std::size_t i = 0; i < tensors_.size(); ++i) by_name.emplace_back(tensors_[i].name, i);
  std::sort(by_name.begin(), by_name.end());
}

void checkpoint_dir::present(std::vector<tensor_ref> tensors, json config) {
  tensors_ = std::move(tensors);
  config_ = std::move(config);
  index_names();
}

result<void> checkpoint_dir::check_names() const {
  const auto& by_name = impl_->by_name;
  const auto twice = std::adjacent_find(by_name.begin(), by_name.end(), [](const auto& a, const auto& b) { return a.first == b.first; });
  if (twice == by_name.end()) return {};
  const tensor_ref& again = tensors_[std::next(twice)->second];
  return fail(error_kind::input, "the tensor is also in " + files_[tensors_[twice->second].file], files_[again.file], again.name);
}

result<void> checkpoint_dir::split(const std::function<std::vector<std::string>(const tensor_ref&)>& parts) {
  std::vector<tensor_ref> all;
  for (tensor_ref& t : tensors_) {
    std::vector<std::string> names = parts(t);
    if (names.empty()) {
      all.push_back(std::move(t));
      continue;
    }
    const std::uint64_t cols = t.shape.empty() ? 0 : t.shape.back(), rows = cols == 0 ? 0 : t.elements() / cols;
    if (rows % names.size() != 0) return fail(error_kind::input, "the tensor cannot be taken apart into " + std::to_string(names.size()) + " equal pieces", files_[t.file], t.name);
    const std::size_t bytes = t.bytes.size() / names.size();
    for (std::size_t i = 0; i < names.size(); ++i) all.push_back({std::move(names[i]), t.type, {rows / names.size(), cols}, t.bytes.subspan(i * bytes, bytes), t.file});
  }
  tensors_ = std::move(all);
  index_names();
  return check_names();
}

const tensor_ref* checkpoint_dir::find(std::string_view name) const {
  const auto& by_name = impl_->by_name;
  const auto at = std::lower_bound(by_name.begin(), by_name.end(), name, [](const auto& entry, std::string_view n) { return entry.first < n; });
  return at != by_name.end() && at->first == name ? &tensors_[at->second] : nullptr;
}

checkpoint_dir checkpoint_dir::presented(const std::string& file, std::vector<tensor_ref> tensors, json config) {
  checkpoint_dir c;
  c.path_ = fs::path(file).parent_path().string();
  if (c.path_.empty()) c.path_ = ".";
  c.files_ = {file};
  if (const auto entries = list_folder(c.path_)) {
    for (const folder_entry& e : *entries)
      if (e.regular && belongs_to_any_model(e.name)) c.side_files_.push_back(e.name);
  }
  c.present(std::move(tensors), std::move(config));
  return c;
}

result<void> checkpoint_dir::for_pieces(const tensor_ref& t, const std::function<result<void>(std::span<const std::byte>, std::size_t)>& f) const {
  for (std::size_t at = 0; at < t.bytes.size(); at += kPiece) {
    const auto piece = t.bytes.subspan(at, std::min(kPiece, t.bytes.size() - at));
    if (auto r = f(piece.pin(), at); !r) return r;
    release(t, piece);
  }
  return {};
}

void checkpoint_dir::release(const tensor_ref& t, const file_bytes& part) const {
  if (!part.empty()) impl_->files[t.file].release(part);
}

}  // namespace auto_round::io
