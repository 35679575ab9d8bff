// The GGUF container. Limits are those of ggml's own reader, or lower where no real file comes near them. Known differences to gguf-py 0.19.0:
// stricter about a dimension of 0, alignments above 1 MiB and names with a zero byte; laxer about text values that are not UTF-8.
#include "io/gguf.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <unordered_map>

#include "ar/view.hpp"
#include "io/bytes.hpp"
#include "io/extent_writer.hpp"
#include "io/file.hpp"
#include "io/json.hpp"
#include "io/utf8.hpp"

namespace auto_round::io {
namespace {

constexpr std::uint32_t kVersion = 3;
constexpr std::size_t kFirstLook = std::size_t{1} << 20;
constexpr std::uint64_t kMostKeys = 100'000;
constexpr std::uint64_t kMostTensors = 1'000'000;
constexpr std::uint64_t kMostArrayElements = 10'000'000;
constexpr std::uint64_t kMostStringBytes = std::uint64_t{64} << 20;
constexpr std::uint64_t kMostKeyBytes = 65'535;     // gguf.md
constexpr std::uint64_t kMostNameBytes = 63;        // GGML_MAX_NAME with its terminator
constexpr std::uint32_t kMostDims = 4;              // GGML_MAX_DIMS
constexpr std::uint64_t kMostElements = INT64_MAX;  // ggml counts in int64_t
constexpr std::uint32_t kDefaultAlignment = 32;
constexpr std::uint32_t kMostAlignment = 1u << 20;
constexpr char kAlignmentKey[] = "general.alignment";

// Names, elements and bytes of a block: ggml.c of ggml 0.25.3. Ids that are not here never existed or were removed.
struct tensor_type {
  gguf_type id;
  gguf_type_facts facts;
};
constexpr tensor_type kTensorTypes[] = {
    {gguf_type::f32, {"F32", 1, 4}},
    {gguf_type::f16, {"F16", 1, 2}},
    {gguf_type::q4_0, {"Q4_0", 32, 18}},
    {gguf_type::q4_1, {"Q4_1", 32, 20}},
    {gguf_type::q5_0, {"Q5_0", 32, 22}},
    {gguf_type::q5_1, {"Q5_1", 32, 24}},
    {gguf_type::q8_0, {"Q8_0", 32, 34}},
    {gguf_type::q8_1, {"Q8_1", 32, 36}},
    {gguf_type::q2_k, {"Q2_K", 256, 84}},
    {gguf_type::q3_k, {"Q3_K", 256, 110}},
    {gguf_type::q4_k, {"Q4_K", 256, 144}},
    {gguf_type::q5_k, {"Q5_K", 256, 176}},
    {gguf_type::q6_k, {"Q6_K", 256, 210}},
    {gguf_type::q8_k, {"Q8_K", 256, 292}},
    {gguf_type::iq2_xxs, {"IQ2_XXS", 256, 66}},
    {gguf_type::iq2_xs, {"IQ2_XS", 256, 74}},
    {gguf_type::iq3_xxs, {"IQ3_XXS", 256, 98}},
    {gguf_type::iq1_s, {"IQ1_S", 256, 50}},
    {gguf_type::iq4_nl, {"IQ4_NL", 32, 18}},
    {gguf_type::iq3_s, {"IQ3_S", 256, 110}},
    {gguf_type::iq2_s, {"IQ2_S", 256, 82}},
    {gguf_type::iq4_xs, {"IQ4_XS", 256, 136}},
    {gguf_type::i8, {"I8", 1, 1}},
    {gguf_type::i16, {"I16", 1, 2}},
    {gguf_type::i32, {"I32", 1, 4}},
    {gguf_type::i64, {"I64", 1, 8}},
    {gguf_type::f64, {"F64", 1, 8}},
    {gguf_type::iq1_m, {"IQ1_M", 256, 56}},
    {gguf_type::bf16, {"BF16", 1, 2}},
    {gguf_type::tq1_0, {"TQ1_0", 256, 54}},
    {gguf_type::tq2_0, {"TQ2_0", 256, 66}},
    {gguf_type::mxfp4, {"MXFP4", 32, 17}},
    {gguf_type::nvfp4, {"NVFP4", 64, 36}},
    {gguf_type::q1_0, {"Q1_0", 128, 18}},
    {gguf_type::q2_0, {"Q2_0", 64, 18}},
};

constexpr std::uint32_t kStringType = 8, kArrayType = 9, kTypes = 13;
static_assert(std::variant_size_v<gguf_value> == kTypes, "the index of an alternative is the type id of the file");

/// Type id of the elements of an array whose variant has index `i`: arrays of arrays do not exist, so that id is left out.
std::uint32_t element_type(std::size_t i) { return static_cast<std::uint32_t>(i < kArrayType ? i : i + 1); }

std::string quoted(std::string_view s) { return dump(json(s.substr(0, 100)), {-2}); }

bool pad(std::uint64_t n, std::uint64_t alignment, std::uint64_t& out) {
  std::uint64_t up = 0;
  if (!ar::checked_add(n, alignment - 1, up)) return false;
  out = up & ~(alignment - 1);
  return true;
}

/// Bytes of a tensor, or why there are none. `ne` may be empty: one element.
const char* tensor_bytes(std::uint32_t type, const std::vector<std::uint64_t>& ne, std::uint64_t& out) {
  const gguf_type_facts facts = gguf_type_info(type);
  if (facts.name == nullptr) return "the type of the tensor is unknown or was removed from the format";
  if (ne.size() > kMostDims) return "a tensor has at most 4 dimensions";
  std::uint64_t elements = 1;
  for (const std::uint64_t n : ne) {
    if (n == 0) return "a dimension of the tensor is 0";
    if (!ar::checked_mul(elements, n, elements) || elements > kMostElements) return "the shape is too large";
  }
  const std::uint64_t columns = ne.empty() ? 1 : ne[0];
  if (columns % facts.block_elements != 0) return "the rows of the tensor are no whole number of blocks of its type";
  if (!ar::checked_mul(elements / facts.block_elements, facts.block_bytes, out)) return "the shape is too large";
  return nullptr;
}

class gguf_parser {
 public:
  /// `header` is what is read of the file `bytes`, from its beginning on.
  gguf_parser(const file_bytes& bytes, std::span<const std::byte> header, const std::string& file) : bytes_(bytes), reader_(header), file_(file) {}

  /// More of the file may hold what was missed.
  bool wants_more() const { return ends_early_ && reader_.size() < bytes_.size(); }

  result<gguf_contents> parse() {
    std::string_view magic;
    std::uint32_t version = 0;
    if (!reader_.text(4, magic) || magic != "GGUF") return bad("this is no GGUF file");
    if (!reader_.number(version)) return cut_short();
    if ((version & 0xFFFFu) == 0) return fail(error_kind::unsupported, "this is a big-endian GGUF file, or it is damaged", file_);
    if (version != 2 && version != kVersion)
      return fail(error_kind::unsupported, "GGUF version " + std::to_string(version) + " cannot be read; 2 and 3 can", file_);
    std::uint64_t tensors = 0, keys = 0;
    if (!reader_.number(tensors) || !reader_.number(keys)) return cut_short();
    if (tensors > kMostTensors) return bad("it claims " + std::to_string(tensors) + " tensors");
    if (keys > kMostKeys) return bad("it claims " + std::to_string(keys) + " metadata keys");

    gguf_contents c;
    for (std::uint64_t i = 0; i < keys; ++i) {
      if (const result<void> r = read_pair(c.metadata); !r) return forward_error(r);
    }
    where_.clear();
    if (const result<void> r = distinct(
            c.metadata, [](const auto& m) -> const std::string& { return m.first; }, "a metadata key appears twice: ");
        !r)
      return forward_error(r);
    std::uint64_t alignment = kDefaultAlignment;
    if (const gguf_value* const v = c.find(kAlignmentKey)) {
      const auto* const given = std::get_if<std::uint32_t>(v);
      if (given == nullptr || *given == 0 || (*given & (*given - 1)) != 0 || *given > kMostAlignment)
        return bad("general.alignment is no power of two up to 1 MiB");
      alignment = *given;
    }

    std::vector<std::uint64_t> offsets;
    for (std::uint64_t i = 0; i < tensors; ++i) {
      std::uint64_t offset = 0;
      if (const result<void> r = read_tensor(c.tensors, offset); !r) return forward_error(r);
      offsets.push_back(offset);
    }
    if (const result<void> r = distinct(
            c.tensors, [](const auto& t) -> const std::string& { return t.name; }, "a tensor appears twice: ");
        !r)
      return forward_error(r);
    return place(std::move(c), offsets, alignment);
  }

 private:
  tl::unexpected<error> bad(const std::string& what, const std::string& tensor = {}) const {
    return fail(error_kind::input, "damaged GGUF file: " + what + where_, file_, tensor);
  }
  tl::unexpected<error> cut_short() const {
    ends_early_ = true;
    return bad("it ends inside its header");
  }

  template <class Items, class Name>
  result<void> distinct(const Items& items, Name name, const char* complaint) const {
    std::vector<std::string_view> names;
    names.reserve(items.size());
    for (const auto& item : items) names.push_back(name(item));
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) return bad(complaint + quoted(*twice));
    return {};
  }

  /// A string of at most `most` bytes.
  result<std::string> read_string(std::uint64_t most, const char* what) {
    std::uint64_t length = 0;
    std::string_view text;
    if (!reader_.number(length)) return cut_short();
    if (length > most) return bad(std::string(what) + " of " + std::to_string(length) + " bytes is longer than " + std::to_string(most));
    if (!reader_.text(length, text)) return cut_short();
    return std::string(text);
  }

  /// A key or tensor name: UTF-8. One with a zero byte would be a different name to readers in C.
  result<std::string> read_name(std::uint64_t most, const char* what) {
    result<std::string> name = read_string(most, what);
    if (!name) return name;
    if (name->empty() || name->find('\0') != std::string::npos) return bad(std::string(what) + " is empty or holds a zero byte");
    for (std::size_t at = 0, length = 0; at < name->size(); at += length) {
      length = utf8_sequence(*name, at);
      if (length == 0) return bad(std::string(what) + " is not valid UTF-8");
    }
    return name;
  }

  template <class T>
  result<T> read_scalar() {
    if constexpr (std::is_same_v<T, bool>) {
      std::uint8_t b = 0;
      if (!reader_.number(b)) return cut_short();
      if (b > 1) return bad("a bool is neither 0 nor 1");
      return b == 1;
    } else if constexpr (std::is_same_v<T, std::string>) {
      return read_string(kMostStringBytes, "a string");
    } else {
      T v = 0;
      if (!reader_.number(v)) return cut_short();
      return v;
    }
  }

  template <class T>
  result<gguf_array> read_elements(std::uint64_t count) {
    constexpr std::uint64_t kLeast = std::is_same_v<T, std::string> ? 8 : sizeof(T);  // bytes of the file that an element takes
    if (count > reader_.left() / kLeast) return cut_short();
    std::vector<T> values;
    values.reserve(static_cast<std::size_t>(count));
    for (std::uint64_t i = 0; i < count; ++i) {
      result<T> v = read_scalar<T>();
      if (!v) return forward_error(v);
      values.push_back(std::move(*v));
    }
    return gguf_array{std::move(values)};
  }

  result<gguf_value> read_array() {
    std::uint32_t type = 0;
    std::uint64_t count = 0;
    if (!reader_.number(type) || !reader_.number(count)) return cut_short();
    if (count > kMostArrayElements) return bad("an array claims " + std::to_string(count) + " elements");
    const auto wrap = [](result<gguf_array> a) -> result<gguf_value> {
      if (!a) return forward_error(a);
      return gguf_value(std::make_shared<gguf_array>(std::move(*a)));
    };
    switch (type) {
      case 0:
        return wrap(read_elements<std::uint8_t>(count));
      case 1:
        return wrap(read_elements<std::int8_t>(count));
      case 2:
        return wrap(read_elements<std::uint16_t>(count));
      case 3:
        return wrap(read_elements<std::int16_t>(count));
      case 4:
        return wrap(read_elements<std::uint32_t>(count));
      case 5:
        return wrap(read_elements<std::int32_t>(count));
      case 6:
        return wrap(read_elements<float>(count));
      case 7:
        return wrap(read_elements<bool>(count));
      case 8:
        return wrap(read_elements<std::string>(count));
      case 10:
        return wrap(read_elements<std::uint64_t>(count));
      case 11:
        return wrap(read_elements<std::int64_t>(count));
      case 12:
        return wrap(read_elements<double>(count));
      default:
        return bad("an array of elements of type " + std::to_string(type));
    }
  }

  template <class T>
  result<gguf_value> read_as() {
    result<T> v = read_scalar<T>();
    if (!v) return forward_error(v);
    return gguf_value(std::in_place_type<T>, std::move(*v));
  }

  result<gguf_value> read_value(std::uint32_t type) {
    switch (type) {
      case 0:
        return read_as<std::uint8_t>();
      case 1:
        return read_as<std::int8_t>();
      case 2:
        return read_as<std::uint16_t>();
      case 3:
        return read_as<std::int16_t>();
      case 4:
        return read_as<std::uint32_t>();
      case 5:
        return read_as<std::int32_t>();
      case 6:
        return read_as<float>();
      case 7:
        return read_as<bool>();
      case kStringType:
        return read_as<std::string>();
      case kArrayType:
        return read_array();
      case 10:
        return read_as<std::uint64_t>();
      case 11:
        return read_as<std::int64_t>();
      case 12:
        return read_as<double>();
      default:
        return bad("a value of type " + std::to_string(type));
    }
  }

  result<void> read_pair(gguf_metadata& out) {
    where_.clear();
    result<std::string> key = read_name(kMostKeyBytes, "a metadata key");
    if (!key) return forward_error(key);
    where_ = " (metadata key " + quoted(*key) + ")";
    std::uint32_t type = 0;
    if (!reader_.number(type)) return cut_short();
    result<gguf_value> value = read_value(type);
    if (!value) return forward_error(value);
    out.emplace_back(std::move(*key), std::move(*value));
    return {};
  }

  result<void> read_tensor(std::vector<gguf_tensor_ref>& out, std::uint64_t& offset) {
    result<std::string> name = read_name(kMostNameBytes, "a tensor name");
    if (!name) return forward_error(name);
    gguf_tensor_ref t;
    t.name = std::move(*name);
    std::uint32_t dims = 0, type = 0;
    if (!reader_.number(dims)) return cut_short();
    if (dims > kMostDims) return bad("a tensor has at most 4 dimensions, not " + std::to_string(dims), t.name);
    for (std::uint32_t d = 0; d < dims; ++d) {
      std::uint64_t n = 0;
      if (!reader_.number(n)) return cut_short();
      t.ne.push_back(n);
    }
    if (!reader_.number(type) || !reader_.number(offset)) return cut_short();
    std::uint64_t size = 0;
    if (const char* const problem = tensor_bytes(type, t.ne, size)) return bad(problem, t.name);
    t.type = static_cast<gguf_type>(type);
    out.push_back(std::move(t));
    return {};
  }

  /// Gives every tensor its bytes. Offsets must be exactly those that the sizes imply, as in ggml: no overlap, no gap, nothing out of order.
  result<gguf_contents> place(gguf_contents&& c, const std::vector<std::uint64_t>& offsets, std::uint64_t alignment) const {
    if (c.tensors.empty()) return std::move(c);
    std::uint64_t data_start = 0, expected = 0;
    if (!pad(reader_.at(), alignment, data_start)) return cut_short();
    for (std::size_t i = 0; i < c.tensors.size(); ++i) {
      gguf_tensor_ref& t = c.tensors[i];
      const std::uint64_t size = t.bytes();
      std::uint64_t begin = 0, end = 0;
      if (offsets[i] != expected)
        return bad("the tensor is said to begin at byte " + std::to_string(offsets[i]) + " of the data and must begin at " + std::to_string(expected),
                   t.name);
      if (!ar::checked_add(data_start, expected, begin) || !ar::checked_add(begin, size, end) || end > bytes_.size()) {
        return bad("it is cut short: it has " + std::to_string(bytes_.size()) + " bytes and the tensor begins at byte " + std::to_string(begin) +
                       " with " + std::to_string(size) + " bytes",
                   t.name);
      }
      t.data = bytes_.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(size));
      if (!ar::checked_add(expected, size, expected) || !pad(expected, alignment, expected)) return bad("the shape is too large", t.name);
    }
    return std::move(c);
  }

  file_bytes bytes_;
  byte_reader reader_;
  const std::string& file_;
  mutable bool ends_early_ = false;
  std::string where_;
};

// Writing.

template <class T>
void put(std::string& out, T v) {
  char raw[sizeof v];
  std::memcpy(raw, &v, sizeof v);
  out.append(raw, sizeof v);
}

void put(std::string& out, bool v) { out += static_cast<char>(v ? 1 : 0); }

void put(std::string& out, const std::string& v) {
  put(out, static_cast<std::uint64_t>(v.size()));
  out += v;
}

void put(std::string& out, const std::shared_ptr<gguf_array>& v) {
  put(out, element_type(v->values.index()));
  std::visit(
      [&](const auto& values) {
        put(out, static_cast<std::uint64_t>(values.size()));
        for (const auto& e : values) put(out, e);
      },
      v->values);
}

std::uint64_t alignment_of(const gguf_metadata& metadata) {
  for (const auto& [key, value] : metadata) {
    if (key == kAlignmentKey && std::holds_alternative<std::uint32_t>(value)) return std::get<std::uint32_t>(value);
  }
  return kDefaultAlignment;
}

/// Everything before the data, padding included. Shapes were checked.
std::string build_header(const gguf_metadata& metadata, const std::vector<gguf_tensor_decl>& tensors) {
  const std::uint64_t alignment = alignment_of(metadata);
  std::string out = "GGUF";
  put(out, kVersion);
  put(out, static_cast<std::uint64_t>(tensors.size()));
  put(out, static_cast<std::uint64_t>(metadata.size()));
  for (const auto& [key, value] : metadata) {
    put(out, key);
    put(out, static_cast<std::uint32_t>(value.index()));
    std::visit([&](const auto& v) { put(out, v); }, value);
  }
  std::uint64_t offset = 0;
  for (const gguf_tensor_decl& t : tensors) {
    put(out, t.name);
    put(out, static_cast<std::uint32_t>(t.ne.size()));
    for (const std::uint64_t n : t.ne) put(out, n);
    put(out, static_cast<std::uint32_t>(t.type));
    put(out, offset);
    offset = (offset + t.bytes() + alignment - 1) & ~(alignment - 1);
  }
  out.resize((out.size() + alignment - 1) & ~(alignment - 1), '\0');
  return out;
}

/// Why a file with these contents would be refused by readers, ours or ggml's; empty if it would not.
result<void> check_declarations(const gguf_metadata& metadata, const std::vector<gguf_tensor_decl>& tensors, const std::string& path) {
  const auto bad = [&](const std::string& what, const std::string& tensor = {}) {
    return fail(error_kind::internal, "this GGUF file cannot be written: " + what, path, tensor);
  };
  std::unordered_map<std::string_view, int> seen;
  for (const auto& [key, value] : metadata) {
    if (key.empty() || key.size() > kMostKeyBytes || ++seen[key] > 1)
      return bad("the metadata key " + quoted(key) + " is empty, too long or there twice");
    if (const auto* const array = std::get_if<std::shared_ptr<gguf_array>>(&value); array != nullptr && *array == nullptr)
      return bad("the array of the metadata key " + quoted(key) + " is missing");
    const auto* const alignment = key == kAlignmentKey ? std::get_if<std::uint32_t>(&value) : nullptr;
    if (key == kAlignmentKey && (alignment == nullptr || *alignment == 0 || (*alignment & (*alignment - 1)) != 0 || *alignment > kMostAlignment))
      return bad("general.alignment is no power of two up to 1 MiB");
  }
  seen.clear();
  std::uint64_t total = 0;
  for (const gguf_tensor_decl& t : tensors) {
    std::uint64_t size = 0;
    if (t.name.empty() || t.name.size() > kMostNameBytes || ++seen[t.name] > 1)
      return bad("the name of a tensor is empty, longer than 63 bytes or there twice", t.name);
    if (const char* const problem = tensor_bytes(static_cast<std::uint32_t>(t.type), t.ne, size)) return bad(problem, t.name);
    if (!ar::checked_add(total, size, total) || !pad(total, alignment_of(metadata), total)) return bad("the shape is too large", t.name);
  }
  return {};
}

}  // namespace

gguf_type_facts gguf_type_info(std::uint32_t id) {
  for (const auto& t : kTensorTypes) {
    if (static_cast<std::uint32_t>(t.id) == id) return t.facts;
  }
  return {nullptr, 0, 0};
}

std::uint64_t gguf_tensor_decl::bytes() const {
  std::uint64_t size = 0;
  return tensor_bytes(static_cast<std::uint32_t>(type), ne, size) == nullptr ? size : UINT64_MAX;
}

const gguf_value* gguf_contents::find(std::string_view key) const {
  for (const auto& m : metadata) {
    if (m.first == key) return &m.second;
  }
  return nullptr;
}

result<gguf_contents> parse_gguf(const file_bytes& bytes, const std::string& file) {
  try {
    // Nobody knows how long a header is: of a file that is mapped piece by piece, more and more is looked at.
    for (std::size_t n = bytes.memory() != nullptr ? bytes.size() : std::min(bytes.size(), kFirstLook);; n = std::min(bytes.size(), 4 * n)) {
      const pinned_bytes header = bytes.first(n).pin();
      gguf_parser parser(bytes, header, file);
      result<gguf_contents> contents = parser.parse();
      if (contents || !parser.wants_more()) return contents;
    }
  } catch (const std::bad_alloc&) {
    return fail(error_kind::input, "the header of this file needs more memory than there is", file);
  }
}

std::uint64_t gguf_size(const gguf_metadata& metadata, const std::vector<gguf_tensor_decl>& tensors) {
  const std::uint64_t alignment = alignment_of(metadata);
  std::uint64_t size = build_header(metadata, tensors).size();
  for (const gguf_tensor_decl& t : tensors) size += (t.bytes() + alignment - 1) & ~(alignment - 1);
  return size;
}

struct gguf_writer::impl {
  extent_writer extents;
};

gguf_writer::gguf_writer() = default;
gguf_writer::gguf_writer(gguf_writer&&) noexcept = default;
gguf_writer& gguf_writer::operator=(gguf_writer&&) noexcept = default;
gguf_writer::~gguf_writer() = default;

result<gguf_writer> gguf_writer::create(const std::string& path, const gguf_metadata& metadata, std::vector<gguf_tensor_decl> tensors) {
  if (const result<void> r = check_declarations(metadata, tensors, path); !r) return forward_error(r);
  const std::uint64_t alignment = alignment_of(metadata);
  const std::string head = build_header(metadata, tensors);
  result<output_file> file = output_file::create(path);
  if (!file) return forward_error(file);
  if (const result<void> r = file->write_at(0, std::as_bytes(std::span(head))); !r) return forward_error(r);
  const std::string zeros(static_cast<std::size_t>(alignment), '\0');
  std::vector<std::pair<std::uint64_t, std::uint64_t>> places;  // offset and size in the file
  std::uint64_t offset = head.size();
  for (const gguf_tensor_decl& t : tensors) {
    const std::uint64_t size = t.bytes(), end = offset + size;
    places.emplace_back(offset, size);
    offset = (end + alignment - 1) & ~(alignment - 1);
    if (const result<void> r = file->write_at(end, std::as_bytes(std::span(zeros)).first(static_cast<std::size_t>(offset - end))); !r)
      return forward_error(r);
  }
  gguf_writer writer;
  writer.impl_ = std::make_unique<impl>(impl{extent_writer(path, std::move(*file))});
  for (std::size_t i = 0; i < tensors.size(); ++i) writer.impl_->extents.declare(tensors[i].name, places[i].first, places[i].second);
  return writer;
}

result<void> gguf_writer::write(const std::string& name, std::span<const std::byte> data, std::uint64_t offset_bytes) {
  return impl_->extents.write(name, data, offset_bytes);
}

result<void> gguf_writer::finish() { return impl_->extents.finish(); }

}  // namespace auto_round::io
