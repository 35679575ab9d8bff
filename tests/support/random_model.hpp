// A model in memory and a calibration set for tests of tuning.
#pragma once

#include <algorithm>
#include <map>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "model/decoder.hpp"
#include "text/calibration.hpp"
#include "tune/signround.hpp"

namespace support {

using namespace auto_round;
using std::size_t;

/// Two blocks of width 256 with weights from a fixed seed.
class random_model final : public model::weight_source {
 public:
  random_model() {
    spec_.hidden_size = 256;
    spec_.intermediate_size = 256;
    spec_.num_layers = 2;
    spec_.num_heads = 4;
    spec_.num_kv_heads = 2;
    spec_.head_dim = 64;
    spec_.vocab_size = 40;
    spec_.max_position_embeddings = 64;
    spec_.embed_name = "embed.weight";
    spec_.final_norm_name = "norm.weight";
    spec_.head_name = "head.weight";
    spec_.block_prefix = "layers.";
    spec_.input_norm_name = "n1.weight";
    spec_.post_attention_norm_name = "n2.weight";
    spec_.linears = {{"q", 256, 256, false}, {"k", 128, 256, false},    {"v", 128, 256, false},   {"o", 256, 256, false},
                     {"gate", 256, 256, false}, {"up", 256, 256, false}, {"down", 256, 256, false}};
    std::mt19937 random(9);
    std::normal_distribution<float> normal;
    const auto add = [&](const std::string& name, size_t n, float scale, float offset = 0) {
      std::vector<float>& t = tensors_[name];
      t.resize(n);
      for (float& x : t) x = offset + scale * normal(random);
    };
    add(spec_.embed_name, 40 * 256, 1.0f);
    for (int b = 0; b < 2; ++b) {
      const std::string p = spec_.block_prefix + std::to_string(b) + ".";
      add(p + spec_.input_norm_name, 256, 0.05f, 1.0f);
      add(p + spec_.post_attention_norm_name, 256, 0.05f, 1.0f);
      for (const model::linear_desc& d : spec_.linears) add(p + d.name + ".weight", static_cast<size_t>(d.out_features * d.in_features), 0.06f);
    }
  }
  const model::model_spec& spec() const override { return spec_; }
  bool has(const std::string& name) const override { return tensors_.count(name) != 0; }
  result<void> read(const std::string& name, std::span<float> out) const override {
    const auto t = tensors_.find(name);
    if (t == tensors_.end() || t->second.size() != out.size()) return fail(error_kind::input, "no such tensor", "memory", name);
    std::ranges::copy(t->second, out.begin());
    return {};
  }
  const std::vector<float>& tensor(const std::string& name) const { return tensors_.at(name); }

 private:
  model::model_spec spec_;
  std::map<std::string, std::vector<float>> tensors_;
};

/// Six samples of eight tokens, the last of each invalid.
/// Random tokens below `vocab`; the last position of each sample does not count.
inline text::calibration_set calibration(int samples = 6, int seqlen = 8, std::uint32_t vocab = 40) {
  text::calibration_set set;
  set.seqlen = seqlen;
  std::mt19937 random(3);
  for (int i = 0; i < samples * seqlen; ++i) {
    set.ids.push_back(static_cast<std::int32_t>(random() % vocab));
    set.valid.push_back(i % seqlen != seqlen - 1);
  }
  return set;
}

inline ar::scheme_fields scheme(int bits, bool sym = true, int group_size = 64) { return {.bits = bits, .group_size = group_size, .sym = sym}; }

inline tune::layer_choices all_layers(const model::model_spec& spec, const tune::layer_choice& choice) {
  tune::layer_choices choices;
  for (std::int64_t b = 0; b < spec.num_layers; ++b)
    for (int i = 0; i < static_cast<int>(spec.linears.size()); ++i) choices[spec.linear_name(b, i)] = choice;
  return choices;
}

inline tune::signround_options quick(std::int64_t iters = 4) {
  tune::signround_options o;
  o.iters = iters;
  o.batch_size = 2;
  return o;
}

}  // namespace support
