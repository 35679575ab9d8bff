// links: ar_dispatch ar_float_search
// Searches (OPT-RTN, NeUQI) and the forward of tuned layers against the reference's own results (golden/data-types: int_opt_rtn, mx_opt_rtn, neuqi,
// int_tuned, and parts of mx_rtn, nvfp4, fp8): scales, zero points, codes and fake-quantized weights bit for bit, signs of zero included, by the
// float lane and by every SIMD target of this machine. Cases are found by their names.
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "ar/detail/neuqi_grid.hpp"
#include "support/every_target.hpp"
#include "support/pattern.hpp"

namespace {

using namespace every_target;
using ar::real;

real format_of(const std::string& s) { return s == "f32" ? real::f32 : s == "f16" ? real::f16 : real::bf16; }

/// The name of the weight matrix of a file with this shape and format.
std::string weight_name(const golden::file& file, const std::string& shape, const std::string& dtype) {
  const support::pattern pattern("w\\." + shape + "\\." + dtype + "\\.[a-z]+");
  for (const auto& [name, t] : file.tensors())
    if (!pattern.match(name).empty()) return name;
  throw std::runtime_error("no weight " + shape + " " + dtype);
}

/// Names of all tensors that end in `.qdq`, without that ending, that the pattern matches as a whole.
std::vector<std::pair<std::string, std::vector<std::string>>> cases_of(const golden::file& file, const support::pattern& pattern, std::vector<std::string>& names) {
  names.clear();
  for (const auto& [name, t] : file.tensors())
    if (name.size() > 4 && name.substr(name.size() - 4) == ".qdq") names.push_back(name.substr(0, name.size() - 4));
  std::vector<std::pair<std::string, std::vector<std::string>>> cases;
  for (const std::string& n : names) {
    if (const std::vector<std::string> m = pattern.match(n); !m.empty()) cases.emplace_back(n, m);
  }
  EXPECT_GT(cases.size(), 0u);
  return cases;
}

std::vector<float> optional(const golden::file& file, const std::string& name) { return file.has(name) ? file[name].f32() : std::vector<float>(); }

/// Offsets [groups, group] with padding, as [rows, cols].
matrix unpadded(const std::vector<float>& v, const matrix& w, std::size_t group) {
  matrix out(std::vector<float>(w.v.size()), w.rows, w.cols);
  const std::size_t groups = ar::ceil_div(w.cols, group);
  for (std::size_t r = 0; r < w.rows; ++r)
    for (std::size_t c = 0; c < w.cols; ++c) out.v[r * w.cols + c] = v.at((r * groups + c / group) * group + c % group);
  return out;
}

/// mx_fp8e5m2 -> mxfp8e5m2: our names are the reference's without underscores.
std::string our_name(std::string s) {
  if (s == "mx_fp6e2m3" || s == "mx_fp8e4m3") s.resize(6);  // the default of its width
  std::erase(s, '_');
  return s;
}

std::vector<float> powers(const std::vector<float>& exponents) {
  std::vector<float> p;
  for (const float e : exponents) p.push_back(std::ldexp(1.0f, static_cast<int>(e)));
  return p;
}

const std::string shape_text = "([0-9]+x[0-9]+)", group_text = "g(-?[0-9]+)", format_text = "(f32|f16|bf16)", bits_text = "b([0-9]+)",
                  im_text = "(im|imz|noim)";

TEST(OptRtn, SymmetricIntegersEqualTheReference) {
  const golden::file file("data-types", "int_opt_rtn.safetensors");
  const tables all;
  std::vector<std::string> names;
  for (const auto& [key, m] :
       cases_of(file, support::pattern(shape_text + "\\." + group_text + "\\." + format_text + "\\." + bits_text + "\\." + im_text), names)) {
    SCOPED_TRACE(key);
    const real format = format_of(m[3]);
    const matrix w(file[weight_name(file, m[1], m[3])]);
    const quantizer q{"int_sym", format, format, std::stoi(m[4]), std::stoi(m[2]), {}};
    const std::vector<float> importance = m[5] == "noim" ? std::vector<float>() : file["imatrix." + m[1] + "." + m[5]].f32();
    // The reference's threshold is that of scale_dtype f16 whatever format the scale has.
    const ar::search_options how{.importance = importance.empty() ? nullptr : importance.data(), .least_scale = 1e-5f, .reference = true};
    expect_search(all, q, w, how, {file[key + ".scale"].f32(), {}, {}, file[key + ".qdq"].f32(), optional(file, key + ".code")}, 1 << (q.bits - 1));
  }
  std::printf("%zu cases\n", names.size());
}

TEST(OptRtn, MxEqualsTheReference) {
  const golden::file file("data-types", "mx_opt_rtn.safetensors");
  const tables all;
  std::vector<std::string> names;
  for (const auto& [key, m] : cases_of(file, support::pattern(shape_text + "\\." + format_text + "\\.(mx_[a-z0-9]+)\\." + im_text), names)) {
    SCOPED_TRACE(key);
    const matrix w(file[weight_name(file, m[1], m[2])]);
    const std::vector<float> importance = m[4] == "noim" ? std::vector<float>() : file["imatrix." + m[1] + "." + m[4]].f32();
    const ar::search_options how{.importance = importance.empty() ? nullptr : importance.data(), .reference = true};
    expect_search(all, {our_name(m[3]), format_of(m[2]), real::f16, 0, 32, {}}, w, how,
                  {powers(file[key + ".exp"].f32()), {}, {}, file[key + ".qdq"].f32(), {}});
  }
  std::printf("%zu cases\n", names.size());
}

TEST(OptRtn, Nvfp4EqualsTheReference) {
  const golden::file file("data-types", "nvfp4.safetensors");
  const tables all;
  std::vector<std::string> names;
  const auto cases = cases_of(file, support::pattern("(opt|opt_fusedgs|v2opt)\\." + shape_text + "\\." + format_text + "(?:\\." + im_text + ")?"), names);
  for (const auto& [key, m] : cases) {
    SCOPED_TRACE(key);
    const matrix w(file[weight_name(file, m[2], m[3])]);
    quantizer q{m[1] == "v2opt" ? "nvfp4v2" : "nvfp4", format_of(m[3]), real::f16, 0, 16, {}};
    if (m[1] == "opt") q.tensor.maximum = w.largest();
    if (m[1] == "opt_fusedgs") q.tensor.global_scale = all.type(q)->global_scale(w.largest()) * 0.7f;
    const std::vector<float> importance =
        !m[4].empty() && m[4] != "noim" ? file["imatrix." + m[2] + "." + m[4]].f32() : std::vector<float>();
    const ar::search_options how{.importance = importance.empty() ? nullptr : importance.data(), .reference = true};
    expect_search(all, q, w, how, {file[key + ".scale"].f32(), {}, optional(file, key + ".coeff"), file[key + ".qdq"].f32(), {}});
  }
  std::printf("%zu cases\n", cases.size());
}

TEST(Neuqi, EqualsTheReference) {
  const golden::file file("data-types", "neuqi.safetensors");
  const tables all;
  std::vector<std::string> names;
  for (const auto& [key, m] : cases_of(
           file, support::pattern("(sym|asym)\\." + shape_text + "\\." + group_text + "\\." + format_text + "\\." + bits_text + "\\." + im_text), names)) {
    SCOPED_TRACE(key);
    const matrix w(file[weight_name(file, m[2], m[4])]);
    const std::vector<float> importance = m[6] == "noim" ? std::vector<float>() : file["imatrix." + m[2] + "." + m[6]].f32();
    const ar::search_options how{.importance = importance.empty() ? nullptr : importance.data(), .neuqi = true};
    expect_search(all, {"int_" + m[1], format_of(m[4]), real::f16, std::stoi(m[5]), std::stoi(m[3]), {}}, w, how,
                  {file[key + ".scale"].f32(), optional(file, key + ".zp"), {}, file[key + ".qdq"].f32(), {}});
  }
  for (const auto& [name, t] : file.tensors()) {
    if (name.rfind("grid.", 0) != 0) continue;
    const int bits = name.find("lo0.05") != std::string::npos ? 2 : name.find("lo0.15") != std::string::npos ? 3 : 4;
    const float* grid = ar::detail::neuqi_grid(bits, name.find("hi2") != std::string::npos);
    EXPECT_TRUE(same_bits(std::vector<float>(grid, grid + ar::detail::neuqi_coarse), t.f32())) << name;
  }
  std::printf("%zu cases\n", names.size());
}

TEST(Tuned, IntegersEqualTheReference) {
  const golden::file file("data-types", "int_tuned.safetensors");
  const tables all;
  std::vector<std::string> names;
  for (const auto& [key, m] :
       cases_of(file, support::pattern("(sym|asym|symgptq|init)\\." + shape_text + "\\." + group_text + "\\." + format_text + "\\." + bits_text), names)) {
    SCOPED_TRACE(key);
    const std::string weight = weight_name(file, m[2], m[4]), inputs = weight + ".g" + m[3] + ".";
    const matrix w(file[weight]);
    const std::size_t group = static_cast<std::size_t>(std::stoi(m[3])), groups = ar::ceil_div(w.cols, group);
    const matrix v = unpadded(file[inputs + "v"].f32(), w, group), low(file[inputs + "min_scale"].f32(), w.rows, groups);
    matrix high(file[inputs + "max_scale"].f32(), w.rows, groups), init;
    quantizer q{m[1] == "symgptq" ? "int_sym_gptq"
                : m[1] == "asym"  ? "int_asym"
                                  : "int_sym",
                format_of(m[4]),
                real::f16,
                std::stoi(m[5]),
                static_cast<int>(group),
                {}};
    if (m[1] == "init") {
      const std::vector<float> importance = file[inputs + "imatrix"].f32();
      init = matrix(file[key + ".init_scale"].f32(), w.rows, groups);
      quantizer own = q;
      own.scale = own.weight;
      expect_search(all, own, w, {.importance = importance.data(), .repair = false, .least_scale = 1e-5f, .reference = true},
                    {init.v, {}, {}, {}, {}});
      for (float& x : high.v) x *= 2.0f;
    }
    if (all.type(q) == nullptr) {
      ADD_FAILURE() << "no instance of " << q.name;
      continue;
    }
    expect_tuned(all, q, w, {v.view(), low.view(), high.view(), init.view()},
                 {optional(file, key + ".scale"), optional(file, key + ".zp"), {}, file[key + ".qdq"].f32(), {}});
  }
  std::printf("%zu cases\n", names.size());
}

TEST(Tuned, MxEqualsTheReference) {
  const golden::file file("data-types", "mx_rtn.safetensors");
  const tables all;
  std::vector<std::string> names;
  const auto cases = cases_of(file, support::pattern("tuned\\." + shape_text + "\\." + format_text + "\\.(mx_[a-z0-9]+)"), names);
  for (const auto& [key, m] : cases) {
    SCOPED_TRACE(key);
    const matrix w(file[weight_name(file, m[1], m[2])]);
    const std::string inputs = "tuned." + m[1] + "." + m[2] + ".";
    const matrix v = unpadded(file[inputs + "v"].f32(), w, 32), high(file[inputs + "max_scale"].f32(), w.rows, ar::ceil_div(w.cols, 32));
    expect_tuned(all, {our_name(m[3]), format_of(m[2]), real::f16, 0, 32, {}}, w, {v.view(), {}, high.view(), {}},
                 {powers(file[key + ".exp"].f32()), {}, {}, file[key + ".qdq"].f32(), {}});
  }
  std::printf("%zu cases\n", cases.size());
}

TEST(Tuned, Nvfp4AndFp8EqualTheReference) {
  std::size_t count = 0;
  for (const std::string topic : {"nvfp4", "fp8"}) {
    const golden::file file("data-types", topic + ".safetensors");
    const tables all;
    std::vector<std::string> names;
    for (const auto& [key, m] : cases_of(file, support::pattern("(tuned|block_tuned)\\." + shape_text + "\\." + format_text), names)) {
      SCOPED_TRACE(key);
      const matrix w(file[weight_name(file, m[2], m[3])]);
      const bool block = m[1] == "block_tuned";
      quantizer q{block ? "fp8_block" : topic,
                  format_of(m[3]),
                  real::f16,
                  0,
                  block            ? ar::group_shape(128, 128)
                  : topic == "fp8" ? ar::group_shape(-1)
                                   : ar::group_shape(16),
                  {}};
      if (topic == "nvfp4") q.tensor.maximum = w.largest();
      const room shape(w, q);
      const matrix v = file.has(key + ".v") ? unpadded(file[key + ".v"].f32(), w, topic == "fp8" ? w.cols : 16) : matrix();
      const matrix high(file[key + ".max_scale"].f32(), shape.scale_rows, shape.groups);
      expect_tuned(all, q, w, {v.view(), {}, high.view(), {}}, {file[key + ".scale"].f32(), {}, {}, file[key + ".qdq"].f32(), {}});
      ++count;
    }
  }
  std::printf("%zu cases\n", count);
}

}  // namespace
