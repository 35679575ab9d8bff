// Verification of a written folder against its plan.
#include "export/export_verify.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

#include "ar/numeric/half.hpp"
#include "export/export_digest.hpp"
#include "export/export_gguf_types.hpp"
#include "export/export_safetensors.hpp"

namespace auto_round::exporting {
namespace {

/// Tensors are compared by rows: an embedding may be larger than a block.
std::uint64_t rows_at_once(std::uint64_t row) { return std::max<std::uint64_t>(1, (std::uint64_t{1} << 20) / std::max<std::uint64_t>(1, row)); }

result<void> check_files(const output_plan& plan, const std::string& directory) {
  std::set<std::string> expected;
  for (const file_plan& f : plan.files) {
    expected.insert(f.name);
    std::error_code ec;
    const std::uint64_t bytes = std::filesystem::file_size(directory + "/" + f.name, ec);
    if (ec) return fail(error_kind::verification, "a planned file was not written: " + ec.message(), directory + "/" + f.name);
    if (bytes != f.bytes) return fail(error_kind::verification, fmt::format("the file has {} bytes, planned were {}", bytes, f.bytes), directory + "/" + f.name);
  }
  std::error_code ec;
  for (const auto& e : std::filesystem::directory_iterator(directory, ec)) {
    const std::string name = e.path().filename().string();
    if (!name.starts_with('.') && !expected.contains(name)) return fail(error_kind::verification, "the folder holds a file that was not planned", e.path().string());
  }
  return {};
}

/// A kept tensor that something has changed, against what changed it; by rows, as it was written.
result<void> check_changed(const job& run, const tensor_plan& planned, const stored_model& stored) {
  constexpr std::uint64_t values_at_once = std::uint64_t{1} << 20;
  std::uint64_t elements = 1;
  for (const std::uint64_t d : planned.shape) elements *= d;
  const std::uint64_t row = planned.shape.size() == 2 ? std::max<std::uint64_t>(1, planned.shape[1]) : std::max<std::uint64_t>(1, elements);
  const std::uint64_t step = std::max<std::uint64_t>(1, values_at_once / row) * row;
  io::dtype type = io::dtype::f32;
  io::dtype_from_name(planned.output_type, type);
  for (std::uint64_t first = 0; first < elements; first += step) {
    std::vector<float> expected(static_cast<std::size_t>(std::min(step, elements - first))), read(expected.size());
    if (auto r = run.weights->read_part(planned.name, elements, first, expected); !r) return r;
    round_to_type(expected, type);
    if (auto r = stored.read_part(planned.name, elements, first, read); !r) return r;
    if (digest(read) != digest(expected)) {
      return fail(error_kind::verification, "a transformed tensor does not read back as it was transformed", stored.tokenizer_directory(), planned.name);
    }
  }
  return {};
}

result<void> check_rotation(const job& run, const stored_model& stored) {
  const io::checkpoint_dir* dir = stored.directory();
  if (run.rotation == nullptr || dir == nullptr) return {};
  if (stored.rotation() == nullptr) return fail(error_kind::verification, "the output does not say how it was rotated", stored.tokenizer_directory());
  for (const transform::stored_tensor& t : run.rotation->tensors) {
    const io::tensor_ref* read = dir->find(t.tensor.name);
    if (read == nullptr || !std::ranges::equal(std::span<const std::byte>(read->bytes.pin()), t.data)) {
      return fail(error_kind::verification, "a tensor of the rotation does not read back as it was written", stored.tokenizer_directory(), t.tensor.name);
    }
  }
  return {};
}

result<void> check_copy(const job& run, const tensor_plan& planned, const stored_model& stored) {
  const io::tensor_ref& source = *run.source->find(planned.name);
  const io::checkpoint_dir* dir = stored.directory();
  if (dir != nullptr && planned.what == action::keep) {
    if (same_tensor(*run.source, &source, *dir, dir->find(planned.name))) return {};
    return fail(error_kind::verification, "a tensor that should have been copied is not the source's", dir->path(), planned.name);
  }
  const std::uint64_t elements = source.elements(), row = source.shape.size() == 2 ? source.shape[1] : elements;
  std::vector<float> expected, read;
  for (std::uint64_t at = 0; at < elements; at += read.size()) {
    const auto n = static_cast<std::size_t>(std::min(elements - at, rows_at_once(row) * row));
    expected.resize(n);
    read.resize(n);
    if (auto r = io::read_f32(source, at, expected); !r) return r;
    if (planned.output_type == "F16" && source.type != io::dtype::f16) std::transform(expected.begin(), expected.end(), expected.begin(), ar::round_to_f16);
    if (const float offset = dir == nullptr ? gguf_offset(*run.spec, planned.name) : 0.0f; offset != 0)  // of a norm that is near 0, the sum keeps fewer digits
      for (float& v : expected) v = (v + offset) - offset;
    if (auto r = stored.read_part(planned.name, elements, at, read); !r) return r;
    if (digest(read) != digest(expected)) {
      return fail(error_kind::verification, "a converted tensor does not read back as it was converted", stored.tokenizer_directory(), planned.name);
    }
    run.source->release(source);
  }
  return {};
}

}  // namespace

bool same_tensor(const io::checkpoint_dir& a, const io::tensor_ref* x, const io::checkpoint_dir& b, const io::tensor_ref* y) {
  if (x == nullptr || y == nullptr || x->type != y->type || x->shape != y->shape || x->bytes.size() != y->bytes.size()) return false;
  return a.for_pieces(*x, [&](std::span<const std::byte> piece, std::size_t offset) -> result<void> {
    const io::file_bytes other = y->bytes.subspan(offset, piece.size());
    if (std::memcmp(other.pin().data(), piece.data(), piece.size()) != 0) return fail(error_kind::verification, "the bytes differ");
    b.release(*y, other);
    return {};
  }).has_value();
}

result<void> verify_output(const job& run, const exporter& written, const std::string& directory) {
  const output_plan& plan = written.plan();
  if (auto r = check_files(plan, directory); !r) return r;
  auto opened = find(run.format)->open(directory);
  if (!opened) return forward_error(opened);
  if (!*opened) return fail(error_kind::verification, "the output is not recognized as a checkpoint of its own format", directory);
  const stored_model& stored = **opened;
  if (auto r = stored.check(); !r) return r;

  std::map<std::string, std::uint64_t> digests(written.expected().begin(), written.expected().end());
  std::size_t quantized = 0, present = 0;
  for (const tensor_plan& t : plan.tensors) {
    if (t.what == action::drop) continue;
    ++present;
    if (t.what != action::quantize && run.changed(t.name)) {
      if (auto r = check_changed(run, t, stored); !r) return r;
      continue;
    }
    if (t.source_type.empty()) continue;  // added by the format
    if (t.what != action::quantize) {
      if (auto r = check_copy(run, t, stored); !r) return r;
      continue;
    }
    const auto expected = digests.find(t.name);
    if (expected == digests.end()) return fail(error_kind::verification, "a layer that was to be quantized was never written", directory, t.name);
    std::uint64_t elements = 1;
    for (const std::uint64_t d : t.shape) elements *= d;
    const std::uint64_t row = t.shape.back(), step = written.takes_rows(t.name.substr(0, t.name.rfind('.'))) ? rows_at_once(row) * row : elements;
    digester read;
    for (std::uint64_t at = 0; at < elements; at += step) {
      std::vector<float> weight(static_cast<std::size_t>(std::min(step, elements - at)));
      if (auto r = stored.read_part(t.name, elements, at, weight); !r) return r;
      read.add(weight);
    }
    if (read.value() != expected->second) {
      return fail(error_kind::verification, "the layer does not read back as it was quantized", directory, t.name);
    }
    ++quantized;
  }
  if (quantized == 0 || quantized != digests.size()) {
    return fail(error_kind::verification, fmt::format("{} layers were quantized, but {} are in the plan", digests.size(), quantized), directory);
  }
  if (auto r = check_rotation(run, stored); !r) return r;
  if (stored.entries().size() != present) {
    return fail(error_kind::verification, fmt::format("{} tensors were planned, but {} are stored", present, stored.entries().size()), directory);
  }
  return {};
}

}  // namespace auto_round::exporting
