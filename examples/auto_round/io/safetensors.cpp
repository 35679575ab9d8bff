// The safetensors container. Behaves as the Rust reference (safetensors 0.8.0): where its text and its code differ, as its code. Known differences:
// stricter about a name or key that appears twice, more than 1,024 axes, names above 4,096 bytes, texts above 16 MiB, entries written as arrays
// and types written as objects, which no writer makes.
#include "io/safetensors.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <unordered_set>
#include <utility>

#include "ar/view.hpp"
#include "io/bytes.hpp"
#include "io/extent_writer.hpp"
#include "io/file.hpp"
#include "io/json.hpp"
#include "io/json_events.hpp"

namespace auto_round::io {
namespace {

constexpr std::uint64_t kMostHeaderBytes = 100'000'000;  // the reference's cap
constexpr std::size_t kMostAxes = 1024;
constexpr std::size_t kMostNameBytes = 4096;

struct header_entry {
  tensor_ref tensor;
  std::uint64_t begin = 0, end = 0;
};

/// Reads one header as it comes, without a tree: memory is that of the tensors found. The members hold what is known when something turns out
/// wrong, for the error.
class header_parser final : public json_sink {
 public:
  header_parser(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  result<std::vector<header_entry>> parse(std::map<std::string, std::string>* metadata) {
    const std::string problem = read_json_events(text_, *this);
    if (!problem.empty()) bad(problem);
    if (!outcome_) return forward_error(outcome_);
    if (metadata != nullptr && metadata_seen_) *metadata = std::move(metadata_);
    return std::move(entries_);
  }

  bool take(const json_event& event) override {
    const json_token token = event.token;
    switch (expected_) {
      case expect::header:
        if (token != json_token::begin_object) return bad("the header is no JSON object");
        return next(expect::name);
      case expect::name:
        return token == json_token::end_object || take_name(event.text);
      case expect::metadata:
        if (token == json_token::null) return next(expect::name);
        if (token != json_token::begin_object) return bad("__metadata__ is no object");
        return next(expect::metadata_key);
      case expect::metadata_key:
        if (token == json_token::end_object) return next(expect::name);
        metadata_key_ = event.text;
        return next(expect::metadata_text);
      case expect::metadata_text:
        if (token != json_token::string) return bad("a value of __metadata__ is no string");
        if (!metadata_.emplace(std::move(metadata_key_), event.text).second) return bad("a key of __metadata__ appears twice");
        return next(expect::metadata_key);
      case expect::entry:
        if (token != json_token::begin_object) return bad("the entry of a tensor is no object");
        return next(expect::field);
      case expect::field:
        return token == json_token::end_object ? end_entry() : take_field(event.text);
      case expect::type:
        if (token != json_token::string) return bad("dtype is no string");
        return take_type(event.text);
      case expect::sizes:
        if (token != json_token::begin_array) return bad("shape and data_offsets must be arrays");
        return next(expect::size);
      case expect::size:
        return token == json_token::end_array ? end_sizes() : take_size(event);
      case expect::skipped:
        if (token == json_token::begin_object || token == json_token::begin_array) ++skipped_depth_;
        if (token == json_token::end_object || token == json_token::end_array) --skipped_depth_;
        return skipped_depth_ != 0 || next(expect::field);
    }
    return false;
  }

 private:
  /// What the next token belongs to; a name, key, field or size may also be the bracket that ends them.
  enum class expect { header, name, metadata, metadata_key, metadata_text, entry, field, type, sizes, size, skipped };

  bool next(expect what) {
    expected_ = what;
    return true;
  }

  bool bad(const std::string& what) {
    outcome_ = fail(error_kind::input, "damaged safetensors header: " + what, file_, name_);
    return false;
  }

  /// "__metadata__" holds null or an object of strings; every other name is a tensor's.
  bool take_name(std::string_view name) {
    if (name == "__metadata__") {
      if (metadata_seen_) return bad("__metadata__ appears twice");
      metadata_seen_ = true;
      return next(expect::metadata);
    }
    if (name.size() > kMostNameBytes) return bad("a tensor name is longer than " + std::to_string(kMostNameBytes) + " bytes");
    name_ = name;
    return next(expect::entry);
  }

  /// {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, in any order; other keys are skipped, as the reference does.
  bool take_field(std::string_view key) {
    if (key == "dtype") {
      if (std::exchange(has_type_, true)) return bad("dtype appears twice");
      return next(expect::type);
    }
    if (key == "shape") {
      if (std::exchange(has_shape_, true)) return bad("shape appears twice");
      sizes_ = &entry_.tensor.shape;
      most_sizes_ = kMostAxes;
      return next(expect::sizes);
    }
    if (key == "data_offsets") {
      if (std::exchange(has_offsets_, true)) return bad("data_offsets appears twice");
      sizes_ = &offsets_;
      most_sizes_ = 2;
      return next(expect::sizes);
    }
    return next(expect::skipped);
  }

  bool end_entry() {
    if (!has_type_ || !has_shape_ || !has_offsets_) return bad("dtype, shape or data_offsets is missing");
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    entry_.tensor.name = std::move(name_);
    entries_.push_back(std::move(entry_));
    entry_ = {};
    offsets_.clear();
    name_.clear();
    has_type_ = has_shape_ = has_offsets_ = false;
    return next(expect::name);
  }

  bool take_type(std::string_view name) {
    if (dtype_from_name(name, entry_.tensor.type)) return next(expect::field);
    for (const char* other : {"F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"}) {
      if (name != other) continue;
      outcome_ = fail(error_kind::unsupported, "tensors of type " + std::string(name) + " cannot be read by this version", file_, name_);
      return false;
    }
    return bad("the type " + dump(json(name.substr(0, 40)), {-2}) + " is unknown");
  }

  bool take_size(const json_event& event) {
    if (event.token == json_token::negative || event.token == json_token::real) return bad("a size is no whole number from 0 to 2^64-1");
    if (event.token != json_token::whole) return bad("a size is no number");
    if (sizes_->size() == most_sizes_) return bad("shape or data_offsets holds more than " + std::to_string(most_sizes_) + " numbers");
    sizes_->push_back(event.whole);
    return true;
  }

  bool end_sizes() {
    if (sizes_ == &offsets_ && offsets_.size() != 2) return bad("data_offsets does not hold two numbers");
    return next(expect::field);
  }

  std::string_view text_;
  const std::string& file_;
  result<void> outcome_;
  expect expected_ = expect::header;

  std::vector<header_entry> entries_;
  std::map<std::string, std::string> metadata_;
  std::string metadata_key_;
  bool metadata_seen_ = false;

  std::string name_;  // of the tensor whose entry is being read
  header_entry entry_;
  std::vector<std::uint64_t> offsets_;
  bool has_type_ = false, has_shape_ = false, has_offsets_ = false;
  std::vector<std::uint64_t>* sizes_ = nullptr;  // where the array being read goes
  std::size_t most_sizes_ = 0;
  std::size_t skipped_depth_ = 0;
};

result<std::vector<tensor_ref>> parse_checked(const file_bytes& bytes, const std::string& file,
                                              std::map<std::string, std::string>* metadata) {
  constexpr std::size_t length_bytes = sizeof(std::uint64_t);
  std::uint64_t header_bytes = 0;
  if (!byte_reader(bytes.first(std::min(length_bytes, bytes.size())).pin()).number(header_bytes)) return fail(error_kind::input, "this is no safetensors file: it is shorter than 8 bytes", file);
  if (header_bytes > kMostHeaderBytes) {
    return fail(error_kind::input, "this is no safetensors file, or it is damaged: its header claims " + std::to_string(header_bytes) + " bytes",
                file);
  }
  if (header_bytes > bytes.size() - length_bytes) {
    return fail(error_kind::input,
                "the file is cut short: its header claims " + std::to_string(header_bytes) + " bytes and " + std::to_string(bytes.size() - length_bytes) + " are there", file);
  }
  const pinned_bytes header = bytes.subspan(length_bytes, static_cast<std::size_t>(header_bytes)).pin();
  result<std::vector<header_entry>> parsed = header_parser({reinterpret_cast<const char*>(header.data()), header.size()}, file).parse(metadata);
  if (!parsed) return forward_error(parsed);
  std::vector<header_entry>& entries = *parsed;

  std::vector<std::string_view> names;
  names.reserve(entries.size());
  for (const header_entry& e : entries) names.push_back(e.tensor.name);
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end()) {
    return fail(error_kind::input, "damaged safetensors header: a tensor appears twice", file, std::string(*twice));
  }

  std::stable_sort(entries.begin(), entries.end(),
                   [](const header_entry& a, const header_entry& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
  std::vector<tensor_ref> tensors;
  tensors.reserve(entries.size());
  const std::size_t data_start = length_bytes + header.size(), data_bytes = bytes.size() - data_start;
  std::uint64_t next = 0;
  for (header_entry& e : entries) {
    const auto bad = [&](const std::string& what) { return fail(error_kind::input, "damaged safetensors header: " + what, file, e.tensor.name); };
    if (e.begin != next || e.end < e.begin) {
      return bad("the tensor lies at bytes " + std::to_string(e.begin) + " to " + std::to_string(e.end) + " where one must begin at " +
                 std::to_string(next));
    }
    std::uint64_t size = 1;
    for (const std::uint64_t d : e.tensor.shape) {
      if (!ar::checked_mul(size, d, size)) return bad("the shape is too large");
    }
    if (!ar::checked_mul(size, size_of(e.tensor.type), size)) return bad("the shape is too large");
    if (size != e.end - e.begin)
      return bad("the shape needs " + std::to_string(size) + " bytes and " + std::to_string(e.end - e.begin) + " are given");
    if (e.end > data_bytes) {
      return fail(error_kind::input,
                  "the file is cut short: the tensor ends at byte " + std::to_string(e.end) + " of the data and " +
                      std::to_string(data_bytes) + " are there",
                  file, e.tensor.name);
    }
    e.tensor.bytes = bytes.subspan(data_start + static_cast<std::size_t>(e.begin), static_cast<std::size_t>(size));
    next = e.end;
    tensors.push_back(std::move(e.tensor));
  }
  if (next != data_bytes)
    return fail(error_kind::input, "damaged safetensors file: " + std::to_string(data_bytes - next) + " bytes follow the last tensor", file);
  return tensors;
}

/// The header with its length in front and its padding: everything before the first byte of data. The data may be anything from 0 bytes on.
std::string build_header(const std::vector<tensor_decl>& tensors, const std::map<std::string, std::string>& metadata) {
  constexpr dump_options kCompact = {-2, false, false};
  std::string text = "{";
  if (!metadata.empty()) {
    json::object members;
    for (const auto& [key, value] : metadata) members.emplace_back(key, json(value));
    text += "\"__metadata__\":" + dump(json(std::move(members)), kCompact);
  }
  std::uint64_t offset = 0;
  for (const tensor_decl& t : tensors) {
    if (text.size() > 1) text += ',';
    text += dump(json(t.name), kCompact) + ":{\"dtype\":\"" + std::string(name_of(t.type)) + "\",\"shape\":[";
    for (std::size_t i = 0; i < t.shape.size(); ++i) text += (i == 0 ? "" : ",") + std::to_string(t.shape[i]);
    text += "],\"data_offsets\":[" + std::to_string(offset);
    offset += t.bytes();
    text += "," + std::to_string(offset) + "]}";
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  std::string head(sizeof length, '\0');
  std::memcpy(head.data(), &length, sizeof length);
  return head + text;
}

}  // namespace

result<std::vector<tensor_ref>> parse_safetensors(const file_bytes& bytes, const std::string& file,
                                                  std::map<std::string, std::string>* metadata) {
  try {
    return parse_checked(bytes, file, metadata);
  } catch (const std::bad_alloc&) {
    return fail(error_kind::input, "the header of this file needs more memory than there is", file);
  }
}

std::uint64_t safetensors_size(const std::vector<tensor_decl>& tensors, const std::map<std::string, std::string>& metadata) {
  std::uint64_t size = build_header(tensors, metadata).size();
  for (const tensor_decl& t : tensors) size += t.bytes();
  return size;
}

void sort_as_reference(std::vector<tensor_decl>& tensors) {
  // The order of the reference's type list; larger alignment comes first in a file.
  constexpr dtype kOrder[] = {dtype::boolean, dtype::u8,   dtype::i8,  dtype::f8_e5m2, dtype::f8_e4m3, dtype::f8_e8m0, dtype::i16, dtype::u16,
                              dtype::f16,     dtype::bf16, dtype::i32, dtype::u32,     dtype::f32,     dtype::f64,     dtype::i64, dtype::u64};
  const auto rank = [&](dtype t) { return std::find(std::begin(kOrder), std::end(kOrder), t) - std::begin(kOrder); };
  std::sort(tensors.begin(), tensors.end(),
            [&](const tensor_decl& a, const tensor_decl& b) { return a.type != b.type ? rank(a.type) > rank(b.type) : a.name < b.name; });
}

struct safetensors_writer::impl {
  extent_writer extents;
};

safetensors_writer::safetensors_writer() = default;
safetensors_writer::safetensors_writer(safetensors_writer&&) noexcept = default;
safetensors_writer& safetensors_writer::operator=(safetensors_writer&&) noexcept = default;
safetensors_writer::~safetensors_writer() = default;

result<safetensors_writer> safetensors_writer::create(const std::string& path, std::vector<tensor_decl> tensors,
                                                      const std::map<std::string, std::string>& metadata) {
  std::unordered_set<std::string_view> names;
  std::uint64_t data_bytes = 0;
  for (const tensor_decl& t : tensors) {
    const std::uint64_t size = t.bytes();
    if (t.name == "__metadata__" || size == UINT64_MAX || !names.insert(t.name).second || !ar::checked_add(data_bytes, size, data_bytes)) {
      return fail(error_kind::internal, "a tensor to be written has a reserved name, a name that is taken, or an impossible shape", path, t.name);
    }
  }
  const std::string head = build_header(tensors, metadata);
  if (head.size() - sizeof(std::uint64_t) > kMostHeaderBytes) {
    return fail(error_kind::output, "the header would be longer than readers accept; write more and smaller shards", path);
  }
  result<output_file> file = output_file::create(path);
  if (!file) return forward_error(file);
  if (const result<void> r = file->write_at(0, std::as_bytes(std::span(head))); !r) return forward_error(r);
  safetensors_writer writer;
  writer.impl_ = std::make_unique<impl>(impl{extent_writer(path, std::move(*file))});
  std::uint64_t offset = head.size();
  for (const tensor_decl& t : tensors) {
    writer.impl_->extents.declare(t.name, offset, t.bytes());
    offset += t.bytes();
  }
  return writer;
}

result<void> safetensors_writer::write(const std::string& name, std::span<const std::byte> data, std::uint64_t offset_bytes) {
  return impl_->extents.write(name, data, offset_bytes);
}

result<void> safetensors_writer::finish() { return impl_->extents.finish(); }

}  // namespace auto_round::io
