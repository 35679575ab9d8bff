// links: ar_arch ar_text ar_model OpenMP::OpenMP_CXX
// Whole models: logits equal those that transformers computed in float32 (tests/peers/record_logits.py), perplexity is the known one, the
// key-value cache gives the same text as running everything again, and damaged checkpoints end in an error that names file and tensor.
//
// "Within 1e-4 relative" means here: the largest difference of any logit, divided by the largest logit.
#include "model/decoder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "io/safetensors.hpp"
#include "model/evaluate_windows.hpp"
#include "model/forward_pieces.hpp"
#include "support/golden_json.hpp"
#include "support/tiny_checkpoint.hpp"
#include "text/tokenizer.hpp"

namespace {

namespace fs = std::filesystem;
using namespace auto_round;
using testing::HasSubstr;

const fs::path data = AR_TEST_DATA;
const fs::path tiny_stories = fs::path(AR_SOURCE_DIR) / "examples" / "data" / "tiny-stories";

using support::checkpoint;

std::vector<std::int32_t> ids_of(const golden::tensor& t) {
  const auto wide = t.as<std::int64_t>();
  return {wide.begin(), wide.end()};
}

double distance(const std::vector<float>& got, const std::vector<float>& want) {
  EXPECT_EQ(got.size(), want.size());
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    worst = std::max(worst, static_cast<double>(std::fabs(got[i] - want[i])));
    largest = std::max(largest, static_cast<double>(std::fabs(want[i])));
  }
  return worst / largest;
}

TEST(Decoder, LogitsOfTinyStoriesEqualTransformers) {
  const checkpoint c(tiny_stories);
  const golden::file expected(data / "logits" / "tiny_stories.safetensors");
  for (const std::string sequence : {"0", "1"}) {
    const auto got = model::logits(c.source, ids_of(expected["ids." + sequence]));
    ASSERT_TRUE(got) << describe(got.error());
    EXPECT_LT(distance(*got, expected["logits." + sequence].f32()), 1e-4);
  }
}

TEST(Decoder, EveryBlockOfTinyStoriesEqualsTransformers) {
  const checkpoint c(tiny_stories);
  const golden::file expected(data / "logits" / "tiny_stories.safetensors");
  const auto ids = ids_of(expected["ids.0"]);
  auto x = model::embed(c.source, ids);
  ASSERT_TRUE(x);
  EXPECT_EQ(*x, expected["embed"].f32());
  model::block_runner runner(c.source.spec(), linalg::precision::f32);
  for (std::int64_t layer = 0; layer < c.source.spec().num_layers; ++layer) {
    const auto w = model::read_block(c.source, layer);
    ASSERT_TRUE(w) << describe(w.error());
    std::map<int, std::vector<float>> inputs;
    runner.forward(*w, x->data(), 1, ids.size(), x->data(),
                   [&](int linear, const float* in, std::size_t tokens) {
                     inputs[linear].assign(in, in + tokens * static_cast<std::size_t>(c.source.spec().linears[static_cast<std::size_t>(linear)].in_features));
                   });
    if (layer == 0) {
      EXPECT_LT(distance(inputs[0], expected["block.0.input_norm"].f32()), 1e-6);
      EXPECT_LT(distance(inputs[3], expected["block.0.attention"].f32()), 1e-5);
      EXPECT_LT(distance(inputs[4], expected["block.0.post_norm"].f32()), 1e-5);
    }
    EXPECT_LT(distance(*x, expected["block." + std::to_string(layer) + ".out"].f32()), 1e-5) << layer;
  }
}

/// Per line of a JSON Lines file: bos, the text, eos; joined.
std::vector<std::int32_t> ids_of_lines(const fs::path& folder, const fs::path& file) {
  const auto t = text::tokenizer::open(folder.string());
  if (!t) throw std::runtime_error(describe(t.error()));
  std::istringstream lines(golden::read_bytes(file));
  std::vector<std::int32_t> ids;
  for (std::string line; std::getline(lines, line);) {
    const auto part = t->encode(golden::parse_json(line)["text"].get<std::string>(), false);
    if (!part) throw std::runtime_error(describe(part.error()));
    ids.push_back(t->bos_id());
    ids.insert(ids.end(), part->begin(), part->end());
    ids.push_back(t->eos_id());
  }
  return ids;
}

TEST(Decoder, PerplexityOfTinyStoriesIsTheKnownOne) {
  const checkpoint c(tiny_stories);
  std::vector<std::int32_t> ids = ids_of_lines(tiny_stories, tiny_stories / "eval.jsonl");
  ASSERT_GE(ids.size(), 20000u);
  ids.resize(20000);
  const auto e = model::evaluate(c.source, ids, 256, nullptr);
  ASSERT_TRUE(e) << describe(e.error());
  EXPECT_EQ(e->tokens, 78 * 255);
  EXPECT_NEAR(e->perplexity, 1.2504, 5e-5);  // transformers, float32
  EXPECT_NEAR(e->nll, std::log(e->perplexity), 1e-12);
  EXPECT_FALSE(e->has_reference);
}

TEST(Decoder, EvaluationIsWhatTheLogitsSay) {
  const checkpoint a(data / "rope" / "default"), b(data / "rope" / "linear");  // same shapes, other weights
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 53; ++i) ids.push_back((i * i * 7 + i) % 64);
  const std::size_t window = 10;
  double nll = 0, kl = 0, same = 0;
  for (std::size_t first = 0; first + window <= ids.size(); first += window) {
    const std::span<const std::int32_t> part(ids.data() + first, window);
    const auto q = model::logits(a.source, part), p = model::logits(b.source, part);
    ASSERT_TRUE(q && p);
    for (std::size_t t = 0; t + 1 < window; ++t) {
      const float *qr = q->data() + t * 64, *pr = p->data() + t * 64;
      double qs = 0, ps = 0;
      for (std::size_t v = 0; v < 64; ++v) {
        qs += std::exp(static_cast<double>(qr[v]));
        ps += std::exp(static_cast<double>(pr[v]));
      }
      nll += std::log(qs) - static_cast<double>(qr[part[t + 1]]);
      for (std::size_t v = 0; v < 64; ++v) {
        const double lp = static_cast<double>(pr[v]) - std::log(ps), lq = static_cast<double>(qr[v]) - std::log(qs);
        kl += std::exp(lp) * (lp - lq);
      }
      same += std::max_element(qr, qr + 64) - qr == std::max_element(pr, pr + 64) - pr ? 1 : 0;
    }
  }
  std::int64_t last = 0, all = 0;
  const auto e = model::evaluate(a.source, ids, window, &b.source, [&](std::int64_t done, std::int64_t blocks) {
    EXPECT_EQ(done, last + 1);
    last = done;
    all = blocks;
  });
  ASSERT_TRUE(e) << describe(e.error());
  EXPECT_EQ(e->tokens, 45);
  EXPECT_NEAR(e->nll, nll / 45, 1e-5);
  EXPECT_NEAR(e->kl, kl / 45, 1e-5);
  EXPECT_NEAR(e->top1, same / 45, 1e-12);
  EXPECT_EQ(last, 4);
  EXPECT_EQ(all, 4);

  const auto self = model::evaluate(a.source, ids, window, &a.source);
  ASSERT_TRUE(self);
  EXPECT_EQ(self->kl, 0.0);
  EXPECT_EQ(self->top1, 1.0);
}

TEST(Decoder, WindowsOfAPartOfTheTextAtATimeGiveTheSameNumbers) {
  const checkpoint c(tiny_stories);
  const std::int64_t window = 256;
  std::vector<std::int32_t> ids = ids_of_lines(tiny_stories, tiny_stories / "eval.jsonl");
  ids.resize(21 * window + 100);
  const auto whole = model::evaluate(c.source, ids, window, &c.source);
  ASSERT_TRUE(whole) << describe(whole.error());
  std::int64_t last = 0;
  const auto parts = model::evaluate_windows(c.source, ids, window, &c.source, model::sequences_at_once(window), [&](std::int64_t done, std::int64_t blocks) {
    EXPECT_LE(done, blocks);
    last = done;
  });
  ASSERT_TRUE(parts) << describe(parts.error());
  EXPECT_EQ(last, 3 * 2 * 4);  // parts of 8 windows, two models, four blocks
  EXPECT_EQ(parts->nll, whole->nll);
  EXPECT_EQ(parts->kl, whole->kl);
  EXPECT_EQ(parts->top1, whole->top1);
  EXPECT_EQ(parts->tokens, 21 * 255);
}

TEST(Decoder, GenerationWithTheCacheEqualsRunningEverythingAgain) {
  for (const char* name : {"default", "llama3_legacy", "attention_bias", "yarn"}) {
    const checkpoint c(data / "rope" / name);
    const std::vector<std::int32_t> prompt = {5, 9, 33};
    model::generation_options options;
    options.max_tokens = 10;
    const auto got = model::generate(c.source, prompt, options);
    ASSERT_TRUE(got) << describe(got.error());
    ASSERT_EQ(got->size(), 10u);
    std::vector<std::int32_t> ids = prompt;
    for (const std::int32_t token : *got) {
      const auto l = model::logits(c.source, ids);
      ASSERT_TRUE(l);
      const auto row = l->end() - 64;
      EXPECT_NEAR(row[token], *std::max_element(row, l->end()), 1e-4f) << name;
      ids.push_back(token);
    }
  }
}

TEST(Decoder, GenerationStopsWhereItShould) {
  const checkpoint c(data / "rope" / "default");  // 16 positions
  const std::vector<std::int32_t> prompt = {5, 9, 33};
  model::generation_options options;
  options.max_tokens = 100;
  const auto all = model::generate(c.source, prompt, options);
  ASSERT_TRUE(all);
  EXPECT_EQ(all->size(), 14u) << "positions 3 to 15, and the token after the last";
  options.eos_id = (*all)[4];
  const auto stopped = model::generate(c.source, prompt, options);
  ASSERT_TRUE(stopped);
  EXPECT_EQ(stopped->size(), static_cast<std::size_t>(std::find(all->begin(), all->end(), options.eos_id) - all->begin()));
  std::vector<std::int32_t> seen;
  options.eos_id = -1;
  const auto shown = model::generate(c.source, prompt, options, [&](std::int32_t token) {
    seen.push_back(token);
    return seen.size() < 3;
  });
  ASSERT_TRUE(shown);
  EXPECT_EQ(seen, *shown);
  EXPECT_EQ(seen.size(), 3u);

  options.temperature = 1;
  options.seed = 1;
  const auto one = model::generate(c.source, prompt, options), again = model::generate(c.source, prompt, options);
  options.seed = 2;
  const auto other = model::generate(c.source, prompt, options);
  ASSERT_TRUE(one && again && other);
  EXPECT_EQ(*one, *again);
  EXPECT_NE(*one, *other);
  EXPECT_FALSE(model::generate(c.source, {}, options));
}

// ---- checkpoints that do not fit their config.json ----

class Damaged : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("ar_decoder_test_" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    fs::copy(data / "rope" / "default" / "config.json", folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  /// Writes the healthy model with one tensor left out, reshaped or with one value replaced.
  void write(const std::string& name, const std::string& what) {
    const golden::file healthy(data / "rope" / "default" / "model.safetensors");
    std::vector<io::tensor_decl> decls;
    std::map<std::string, std::vector<float>> values;
    for (const auto& [n, t] : healthy.tensors()) {
      if (n == name && what == "missing") continue;
      io::tensor_decl d{n, io::dtype::f32, {t.shape.begin(), t.shape.end()}};
      values[n] = t.f32();
      if (n == name && what == "transposed") std::reverse(d.shape.begin(), d.shape.end());
      if (n == name && what == "short") {
        d.shape[0] -= 1;
        values[n].resize(d.bytes() / 4);
      }
      if (n == name && what == "integers") d.type = io::dtype::i32;
      if (n == name && what == "nan") values[n].back() = NAN;
      if (n == name && what == "inf") values[n][1] = INFINITY;
      decls.push_back(d);
    }
    fs::remove(folder_ / "model.safetensors");
    auto writer = io::safetensors_writer::create((folder_ / "model.safetensors").string(), decls);
    ASSERT_TRUE(writer) << describe(writer.error());
    for (const auto& d : decls) ASSERT_TRUE(writer->write(d.name, std::as_bytes(std::span(values[d.name]))));
    ASSERT_TRUE(writer->finish());
  }

  error failure() {
    const checkpoint c(folder_);
    const std::vector<std::int32_t> ids = {3, 4, 5, 6};
    const auto l = model::logits(c.source, ids);
    EXPECT_FALSE(l);
    const auto e = model::evaluate(c.source, ids, 4, nullptr);
    EXPECT_FALSE(e);
    const auto g = model::generate(c.source, ids, {});
    EXPECT_FALSE(g);
    return l ? error{} : l.error();
  }

  fs::path folder_;
};

TEST_F(Damaged, EndsWithAnErrorThatNamesFileAndTensor) {
  const struct {
    const char* tensor;
    const char* what;
    const char* said;
  } bad[] = {
      {"model.layers.1.mlp.up_proj.weight", "missing", "missing"},
      {"model.embed_tokens.weight", "missing", "missing"},
      {"model.norm.weight", "missing", "missing"},
      {"lm_head.weight", "missing", "missing"},
      {"model.layers.0.self_attn.k_proj.weight", "transposed", "[32, 16] where config.json asks for [16, 32]"},
      {"model.layers.0.self_attn.o_proj.weight", "short", "shape"},
      {"model.layers.1.input_layernorm.weight", "short", "shape"},
      {"model.embed_tokens.weight", "short", "shape"},
      {"lm_head.weight", "short", "shape"},
      {"model.layers.1.mlp.down_proj.weight", "nan", "NaN"},
      {"model.layers.0.post_attention_layernorm.weight", "inf", "infinity"},
      {"lm_head.weight", "nan", "NaN"},
      {"model.embed_tokens.weight", "inf", "infinity"},
      {"model.layers.0.mlp.gate_proj.weight", "integers", ""},
  };
  for (const auto& b : bad) {
    write(b.tensor, b.what);
    const error e = failure();
    EXPECT_THAT(e.message, HasSubstr(b.said)) << b.tensor << " " << b.what;
    EXPECT_EQ(e.tensor, b.tensor) << b.what;
    EXPECT_THAT(e.file, HasSubstr(folder_.string())) << b.tensor << " " << b.what;
    EXPECT_TRUE(e.kind == error_kind::input || e.kind == error_kind::unsupported) << b.tensor << " " << b.what;
  }
}

TEST(Decoder, RefusesTokensThatTheModelDoesNotHave) {
  const checkpoint c(data / "rope" / "default");
  for (const std::int32_t id : {-1, 64, 1 << 30}) {
    const auto l = model::logits(c.source, std::vector<std::int32_t>{3, id});
    ASSERT_FALSE(l);
    EXPECT_EQ(l.error().kind, error_kind::input);
    EXPECT_THAT(l.error().message, HasSubstr(std::to_string(id)));
  }
}

TEST(Decoder, RefusesEvaluationsThatMeanNothing) {
  const checkpoint c(data / "rope" / "default"), other(tiny_stories);
  const std::vector<std::int32_t> ids = {3, 4, 5};
  EXPECT_THAT(model::evaluate(c.source, ids, 4, nullptr).error().message, HasSubstr("3 tokens"));
  EXPECT_FALSE(model::evaluate(c.source, {}, 4, nullptr));
  EXPECT_FALSE(model::evaluate(c.source, ids, 1, nullptr));
  EXPECT_FALSE(model::evaluate(c.source, ids, -5, nullptr));
  EXPECT_THAT(model::evaluate(c.source, ids, 3, &other.source).error().message, HasSubstr("vocabulary"));
}

// ---- the real model: $AR_REAL_MODEL is the folder that tests/peers/fetch_smollm2.sh makes ----

TEST(RealModel, LogitsOfSmolLM2EqualTransformers) {
  const char* folder = std::getenv("AR_REAL_MODEL");
  ASSERT_TRUE(folder != nullptr && *folder != '\0') << "set AR_REAL_MODEL to the folder that tests/peers/fetch_smollm2.sh makes";
  const checkpoint c(folder);
  const golden::file expected(data / "logits" / "smollm2_135m.safetensors");
  const auto got = model::logits(c.source, ids_of(expected["ids"]));
  ASSERT_TRUE(got) << describe(got.error());
  const auto vocab = static_cast<std::size_t>(c.source.spec().vocab_size), rows = got->size() / vocab;
  const auto best = expected["argmax"].as<std::int64_t>();
  const std::vector<float> lse = expected["logsumexp"].f32();
  std::vector<float> sampled;
  for (std::size_t r = 0; r < rows; ++r) {
    const float* const row = got->data() + r * vocab;
    for (std::size_t v = 0; v < vocab; v += 16) sampled.push_back(row[v]);
    EXPECT_EQ(std::max_element(row, row + vocab) - row, best[r]);
    double sum = 0;
    for (std::size_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(row[v]));
    EXPECT_NEAR(std::log(sum), static_cast<double>(lse[r]), 1e-4 * static_cast<double>(lse[r]));
  }
  EXPECT_LT(distance(sampled, expected["logits"].f32()), 1e-4);
}

}  // namespace
