#include "io/imatrix_file.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string_view>
#include <utility>

#include "io/bytes.hpp"
#include "io/file.hpp"
#include "io/gguf.hpp"

namespace auto_round::io {
namespace {

constexpr std::string_view sums_suffix = ".in_sum2", counts_suffix = ".counts";

result<std::vector<float>> floats_of(std::span<const std::byte> bytes, const std::string& file, const std::string& name) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  for (const float v : values)
    if (!(v >= 0) || !std::isfinite(v)) return fail(error_kind::input, "the importance matrix holds a value that is negative or not finite", file, name);
  return values;
}

template <class T>
const T* value_of(const gguf_contents& c, std::string_view key) {
  const gguf_value* v = c.find(key);
  return v == nullptr ? nullptr : std::get_if<T>(v);
}

result<imatrix_file> from_gguf(std::span<const std::byte> bytes, const std::string& path) {
  auto parsed = parse_gguf(bytes, path);
  if (!parsed) return forward_error(parsed);
  const std::string* type = value_of<std::string>(*parsed, "general.type");
  if (type == nullptr || *type != "imatrix") return fail(error_kind::input, "the GGUF file holds no importance matrix (general.type is not imatrix)", path);
  imatrix_file out;
  if (const auto* n = value_of<std::uint32_t>(*parsed, "imatrix.chunk_count")) out.chunk_count = *n;
  if (const auto* n = value_of<std::uint32_t>(*parsed, "imatrix.chunk_size")) out.chunk_size = *n;
  if (const auto* a = value_of<std::shared_ptr<gguf_array>>(*parsed, "imatrix.datasets"))
    if (const auto* names = std::get_if<std::vector<std::string>>(&(*a)->values)) out.datasets = *names;
  std::map<std::string, const gguf_tensor_ref*> counts;
  for (const gguf_tensor_ref& t : parsed->tensors) {
    if (t.type != gguf_type::f32) return fail(error_kind::input, "tensors of an importance matrix must be F32", path, t.name);
    if (t.name.ends_with(counts_suffix)) counts[t.name.substr(0, t.name.size() - counts_suffix.size())] = &t;
  }
  for (const gguf_tensor_ref& t : parsed->tensors) {
    if (t.name.ends_with(counts_suffix)) continue;
    if (!t.name.ends_with(sums_suffix)) return fail(error_kind::input, "a tensor that belongs in no importance matrix", path, t.name);
    imatrix_entry e;
    e.name = t.name.substr(0, t.name.size() - sums_suffix.size());
    const auto n = counts.find(e.name);
    if (n == counts.end()) return fail(error_kind::input, "the importance matrix lacks the counts of this entry", path, t.name);
    auto sums = floats_of(t.data.pin(), path, t.name), tokens = floats_of(n->second->data.pin(), path, n->second->name);
    if (!sums) return forward_error(sums);
    if (!tokens) return forward_error(tokens);
    e.cols = t.ne.empty() ? 0 : t.ne[0];
    if (e.cols == 0 || tokens->empty() || sums->size() != e.cols * tokens->size())
      return fail(error_kind::input, "sums and counts of this entry do not belong together", path, t.name);
    e.sums = std::move(*sums);
    e.counts = std::move(*tokens);
    out.entries.push_back(std::move(e));
  }
  return out;
}

result<imatrix_file> from_dat(std::span<const std::byte> bytes, const std::string& path) {
  const auto damaged = [&] { return fail(error_kind::input, "the file is no importance matrix, or ends too early", path); };
  byte_reader in(bytes);
  std::int32_t entries = 0;
  if (!in.number(entries) || entries < 1) return damaged();
  imatrix_file out;
  for (std::int32_t i = 0; i < entries; ++i) {
    std::int32_t length = 0, calls = 0, values = 0;
    std::string_view name;
    std::span<const std::byte> raw;
    if (!in.number(length) || length < 1 || !in.text(static_cast<std::uint64_t>(length), name)) return damaged();
    if (!in.number(calls) || !in.number(values) || calls < 0 || values < 1 || !in.take(static_cast<std::uint64_t>(values) * sizeof(float), raw)) return damaged();
    imatrix_entry e;
    e.name = name;
    auto sums = floats_of(raw, path, e.name);
    if (!sums) return forward_error(sums);
    e.cols = sums->size();
    e.sums = std::move(*sums);
    e.counts = {static_cast<float>(std::max(1, calls))};
    out.entries.push_back(std::move(e));
  }
  // What follows is optional: the number of chunks, and the name of the text.
  std::int32_t chunks = 0, length = 0;
  std::string_view dataset;
  if (in.number(chunks) && chunks > 0) out.chunk_count = static_cast<std::uint32_t>(chunks);
  if (in.number(length) && length > 0 && in.text(static_cast<std::uint64_t>(length), dataset)) out.datasets.emplace_back(dataset);
  return out;
}

template <class T>
void append(std::string& to, const T& value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string to_dat(const imatrix_file& f) {
  std::string entries;
  std::int32_t count = 0;
  const float chunk = static_cast<float>(std::max<std::uint32_t>(1, f.chunk_size));
  for (const imatrix_entry& e : f.entries) {
    const float most = *std::max_element(e.counts.begin(), e.counts.end());
    if (most == 0) continue;
    const auto calls = static_cast<std::int32_t>(std::ceil(most / chunk));
    append(entries, static_cast<std::int32_t>(e.name.size()));
    entries += e.name;
    append(entries, calls);
    append(entries, static_cast<std::int32_t>(e.sums.size()));
    for (const float m : e.mean()) append(entries, m * static_cast<float>(calls));
    ++count;
  }
  std::string out;
  append(out, count);
  out += entries;
  append(out, static_cast<std::int32_t>(f.chunk_count));
  const std::string dataset = f.datasets.empty() ? std::string() : f.datasets.front();
  append(out, static_cast<std::int32_t>(dataset.size()));
  return out + dataset;
}

result<void> write_gguf(const std::string& path, const imatrix_file& f) {
  auto names = std::make_shared<gguf_array>();
  names->values = f.datasets.empty() ? std::vector<std::string>{"unknown"} : f.datasets;
  const gguf_metadata metadata = {{"general.type", std::string("imatrix")}, {"imatrix.datasets", names}, {"imatrix.chunk_count", f.chunk_count},
                                  {"imatrix.chunk_size", f.chunk_size}};
  std::vector<gguf_tensor_decl> tensors;
  for (const imatrix_entry& e : f.entries) {
    tensors.push_back({e.name + std::string(sums_suffix), gguf_type::f32, {e.cols, e.counts.size()}});
    tensors.push_back({e.name + std::string(counts_suffix), gguf_type::f32, {1, e.counts.size()}});
  }
  auto writer = gguf_writer::create(path, metadata, tensors);
  if (!writer) return forward_error(writer);
  for (const imatrix_entry& e : f.entries) {
    if (auto r = writer->write(e.name + std::string(sums_suffix), std::as_bytes(std::span(e.sums))); !r) return r;
    if (auto r = writer->write(e.name + std::string(counts_suffix), std::as_bytes(std::span(e.counts))); !r) return r;
  }
  return writer->finish();
}

}  // namespace

std::vector<float> imatrix_entry::mean() const {
  std::vector<float> m = sums;
  for (std::size_t x = 0; x < counts.size(); ++x)
    for (std::size_t c = 0; c < cols; ++c) {
      float& v = m[x * static_cast<std::size_t>(cols) + c];
      v = counts[x] > 0 ? v / counts[x] : 1.0f;
    }
  return m;
}

namespace {

/// Which of two a layer is weighted by would be left to chance.
result<imatrix_file> without_twins(result<imatrix_file> read, const std::string& path) {
  if (!read) return read;
  std::set<std::string_view> names;
  for (const imatrix_entry& e : read->entries)
    if (!names.insert(e.name).second) return fail(error_kind::input, "an entry of the importance matrix appears twice", path, e.name);
  return read;
}

}  // namespace

result<imatrix_file> read_imatrix(const std::string& path) {
  auto file = mapped_file::open(path);
  if (!file) return forward_error(file);
  const std::span<const std::byte> bytes = file->bytes();
  const bool gguf = bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0;
  return without_twins(gguf ? from_gguf(bytes, path) : from_dat(bytes, path), path);
}

result<void> write_imatrix(const std::string& path, imatrix_file contents) {
  std::sort(contents.entries.begin(), contents.entries.end(), [](const imatrix_entry& a, const imatrix_entry& b) { return a.name < b.name; });
  return path.ends_with(".dat") ? write_text(path, to_dat(contents)) : write_gguf(path, contents);
}

}  // namespace auto_round::io
