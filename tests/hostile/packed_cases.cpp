// Folders that say they are quantized: configurations that lie about their tensors, and tensors that do not fit them. Written by hand, with one packed
// layer each; inspect reads what every other command does before it goes on.
#include "hostile/model_files.hpp"

namespace hostile {
namespace {

constexpr const char* config_file = "@/model/config.json";
constexpr const char* weights = "@/model/model.safetensors";
const std::string layer = "model.layers.0.self_attn.q_proj";

support::tiny_tensor zeros(const char* type, std::vector<std::uint64_t> shape, std::size_t bytes_each) {
  std::size_t n = bytes_each;
  for (const std::uint64_t d : shape) n *= static_cast<std::size_t>(d);
  return {type, std::move(shape), std::string(n, '\0')};
}

/// GPTQ, 4 bits, groups of 32: the layer is 64 x 64.
void add_gptq(tiny_model& m) {
  m.tensors.erase(layer + ".weight");
  m.tensors[layer + ".qweight"] = zeros("I32", {8, 64}, 4);
  m.tensors[layer + ".qzeros"] = zeros("I32", {2, 8}, 4);
  m.tensors[layer + ".scales"] = zeros("F16", {2, 64}, 2);
  std::string order;
  for (std::int32_t i = 0; i < 64; ++i) order += bytes_of(i / 32);
  m.tensors[layer + ".g_idx"] = {"I32", {64}, order};
  m.config["quantization_config"] = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 32}, {"desc_act", true}, {"sym", false},
                                     {"dynamic", {{"-:(?!model\\.layers\\.0\\.self_attn\\.q_proj).*", json::object()}}}};
}

void add_awq(tiny_model& m) {
  m.tensors.erase(layer + ".weight");
  m.tensors[layer + ".qweight"] = zeros("I32", {64, 8}, 4);
  m.tensors[layer + ".qzeros"] = zeros("I32", {2, 8}, 4);
  m.tensors[layer + ".scales"] = zeros("F16", {2, 64}, 2);
  m.config["quantization_config"] = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 32}, {"zero_point", true}, {"version", "gemm"},
                                     {"modules_to_not_convert", {"lm_head", "^(?!model\\.layers\\.0\\.self_attn\\.q_proj)"}}};
}

void add_mlx(tiny_model& m) {
  m.tensors[layer + ".weight"] = zeros("U32", {64, 8}, 4);
  m.tensors[layer + ".scales"] = zeros("F16", {64, 2}, 2);
  m.tensors[layer + ".biases"] = zeros("F16", {64, 2}, 2);
  m.config["quantization"] = {{"group_size", 32}, {"bits", 4}, {"mode", "affine"}};
}

/// compressed-tensors, packed integers.
void add_ct(tiny_model& m) {
  m.tensors.erase(layer + ".weight");
  m.tensors[layer + ".weight_packed"] = zeros("I32", {64, 8}, 4);
  m.tensors[layer + ".weight_scale"] = zeros("F16", {64, 2}, 2);
  m.tensors[layer + ".weight_shape"] = {"I64", {2}, bytes_of(std::int64_t{64}) + bytes_of(std::int64_t{64})};
  m.config["quantization_config"] = {
      {"quant_method", "compressed-tensors"}, {"format", "pack-quantized"}, {"quantization_status", "compressed"},
      {"ignore", {"lm_head", "re:^(?!model\\.layers\\.0\\.self_attn\\.q_proj).*"}},
      {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"input_activations", nullptr}, {"output_activations", nullptr},
                                       {"weights", {{"num_bits", 4}, {"type", "int"}, {"strategy", "group"}, {"group_size", 32}, {"symmetric", true}}}}}}}};
}

/// FP8 in tiles, as DeepSeek stores it.
void add_fp8(tiny_model& m) {
  m.tensors[layer + ".weight"] = zeros("F8_E4M3", {64, 64}, 1);
  m.tensors[layer + ".weight_scale_inv"] = zeros("F32", {1, 1}, 4);
  m.config["quantization_config"] = {{"quant_method", "fp8"}, {"activation_scheme", "dynamic"}, {"fmt", "e4m3"}, {"weight_block_size", {128, 128}},
                                     {"modules_to_not_convert", {"lm_head"}}};
}

class list {
 public:
  using adder = void (*)(tiny_model&);
  explicit list(std::string kind, adder add) : kind_(std::move(kind)), add_(add) {}

  void change(std::string name, std::function<void(tiny_model&)> what, std::vector<std::string> says, int status = bad_input,
              std::vector<std::string> arguments = {"inspect", "@/model"}) {
    all_.push_back({kind_ + ": " + std::move(name), changed_model([add = add_, what = std::move(what)](tiny_model& m) {
                      add(m);
                      what(m);
                    }),
                    std::move(arguments), status, std::move(says)});
  }
  /// A key of quantization_config.
  void key(const std::string& name, const json& value, std::vector<std::string> says, int status = bad_input) {
    change(name + " is " + value.dump().substr(0, 60), [name, value](tiny_model& m) { m.config["quantization_config"][name] = value; }, std::move(says), status);
  }
  void tensor(std::string name, const std::string& part, support::tiny_tensor t, std::vector<std::string> says, int status = bad_input) {
    says.push_back(layer + "." + part);
    change(std::move(name), [part, t = std::move(t)](tiny_model& m) { m.tensors[layer + "." + part] = t; }, std::move(says), status);
  }
  void missing(const std::string& part) {
    change("no " + part, [part](tiny_model& m) { m.tensors.erase(layer + "." + part); }, {layer + "." + part, "@/model"});
  }
  std::vector<one_case> take() { return std::move(all_); }

 private:
  std::string kind_;
  adder add_;
  std::vector<one_case> all_;
};

std::vector<one_case> gptq() {
  list l("GPTQ", add_gptq);
  l.change("sound", [](tiny_model&) {}, {}, accepted);
  for (const json& bits : {json(0), json(-4), json(1), json(3.5), json(99), json(INT64_MAX), json("4"), json(nullptr), json({4}), json(true)}) l.key("bits", bits, {"bits"});
  l.key("bits", 8, {"qweight", weights});
  l.key("bits", 2, {"qweight", weights});
  for (const json& group : {json(0), json(-7), json(INT64_MIN), json(1e300), json("32"), json(nullptr), json(json::array())}) l.key("group_size", group, {"group_size"});
  l.key("group_size", 16, {"qzeros", weights});
  l.key("group_size", 64, {"qzeros", weights});
  l.key("group_size", -1, {"qzeros", weights});
  l.key("group_size", 1 << 20, {"qzeros", weights});
  l.key("quant_method", nullptr, {"quant_method", config_file});
  l.key("quant_method", 7, {"quant_method", config_file});
  l.key("quant_method", "magic", {"magic", config_file}, unsupported);
  l.key("quant_method", "awq", {"qweight"});
  l.key("checkpoint_format", "marlin", {"marlin"}, unsupported);
  l.key("pack_dtype", "int8", {"int8"}, unsupported);
  l.key("desc_act", "maybe", {"desc_act"});
  l.key("sym", 2, {"sym"});
  l.key("dynamic", {{"+:([", json::object()}}, {"(["});
  l.key("dynamic", {{"+:.*", 5}}, {"no object"});
  l.key("dynamic", {{"+:(a+)+$", json::object()}}, {}, accepted);
  l.key("dynamic", json::array({1}), {"dynamic"});
  l.change("5,000 patterns", [](tiny_model& m) {
    json many = json::object();
    for (int i = 0; i < 5000; ++i) many["+:a" + std::to_string(i)] = json::object();
    m.config["quantization_config"]["dynamic"] = many;
  }, {"patterns"});
  l.change("quantization_config is a text", [](tiny_model& m) { m.config["quantization_config"] = "gptq"; }, {"no configuration", config_file});
  l.change("quantization_config is a list", [](tiny_model& m) { m.config["quantization_config"] = json::array(); }, {"no configuration", config_file});
  l.change("no configuration at all", [](tiny_model& m) { m.config.erase("quantization_config"); }, {"no configuration"});
  l.change("no qweight", [](tiny_model& m) { m.tensors.erase(layer + ".qweight"); }, {"missing", "@/model", layer + ".weight"});
  for (const char* part : {"qzeros", "scales"}) l.missing(part);
  l.tensor("words of another type", "qweight", zeros("F32", {8, 64}, 4), {weights});
  l.tensor("words on their side", "qweight", zeros("I32", {64, 8}, 4), {weights});
  l.tensor("no words", "qweight", zeros("I32", {0, 64}, 4), {weights});
  l.tensor("scales of another type", "scales", zeros("I16", {2, 64}, 2), {weights});
  l.tensor("scales for another group size", "scales", zeros("F16", {4, 64}, 2), {weights});
  l.tensor("zero points of another shape", "qzeros", zeros("I32", {8, 2}, 4), {weights});
  for (const std::int32_t wrong : {2, -1, INT32_MAX, INT32_MIN}) {
    std::string order = repeated(bytes_of(std::int32_t{0}), 63) + bytes_of(wrong);
    l.tensor("a column of group " + std::to_string(wrong), "g_idx", {"I32", {64}, order}, {"column 63", weights});
  }
  l.tensor("groups for half of the columns", "g_idx", zeros("I32", {32}, 4), {weights});
  l.tensor("groups that are fractions", "g_idx", zeros("F32", {64}, 4), {weights});
  l.change("a NaN as scale", [](tiny_model& m) { m.tensors[layer + ".scales"].bytes.replace(0, 2, "\xFF\x7F"); }, {"NaN or infinity", weights, layer}, bad_input, {"eval", "--model", "@/model", "--ppl", "@/model/config.json"});
  l.change("the layer is stored twice", [](tiny_model& m) { m.tensors[layer + ".weight"] = zeros("BF16", {64, 64}, 2); }, {"twice", layer}, failed_verification, {"verify", "@/model"});
  l.change("packed words of a layer that the model does not have", [](tiny_model& m) { m.tensors["model.layers.7.mlp.up_proj.qweight"] = zeros("I32", {8, 64}, 4); },
           {"no layer", "model.layers.7"}, failed_verification, {"verify", "@/model"});
  return l.take();
}

/// Layers that are told by their tensors alone, without a model class.
std::vector<one_case> shard_wise() {
  list l("shard by shard", add_ct);
  const std::vector<std::string> line = rounds({"--model_free"});
  const auto part = [&](std::string name, const std::string& which, support::tiny_tensor t, std::vector<std::string> says) {
    says.push_back(layer);
    l.change(std::move(name), [which, t = std::move(t)](tiny_model& m) { m.tensors[layer + "." + which] = t; }, std::move(says), bad_input, line);
  };
  l.change("sound", [](tiny_model&) {}, {}, accepted, line);
  for (const char* gone : {"weight_packed", "weight_scale"})
    l.change(std::string("no ") + gone, [gone](tiny_model& m) { m.tensors.erase(layer + "." + gone); }, {layer}, bad_input, line);
  l.change("no weight_shape: eight codes in a word", [](tiny_model& m) { m.tensors.erase(layer + ".weight_shape"); }, {}, accepted, line);
  for (const std::int64_t cols : {std::int64_t{0}, std::int64_t{-64}, std::int64_t{63}, std::int64_t{1000}, std::int64_t{1} << 41, INT64_MAX, INT64_MIN})
    part("weight_shape says " + std::to_string(cols) + " columns", "weight_shape", {"I64", {2}, bytes_of(std::int64_t{64}) + bytes_of(cols)}, {weights});
  part("weight_shape says other rows", "weight_shape", {"I64", {2}, bytes_of(std::int64_t{32}) + bytes_of(std::int64_t{64})}, {"weight_shape", weights});
  part("weight_shape is one number", "weight_shape", {"I64", {1}, bytes_of(std::int64_t{64})}, {"weight_shape"});
  part("weight_shape is fractions", "weight_shape", zeros("F64", {2}, 8), {"weight_shape"});
  part("words of another type", "weight_packed", zeros("F32", {64, 8}, 4), {"weight_packed"});
  part("words in three dimensions", "weight_packed", zeros("I32", {2, 32, 8}, 4), {"weight_packed"});
  part("no words", "weight_packed", zeros("I32", {0, 8}, 4), {"weight_shape"});
  part("words without columns", "weight_packed", zeros("I32", {64, 0}, 4), {"weight_packed"});
  part("words with too few rows", "weight_packed", zeros("I32", {32, 8}, 4), {"weight_shape"});
  part("scales of another type", "weight_scale", zeros("I16", {64, 2}, 2), {"weight_scale"});
  part("scales in three dimensions", "weight_scale", zeros("F16", {64, 2, 1}, 2), {"weight_scale"});
  part("no scales at all", "weight_scale", zeros("F16", {64, 0}, 2), {"weight_scale"});
  part("scales for no number of columns", "weight_scale", zeros("F16", {64, 7}, 2), {"weight_scale"});
  part("zero points of another shape", "weight_zero_point", zeros("I32", {7, 2}, 4), {"weight_zero_point"});
  part("a group of each column, but one", "weight_g_idx", zeros("I32", {63}, 4), {"weight_g_idx"});
  part("a column of a group that is not there", "weight_g_idx", {"I32", {64}, repeated(bytes_of(std::int32_t{9}), 64)}, {"weight_g_idx", "group 9"});
  part("scales of the whole tensor without a layer for them", "weight_scale_2", zeros("F32", {1}, 4), {"weight_scale_2"});
  part("scales that are infinite", "weight_scale", {"F16", {64, 2}, repeated(std::string("\x00\x7C", 2), 128)}, {"NaN or infinity"});
  return l.take();
}

std::vector<one_case> others() {
  std::vector<one_case> all;
  const auto add = [&](std::vector<one_case> more) { all.insert(all.end(), more.begin(), more.end()); };
  list awq("AWQ", add_awq);
  awq.change("sound", [](tiny_model&) {}, {}, accepted);
  awq.key("bits", 3, {"bits"});
  awq.key("group_size", 0, {"group_size"});
  awq.key("group_size", 64, {"qzeros"});
  awq.key("version", "gemv", {"gemv"}, unsupported);
  awq.key("version", 5, {"version"});
  awq.key("modules_to_not_convert", "lm_head", {"modules_to_not_convert"});
  awq.missing("scales");
  awq.missing("qzeros");
  awq.tensor("words on their side", "qweight", zeros("I32", {8, 64}, 4), {weights});
  add(awq.take());

  list mlx("MLX", add_mlx);
  const auto quantization = [&](const std::string& name, const json& value, std::vector<std::string> says, int status = bad_input) {
    mlx.change(name + " is " + value.dump(), [name, value](tiny_model& m) { m.config["quantization"][name] = value; }, std::move(says), status);
  };
  mlx.change("sound", [](tiny_model&) {}, {}, accepted);
  quantization("bits", 7, {"bits"});
  quantization("bits", 4.5, {"bits"});
  quantization("bits", 8, {layer});
  quantization("group_size", 0, {"group_size"});
  quantization("group_size", -32, {"group_size"});
  quantization("group_size", 64, {layer});
  quantization("mode", "mxfp4", {"mxfp4"}, unsupported);
  quantization(layer, {{"bits", "x"}}, {"bits"});
  mlx.change("quantization is a list", [](tiny_model& m) { m.config["quantization"] = json::array(); }, {"shape [64, 8]", weights, layer});
  mlx.missing("biases");
  mlx.tensor("scales of another shape", "scales", zeros("F16", {2, 64}, 2), {weights});
  add(mlx.take());

  list ct("compressed-tensors", add_ct);
  const auto group = [&](std::string name, std::function<void(json& weights)> what, std::vector<std::string> says, int status = bad_input) {
    ct.change(std::move(name), [what = std::move(what)](tiny_model& m) { what(m.config["quantization_config"]["config_groups"]["group_0"]["weights"]); }, std::move(says), status);
  };
  ct.change("sound", [](tiny_model&) {}, {}, accepted);
  group("num_bits 0", [](json& w) { w["num_bits"] = 0; }, {"bits"});
  group("num_bits 64", [](json& w) { w["num_bits"] = 64; }, {"bits"});
  group("num_bits is a text", [](json& w) { w["num_bits"] = "four"; }, {"bits"});
  group("num_bits 8", [](json& w) { w["num_bits"] = 8; }, {"weight_packed", weights});
  group("group_size 0", [](json& w) { w["group_size"] = 0; }, {"group"});
  group("group_size -3", [](json& w) { w["group_size"] = -3; }, {"group"});
  group("group_size 64", [](json& w) { w["group_size"] = 64; }, {"weight_scale", weights});
  group("an unknown type", [](json& w) { w["type"] = "complex"; }, {"complex"});
  group("an unknown strategy", [](json& w) { w["strategy"] = "vibes"; }, {"vibes", config_file}, unsupported);
  group("columns in an order that is not stored", [](json& w) { w["actorder"] = "group"; }, {"actorder", "weight_g_idx"});
  group("an unknown order of columns", [](json& w) { w["actorder"] = "sideways"; }, {"actorder"});
  group("an order of columns that is a list", [](json& w) { w["actorder"] = json::array({"group"}); }, {"actorder"});
  group("weights is a text", [](json& w) { w = "int4"; }, {"weights"});
  ct.key("format", "marlin-24", {"marlin-24"}, unsupported);
  ct.key("format", 3, {"format"});
  ct.key("config_groups", json::array(), {"config_groups"});
  ct.key("config_groups", json::object(), {"config_groups"});
  ct.key("config_groups", {{"g", nullptr}}, {"targets", config_file});
  ct.key("ignore", "lm_head", {"ignore"});
  ct.key("ignore", {"re:(["}, {"(["});
  ct.missing("weight_packed");
  ct.missing("weight_scale");
  ct.tensor("weight_shape of another layer", "weight_shape", {"I64", {2}, bytes_of(std::int64_t{1} << 40) + bytes_of(std::int64_t{64})}, {weights});
  ct.tensor("weight_shape that is negative", "weight_shape", {"I64", {2}, bytes_of(std::int64_t{-64}) + bytes_of(std::int64_t{64})}, {weights});
  ct.tensor("weight_shape of three numbers", "weight_shape", zeros("I64", {3}, 8), {weights});
  ct.change("weight_g_idx out of range", [](tiny_model& m) { m.tensors[layer + ".weight_g_idx"] = {"I32", {64}, repeated(bytes_of(std::int32_t{5}), 64)}; },
            {"group 5", weights, layer + ".weight_g_idx"}, bad_input, {"eval", "--model", "@/model", "--ppl", "@/model/config.json", "--seqlen", "16"});
  add(ct.take());

  list fp8("FP8", add_fp8);
  fp8.key("weight_block_size", {0, 128}, {"weight_block_size"});
  fp8.key("weight_block_size", {-128, 128}, {"weight_block_size"});
  fp8.key("weight_block_size", {128}, {"weight_block_size"});
  fp8.key("weight_block_size", "128", {"weight_block_size"});
  fp8.key("weight_block_size", {16, 16}, {"weight_scale_inv"});
  fp8.change("no scales", [](tiny_model& m) { m.tensors.erase(layer + ".weight_scale_inv"); }, {"missing", "@/model", layer + ".weight_scale"});
  fp8.tensor("scales of another type", "weight_scale_inv", zeros("I32", {1, 1}, 4), {weights});
  add(fp8.take());
  return all;
}

}  // namespace

std::vector<one_case> packed_cases() {
  std::vector<one_case> all = gptq();
  for (const std::vector<one_case>& more : {others(), shard_wise()}) all.insert(all.end(), more.begin(), more.end());
  return all;
}

}  // namespace hostile
