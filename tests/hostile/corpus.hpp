// The hostile corpus: inputs of every kind that a stranger may hand to the program, each with what has to come of it. Files are made when a case is
// run; none lies in the tree.
#pragma once

#include <filesystem>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

namespace hostile {

namespace fs = std::filesystem;

// Exit statuses of the program, as docs/guide.md lists them.
constexpr int accepted = 0, usage = 2, bad_input = 3, bad_output = 4, unsupported = 5, failed_verification = 6;

struct one_case {
  std::string name;                            ///< what is wrong with it; distinct within its group
  std::function<void(const fs::path&)> write;  ///< makes the files in an empty folder
  std::vector<std::string> arguments;          ///< '@' stands for that folder
  int status = bad_input;
  std::vector<std::string> says;  ///< what the error line must hold; '@' as above
};

struct group {
  std::string name;
  std::function<std::vector<one_case>()> cases;
};
inline void PrintTo(const group& g, std::ostream* out) { *out << g.name; }

std::vector<one_case> safetensors_cases();
std::vector<one_case> index_cases();
std::vector<one_case> gguf_cases();
std::vector<one_case> config_cases();
std::vector<one_case> packed_cases();
std::vector<one_case> tokenizer_cases();
std::vector<one_case> text_cases();
std::vector<one_case> option_cases();
std::vector<one_case> imatrix_cases();
std::vector<one_case> journal_cases();
std::vector<one_case> json_cases();

inline std::vector<group> groups() {
  return {{"safetensors", safetensors_cases}, {"index", index_cases},   {"gguf", gguf_cases},       {"config", config_cases},
          {"packed", packed_cases},           {"tokenizer", tokenizer_cases}, {"text", text_cases}, {"options", option_cases},
          {"imatrix", imatrix_cases},         {"journals", journal_cases}, {"json", json_cases}};
}

/// Plain rounding of the model in @/model, which looks at every file of a float checkpoint but its tokenizer.
inline std::vector<std::string> rounds(const std::vector<std::string>& more = {}) {
  std::vector<std::string> a = {"quantize", "--model", "@/model", "--output_dir", "@/out", "--scheme", "W4A16G32", "--iters", "0", "--disable_opt_rtn"};
  a.insert(a.end(), more.begin(), more.end());
  return a;
}

}  // namespace hostile
