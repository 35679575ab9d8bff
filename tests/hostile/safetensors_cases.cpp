// model.safetensors, from its length field to values of tensors. The model is otherwise sound, and is to be rounded.
#include <cmath>
#include <utility>

#include "hostile/model_files.hpp"

namespace hostile {
namespace {

constexpr const char* file = "@/model/model.safetensors";
constexpr const char* layer = "model.layers.0.self_attn.q_proj.weight";

std::string entry(const std::string& name, const std::string& type, const std::string& shape, const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + type + "\",\"shape\":[" + shape + "],\"data_offsets\":[" + offsets + "]}";
}
std::string one(const std::string& type, const std::string& shape, const std::string& offsets, std::size_t data_bytes) {
  return safetensors_file("{" + entry("t", type, shape, offsets) + "}", std::string(data_bytes, '\0'));
}

class list {
 public:
  /// The whole file.
  void bytes(std::string name, std::string content, std::vector<std::string> says, int status = bad_input) {
    says.insert(says.begin(), file);
    all_.push_back({std::move(name), model_with("model.safetensors", std::move(content)), rounds(), status, std::move(says)});
  }
  void header(std::string name, const std::string& text, std::vector<std::string> says) { bytes(std::move(name), safetensors_file(text, "1234"), std::move(says)); }
  /// Fields of the entry "t".
  void fields(std::string name, const std::string& text, std::vector<std::string> says) {
    says.emplace_back("tensor t");
    header(std::move(name), "{\"t\":{" + text + "}}", std::move(says));
  }
  void tensor(std::string name, const std::string& type, const std::string& shape, const std::string& offsets, std::size_t data_bytes,
              std::vector<std::string> says, int status = bad_input) {
    says.emplace_back("tensor t");
    bytes(std::move(name), one(type, shape, offsets, data_bytes), std::move(says), status);
  }
  /// The header of the sound model is changed.
  void edited(std::string name, std::function<void(json& header, std::string& data)> change, std::vector<std::string> says, int status = bad_input) {
    if (status != accepted && name != "no tensors at all") says.insert(says.begin(), file);
    all_.push_back({std::move(name),
                    [change = std::move(change)](const fs::path& dir) {
                      tiny_model().write(dir / "model", [&](std::string& whole) {
                        std::uint64_t n = 0;
                        std::memcpy(&n, whole.data(), 8);
                        json header = json::parse(whole.substr(8, n));
                        std::string data = whole.substr(8 + n);
                        change(header, data);
                        whole = safetensors_file(header.dump(), data);
                      });
                    },
                    rounds(), status, std::move(says)});
  }
  /// The text of the sound model's header is changed.
  void text(std::string name, std::function<void(std::string&)> change, std::vector<std::string> says, int status = bad_input) {
    all_.push_back({std::move(name),
                    [change = std::move(change)](const fs::path& dir) {
                      tiny_model().write(dir / "model", [&](std::string& whole) {
                        std::uint64_t n = 0;
                        std::memcpy(&n, whole.data(), 8);
                        std::string header = whole.substr(8, n);
                        change(header);
                        whole = safetensors_file(header, whole.substr(8 + n));
                      });
                    },
                    rounds(), status, std::move(says)});
  }
  void model(std::string name, std::function<void(tiny_model&)> change, std::vector<std::string> says, int status = bad_input) {
    all_.push_back({std::move(name), changed_model(std::move(change)), rounds(), status, std::move(says)});
  }
  std::vector<one_case> take() { return std::move(all_); }

 private:
  std::vector<one_case> all_;
};

void lengths(list& l) {
  const auto length = [](std::uint64_t n) { return bytes_of(n); };
  l.bytes("empty file", "", {"shorter than 8 bytes"});
  l.bytes("one byte", "{", {"shorter than 8 bytes"});
  l.bytes("seven bytes", std::string(7, '\0'), {"shorter than 8 bytes"});
  l.bytes("length 0", length(0) + "{}", {"header"});
  l.bytes("length 1", length(1) + "{}", {"header"});
  l.bytes("length one beyond the file", length(3) + "{}", {"cut short"});
  l.bytes("length 2^31", length(std::uint64_t{1} << 31) + "{}", {"claims 2147483648 bytes"});
  l.bytes("length 2^63", length(std::uint64_t{1} << 63) + "{}", {"claims 9223372036854775808 bytes"});
  l.bytes("length 2^64-1", length(UINT64_MAX) + "{}", {"claims 18446744073709551615 bytes"});
  l.bytes("length that wraps when 8 is added", length(UINT64_MAX - 7) + "{}", {"claims"});
  l.bytes("length at the cap, file short", length(100'000'000) + "{}", {"cut short"});
  l.bytes("length above the cap", length(100'000'001) + "{}", {"claims 100000001 bytes"});
  l.bytes("a pickle", "PK\x03\x04" + std::string(60, 'x'), {"no safetensors file"});
  l.bytes("a web page", "<!DOCTYPE html><html>" + std::string(60, ' '), {"no safetensors file"});
  l.bytes("a pointer of Git LFS", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n", {"no safetensors file"});
  l.bytes("a GGUF file", "GGUF" + bytes_of(3) + std::string(64, '\0'), {"header"});
  l.bytes("gzip", "\x1F\x8B\x08" + std::string(61, 'z'), {"no safetensors file"});
  l.bytes("only zero bytes", std::string(4096, '\0'), {"header"});
  l.bytes("only 0xFF", std::string(4096, '\xFF'), {"claims 18446744073709551615 bytes"});
}

void syntax(list& l) {
  const std::string good = entry("t", "F32", "1", "0,4");
  l.header("header is an array", "[]", {"no JSON object"});
  l.header("header is a number", "1", {"no JSON object"});
  l.header("header is null", "null", {"no JSON object"});
  l.header("header is a string", "\"{}\"", {"no JSON object"});
  l.header("header padded with zero bytes", "{" + good + "}" + std::string(3, '\0'), {"zero byte"});
  l.header("byte order mark", "\xEF\xBB\xBF{" + good + "}", {"byte order mark"});
  l.header("UTF-16", std::string("{\0}\0", 4), {"zero byte"});
  l.header("unfinished", "{\"t\"", {"header"});
  l.header("a byte that is no UTF-8 in a name", "{\"\xFF\":{}}", {"UTF-8"});
  l.header("an overlong sequence in a name", "{\"\xC0\xAE\":{}}", {"UTF-8"});
  l.header("a surrogate as UTF-8 in a name", "{\"\xED\xA0\x80\":{}}", {"UTF-8"});
  l.header("a lone surrogate in a name", "{\"\\ud800\":{}}", {"surrogate"});
  l.header("a line feed in a name", "{\"a\nb\":{}}", {"header"});
  l.header("100,000 open brackets", "{\"t\":{\"x\":" + std::string(100'000, '['), {"too deep"});
  l.header("100,000 brackets, closed", "{\"t\":{\"x\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}}", {"too deep"});
  l.header("two objects", "{}{}", {"header"});
  l.header("trailing comma", "{" + good + ",}", {"header"});
  l.header("comment", "{" + good + "} // x", {"header"});
  l.header("single quotes", "{'t':1}", {"header"});
  l.header("NaN in a field nobody reads", "{\"t\":{\"x\":NaN}}", {"NaN is not JSON"});
  l.header("Infinity in a field nobody reads", "{\"t\":{\"x\":Infinity}}", {"Infinity is not JSON"});
  l.header("a number of 100,000 digits", "{\"t\":{\"x\":" + std::string(100'000, '9') + "}}", {"too large"});
  l.header("a name twice", "{" + entry("t", "F32", "1", "0,4") + "," + entry("t", "F32", "0", "4,4") + "}", {"twice", "tensor t"});
  l.header("a name twice, once by escapes", "{" + entry("t", "F32", "1", "0,4") + "," + entry("\\u0074", "F32", "0", "4,4") + "}", {"twice", "tensor t"});
  l.header("a name of 4,097 bytes", "{" + entry(std::string(4097, 'n'), "F32", "1", "0,4") + "}", {"4096"});
  l.text("a name of 17 MB", [](std::string& header) { header = "{" + entry(std::string(17u << 20, 'n'), "F32", "1", "0,4") + "}"; }, {file, "longer than"});
}

void entries(list& l) {
  l.header("entry is a number", "{\"t\":1}", {"no object", "tensor t"});
  l.header("entry is an array", "{\"t\":[\"F32\",[1],[0,4]]}", {"no object", "tensor t"});
  l.header("entry is null", "{\"t\":null}", {"no object", "tensor t"});
  l.fields("empty entry", "", {"missing"});
  l.fields("no dtype", R"("shape":[1],"data_offsets":[0,4])", {"missing"});
  l.fields("no shape", R"("dtype":"F32","data_offsets":[0,4])", {"missing"});
  l.fields("no offsets", R"("dtype":"F32","shape":[1])", {"missing"});
  l.fields("dtype twice", R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])", {"twice"});
  l.fields("shape twice", R"("dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4])", {"twice"});
  l.fields("offsets twice", R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4])", {"twice"});
  l.fields("dtype is a number", R"("dtype":4,"shape":[1],"data_offsets":[0,4])", {"no string"});
  l.fields("dtype is null", R"("dtype":null,"shape":[1],"data_offsets":[0,4])", {"no string"});
  l.tensor("dtype unknown", "F33", "1", "0,4", 4, {"unknown"});
  l.tensor("dtype in lower case", "f32", "1", "0,4", 4, {"unknown"});
  l.tensor("dtype empty", "", "1", "0,4", 4, {"unknown"});
  l.tensor("dtype of a megabyte", std::string(1u << 20, 'F'), "1", "0,4", 4, {"unknown"});
  l.tensor("dtype with a zero byte", "F32\\u0000", "1", "0,4", 4, {"unknown"});
  l.tensor("dtype F4, which the format has", "F4", "8", "0,4", 4, {"F4"}, unsupported);
  l.tensor("dtype C64, which the format has", "C64", "1", "0,8", 8, {"C64"}, unsupported);
  l.fields("shape is a number", R"("dtype":"F32","shape":1,"data_offsets":[0,4])", {"arrays"});
  l.fields("shape is an object", R"("dtype":"F32","shape":{},"data_offsets":[0,4])", {"arrays"});
  l.fields("shape is null", R"("dtype":"F32","shape":null,"data_offsets":[0,4])", {"arrays"});
  l.tensor("shape of strings", "F32", "\"1\"", "0,4", 4, {"no number"});
  l.tensor("shape of arrays", "F32", "[1]", "0,4", 4, {"no number"});
  l.tensor("shape of booleans", "F32", "true", "0,4", 4, {"no number"});
  l.tensor("shape 1.0", "F32", "1.0", "0,4", 4, {"whole number"});
  l.tensor("shape 1e0", "F32", "1e0", "0,4", 4, {"whole number"});
  l.tensor("shape -1", "F32", "-1", "0,4", 4, {"whole number"});
  l.tensor("shape -0", "F32", "-0", "0,0", 0, {"whole number"});
  l.tensor("shape 2^64", "F32", "18446744073709551616", "0,4", 4, {"whole number"});
  l.tensor("shape 1e400", "F32", "1e400", "0,4", 4, {"too large"});
  l.tensor("shape NaN", "F32", "NaN", "0,4", 4, {"NaN is not JSON"});
  l.tensor("shape with 1,025 axes", "U8", "1" + repeated(",1", 1024), "0,1", 1, {"1024"});
  l.tensor("one offset", "F32", "1", "0", 4, {"two numbers"});
  l.tensor("three offsets", "F32", "1", "0,4,8", 4, {"more than 2"});
  l.tensor("offsets of strings", "F32", "1", "\"0\",\"4\"", 4, {"no number"});
  l.tensor("offset -1", "F32", "1", "-1,3", 4, {"whole number"});
  l.tensor("offset 0.5", "F32", "1", "0.5,4.5", 4, {"whole number"});
  l.header("__metadata__ is a number", "{\"__metadata__\":1}", {"__metadata__"});
  l.header("__metadata__ is an array", "{\"__metadata__\":[]}", {"__metadata__"});
  l.header("__metadata__ of numbers", "{\"__metadata__\":{\"a\":1}}", {"__metadata__"});
  l.header("__metadata__ of objects", "{\"__metadata__\":{\"a\":{}}}", {"__metadata__"});
  l.header("__metadata__ twice", "{\"__metadata__\":{},\"__metadata__\":{}}", {"__metadata__", "twice"});
  l.header("a key of __metadata__ twice", "{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", {"__metadata__", "twice"});
}

void extents(list& l) {
  l.tensor("begins behind its end", "F32", "1", "4,0", 4, {"bytes 4 to 0"});
  l.tensor("ends behind the file", "F32", "2", "0,8", 4, {"cut short"});
  l.tensor("begins behind the file", "F32", "1", "4,8", 8, {"must begin at 0"});
  l.tensor("shape needs more than the extent", "F32", "2", "0,4", 4, {"8 bytes and 4"});
  l.tensor("shape needs less than the extent", "F32", "1", "0,8", 8, {"4 bytes and 8"});
  l.tensor("product of the shape wraps to 4 bytes", "U8", "4611686018427387905,4", "0,4", 4, {"too large"});
  l.tensor("product wraps with the size of the type", "F32", "4611686018427387905", "0,4", 4, {"too large"});
  l.tensor("three axes of 2^32", "U8", "4294967296,4294967296,4294967296", "0,0", 0, {"too large"});
  l.tensor("offsets near 2^64", "U8", "4", "18446744073709551612,18446744073709551615", 4, {"must begin at 0"});
  l.tensor("rank 0 without data", "F32", "", "0,0", 0, {"4 bytes and 0"});
  l.header("two tensors on the same bytes", "{" + entry("a", "F32", "1", "0,4") + "," + entry("t", "F32", "1", "0,4") + "}", {"must begin at 4", "tensor t"});
  l.header("overlap by one byte", "{" + entry("a", "U8", "3", "0,3") + "," + entry("t", "U8", "2", "2,4") + "}", {"must begin at 3", "tensor t"});
  l.header("a hole between two tensors", "{" + entry("a", "U8", "1", "0,1") + "," + entry("t", "U8", "2", "2,4") + "}", {"must begin at 1", "tensor t"});
  l.header("a hole in front", "{" + entry("t", "U8", "3", "1,4") + "}", {"must begin at 0", "tensor t"});
  l.header("bytes behind the last tensor", "{" + entry("t", "U8", "1", "0,1") + "}", {"3 bytes follow"});
  l.header("no tensor for the data", "{}", {"4 bytes follow"});
}

void whole_models(list& l) {
  l.edited("no tensors at all", [](json& header, std::string& data) { header = json::object(), data.clear(); }, {"hold no tensor", "@/model"});
  l.edited("cut in the middle of the data", [](json&, std::string& data) { data.resize(data.size() / 2); }, {"cut short"});
  l.edited("cut by one byte", [](json&, std::string& data) { data.pop_back(); }, {"cut short"});
  l.edited("one byte too many", [](json&, std::string& data) { data += 'x'; }, {"1 bytes follow"});
  // Accepted: other names are carried along as they are, and name no file.
  const auto with_name = [](std::string name) {
    return [name = std::move(name)](json& header, std::string& data) {
      header[name] = {{"dtype", "F32"}, {"shape", {1}}, {"data_offsets", {data.size(), data.size() + 4}}};
      data += std::string(4, '\0');
    };
  };
  l.edited("a name that climbs out of the folder", with_name("../../../etc/passwd"), {}, accepted);
  l.edited("a name that is an absolute path", with_name("/etc/passwd"), {}, accepted);
  l.edited("an empty name", with_name(""), {}, accepted);
  l.edited("a name of control characters", with_name("\x1b[2J\x07\r\n"), {}, accepted);
  l.edited("a name with a zero byte", with_name(std::string("a\0b", 3)), {}, accepted);
  l.edited("a name that is a program's option", with_name("--output_dir=/tmp/x; rm -rf $HOME"), {}, accepted);
  l.edited("extents out of order, names too", [](json& header, std::string&) {
    json reversed = json::object();
    for (auto it = header.rbegin(); it != header.rend(); ++it) reversed[it.key()] = it.value();
    header = reversed;
  }, {}, accepted);
  l.model("a tensor is missing", [](tiny_model& m) { m.tensors.erase(layer); }, {"missing", "@/model", layer});
  l.model("the norm is missing", [](tiny_model& m) { m.tensors.erase("model.norm.weight"); }, {"missing", "@/model", "model.norm.weight"});
  l.model("the head is missing", [](tiny_model& m) { m.tensors.erase("lm_head.weight"); }, {"missing", "@/model", "lm_head.weight"});
  l.model("a matrix lies on its side", [](tiny_model& m) { std::swap(m.tensors["lm_head.weight"].shape[0], m.tensors["lm_head.weight"].shape[1]); },
          {"shape [64, 256]", file, "lm_head.weight"});
  l.model("a matrix is a vector", [](tiny_model& m) { m.tensors[layer].shape = {64 * 64}; }, {"shape [4096]", file, layer});
  l.model("a matrix has a third axis", [](tiny_model& m) { m.tensors[layer].shape = {64, 64, 1}; }, {"shape [64, 64, 1]", file, layer});
  l.model("a weight without elements", [](tiny_model& m) { m.tensors[layer] = {"BF16", {0, 64}, ""}; }, {"shape [0, 64]", file, layer});
  l.model("a norm of one value", [](tiny_model& m) { m.tensors["model.norm.weight"] = {"BF16", {1}, std::string(2, '\0')}; }, {"shape [1]", file, "model.norm.weight"});
  // Nor is there a way around the model class, where a weight is of no type that could be rounded.
  l.model("integer weights", [](tiny_model& m) { m.tensors[layer].dtype = "I16"; }, {"I16", file, layer}, unsupported);
  l.model("boolean weights", [](tiny_model& m) { m.tensors[layer] = {"BOOL", {64, 64}, std::string(64 * 64, '\2')}; }, {"BOOL", file, layer}, unsupported);
  l.model("a NaN in a weight", [](tiny_model& m) { m.set(layer, 77, std::nanf("")); }, {"NaN or infinity", "value 77", file, layer});
  l.model("an infinity in a weight", [](tiny_model& m) { m.set(layer, 4095, INFINITY); }, {"NaN or infinity", "value 4095", file, layer});
  l.model("a NaN in a norm", [](tiny_model& m) { m.set("model.norm.weight", 0, std::nanf("")); }, {"NaN or infinity", file, "model.norm.weight"});
  l.model("an infinity in the embedding", [](tiny_model& m) { m.set("model.embed_tokens.weight", 5, -INFINITY); }, {"NaN or infinity", file, "model.embed_tokens.weight"});
  l.model("a NaN in a double", [](tiny_model& m) {
    std::string bytes(64 * 64 * 8, '\0');
    const double nan = std::nan("");
    std::memcpy(bytes.data() + 8 * 9, &nan, 8);
    m.tensors[layer] = {"F64", {64, 64}, bytes};
  }, {"NaN or infinity", "value 9", file, layer});
  l.model("weights that are all zero", [](tiny_model& m) { m.tensors[layer].bytes.assign(64 * 64 * 2, '\0'); }, {}, accepted);
  l.model("weights at the largest number", [](tiny_model& m) {
    for (std::size_t i = 0; i < 64 * 64; ++i) m.set(layer, i, (i % 2 != 0 ? -1.0f : 1.0f) * 3.38e38f);
  }, {"overflows half precision", file, layer});
  l.model("weights that are denormal", [](tiny_model& m) {
    for (std::size_t i = 0; i < 64 * 64; ++i) m.set(layer, i, 1e-40f);
  }, {}, accepted);
  l.text("20,000 empty tensors besides", [](std::string& header) {
    std::string more = "{";
    for (int i = 0; i < 20'000; ++i) more += entry("x" + std::to_string(i), "U8", "0", "0,0") + ",";
    header.replace(0, 1, more);
  }, {}, accepted);
  // 100 bytes of header each name 65,536 pieces to take apart.
  const auto experts = [](const char* model_class, std::uint64_t count) {
    return [model_class, count](tiny_model& m) {
      m.config["architectures"] = {model_class};
      for (int i = 0; i < 1000; ++i) m.tensors["model.layers." + std::to_string(i) + ".mlp.experts.gate_up_proj"] = {"BF16", {count, 0, 64}, ""};
    };
  };
  l.model("1,000 empty tensors of 65,536 experts", experts("MixtralForCausalLM", 65536), {"block_sparse_moe", "@/model"});
  l.model("1,000 empty tensors of 2^40 experts, of no class known", experts("EvilForCausalLM", std::uint64_t{1} << 40), {}, accepted);
}

}  // namespace

std::vector<one_case> safetensors_cases() {
  list l;
  lengths(l);
  syntax(l);
  entries(l);
  extents(l);
  whole_models(l);
  return l.take();
}

}  // namespace hostile
