// Element types, sizes, and widening to float.
#include "io/tensor.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "ar/numeric/half.hpp"
#include "ar/view.hpp"

#ifdef __clang__
#pragma clang diagnostic ignored "-Wpass-failed"  // with sanitizers some of the simd loops stay scalar, as they may
#endif

namespace auto_round::io {
namespace {

struct dtype_facts {
  std::string_view name;
  std::uint8_t size;
};
constexpr dtype_facts kFacts[] = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"I64", 8},
                                  {"I32", 4}, {"I16", 2}, {"I8", 1},  {"U64", 8},  {"U32", 4},     {"U16", 2},     {"U8", 1},      {"BOOL", 1}};
static_assert(std::size(kFacts) == static_cast<std::size_t>(dtype::boolean) + 1);

/// Sizes of shapes that were checked when they came in; a product that wraps all the same is reported as the largest number.
std::uint64_t product(const std::vector<std::uint64_t>& shape, std::uint64_t start) {
  std::uint64_t n = start;
  for (const std::uint64_t d : shape) {
    if (!ar::checked_mul(n, d, n)) return UINT64_MAX;
  }
  return n;
}

constexpr std::size_t kBlock = std::size_t{1} << 16;
// From this many values on, one thread no longer keeps up with memory.
constexpr std::size_t kParallelFrom = 4 * kBlock;

/// Calls work(first, count) for blocks that cover [0, n), in parallel if n is large.
template <class Work>
void for_blocks(std::size_t n, Work work) {
  const auto blocks = static_cast<std::int64_t>(ar::ceil_div(n, kBlock));
#pragma omp parallel for schedule(static) if (n >= kParallelFrom)
  for (std::int64_t b = 0; b < blocks; ++b) {
    const std::size_t first = static_cast<std::size_t>(b) * kBlock;
    work(first, std::min(kBlock, n - first));
  }
}

/// out[i] = widen(element i of data). The bytes may lie at odd addresses.
template <class Raw, class Widen>
void widen_all(const std::byte* data, std::span<float> out, Widen widen) {
  for_blocks(out.size(), [&](std::size_t first, std::size_t count) {
    const std::byte* const from = data + first * sizeof(Raw);
    float* const to = out.data() + first;
#pragma omp simd
    for (std::size_t i = 0; i < count; ++i) {
      Raw raw;
      std::memcpy(&raw, from + i * sizeof(Raw), sizeof(Raw));
      to[i] = widen(raw);
    }
  });
}

/// ar::f32_from_f16 without branches, so that the loop becomes vectors. No arithmetic on subnormal floats, which some CPUs trap on.
float widen_f16(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t magnitude = h & 0x7FFFu;
  const std::uint32_t shifted = magnitude << 13;
  const std::uint32_t normal = shifted + (112u << 23);
  // 2^-14 (1 + m / 1024) - 2^-14 = m 2^-24, exactly.
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(shifted | (113u << 23)) - 0x1p-14f);
  const std::uint32_t special = shifted | 0x7F800000u;
  std::uint32_t bits = magnitude < 0x0400u ? subnormal : normal;
  bits = magnitude < 0x7C00u ? bits : special;
  return std::bit_cast<float>(bits | sign);
}

}  // namespace

std::size_t size_of(dtype t) { return kFacts[static_cast<std::size_t>(t)].size; }

std::string_view name_of(dtype t) { return kFacts[static_cast<std::size_t>(t)].name; }

bool dtype_from_name(std::string_view name, dtype& out) {
  for (std::size_t i = 0; i < std::size(kFacts); ++i) {
    if (kFacts[i].name == name) {
      out = static_cast<dtype>(i);
      return true;
    }
  }
  return false;
}

std::uint64_t tensor_ref::elements() const { return product(shape, 1); }

std::uint64_t tensor_decl::bytes() const { return product(shape, size_of(type)); }

result<void> read_f32(const tensor_ref& t, std::uint64_t first, std::span<float> out) {
  std::uint64_t last = 0;
  if (!ar::checked_add(first, out.size(), last) || last > t.elements()) {
    return fail(
        error_kind::internal,
        "values " + std::to_string(first) + " to " + std::to_string(last) + " of a tensor of " + std::to_string(t.elements()) + " were asked for", {},
        t.name);
  }
  if (out.empty()) return {};
  const std::size_t width = size_of(t.type);
  const pinned_bytes stored = t.bytes.subspan(static_cast<std::size_t>(first) * width, out.size() * width).pin();
  const std::byte* const data = stored.data();
  switch (t.type) {
    case dtype::f32:
      std::memcpy(out.data(), data, out.size_bytes());
      return {};
    case dtype::bf16:
      widen_all<std::uint16_t>(data, out, [](std::uint16_t b) { return ar::f32_from_bf16(b); });
      return {};
    case dtype::f16:
      widen_all<std::uint16_t>(data, out, [](std::uint16_t h) { return widen_f16(h); });
      return {};
    case dtype::f64:
      widen_all<double>(data, out, [](double d) { return static_cast<float>(d); });
      return {};
    default:
      return fail(error_kind::unsupported, "a tensor of type " + std::string(name_of(t.type)) + " is no float tensor", {}, t.name);
  }
}

result<std::vector<float>> read_f32(const tensor_ref& t) {
  // An element takes at least one byte of the file, so the file bounds this allocation.
  std::vector<float> values(t.bytes.size() / size_of(t.type));
  if (const result<void> r = read_f32(t, 0, values); !r) return forward_error(r);
  return values;
}

bool all_finite(std::span<const float> values) {
  std::atomic<bool> finite{true};
  for_blocks(values.size(), [&](std::size_t first, std::size_t count) {
    const float* const v = values.data() + first;
    std::uint32_t seen = 0;
#pragma omp simd reduction(| : seen)
    for (std::size_t i = 0; i < count; ++i) seen |= (std::bit_cast<std::uint32_t>(v[i]) & 0x7F800000u) + 0x00800000u;
    if ((seen & 0x80000000u) != 0) finite = false;  // somewhere all bits of the exponent were set
  });
  return finite;
}

}  // namespace auto_round::io
