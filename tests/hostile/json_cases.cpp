// Everything that is JSON, each file with the same ways to be none.
#include "hostile/model_files.hpp"

namespace hostile {

std::vector<one_case> json_cases() {
  struct place {
    std::string name, file;
    std::vector<std::string> arguments;
  };
  const std::vector<place> places = {
      {"config.json", "@/model/config.json", rounds()},
      {"index", "@/model/model.safetensors.index.json", rounds()},
      {"tokenizer.json", "@/model/tokenizer.json", {"tokenize", "--model", "@/model", "--file", "@/calib.jsonl"}},
      {"tokenizer_config.json", "@/model/tokenizer_config.json", {"tokenize", "--model", "@/model", "--file", "@/calib.jsonl"}},
      {"lines to tokenize", "@/calib.jsonl", {"tokenize", "--model", "@/model", "--file", "@/calib.jsonl"}},
      {"lines to evaluate", "@/calib.jsonl", {"eval", "--model", "@/model", "--ppl", "@/calib.jsonl", "--seqlen", "16"}},
      {"a report", "@/run.json", {"report", "--runs", "@/run.json", "--ref", "@/model", "--ppl", "@/calib.jsonl", "--seqlen", "16"}},
      {"a configuration of options", "@/options.json", rounds({"--config", "@/options.json"})},
  };
  const std::vector<std::pair<std::string, std::string>> contents = {
      {"blank", "   "},
      {"cut short", "{\"a\":[1,2"},
      {"too deep", std::string(300, '[') + std::string(300, ']')},
      {"a byte order mark", "\xEF\xBB\xBF{}"},
      {"a zero byte", std::string("{}\0", 3)},
      {"no UTF-8", "{\"\xC0\xAF\":1}"},
      {"a lone surrogate", R"({"\udfff":1})"},
      {"NaN", "{\"a\":NaN}"},
      {"-Infinity", "{\"a\":-Infinity}"},
      {"1e400", "{\"a\":1e400}"},
      {"a key twice", "{\"a\":1,\"\\u0061\":2}"},
      {"a comment", "{} // nothing"},
      {"a value and another", "{} {}"},
  };
  std::vector<one_case> all;
  for (const place& p : places) {
    for (const auto& [what, content] : contents) {
      if (what == "blank" && p.name == "lines to evaluate") continue;  // blank lines are passed over there
      all.push_back({p.name + ": " + what, [file = p.file, text = content](const fs::path& dir) {
                       tiny_model().write(dir / "model");
                       put(dir / "calib.jsonl", tiny_model::calibration(4));
                       if (file.ends_with("index.json")) fs::rename(dir / "model" / "model.safetensors", dir / "model" / "a.safetensors");
                       put(dir / file.substr(2), text);
                     }, p.arguments, bad_input, {p.file}});
    }
  }
  return all;
}

}  // namespace hostile
