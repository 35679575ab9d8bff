// links: ar_dispatch ar_float_search
// Ways through the data types against the reference's own (golden/data-types): names to quantizers (dispatch.json), a weight through every preset
// (scheme_path), types that are composed (fp8_to_int), what happens to NaN and infinity (nonfinite), and that no tensor of the topic goes unread.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <string>

#include "ar/resolve.hpp"
#include "ar/search.hpp"
#include "support/every_target.hpp"
#include "support/golden_json.hpp"
#include "support/pattern.hpp"

namespace {

using namespace every_target;
using ar::real;

TEST(Names, LeadToTheQuantizersOfTheReference) {
  const auto table = golden::read_json(golden::root() / "data-types" / "dispatch.json");
  ASSERT_GT(table.size(), 0u);
  int types = 0;
  for (const auto& e : table) {
    const std::string type = e["dtype"].get<std::string>();
    const int iters = e["iters"].get<int>();
    const ar::quantizer_request q{.data_type = type,
                                  .bits = e["bits"].get<int>(),
                                  .sym = e["sym"].get<bool>(),
                                  .tiles = e["group_size"].is_array(),
                                  .tuning = iters != 0,
                                  .search = !e["disable_opt_rtn"].get<bool>(),
                                  .neuqi = e["enable_neuqi"].get<bool>()};
    ar::quantizer_choice c;
    const ar::errc got = ar::resolve_quantizer(q, c);
    if (e.contains("error")) {
      EXPECT_EQ(got, ar::errc::unsupported) << e.dump();
      continue;
    }
    ASSERT_EQ(got, ar::errc::ok) << e.dump();
    ASSERT_EQ(std::string(c.name), e["name"].get<std::string>()) << e.dump();
    EXPECT_EQ(c.search, c.name.substr(0, 8) == "opt_rtn_");
    EXPECT_EQ(c.neuqi, c.search && (c.name.find("asym") != std::string_view::npos || c.name.find("neuqi") != std::string_view::npos));
    if (c.data_type.empty()) {
      // A width that the element format does not have, which the reference notices when it quantizes; and the composed type, see below.
      EXPECT_TRUE((type.substr(0, 5) == "mx_fp" && q.bits != 4 && q.bits != 6 && q.bits != 8) || type == "fp8_to_int_sym") << e.dump();
      continue;
    }
    EXPECT_NE(ar::kernels().range_type(c.data_type, real::bf16, c.data_type == "mxuint" ? real::f32 : real::f16), nullptr) << c.data_type;
    ++types;
  }
  EXPECT_GT(types, 0);
  std::printf("%zu cases, %d with a type\n", table.size(), types);
}

TEST(Names, OfGgufSchemesLeadToTheirBlocks) {
  for (const ar::preset& p : ar::presets) {
    if (p.name.substr(0, 5) != "GGUF:" || p.fields.data_type == "int") continue;
    ar::quantizer_choice c;
    ASSERT_EQ(ar::resolve_quantizer({.data_type = p.fields.data_type, .bits = p.fields.bits, .sym = p.fields.sym}, c), ar::errc::ok) << p.name;
    std::string block(p.name.substr(5, 4));
    for (char& ch : block) ch = static_cast<char>(std::tolower(static_cast<unsigned char>(ch)));
    EXPECT_EQ(std::string(c.data_type), block);
    EXPECT_NE(ar::kernels().gguf_type(c.data_type), nullptr);
  }
}

TEST(SchemePath, AWeightThroughEveryPresetEqualsTheReference) {
  const golden::file file("data-types", "scheme_path.safetensors");
  const auto facts = golden::read_json(golden::root() / "data-types" / "scheme_path.json");
  const matrix w(file["weight"]);
  const std::vector<float> importance = file["imatrix"].f32();
  const tables all;
  int count = 0;
  for (const auto& [key, info] : facts.items()) {
    SCOPED_TRACE(key);
    const std::string mode = key.substr(key.rfind('.') + 1);
    std::string preset = key.substr(0, key.rfind('.'));
    const bool asymmetric = preset.size() > 5 && preset.substr(preset.size() - 5) == "_asym";
    if (asymmetric) preset.resize(preset.size() - 5);
    ar::scheme_fields s = *ar::find_preset(preset);
    if (asymmetric) s.sym = false;
    if (!file.has(key + ".qdq")) {
      EXPECT_GE(s.bits, 16) << "only what is not quantized has no result";
      continue;
    }
    ar::quantizer_choice c;
    ASSERT_EQ(ar::resolve_quantizer(
                  {.data_type = s.data_type, .bits = s.bits, .sym = s.sym, .tiles = s.group_rows > 0, .search = mode != "rtn", .reference = true}, c),
              ar::errc::ok);
    EXPECT_EQ(std::string(c.name), info["weight_data_type"].get<std::string>());
    // A searched integer scale is of the weight's format in the reference.
    const bool searched_integer = c.search && c.data_type.substr(0, 3) == "int";
    quantizer q{std::string(c.data_type),
                real::bf16,
                searched_integer ? real::bf16 : real::f16,
                s.bits,
                {s.group_size, s.group_rows > 0 ? s.group_rows : 1},
                {}};
    ASSERT_NE(all.type(q), nullptr);
    if (all.type(q)->two_level()) {
      q.tensor.global_scale = all.type(q)->global_scale(w.largest());
      EXPECT_EQ(q.tensor.global_scale, file[key + ".weight_global_scale"].f32()[0]);
    }
    std::vector<float> scale = file[key + ".scale"].f32();
    if (c.data_type.substr(0, 2) == "mx")
      for (float& e : scale) e = std::ldexp(1.0f, static_cast<int>(e));
    expectation want{scale, file.has(key + ".zp") ? file[key + ".zp"].f32() : std::vector<float>(), {}, file[key + ".qdq"].f32(), {}};
    if (c.search) {
      expect_search(all, q, w,
                    {.importance = mode == "opt_im" ? importance.data() : nullptr, .least_scale = searched_integer ? 1e-5f : 0.0f, .reference = true},
                    want);
    } else {
      expect_rtn(all, q, w, want);
    }
    ++count;
  }
  EXPECT_GT(count, 0);
  std::printf("%d cases\n", count);
}

TEST(SchemePath, TheRightElementFormatAndNotTheOneOfTheWidth) {
  // Through a scheme the reference searches MXINT4 with FP4 elements. The name leads to the type; `reference` to what it does.
  ar::quantizer_choice right, reference;
  ASSERT_EQ(ar::resolve_quantizer({.data_type = "mx_int", .bits = 4, .search = true}, right), ar::errc::ok);
  ASSERT_EQ(ar::resolve_quantizer({.data_type = "mx_int", .bits = 4, .search = true, .reference = true}, reference), ar::errc::ok);
  EXPECT_EQ(right.data_type, "mxint4");
  EXPECT_EQ(reference.data_type, "mxfp4");
  EXPECT_EQ(right.name, reference.name);
  const golden::file file("data-types", "scheme_path.safetensors");
  const matrix w(file["weight"]);
  std::vector<float> out(w.v.size());
  ASSERT_EQ(ar::kernels().range_type(right.data_type, real::bf16)->search(4, 32, w.view(), {}, {.weight = {out.data(), w.rows, w.cols}}),
            ar::errc::ok);
  EXPECT_NE(out, file["MXINT4.opt_noim.qdq"].f32());
  const ar::small_grid grid = ar::integer_grid(4);
  for (std::size_t i = 0; i < out.size(); ++i) ASSERT_LE(std::abs(out[i]), grid.max * 2.0f * w.largest()) << i;
}

TEST(MxUint, EqualsTheReferenceBitForBit) {
  const golden::file file("data-types", "mx_rtn.safetensors");
  const support::pattern name("uint\\.([0-9]+x[0-9]+)\\.(f32|f16|bf16)\\.mx_uint4\\.qdq");
  const tables all;
  int count = 0;
  for (const auto& [key, t] : file.tensors()) {
    const std::vector<std::string> m = name.match(key);
    if (m.empty()) continue;
    SCOPED_TRACE(key);
    const golden::tensor* input = nullptr;
    for (const auto& [n, tensor] : file.tensors())
      if (n.rfind("w." + m[1] + "." + m[2] + ".", 0) == 0) input = &tensor;
    ASSERT_NE(input, nullptr);
    const quantizer q{"mxuint", m[2] == "f32" ? real::f32 : m[2] == "f16" ? real::f16 : real::bf16, real::f32, 4, 32, {}};
    std::vector<float> scale = file[key.substr(0, key.size() - 3) + "exp"].f32();
    for (float& e : scale) e = std::ldexp(1.0f, static_cast<int>(e));
    expect_rtn(all, q, matrix(*input), {scale, {}, {}, t.f32(), {}});
    expect_tuned(all, q, matrix(*input), {}, {scale, {}, {}, t.f32(), {}});
    ++count;
  }
  EXPECT_GT(count, 0);
}

TEST(Fp8ToInt, IsTheCompositionOfTwoTypes) {
  // Weights to E4M3 under one scale of the tensor, and those to integers: both steps are calls of the library.
  const golden::file file("data-types", "fp8.safetensors");
  int count = 0;
  for (const auto& [key, t] : file.tensors()) {
    if (key.rfind("fp8_to_int.", 0) != 0 || key.find(".qdq") == std::string::npos) continue;
    SCOPED_TRACE(key);
    const std::string prefix = key.substr(0, key.size() - 3), shape = prefix.substr(11, prefix.size() - 12);
    const golden::tensor* input = nullptr;
    for (const auto& [name, tensor] : file.tensors())
      if (name.rfind("w." + shape + ".", 0) == 0) input = &tensor;
    ASSERT_NE(input, nullptr) << shape;
    const matrix w(*input);
    const std::size_t n = w.v.size(), groups = w.cols / 32;
    float tensor_scale = 0.0f;
    ASSERT_EQ(ar::fit(ar::scheme<ar::fp8<real::f32>, ar::group<0>>{}, w.view(), {&tensor_scale, 1, 1}), ar::errc::ok);
    EXPECT_EQ(tensor_scale, file[prefix + "bf16_to_fp8_scale"].f32()[0]);
    std::vector<float> small(n), out(n), scale(w.rows * groups);
    for (std::size_t i = 0; i < n; ++i) small[i] = ar::round_to_bf16(w.v[i] / tensor_scale);
    ASSERT_EQ(ar::qdq(ar::scheme<ar::fp8_unit<real::bf16>, ar::group<0>>{}, {small.data(), w.rows, w.cols}, {small.data(), w.rows, w.cols}),
              ar::errc::ok);
    const ar::scheme<ar::int_sym<4, real::bf16, real::bf16>, ar::group<32>> four;
    ASSERT_EQ(ar::quantize_tuned(four, {small.data(), w.rows, w.cols}, {},
                                 {.scale = {scale.data(), w.rows, groups}, .weight = {out.data(), w.rows, w.cols}}),
              ar::errc::ok);
    for (float& x : out) x = ar::round_to_bf16(x * tensor_scale);
    for (float& s : scale) s = ar::round_to_bf16(s * tensor_scale);
    EXPECT_TRUE(same_bits(out, t.f32()));
    EXPECT_TRUE(same_bits(scale, file[prefix + "scale"].f32()));
    ++count;
  }
  EXPECT_GT(count, 0);
}

TEST(NonFinite, IsAnErrorWhereTheReferenceGoesOn) {
  // The file shows what the reference makes of one odd weight: it spreads NaN over the group or the tensor. Here every way refuses it.
  const golden::file file("data-types", "nonfinite.safetensors");
  int inputs = 0;
  for (const auto& [key, t] : file.tensors()) {
    if (key.size() < 2 || key.substr(key.size() - 2) != ".w") continue;
    const matrix w(t);
    bool finite = true;
    for (const float x : w.v) finite = finite && std::isfinite(x);
    ASSERT_FALSE(finite) << key;
    std::vector<float> out(w.v.size(), 7.0f), scale(w.rows, 7.0f), zero(w.rows, 7.0f);
    for (const std::string type : {"int_sym", "int_asym", "fp8", "mxfp4", "mxfp8", "nvfp4", "nvfp4v2"}) {
      const ar::range_kernels* k = ar::kernels().range_type(type, t.dtype == "BF16" ? real::bf16 : real::f32);
      ASSERT_NE(k, nullptr) << type;
      const ar::group_output o{.scale = {scale.data(), w.rows, 1}, .zero_point = {zero.data(), w.rows, 1}, .weight = {out.data(), w.rows, w.cols}};
      const ar::type_values v(4, {.maximum = 1.0f});
      EXPECT_EQ(k->qdq(v, 32, w.view(), {out.data(), w.rows, w.cols}), ar::errc::non_finite) << key << " " << type;
      EXPECT_EQ(k->search(v, 32, w.view(), {}, o), ar::errc::non_finite) << key << " " << type;
      EXPECT_EQ(k->search(v, 32, w.view(), {.neuqi = true}, o), ar::errc::non_finite) << key << " " << type;
      EXPECT_EQ(k->quantize_tuned(v, 32, w.view(), {}, o), ar::errc::non_finite) << key << " " << type;
    }
    for (const auto* written : {&out, &scale, &zero})
      for (const float x : *written) ASSERT_EQ(x, 7.0f);
    ++inputs;
  }
  EXPECT_GT(inputs, 0);
}

/// Who reads a tensor: a file, a pattern of names and the test.
struct reader {
  const char *file, *names, *test;
};
constexpr reader readers[] = {
    {"int_rtn", "w\\..*|(sym|asym|symgptq).*", "data_types_int"},
    {"int_tuned", "w\\..*|(sym|asym|symgptq|init)\\..*\\.(qdq|scale|zp|init_scale)", "data_types_search: Tuned"},
    {"int_opt_rtn", "w\\..*|imatrix\\..*|[0-9]+x[0-9]+\\.g.*\\.(im|imz|noim)\\.(qdq|scale|code)", "data_types_search: OptRtn"},
    {"mx_rtn", "uint\\..*", "data_types_paths: MxUint"},
    {"mx_rtn", "w\\..*|(rtn|rceil|rceil_v2)\\..*\\.(qdq|exp)|element\\..*", "data_types_scaled"},
    {"mx_rtn", "tuned\\..*\\.(v|max_scale|qdq|exp)", "data_types_search: Tuned"},
    {"mx_opt_rtn", "w\\..*|imatrix\\..*|[0-9]+x[0-9]+\\..*\\.mx_.*\\.(im|imz|noim)\\.(qdq|exp)", "data_types_search: OptRtn"},
    {"nvfp4", "w\\..*|(rtn|rtn_halfgs|static|v2|v2gs)\\..*\\.(qdq|scale|scale_e5m3|global_scale|tensor_max)", "data_types_scaled"},
    {"nvfp4", "imatrix\\..*|(opt|opt_fusedgs|v2opt)\\..*\\.(qdq|scale|coeff)|tuned\\..*", "data_types_search"},
    {"nvfp4", "fused\\..*\\.(weight|qdq|scale|global_scale)", "data_types_activations: SharedGlobalScale"},
    {"nvfp4", "(e2m1|ue5m3)\\.(x|y|code|dec_all)", "data_types_primitives"},
    {"fp8", "w\\..*|(fp8|fp8_e5m2|fp8_unit_scale|fp8_e5m2_unit_scale|fp8_static_max0\\.11|block)\\..*\\.(qdq|scale)", "data_types_scaled"},
    {"fp8", "(tuned|block_tuned)\\..*", "data_types_search: Tuned"},
    {"fp8", "fp8_to_int\\..*", "data_types_paths: Fp8ToInt"},
    {"fp8", "(e4m3fn|e5m2)\\.(x|code|dec_all)", "data_types_primitives"},
    {"activations", "x[0-2]|act\\..*\\.(qdq|scale|act_max)|calib\\..*|kv\\..*|imatrix\\..*", "data_types_activations"},
    {"neuqi", "w\\..*|imatrix\\..*|grid\\..*|(sym|asym)\\..*\\.(qdq|scale|zp)", "data_types_search: Neuqi"},
    {"primitives", "log2\\..*|sum.*|recip\\..*", "data_types_primitives"},
    {"nonfinite", ".*", "data_types_paths: NonFinite (results are informative: we refuse the inputs)"},
    {"scheme_path", "weight|imatrix|.*\\.(rtn|opt_noim|opt_im)\\.(qdq|scale|zp|weight_global_scale)", "data_types_paths: SchemePath"},
};
/// Files that are no tensors.
constexpr std::array other_files = {
    "README.md",  "dispatch.json", "presets.json", "scheme_path.json",
    "parse.json",  // how a program completes and checks a user's scheme: the application's plan, which supports a part of it so far
                   // (tests/app/plan_test)
};

TEST(Topic, EveryFileAndEveryTensorIsReadByATest) {
  std::size_t files = 0, tensors = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden::root() / "data-types")) {
    const std::string name = entry.path().filename().string(), stem = entry.path().stem().string();
    if (entry.path().extension() != ".safetensors") {
      EXPECT_NE(std::find(other_files.begin(), other_files.end(), name), other_files.end()) << "nobody reads " << name;
      continue;
    }
    ++files;
    std::vector<support::pattern> patterns;
    for (const reader& r : readers)
      if (stem == r.file) patterns.emplace_back(r.names);
    EXPECT_FALSE(patterns.empty()) << "nobody reads " << name;
    const golden::file file("data-types", name);
    for (const auto& [key, t] : file.tensors()) {
      int found = 0;
      for (const support::pattern& p : patterns) found += !p.match(key).empty();
      EXPECT_EQ(found, 1) << name << ": " << key;
      ++tensors;
    }
  }
  for (const reader& r : readers)
    EXPECT_TRUE(std::filesystem::exists(golden::root() / "data-types" / (std::string(r.file) + ".safetensors"))) << r.file;
  std::printf("%zu files, %zu tensors\n", files, tensors);
}

}  // namespace
