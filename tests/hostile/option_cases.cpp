// Command lines that contradict themselves, numbers beyond all, and configuration files of options.
#include "hostile/model_files.hpp"

namespace hostile {
namespace {

class list {
 public:
  void line(std::string name, std::vector<std::string> arguments, std::vector<std::string> says, int status = usage) {
    all_.push_back({std::move(name), [](const fs::path& dir) {
                      tiny_model().write(dir / "model");
                      put(dir / "calib.jsonl", tiny_model::calibration(8));
                    }, std::move(arguments), status, std::move(says)});
  }
  /// Behind a line that is right.
  void more(std::string name, const std::vector<std::string>& more, std::vector<std::string> says, int status = usage) { line(std::move(name), rounds(more), std::move(says), status); }
  void number(const std::string& option, const std::vector<std::string>& values, const std::string& says, int status = usage) {
    for (const std::string& v : values) more("--" + option + " '" + v + "'", {"--" + option, v}, {says}, status);
  }
  void config(std::string name, std::string content, std::vector<std::string> says, int status = usage) {
    says.push_back("@/options.json");
    all_.push_back({"--config: " + std::move(name), [content = std::move(content)](const fs::path& dir) {
                      tiny_model().write(dir / "model");
                      put(dir / "options.json", content);
                    }, rounds({"--config", "@/options.json"}), status, std::move(says)});
  }
  std::vector<one_case> take() { return std::move(all_); }

 private:
  std::vector<one_case> all_;
};

}  // namespace

std::vector<one_case> option_cases() {
  list l;
  l.line("no argument at all", {}, {"no model"});
  l.line("an empty argument", {""}, {"no model"});
  l.line("an unknown command", {"destroy", "--nothing"}, {"--nothing"});
  l.line("no model", {"quantize"}, {"no model"});
  l.line("an empty model", {"quantize", "--model", ""}, {"no model"});
  l.line("an option without value", {"quantize", "--model"}, {"--model"});
  l.line("two models", {"quantize", "@/model", "@/other", "--output_dir", "@/out"}, {"@/other"});
  l.line("a name of 100,000 letters", {"quantize", "--" + std::string(100'000, 'x')}, {"unrecognized"});
  l.line("a model of 100,000 letters", {"quantize", "--model", "/" + std::string(100'000, 'x')}, {"no such"}, bad_input);
  l.line("a model of control characters", {"inspect", "\x1b[2J\nerror: all is well"}, {"no such"}, bad_input);
  l.line("a model that is no UTF-8", {"inspect", "\xFF\xFE"}, {"no such"}, bad_input);
  l.more("an unknown option", {"--turbo"}, {"--turbo"});
  l.more("an option of no letters", {"--=5"}, {"ambiguous"});
  l.more("an ambiguous beginning", {"--s", "1"}, {"--s"});
  l.more("a flag with a value", {"--asym=1"}, {"--asym"});
  l.more("an option twice, the last is wrong", {"--seed", "1", "--seed", "x"}, {"--seed"});
  l.more("options that exclude each other", {"--enable_opt_rtn"}, {"--enable_opt_rtn"});
  l.number("bits", {"0", "-4", "3.5", "four", "", "9223372036854775808", "1e400", "nan", "0x4", "4 ", "\xD9\xA4"}, "bits");
  l.number("bits", {"99", "1000000"}, "bits", unsupported);
  l.number("group_size", {"0.5", "-7", "9223372036854775807", "99999999999999999999", "1,2,3", ",", "abc"}, "group");
  l.number("iters", {"-1", "1e99", "x"}, "--iters");
  l.number("nsamples", {"0", "-5", "1e30"}, "--nsamples");
  l.number("seqlen", {"0", "-1"}, "--seqlen");
  l.number("batch_size", {"0", "-8"}, "--batch_size");
  l.number("nblocks", {"0", "-1"}, "--nblocks");
  l.number("threads", {"0", "-2", "5000", "4294967297", "x"}, "--threads");
  l.number("lr", {"-1", "inf", "nan", "1e999"}, "");
  l.number("max_shard_size", {"0", "-5GB", "99999999999999999999GB", "9223372036854775807GB", "GB", "5XB", "nanGB", ""}, "--max_shard_size");
  l.number("scheme", {"W0A16", "W99A16", "W4A16G0", "W4A16G99999999999999999999", "../../etc/passwd", std::string(10'000, 'W')}, "scheme");
  l.number("format", {"", ","}, "format");
  l.number("format", {"gguf", "gguf:q99_k", "pickle", "../x"}, "format", unsupported);
  l.number("algorithm", {"magic", "rtn,magic"}, "--algorithm");
  l.number("progress", {"dance"}, "--progress");
  l.number("layer_config", {"{", "{a:}", "{a:{bits:999}}", "{\"a\":", "[]", "{a:{bits:-1}}", std::string(5'000, '{'), "@/nothing.json"}, "layer_config");
  l.number("to_quant_block_names", {"([", "nobody"}, "to_quant_block_names");
  l.more("a log into nowhere", {"--log_json", "@/nowhere/log"}, {"@/nowhere/log"}, bad_output);
  l.line("output into the model", {"quantize", "--model", "@/model", "--output_dir", "@/model", "--iters", "0"}, {"@/model"}, bad_output);
  l.line("output below the model", {"quantize", "--model", "@/model", "--output_dir", "@/model/config.json/x", "--iters", "0"}, {"@/model/config.json"}, bad_output);
  l.line("output into a file", {"quantize", "--model", "@/model", "--output_dir", "@/calib.jsonl", "--iters", "0"}, {"@/calib.jsonl"}, bad_output);
  l.line("output into a device", {"quantize", "--model", "@/model", "--output_dir", "/dev/null", "--iters", "0"}, {"/dev/null"}, bad_output);
  l.line("eval without text", {"eval", "--model", "@/model"}, {"--ppl"});
  for (const char* n : {"0", "1", "-1", "9223372036854775807"}) l.line(std::string("eval --seqlen ") + n, {"eval", "--model", "@/model", "--ppl", "@/calib.jsonl", "--seqlen", n}, {}, n[0] == '9' ? bad_input : usage);
  l.line("eval --max_tokens -1", {"eval", "--model", "@/model", "--ppl", "@/calib.jsonl", "--seqlen", "16", "--max_tokens", "-1"}, {"--max_tokens"});
  l.line("eval of a task that does not exist", {"eval", "--model", "@/model", "--tasks", "../../etc", "--task_dir", "@/"}, {"../../etc"});
  l.line("generate without prompt", {"generate", "--model", "@/model"}, {"prompt"});
  for (const char* n : {"0", "-1"}) l.line(std::string("generate --max_tokens ") + n, {"generate", "--model", "@/model", "--prompt", "a", "--max_tokens", n}, {"--max_tokens"});
  // The context of the model ends it.
  l.line("generate --max_tokens 2^63-1", {"generate", "--model", "@/model", "--prompt", "a", "--max_tokens", "9223372036854775807"}, {}, accepted);
  for (const char* t : {"-1", "nan", "inf", "hot"}) l.line(std::string("generate --temperature ") + t, {"generate", "--model", "@/model", "--prompt", "a", "--temperature", t}, {"--temperature"});
  l.line("list of what is not there", {"list", "passwords"}, {"passwords"});
  l.line("completion for no shell", {"completion", "../../bin/sh"}, {"../../bin/sh"});

  l.config("an unknown key", R"({"turbo":1})", {"turbo"});
  l.config("itself", R"({"config":"@/options.json"})", {"config"});
  l.config("a list", "[]", {"object"});
  l.config("a number", "7", {"object"});
  l.config("a flag that is a number", R"({"asym":1})", {"asym"});
  l.config("a number that is an object", R"({"iters":{"a":1}})", {"--iters"});
  l.config("a number that is a list", R"({"iters":[1,2]})", {"--iters"});
  l.config("a number that is a text", R"({"iters":"x"})", {"--iters"});
  l.config("a number beyond all", R"({"iters":1e30})", {"--iters"});
  l.config("a choice that is none", R"({"fuse_check":"maybe"})", {"fuse_check"});
  l.config("a path with a zero byte", R"({"output_dir":"out\u0000evil"})", {"output_dir"});
  l.config("a zero byte in a name", R"({"a\u0000b":1})", {"a?b"});
  l.config("cut short", R"({"iters":)", {"not valid JSON"}, bad_input);
  l.config("a key twice", R"({"iters":0,"iters":1})", {"twice"}, bad_input);
  l.config("deep", std::string(100'000, '['), {"too deep"}, bad_input);
  l.line("--config: not there", rounds({"--config", "@/options.json"}), {"@/options.json"}, bad_input);
  l.line("--config: a folder", rounds({"--config", "@/model"}), {"@/model"}, bad_input);
  l.line("--config: a device without end", rounds({"--config", "/dev/zero"}), {"/dev/zero"}, bad_input);
  return l.take();
}

}  // namespace hostile
