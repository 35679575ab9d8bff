// The command tokenize: token ids of the lines of a file, for comparison with other tokenizers.
#include <cstdio>
#include <filesystem>

#include "command/command.hpp"
#include "command/model_path.hpp"
#include "text/tokenize_lines.hpp"
#include "text/tokenizer.hpp"

namespace auto_round::command {
namespace {

class tokenize final : public command {
 public:
  std::string_view name() const override { return "tokenize"; }
  std::string_view summary() const override { return "print the token ids of each line of a file"; }

  void declare(option_set& o) override {
    o.positional("MODEL", positional_model_, "folder of tokenizer.json");
    o.text("model,tokenizer", "DIR", model_, "folder of tokenizer.json");
    o.text("file", "FILE", file_, ".jsonl: a string, or an object with \"text\", on each line");
  }

  result<void> run() override {
    if (!positional_model_.empty()) model_ = positional_model_;
    if (model_.empty() || file_.empty()) return fail(error_kind::usage, "write --model DIR and --file FILE");
    if (auto r = find_local_model(model_); !r) return r;
    if (model_.ends_with(".gguf")) {  // whose tokenizer lies beside it
      const std::filesystem::path folder = std::filesystem::path(model_).parent_path();
      model_ = folder.empty() ? "." : folder.string();
    }
    auto tok = text::tokenizer::open(model_);
    if (!tok) return forward_error(tok);
    return text::tokenize_lines(*tok, file_, [](const std::string& line) {
      std::fwrite(line.data(), 1, line.size(), stdout);
    });
  }

 private:
  std::string model_, positional_model_, file_;
};

}  // namespace

std::unique_ptr<command> make_tokenize() { return std::make_unique<tokenize>(); }

}  // namespace auto_round::command
