// links: ar_transform ar_model
// The reference's step on orthogonal matrices and its losses. (spec: rotation.md section 8)
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "support/golden_json.hpp"
#include "transform/logit_loss.hpp"
#include "transform/orthogonal.hpp"

namespace {

using namespace auto_round;
using std::size_t;

TEST(RotationTrainingGolden, StepOfTheReference) {
  const golden::file file("rotation", "cayley.safetensors");
  const double lr = golden::parse_json(file.metadata().at("info"))["lr"];
  int checked = 0;
  for (const auto& [name, t] : file.tensors()) {
    if (!name.starts_with("sgdg.") || !name.ends_with(".out")) continue;
    const std::string id = name.substr(0, name.size() - 3);
    std::vector<float> x = file[id + "x"].f32();
    transform::reference_step(x, file[id + "grad"].f32(), t.cols(), lr);
    const std::vector<float> theirs = t.f32();
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], theirs[i], 5e-7) << id << i;  // its QR is in float
    ++checked;
  }
  EXPECT_EQ(checked, 4);
}

TEST(RotationTrainingGolden, Losses) {
  const golden::file file("rotation", "cayley.safetensors");
  const size_t k = golden::parse_json(file.metadata().at("info"))["kl_top_k"].get<size_t>();
  const std::vector<float> logits = file["loss.logits"].f32(), ref = file["loss.ref"].f32();
  const size_t vocab = file["loss.logits"].cols(), rows = logits.size() / vocab;
  using transform::logit_loss;
  for (const auto& [name, kind] :
       {std::pair{"loss.kl_top", logit_loss::kl_top}, {"loss.kl_full", logit_loss::kl_full}, {"loss.mse", logit_loss::mse}}) {
    const double theirs = static_cast<double>(file[name].f32().front());
    std::vector<float> gradient(logits.size());
    const double ours = transform::logit_distance(kind, k, logits.data(), ref.data(), rows, vocab, gradient.data());
    EXPECT_NEAR(ours, theirs, 2e-6 * std::abs(theirs)) << name;
    // The gradient against central differences.
    for (size_t i = 0; i < logits.size(); i += 7) {
      std::vector<float> moved = logits;
      moved[i] += 0x1p-6f;
      const double up = transform::logit_distance(kind, k, moved.data(), ref.data(), rows, vocab, nullptr);
      moved[i] -= 0x1p-5f;
      const double down = transform::logit_distance(kind, k, moved.data(), ref.data(), rows, vocab, nullptr);
      EXPECT_NEAR(gradient[i], (up - down) / 0x1p-5, 2e-5) << name << " " << i;
    }
  }
}

}  // namespace
