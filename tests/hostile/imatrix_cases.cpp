// Importance matrices, both of llama.cpp's formats.
#include <cmath>

#include "hostile/model_files.hpp"

namespace hostile {
namespace {

using entry = std::pair<std::string, std::vector<float>>;

std::string dat_entry(const std::string& name, std::int32_t calls, const std::vector<float>& sums) {
  std::string s = bytes_of(static_cast<std::int32_t>(name.size())) + name + bytes_of(calls) + bytes_of(static_cast<std::int32_t>(sums.size()));
  for (const float v : sums) s += bytes_of(v);
  return s;
}

std::string text(const std::string& s) { return bytes_of(static_cast<std::uint64_t>(s.size())) + s; }
std::string u32(std::uint32_t v) { return bytes_of(v); }
std::string u64(std::uint64_t v) { return bytes_of(v); }

struct tensor {
  std::string name;
  std::vector<std::uint64_t> ne;
  std::vector<float> values;
  std::uint32_t type = 0;
};

std::string gguf(const std::vector<tensor>& tensors, const std::string& type = "imatrix") {
  std::string out = "GGUF" + u32(3) + u64(tensors.size()) + u64(1) + text("general.type") + u32(8) + text(type), data;
  for (const tensor& t : tensors) {
    out += text(t.name) + u32(static_cast<std::uint32_t>(t.ne.size()));
    for (const std::uint64_t n : t.ne) out += u64(n);
    out += u32(t.type) + u64(data.size());
    for (const float v : t.values) data += bytes_of(v);
    data.resize((data.size() + 31) / 32 * 32);
  }
  out.resize((out.size() + 31) / 32 * 32);
  return out + data;
}

const std::string q = "blk.0.attn_q.weight";

/// The layers of the model but for q of the first block.
std::vector<std::pair<std::string, std::size_t>> others() {
  std::vector<std::pair<std::string, std::size_t>> all;
  for (const char* block : {"blk.0.", "blk.1."}) {
    for (const char* layer : {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}) {
      const std::string name = std::string(block) + layer + ".weight";
      if (name != q) all.emplace_back(name, std::string(layer) == "ffn_down" ? 96 : 64);
    }
  }
  return all;
}
const std::vector<float> ones(64, 1.0f);

}  // namespace

std::vector<one_case> imatrix_cases() {
  std::vector<one_case> all;
  const auto file = [&](std::string name, const std::string& suffix, std::string content, std::vector<std::string> says, int status = bad_input) {
    const std::string path = "@/im" + suffix;
    if (status != accepted) says.push_back(path);
    all.push_back({suffix + ": " + std::move(name), [suffix, content = std::move(content)](const fs::path& dir) {
                     tiny_model().write(dir / "model");
                     put(dir / ("im" + suffix), content);
                   },
                   {"quantize", "--model", "@/model", "--output_dir", "@/out", "--scheme", "W4A16G32", "--iters", "0", "--enable_opt_rtn", "--imatrix", path}, status, std::move(says)});
  };
  const auto dat = [&](std::string name, std::string content, std::vector<std::string> says, int status = bad_input) { file(std::move(name), ".dat", std::move(content), std::move(says), status); };
  const std::string one = bytes_of(std::int32_t{1});
  /// Entries of all layers, that of q given.
  const auto whole_dat = [&](const std::string& of_q) {
    std::string s = bytes_of(std::int32_t{14}) + of_q;
    for (const auto& [name, cols] : others()) s += dat_entry(name, 1, std::vector<float>(cols, 1.0f));
    return s;
  };
  dat("empty", "", {"ends too early"});
  dat("three bytes", "abc", {"ends too early"});
  dat("no entries", bytes_of(std::int32_t{0}), {"no importance matrix"});
  dat("-1 entries", bytes_of(std::int32_t{-1}), {"no importance matrix"});
  dat("2^31-1 entries", bytes_of(INT32_MAX) + dat_entry(q, 1, ones), {"ends too early"});
  dat("a name of 0 bytes", one + bytes_of(std::int32_t{0}), {"ends too early"});
  dat("a name of -1 bytes", one + bytes_of(std::int32_t{-1}) + std::string(100, 'x'), {"ends too early"});
  dat("a name of 2^31-1 bytes", one + bytes_of(INT32_MAX) + std::string(100, 'x'), {"ends too early"});
  dat("-5 calls", one + dat_entry(q, -5, ones), {"ends too early"});
  dat("no values", one + dat_entry(q, 1, {}), {"ends too early"});
  dat("2^31-1 values", one + bytes_of(std::int32_t{1}) + "q" + one + bytes_of(INT32_MAX) + std::string(64, '\0'), {"ends too early"});
  dat("cut in the values", (one + dat_entry(q, 1, ones)).substr(0, 200), {"ends too early"});
  dat("NaN", one + dat_entry(q, 1, std::vector<float>(64, NAN)), {"not finite", q});
  dat("infinity", one + dat_entry(q, 1, std::vector<float>(64, INFINITY)), {"not finite", q});
  dat("negative", one + dat_entry(q, 1, std::vector<float>(64, -1.0f)), {"negative", q});
  dat("too few values for the layer", whole_dat(dat_entry(q, 1, std::vector<float>(32, 1.0f))), {q});
  dat("sound", whole_dat(dat_entry(q, 1, ones)), {}, accepted);
  dat("a layer is missing", one + dat_entry(q, 1, ones), {"no entry", "blk.0.attn_k.weight"});
  dat("an entry twice", bytes_of(std::int32_t{2}) + dat_entry(q, 1, ones) + dat_entry(q, 1, ones), {"twice", q});
  dat("values of the largest float", whole_dat(dat_entry(q, 1, std::vector<float>(64, 3.4e38f))), {}, accepted);
  dat("all zero", whole_dat(dat_entry(q, 1, std::vector<float>(64, 0.0f))), {}, accepted);
  dat("zero calls", whole_dat(dat_entry(q, 0, ones)), {}, accepted);
  dat("another model's layers", one + dat_entry("blk.99.attn_q.weight", 1, ones), {"no entry", q});
  dat("a name of control characters", one + dat_entry("\x1b[2J\n", 1, std::vector<float>(64, NAN)), {"not finite"});
  dat("a picture", "\x89PNG\r\n\x1A\n" + std::string(200, '\0'), {});

  const auto gg = [&](std::string name, std::string content, std::vector<std::string> says, int status = bad_input) { file(std::move(name), ".gguf", std::move(content), std::move(says), status); };
  const tensor sums{q + ".in_sum2", {64, 1}, ones}, counts{q + ".counts", {1, 1}, {4.0f}};
  const auto whole = [&](tensor s, tensor c) {
    std::vector<tensor> all_layers = {std::move(s), std::move(c)};
    for (const auto& [name, cols] : others()) {
      all_layers.push_back({name + ".in_sum2", {cols, 1}, std::vector<float>(cols, 1.0f)});
      all_layers.push_back({name + ".counts", {1, 1}, {4.0f}});
    }
    return gguf(all_layers);
  };
  gg("sound", whole(sums, counts), {}, accepted);
  gg("a layer is missing", gguf({sums, counts}), {"no entry", "blk.0.attn_k.weight"});
  gg("magic alone", "GGUF", {"ends inside its header"});
  gg("a model instead", gguf({sums, counts}, "model"), {"general.type"});
  gg("no type", "GGUF" + u32(3) + u64(0) + u64(0), {"general.type"});
  gg("no tensors", gguf({}), {});
  gg("sums without counts", gguf({sums}), {"counts", q});
  gg("counts without sums", gguf({counts}), {});
  gg("counts of another number of experts", gguf({sums, {q + ".counts", {1, 2}, {1, 2}}}), {"belong together", q});
  gg("a NaN count", gguf({sums, {q + ".counts", {1, 1}, {NAN}}}), {"not finite", q});
  gg("a negative count", gguf({sums, {q + ".counts", {1, 1}, {-1}}}), {"negative", q});
  gg("a count of zero", whole(sums, {q + ".counts", {1, 1}, {0}}), {}, accepted);
  gg("integers", gguf({{q + ".in_sum2", {64, 1}, ones, 26}, counts}), {"F32", q});
  gg("a tensor of another kind", gguf({sums, counts, {"output.weight", {64}, ones}}), {"output.weight"});
  gg("too few values for the layer", whole({q + ".in_sum2", {32, 1}, std::vector<float>(32, 1.0f)}, counts), {q});
  gg("cut short", gguf({sums, counts}).substr(0, 300), {"cut short"});
  all.push_back({"a folder", changed_model([](tiny_model&) {}), {"quantize", "--model", "@/model", "--output_dir", "@/out", "--iters", "0", "--enable_opt_rtn", "--imatrix", "@/model"}, bad_input, {"@/model"}});
  all.push_back({"not there", changed_model([](tiny_model&) {}), {"quantize", "--model", "@/model", "--output_dir", "@/out", "--iters", "0", "--enable_opt_rtn", "--imatrix", "@/im.dat"}, bad_input, {"@/im.dat"}});
  return all;
}

}  // namespace hostile
