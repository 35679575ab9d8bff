// An unquantized checkpoint as a source of weights, for tests of what runs a model.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "io/checkpoint_dir.hpp"
#include "model/decoder.hpp"

namespace support {

/// `dir` must outlive it. Errors name file and tensor.
class float_source final : public auto_round::model::weight_source {
 public:
  float_source(const auto_round::io::checkpoint_dir& dir, auto_round::model::model_spec spec) : dir_(dir), spec_(std::move(spec)) {}
  const auto_round::model::model_spec& spec() const override { return spec_; }
  bool has(const std::string& name) const override { return dir_.find(name) != nullptr; }
  std::string location() const override { return dir_.path(); }

  std::vector<std::uint64_t> shape(const std::string& name) const override {
    const auto_round::io::tensor_ref* t = dir_.find(name);
    return t == nullptr ? std::vector<std::uint64_t>{} : t->shape;
  }

  auto_round::result<void> read(const std::string& name, std::span<float> out) const override {
    using auto_round::error_kind;
    const auto_round::io::tensor_ref* t = dir_.find(name);
    if (t == nullptr) return auto_round::fail(error_kind::input, "a tensor that the model needs is missing", dir_.path(), name);
    const std::string& file = dir_.files()[t->file];
    if (t->elements() != out.size()) return auto_round::fail(error_kind::input, "the tensor has an unexpected number of elements", file, name);
    if (auto r = auto_round::io::read_f32(*t, 0, out); !r) {
      auto_round::error e = r.error();
      if (e.file.empty()) e.file = file;
      return tl::unexpected<auto_round::error>(std::move(e));
    }
    if (!std::all_of(out.begin(), out.end(), [](float v) { return std::isfinite(v); }))
      return auto_round::fail(error_kind::input, "the tensor holds NaN or infinity; the checkpoint is damaged", file, name);
    return {};
  }

 private:
  const auto_round::io::checkpoint_dir& dir_;
  auto_round::model::model_spec spec_;
};

}  // namespace support
