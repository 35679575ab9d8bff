// links: ar_export ar_arch ar_model
// Parts of the exporters: checksums, digests, GGUF names and types, packed words.
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "export/export_auto_round_config.hpp"
#include "export/export_checksums.hpp"
#include "export/export_digest.hpp"
#include "export/export_folder.hpp"
#include "export/export_gguf_metadata.hpp"
#include "export/export_gguf_types.hpp"
#include "export/export_int_layout.hpp"
#include "export/export_inventory.hpp"
#include "io/safetensors.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_checkpoint.hpp"

namespace {

using namespace auto_round;
using namespace auto_round::exporting;

std::string sha(const std::string& s) { return sha256_hex(std::as_bytes(std::span<const char>(s))); }

TEST(Checksums, AreThoseOfFips180) {
  EXPECT_EQ(sha(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Checksums, FindAChangedFile) {
  const support::temp_dir dir;
  dir.write("a", "one");
  dir.write("b", "two");
  ASSERT_TRUE(write_checksums(dir.path().string(), {"a", "b"}).has_value());
  EXPECT_EQ(std::filesystem::file_size(dir / checksums_name), checksums_size({"a", "b"}));
  EXPECT_EQ(check_checksums(dir.path().string()).value(), 2u);
  dir.write("b", "twO");
  const auto bad = check_checksums(dir.path().string());
  ASSERT_FALSE(bad.has_value());
  EXPECT_EQ(bad.error().kind, error_kind::verification);
  EXPECT_EQ(bad.error().file, dir / "b");
}

TEST(Digest, DependsOnValueAndOrderButNotOnTheSignOfZero) {
  EXPECT_EQ(digest(std::vector<float>{0.0f, 1.0f}), digest(std::vector<float>{-0.0f, 1.0f}));
  std::set<std::uint64_t> seen;
  std::vector<float> v(9, 1.0f);
  for (std::size_t i = 0; i < v.size(); ++i) {
    std::vector<float> w = v;
    w[i] = std::nextafter(1.0f, 2.0f);
    seen.insert(digest(w));
  }
  EXPECT_EQ(seen.size(), v.size());
  EXPECT_NE(digest(std::vector<float>(4, 0.0f)), digest(std::vector<float>(5, 0.0f)));
}

TEST(GgufMetadata, RoundsParameterCountsAsLlamaCpp) {
  EXPECT_EQ(size_label(945440), "945K");
  EXPECT_EQ(size_label(231000), "231K");
  EXPECT_EQ(size_label(1100048384), "1.1B");
  EXPECT_EQ(size_label(8030261248), "8.0B");
  EXPECT_EQ(size_label(70553706496), "71B");
  EXPECT_EQ(size_label(134515008), "135M");
}

model::model_spec llama(std::int64_t layers) {
  model::model_spec s;
  s.architecture = "llama";
  s.num_layers = layers;
  s.num_heads = 32;
  s.num_kv_heads = 32;
  s.block_prefix = "model.layers.";
  s.embed_name = "model.embed_tokens.weight";
  s.final_norm_name = "model.norm.weight";
  s.head_name = "lm_head.weight";
  return s;
}

TEST(GgufTypes, FollowTheMixOfQ4KS) {
  const gguf_recipe& r = *find_gguf_recipe("gguf:q4_k_s");
  const model::model_spec s = llama(32);
  const auto type = [&](int linear, std::int64_t block) { return choose_gguf_type(r, s, gguf_role::linear, linear, block, 4096); };
  EXPECT_EQ(type(s.v, 3), io::gguf_type::q5_k);
  EXPECT_EQ(type(s.v, 4), io::gguf_type::q4_k);
  EXPECT_EQ(type(s.down, 3), io::gguf_type::q5_k);
  EXPECT_EQ(type(s.down, 4), io::gguf_type::q4_k);
  EXPECT_EQ(type(s.up, 0), io::gguf_type::q4_k);
  EXPECT_EQ(choose_gguf_type(r, s, gguf_role::head, -1, -1, 4096), io::gguf_type::q6_k);
  EXPECT_EQ(choose_gguf_type(r, s, gguf_role::embedding, -1, -1, 4096), io::gguf_type::q4_k);
  EXPECT_EQ(choose_gguf_type(r, s, gguf_role::head, -1, -1, 96), io::gguf_type::q8_0);
  EXPECT_EQ(choose_gguf_type(r, s, gguf_role::linear, s.up, 0, 576), io::gguf_type::q5_0);
  EXPECT_EQ(choose_gguf_type(r, s, gguf_role::linear, s.up, 0, 48), io::gguf_type::f16);
}

TEST(GgufTypes, ValuesOfA70bGetMoreBits) {
  const gguf_recipe& r = *find_gguf_recipe("gguf:q4_k_s");
  model::model_spec s = llama(80);
  EXPECT_EQ(choose_gguf_type(r, s, gguf_role::linear, s.v, 40, 4096), io::gguf_type::q4_k) << "a 65B: as many value heads as query heads";
  s.num_kv_heads = 4;
  EXPECT_EQ(choose_gguf_type(r, s, gguf_role::linear, s.v, 40, 4096), io::gguf_type::q5_k);
  s.architecture = "qwen2";
  EXPECT_EQ(choose_gguf_type(r, s, gguf_role::linear, s.v, 40, 4096), io::gguf_type::q4_k);
}

TEST(GgufTypes, EverySchemeOfAMixHasATypeAndBack) {
  for (const io::gguf_type t : {io::gguf_type::q4_0, io::gguf_type::q5_0, io::gguf_type::q8_0, io::gguf_type::q4_k, io::gguf_type::q5_k, io::gguf_type::q6_k}) {
    ASSERT_NE(scheme_of(t), nullptr);
    EXPECT_EQ(gguf_type_of(*scheme_of(t)), t);
  }
  EXPECT_EQ(scheme_of(io::gguf_type::f16), nullptr);
}

model::model_spec tiny(const std::string& architecture) {
  return support::checkpoint::spec_of(support::checkpoint::open(support::architecture_folder(architecture)));
}

TEST(GgufNames, AreLlamaCpps) {
  const auto name = [](const model::model_spec& s, const std::string& n) { return place_in_gguf(s, n).name; };
  const model::model_spec plain = tiny("qwen3"), fused = tiny("phi3"), gemma = tiny("gemma2");
  EXPECT_EQ(name(plain, "model.layers.12.self_attn.q_proj.weight"), "blk.12.attn_q.weight");
  EXPECT_EQ(name(plain, "model.layers.0.self_attn.k_proj.bias"), "blk.0.attn_k.bias");
  EXPECT_EQ(name(plain, "model.layers.0.self_attn.q_norm.weight"), "blk.0.attn_q_norm.weight");
  EXPECT_EQ(name(plain, "model.layers.0.post_attention_layernorm.weight"), "blk.0.ffn_norm.weight");
  EXPECT_EQ(name(plain, "model.embed_tokens.weight"), "token_embd.weight");
  EXPECT_EQ(name(plain, "lm_head.weight"), "output.weight");
  EXPECT_EQ(name(plain, "model.layers.0.self_attn.rotary_emb.inv_freq"), "");
  EXPECT_EQ(name(fused, "model.layers.0.self_attn.qkv_proj.weight"), "blk.0.attn_qkv.weight");
  EXPECT_EQ(name(fused, "model.layers.0.mlp.gate_up_proj.weight"), "blk.0.ffn_up.weight");
  EXPECT_EQ(name(gemma, "model.layers.0.post_attention_layernorm.weight"), "blk.0.post_attention_norm.weight") << "behind attention";
  EXPECT_EQ(name(gemma, "model.layers.0.pre_feedforward_layernorm.weight"), "blk.0.ffn_norm.weight");
  EXPECT_EQ(name(gemma, "model.layers.0.post_feedforward_layernorm.weight"), "blk.0.post_ffw_norm.weight");
  EXPECT_EQ(name(tiny("opt"), "model.decoder.layers.0.self_attn.q_proj.weight"), "") << "llama.cpp does not run it";
}

TEST(GgufNames, ExpertsArePartsOfATensor) {
  for (const auto& [architecture, module] : {std::pair{"mixtral", "block_sparse_moe.experts.3.w2"}, {"qwen3_moe", "mlp.experts.3.down_proj"}}) {
    const gguf_place place = place_in_gguf(tiny(architecture), std::string("model.layers.1.") + module + ".weight");
    EXPECT_EQ(place.name, "blk.1.ffn_down_exps.weight");
    EXPECT_EQ(place.index, 3u);
    EXPECT_EQ(place.count, 4u);
  }
  EXPECT_EQ(place_in_gguf(tiny("mixtral"), "model.layers.1.block_sparse_moe.experts.4.w2.weight").name, "") << "there are four";
  EXPECT_EQ(place_in_gguf(tiny("mixtral"), "model.layers.1.block_sparse_moe.gate.weight").name, "blk.1.ffn_gate_inp.weight");
}

TEST(GgufNames, EveryTensorOfEveryArchitectureHasAPlaceOfItsOwn) {
  std::size_t written = 0;
  for (const std::string& architecture : support::architectures()) {
    SCOPED_TRACE(architecture);
    const model::model_spec s = tiny(architecture);
    if (arch::gguf_of(s).name.empty()) continue;
    ++written;
    std::set<std::pair<std::string, std::uint64_t>> places;
    for (const required_tensor& t : required_tensors(s)) {
      const gguf_place place = place_in_gguf(s, t.name);
      EXPECT_NE(place.name, "") << t.name;
      EXPECT_TRUE(places.emplace(place.name, place.index).second) << t.name << " lies where another does";
    }
  }
  EXPECT_GE(written, 8u);
}

TEST(GgufNames, HeadsArePairedWhereLlamaCppTurnsNeighbors) {
  const auto heads = [](const std::string& architecture, const std::string& layer) { return permuted_heads(tiny(architecture), "model.layers.0.self_attn." + layer); };
  EXPECT_EQ(heads("mistral", "q_proj.weight"), static_cast<std::uint64_t>(tiny("mistral").num_heads));
  EXPECT_EQ(heads("mixtral", "k_proj.weight"), static_cast<std::uint64_t>(tiny("mixtral").num_kv_heads));
  EXPECT_EQ(heads("mistral", "v_proj.weight"), 0u);
  EXPECT_EQ(heads("qwen2", "q_proj.bias"), 0u) << "halves, as they are";
}

TEST(GgufNames, RowsOfQAndKAreInterleavedPairByPair) {
  // One head of 8 rows: halves 0-3 and 4-7 become pairs.
  std::vector<std::uint64_t> order;
  for (std::uint64_t i = 0; i < 8; ++i) order.push_back(permuted_row(i, 8, 1));
  EXPECT_EQ(order, (std::vector<std::uint64_t>{0, 4, 1, 5, 2, 6, 3, 7}));
  EXPECT_EQ(permuted_row(9, 16, 2), 12u) << "the second head starts at row 8";
  EXPECT_EQ(permuted_row(5, 8, 0), 5u);
}

/// A layer with every code and zero point that its width has.
tune::quantized_layer layer_of(int bits, std::size_t rows, std::size_t cols, int group_size) {
  tune::quantized_layer layer;
  layer.name = "l";
  layer.scheme = *ar::find_preset("W4A16");
  layer.scheme.bits = bits;
  layer.scheme.group_size = group_size;
  layer.scheme.sym = false;
  layer.rows = rows;
  layer.cols = cols;
  const std::size_t values = std::size_t{1} << bits, groups = rows * ((cols + static_cast<std::size_t>(group_size) - 1) / static_cast<std::size_t>(group_size));
  for (std::size_t i = 0; i < rows * cols; ++i) layer.code.push_back(static_cast<std::uint8_t>(i * 7 % values));
  for (std::size_t i = 0; i < groups; ++i) {
    layer.scale.push_back((i % 5 == 0 ? -1.0f : 1.0f) * (0.01f + 0.0001f * static_cast<float>(i)));
    layer.zero_point.push_back(static_cast<float>(i % values));
  }
  return layer;
}

/// Writes a folder with one packed layer and opens it again.
void expect_reads_back(int_layout layout, int bits, int group_size, bool g_idx = false) {
  const tune::quantized_layer layer = layer_of(bits, 64, 96, group_size);
  int_matrix m = int_matrix_of(layout, layer.scheme, layer.rows, layer.cols);
  m.g_idx = g_idx;
  ASSERT_TRUE(is_storable(m));
  const auto parts = pack_int(m, layer);
  ASSERT_TRUE(parts.has_value()) << describe(parts.error());
  const support::temp_dir dir;
  dir.write("config.json", "{}");
  std::vector<io::tensor_decl> tensors;
  for (const packed_part& p : *parts) tensors.push_back(p.tensor);
  auto writer = io::safetensors_writer::create(dir / "model.safetensors", tensors, {});
  ASSERT_TRUE(writer.has_value());
  for (const packed_part& p : *parts) ASSERT_TRUE(writer->write(p.tensor.name, p.data).has_value());
  ASSERT_TRUE(writer->finish().has_value());
  const auto folder = io::checkpoint_dir::open(dir.path().string());
  ASSERT_TRUE(folder.has_value()) << describe(folder.error());
  const auto opened = open_int_layer(*folder, "l", layout, layer.scheme, layer.rows, layer.cols);
  ASSERT_TRUE(opened.has_value()) << describe(opened.error());
  std::vector<float> read(layer.rows * layer.cols);
  ASSERT_TRUE((*opened)->read(read).has_value());
  EXPECT_EQ(read, stored_weight(m, layer)) << bits << " bits";
  ar::scheme_fields wider = layer.scheme;
  wider.group_size = group_size == 96 ? 32 : 96;
  EXPECT_FALSE(open_int_layer(*folder, "l", layout, wider, layer.rows, layer.cols).has_value()) << "another group size has other shapes";
}

TEST(IntegerLayouts, ReadBackWhatWasStored) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const int group : {32, 64, 96}) {  // 64: the last group is short
      expect_reads_back(int_layout::gptq_v1, bits, group, true);
      expect_reads_back(int_layout::gptq_v2, bits, group);
      expect_reads_back(int_layout::gptq_planes, bits, group);
      if (bits >= 4 && bits <= 7) expect_reads_back(int_layout::awq, bits, group);
      if (bits != 7) expect_reads_back(int_layout::mlx, bits, group);
    }
  }
}

TEST(Companions, AreWhatBelongsToEveryCopyOfAModel) {
  for (const char* name : {"tokenizer.json", "tokenizer.model", "chat_template.jinja", "merges.txt", "modeling_x.py", "LICENSE", "LICENSE.txt"}) {
    EXPECT_TRUE(is_companion_file(name)) << name;
  }
  for (const char* name : {"README.md", "model.bin", "quantize_config.json", "pytorch_model.bin.index.json", "calib.jsonl", "config.json"}) {
    EXPECT_FALSE(is_companion_file(name)) << name;
  }
}

TEST(Configuration, PatternsAreExportedAsExpressions) { EXPECT_EQ(exported_regex("layers.1.mlp"), ".*layers\\.1\\.mlp.*"); }

}  // namespace
