// links: ar_dispatch
// GGUF blocks against ggml and auto-round: bytes of every quantizer with and without importance, decoders, parameter searches and the packer.
// Everything runs on the float lane and on every SIMD target of the machine.
#include <gtest/gtest.h>

#include <ar/dispatch.hpp>
#include <ar/gguf.hpp>
#include <cmath>
#include <set>

#include "support/golden.hpp"

namespace {

using kernels = std::span<const ar::gguf_kernels>;

struct target {
  std::string name;
  kernels types;
  const ar::gguf_kernels* find(const std::string& type) const {
    for (const ar::gguf_kernels& k : types)
      if (type == k.name || "gguf_" + type == k.name) return &k;
    return nullptr;
  }
};

const std::vector<target>& targets() {
  static const std::vector<target> all = [] {
    std::vector<target> t{{"float lane", ar::gguf::kernel_table<float>()}, {"this unit", ar::gguf_types()}};
    const ar::kernel_table* tables[16] = {};
    const std::size_t count = ar::all_kernels(tables, 16);
    std::string names;
    for (std::size_t i = 0; i < count; ++i) {
      t.push_back({tables[i]->target, tables[i]->gguf_types()});
      names += std::string(" ") + tables[i]->target;
    }
    std::printf("SIMD targets:%s\n", names.c_str());
    return t;
  }();
  return all;
}

std::string lower(std::string s) {
  for (char& c : s) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return s;
}
std::vector<std::string> split(const std::string& s) {
  std::vector<std::string> parts(1);
  for (char c : s)
    if (c == '.') parts.emplace_back();
    else parts.back() += c;
  return parts;
}
/// No blocks: HalvesAndBfloatsAreThoseOfGgml looks at them.
bool is_plain_float(const std::string& type) { return type == "F16" || type == "BF16"; }
/// "q4k" -> "q4_k", as the search file writes it.
std::string type_of(const std::string& s) { return s.size() == 3 ? s.substr(0, 2) + "_k" : s; }

std::vector<float> importance_of(const golden::file& inputs, const std::string& name) {
  return name == "none" ? std::vector<float>{} : inputs[name].f32();
}

struct matrix {
  std::vector<float> data;
  std::size_t rows, cols;
  explicit matrix(const golden::tensor& t) : data(t.f32()), rows(t.rows()), cols(t.cols()) {}
  matrix(const golden::tensor& t, const std::vector<std::int32_t>& pick) : rows(pick.size()), cols(t.cols()) {
    const std::vector<float> all = t.f32();
    for (std::int32_t r : pick)
      data.insert(data.end(), all.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(r) * cols),
                  all.begin() + static_cast<std::ptrdiff_t>((static_cast<std::size_t>(r) + 1) * cols));
  }
  ar::matrix_view<const float> view() const { return {data.data(), rows, cols}; }
};

void expect_bytes(const std::vector<std::uint8_t>& got, const std::vector<std::uint8_t>& want, const ar::gguf_kernels& k, std::size_t row_bytes,
                  const std::string& what, const std::set<std::size_t>& skipped_blocks = {}) {
  ASSERT_EQ(got.size(), want.size()) << what;
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (got[i] == want[i] || skipped_blocks.count(i / k.block_bytes) != 0) continue;
    if (wrong++ == 0)
      ADD_FAILURE() << what << ": row " << i / row_bytes << " block " << i % row_bytes / k.block_bytes << " byte " << i % k.block_bytes << ": "
                    << int{got[i]} << " instead of " << int{want[i]};
  }
  EXPECT_EQ(wrong, 0u) << what << ": " << wrong << " of " << got.size() << " bytes differ";
}

/// Equal values; zeros may differ in sign. Entries that `skip` names are not compared.
template <class Skip>
void expect_values(const std::vector<float>& got, const std::vector<float>& want, const std::string& what, const Skip& skip) {
  ASSERT_EQ(got.size(), want.size()) << what;
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_FALSE(std::isnan(got[i])) << what << " at " << i;
    if (skip(i) || got[i] == want[i]) continue;
    if (wrong++ == 0) ADD_FAILURE() << what << ": element " << i << ": " << got[i] << " instead of " << want[i];
  }
  EXPECT_EQ(wrong, 0u) << what << ": " << wrong << " of " << got.size() << " values differ";
}
void expect_values(const std::vector<float>& got, const std::vector<float>& want, const std::string& what) {
  expect_values(got, want, what, [](std::size_t) { return false; });
}

/// Bit-equal floats.
void expect_same_bits(const std::vector<float>& got, const std::vector<float>& want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i)
    if (std::bit_cast<std::uint32_t>(got[i]) != std::bit_cast<std::uint32_t>(want[i])) {
      ADD_FAILURE() << what << ": element " << i << ": " << got[i] << " instead of " << want[i];
      return;
    }
}

struct parameters {
  std::vector<float> scale, offset, d_scale, d_offset;
  parameters(const ar::gguf_kernels& k, std::size_t elements)
      : scale(elements / k.group_size), offset(scale.size()), d_scale(k.superblock ? elements / 256 : 0), d_offset(d_scale.size()) {}
  ar::gguf_parameters<float> out() { return {scale.data(), offset.data(), d_scale.data(), d_offset.data()}; }
  ar::gguf_parameters<const float> in() const { return {scale.data(), offset.data(), d_scale.data(), d_offset.data()}; }
};

TEST(GgufBlocks, GgmlQuantizersByteForByte) {
  const golden::file inputs("gguf", "ggml_inputs.safetensors");
  const matrix x(inputs["x"]);
  std::set<std::string> seen;
  for (const char* name : {"ggml_legacy.safetensors", "ggml_kquants.safetensors", "ggml_misc.safetensors"}) {
    const golden::file file("gguf", name);
    for (const auto& [key, tensor] : file.tensors()) {
      const auto parts = split(key);  // TYPE.importance.bytes
      ASSERT_EQ(parts.size(), 3u) << key;
      if (parts[2] != "bytes") continue;
      for (const target& t : targets()) {
        const ar::gguf_kernels* k = t.find(lower(parts[0]));
        if (k == nullptr && is_plain_float(parts[0])) continue;
        ASSERT_NE(k, nullptr) << key;
        seen.insert(k->name);
        const std::vector<float> importance = importance_of(inputs, parts[1]);
        std::vector<std::uint8_t> got(tensor.bytes);
        ASSERT_EQ(k->quantize(x.view(), importance, got), ar::errc::ok) << key << " on " << t.name;
        expect_bytes(got, tensor.as<std::uint8_t>(), *k, tensor.cols(), key + " on " + t.name);
      }
    }
  }
  for (const ar::gguf_kernels& k : targets().front().types) EXPECT_EQ(seen.count(k.name), k.read_only ? 0u : 1u) << "no golden bytes for " << k.name;
}

TEST(GgufBlocks, HalvesAndBfloatsAreThoseOfGgml) {
  const golden::file inputs("gguf", "ggml_inputs.safetensors"), file("gguf", "ggml_misc.safetensors");
  const std::vector<float> x = inputs["x"].f32();
  const auto half = file["F16.none.bytes"].as<std::uint16_t>(), bfloat = file["BF16.none.bytes"].as<std::uint16_t>();
  const auto half_value = file["F16.none.deq"].f32(), bfloat_value = file["BF16.none.deq"].f32();
  ASSERT_EQ(half.size(), x.size());
  ASSERT_EQ(bfloat.size(), x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(ar::f16_from_f32(x[i]), half[i]) << x[i];
    ASSERT_EQ(ar::bf16_from_f32(x[i]), bfloat[i]) << x[i];
    ASSERT_EQ(ar::f32_from_f16(half[i]), half_value[i]);
    ASSERT_EQ(ar::f32_from_bf16(bfloat[i]), bfloat_value[i]);
  }
}

// The original's casts are undefined where a scale leaves half precision, so its bytes are what one machine did. Ours are the same all the same.
TEST(GgufBlocks, ScalesBeyondHalfPrecisionByteForByte) {
  const golden::file file("gguf", "ggml_overflow.safetensors");
  const matrix x(file["x"]);
  std::size_t cases = 0;
  for (const auto& [key, tensor] : file.tensors()) {
    if (key == "x") continue;
    for (const target& t : targets()) {
      const ar::gguf_kernels* k = t.find(lower(split(key)[0]));
      ASSERT_NE(k, nullptr) << key;
      std::vector<std::uint8_t> got(tensor.bytes);
      ASSERT_EQ(k->quantize(x.view(), {}, got), ar::errc::ok) << key;
      expect_bytes(got, tensor.as<std::uint8_t>(), *k, tensor.cols(), key + " on " + t.name);
      ++cases;
    }
  }
  EXPECT_GT(cases, 15u);
}

template <class Lattice>
void expect_lattice(const golden::file& file, const char* name, int offset) {
  const auto want = file[name].as<std::uint8_t>();
  constexpr auto& table = ar::detail::lattice<Lattice>;
  ASSERT_EQ(want.size(), sizeof(table)) << name;
  for (std::size_t i = 0; i < want.size(); ++i)
    ASSERT_EQ(table.point[i / Lattice::values][i % Lattice::values], static_cast<std::uint8_t>(want[i] + offset)) << name << " at " << i;
}
TEST(GgufBlocks, LatticesAreThoseOfGgml) {
  const golden::file file("gguf", "iq_grids.safetensors");
  expect_lattice<ar::detail::lattice_1bit_2048>(file, "iq1s_grid", 128);
  expect_lattice<ar::detail::lattice_2bit_256>(file, "iq2xxs_grid", 128);
  expect_lattice<ar::detail::lattice_2bit_512>(file, "iq2xs_grid", 128);
  expect_lattice<ar::detail::lattice_2bit_1024>(file, "iq2s_grid", 128);
  expect_lattice<ar::detail::lattice_3bit_256>(file, "iq3xxs_grid", 128);
  expect_lattice<ar::detail::lattice_3bit_512>(file, "iq3s_grid", 128);
  const auto signs = file["ksigns_iq2xs"].as<std::uint8_t>();
  ASSERT_EQ(signs.size(), 128u);
  for (std::uint32_t i = 0; i < 128; ++i) EXPECT_EQ(ar::gguf::eight_signs(i), signs[i]);
}

TEST(GgufBlocks, GgmlDecodersBitForBit) {
  std::set<std::string> seen;
  for (const char* name : {"ggml_legacy.safetensors", "ggml_kquants.safetensors", "ggml_misc.safetensors", "ggml_iq.safetensors", "ggml_decode_random.safetensors"}) {
    const golden::file file("gguf", name);
    for (const auto& [key, tensor] : file.tensors()) {
      const std::size_t end = key.rfind(".deq");
      if (end == std::string::npos || end + 4 != key.size()) continue;
      const auto bytes = file[key.substr(0, end) + ".bytes"].as<std::uint8_t>();
      for (const target& t : targets()) {
        const ar::gguf_kernels* k = t.find(lower(split(key)[0]));
        if (k == nullptr && is_plain_float(split(key)[0])) continue;
        ASSERT_NE(k, nullptr) << key;
        seen.insert(k->name);
        std::vector<float> got(tensor.size());
        ASSERT_EQ(k->dequantize(bytes, {got.data(), tensor.rows(), tensor.cols()}), ar::errc::ok) << key << " on " << t.name;
        expect_same_bits(got, tensor.f32(), key + " on " + t.name);
      }
    }
  }
  for (const ar::gguf_kernels& k : targets().front().types)
    if (k.id != 9 && k.id != 15) {  // ggml decodes no Q8_1, no Q8_K
      EXPECT_EQ(seen.count(k.name), 1u) << "no golden values for " << k.name;
    }
}

/// True for what lies in a super-block whose expected parameters hold a NaN (a defect of the original: 0/0 for dead groups).
struct poisoned {
  std::set<std::size_t> superblocks;
  poisoned(const std::vector<float>& scale, std::size_t groups_per_block) {
    for (std::size_t i = 0; i < scale.size(); ++i)
      if (std::isnan(scale[i])) superblocks.insert(i / groups_per_block);
  }
  auto by(std::size_t per_block) const {
    return [this, per_block](std::size_t i) { return superblocks.count(i / per_block) != 0; };
  }
};

TEST(GgufBlocks, AutoRoundParameterSearch) {
  const golden::file inputs("gguf", "ggml_inputs.safetensors"), file("gguf", "ar_rtn_search.safetensors");
  const matrix x(inputs["x"], file["rows"].as<std::int32_t>());
  const std::vector<float> v = file["v"].f32();
  const ar::matrix_view<const float> offsets{v.data(), x.rows, x.cols};
  std::size_t cases = 0;
  for (const auto& [key, tensor] : file.tensors()) {
    const auto parts = split(key);  // rtn_q4k.importance.v0|v.scale
    if (parts.size() != 4 || parts[3] != "scale") continue;
    const std::string stem = parts[0] + "." + parts[1] + "." + parts[2] + ".";
    const ar::matrix_view<const float> shift = parts[2] == "v" ? offsets : ar::matrix_view<const float>{};
    for (const target& t : targets()) {
      const std::string what = stem + " on " + t.name;
      const ar::gguf_kernels* k = t.find(type_of(parts[0].substr(4)));
      ASSERT_NE(k, nullptr) << key;
      parameters p(*k, x.data.size());
      ASSERT_EQ(k->search(x.view(), importance_of(inputs, parts[1]), shift, {}, p.out()), ar::errc::ok) << what;
      const poisoned skip(tensor.f32(), 256 / k->group_size);
      expect_values(p.scale, tensor.f32(), what + "scale", skip.by(256 / k->group_size));
      expect_values(p.d_scale, file[stem + "d_scale"].f32(), what + "d_scale", skip.by(1));
      if (k->asymmetric) {
        const poisoned also(file[stem + "wmin"].f32(), 256 / k->group_size);
        expect_values(p.offset, file[stem + "wmin"].f32(), what + "wmin", [&](std::size_t i) { return skip.by(256 / k->group_size)(i) || also.by(256 / k->group_size)(i); });
        expect_values(p.d_offset, file[stem + "d_wmin"].f32(), what + "d_wmin", [&](std::size_t i) { return skip.by(1)(i) || also.by(1)(i); });
      }
      if (file.has(stem + "qdq")) {
        std::vector<float> got(x.data.size());
        ASSERT_EQ(k->qdq(x.view(), shift, {}, p.in(), {got.data(), x.rows, x.cols}), ar::errc::ok) << what;
        expect_values(got, file[stem + "qdq"].f32(), what + "qdq", skip.by(256));
      }
      ++cases;
    }
  }
  EXPECT_GT(cases, 0u);
}

TEST(GgufBlocks, AutoRoundParametersWithoutOffsetsAppliedWithOffsets) {
  const golden::file inputs("gguf", "ggml_inputs.safetensors"), file("gguf", "ar_rtn_search.safetensors");
  const matrix x(inputs["x"], file["rows"].as<std::int32_t>());
  const std::vector<float> v = file["v"].f32();
  std::size_t cases = 0;
  for (const auto& [key, tensor] : file.tensors()) {
    const auto parts = split(key);  // srv2_q4k.importance.qdq
    if (parts.size() != 3 || parts[0].substr(0, 5) != "srv2_") continue;
    for (const target& t : targets()) {
      const ar::gguf_kernels* k = t.find(type_of(parts[0].substr(5)));
      ASSERT_NE(k, nullptr) << key;
      parameters p(*k, x.data.size());
      ASSERT_EQ(k->search(x.view(), importance_of(inputs, parts[1]), {}, {}, p.out()), ar::errc::ok);
      std::vector<float> got(x.data.size());
      ASSERT_EQ(k->qdq(x.view(), {v.data(), x.rows, x.cols}, {}, p.in(), {got.data(), x.rows, x.cols}), ar::errc::ok);
      expect_values(got, tensor.f32(), key + " on " + t.name);
      ++cases;
    }
  }
  EXPECT_GT(cases, 0u);
}

TEST(GgufBlocks, AutoRoundOnBfloat16Weights) {
  const golden::file file("gguf", "ar_bf16.safetensors");
  const matrix w(file["w"]);
  std::size_t cases = 0;
  for (const auto& [key, tensor] : file.tensors()) {
    const auto parts = split(key);  // rtn_q4_k.scale, optrtn_q4_1.scale
    if (parts.size() != 2 || parts[1] != "scale" || parts[0].substr(0, 3) == "sr_") continue;
    const bool optimized = parts[0].substr(0, 7) == "optrtn_";
    const ar::gguf_variant variant{.bf16 = true, .reciprocal = optimized};
    for (const target& t : targets()) {
      const std::string what = key + " on " + t.name;
      const ar::gguf_kernels* k = t.find(parts[0].substr(optimized ? 7 : 4));
      ASSERT_NE(k, nullptr) << key;
      parameters p(*k, w.data.size());
      ASSERT_EQ(k->search(w.view(), {}, {}, variant, p.out()), ar::errc::ok) << what;
      expect_values(p.scale, tensor.f32(), what);
      if (k->superblock) expect_values(p.d_scale, file[parts[0] + ".d_scale"].f32(), what + " d_scale");
      if (k->asymmetric) expect_values(p.offset, file[parts[0] + (k->superblock ? ".wmin" : ".zp")].f32(), what + " offset");
      if (k->asymmetric && k->superblock) expect_values(p.d_offset, file[parts[0] + ".d_wmin"].f32(), what + " d_wmin");
      std::vector<float> got(w.data.size());
      ASSERT_EQ(k->qdq(w.view(), {}, variant, p.in(), {got.data(), w.rows, w.cols}), ar::errc::ok) << what;
      for (float& f : got) f = ar::round_to_bf16(f);
      expect_values(got, file[parts[0] + ".qdq"].f32(), what + " qdq");
      ++cases;
    }
  }
  EXPECT_GT(cases, 0u);
}

TEST(GgufBlocks, AutoRoundPackerByteForByte) {
  const golden::file inputs("gguf", "ggml_inputs.safetensors"), file("gguf", "ar_pack.safetensors"), tuned("gguf", "ar_signround.safetensors"),
      searched("gguf", "ar_rtn_search.safetensors");
  const std::vector<std::int32_t> rows = file["rows"].as<std::int32_t>();
  const matrix x(inputs["x"], rows);
  std::set<std::string> seen;
  for (const auto& [key, tensor] : file.tensors()) {
    const auto parts = split(key);
    if (parts[0] != "pack") continue;
    for (const target& t : targets()) {
      const std::string what = key + " on " + t.name;
      const ar::gguf_kernels* k = t.find(parts[1]);
      ASSERT_NE(k, nullptr) << key;
      seen.insert(k->name);
      std::vector<std::uint8_t> got(tensor.bytes);
      std::set<std::size_t> skipped;
      if (parts[2] == "search") {
        ASSERT_EQ(k->search_and_pack(x.view(), importance_of(inputs, parts[3]), got), ar::errc::ok) << what;
        const std::string scale = "rtn_" + parts[1].substr(0, 2) + "k." + parts[3] + ".v0.scale";
        if (k->superblock && searched.has(scale)) skipped = poisoned(searched[scale].f32(), 256 / k->group_size).superblocks;
      } else {  // pack.<type>.given.<init|tuned>.<f32|bf16>.bytes
        const std::string stem = "sr_" + parts[1] + "." + parts[3] + ".";
        matrix w(tuned[stem + "qdq"]);
        if (parts[4] == "bf16")
          for (float& f : w.data) f = ar::round_to_bf16(f);
        parameters p(*k, w.data.size());
        p.scale = tuned[stem + "scale"].f32();
        if (k->superblock) p.d_scale = tuned[stem + "d_scale"].f32();
        if (k->asymmetric) p.offset = tuned[stem + (k->superblock ? "wmin" : "zp")].f32();
        if (k->superblock && k->asymmetric) p.d_offset = tuned[stem + "d_wmin"].f32();
        ASSERT_EQ(k->pack(w.view(), p.in(), got), ar::errc::ok) << what;
      }
      expect_bytes(got, tensor.as<std::uint8_t>(), *k, tensor.cols(), what, skipped);
      EXPECT_TRUE(k->scales_are_finite(got) || parts[2] != "search") << what;
    }
  }
  for (const ar::gguf_kernels& k : targets().front().types)
    if (k.search_and_pack != nullptr) {
      EXPECT_EQ(seen.count(k.name), 1u) << "no golden bytes for the packer of " << k.name;
    }
}

TEST(GgufBlocks, AutoRoundOptimizedRtnOfTypesWithAFractionalZeroPoint) {
  const golden::file inputs("gguf", "ggml_inputs.safetensors"), file("gguf", "ar_pack.safetensors");
  const matrix x(inputs["x"], file["rows"].as<std::int32_t>());
  for (const target& t : targets()) {
    const ar::gguf_kernels* k = t.find("q4_1");
    ASSERT_NE(k, nullptr);
    parameters p(*k, x.data.size());
    const ar::gguf_variant variant{.reciprocal = true};
    ASSERT_EQ(k->search(x.view(), {}, {}, variant, p.out()), ar::errc::ok);
    expect_values(p.scale, file["opt_rtn_q4_1.scale"].f32(), "scale on " + t.name);
    expect_values(p.offset, file["opt_rtn_q4_1.zp"].f32(), "zp on " + t.name);
    std::vector<float> got(x.data.size());
    ASSERT_EQ(k->qdq(x.view(), {}, variant, p.in(), {got.data(), x.rows, x.cols}), ar::errc::ok);
    expect_values(got, file["opt_rtn_q4_1.qdq"].f32(), "qdq on " + t.name);
  }
}

}  // namespace
