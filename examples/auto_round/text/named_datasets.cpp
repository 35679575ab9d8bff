#include "text/named_datasets.hpp"

#include <array>
#include <filesystem>

namespace auto_round::text {
namespace {

// In the original's order, which decides what a part of a name finds.
constexpr std::array<named_dataset, 10> all = {{
    {"NeelNanda/pile-10k", "pile-10k", {"text"}, record_order::numpy, "load_dataset('NeelNanda/pile-10k', split='train')"},
    {"HuggingFaceFW/fineweb-edu", "fineweb-edu", {"text"}, record_order::streaming, "load_dataset('HuggingFaceFW/fineweb-edu', 'sample-10BT', split='train[:10000]')"},
    {"BAAI/CCI3-HQ", "CCI3-HQ", {"text"}, record_order::streaming, "load_dataset('BAAI/CCI3-HQ', split='train[:10000]')"},
    {"codeparrot/github-code-clean", "github-code-clean", {"code"}, record_order::streaming, "load_dataset('codeparrot/github-code-clean', 'all-mit', split='train[:10000]')"},
    {"nvidia/OpenCodeInstruct", "opencode-instruct", {"input", "output", "\n\n"}, record_order::streaming, "load_dataset('nvidia/OpenCodeInstruct', split='train[:10000]')"},
    {"HuggingFaceH4/ultrachat_200k", "ultrachat_200k", {"messages", "", "", true}, record_order::streaming, "load_dataset('HuggingFaceH4/ultrachat_200k', split='train_sft[:20000]')"},
    {"openbmb/Ultra-FineWeb", "Ultra-FineWeb", {"content"}, record_order::streaming, "load_dataset('openbmb/Ultra-FineWeb', split='en[:20000]')"},
    {"madao33/new-title-chinese", "new-title-chinese", {"content"}, record_order::numpy, "load_dataset('madao33/new-title-chinese', split='train')"},
    {"google-research-datasets/mbpp", "mbpp", {"text", "code", ""}, record_order::python, "load_dataset('google-research-datasets/mbpp', split='train+validation+test')"},
    {"AudioCaps", "audiocaps", {"caption"}, record_order::python, "Dataset.from_csv('audiocaps.csv')"},
}};

constexpr unsigned char sample[] = {
#include "calibration_sample.inc"
};

}  // namespace

std::span<const named_dataset> named_datasets() { return all; }

const named_dataset* find_named_dataset(std::string_view name) {
  for (const named_dataset& d : all) {
    if (name == d.full_name || name == d.short_name) return &d;
  }
  const std::string_view last = name.substr(name.rfind('/') == name.npos ? 0 : name.rfind('/') + 1);
  if (last.empty()) return nullptr;
  for (const named_dataset& d : all) {
    if (d.full_name.find(last) != d.full_name.npos || d.short_name.find(last) != d.short_name.npos) return &d;
  }
  return nullptr;
}

result<std::string> local_copy(const named_dataset& set, const std::string& folder) {
  const std::string short_name(set.short_name);
  if (!folder.empty()) {
    for (const std::string_view stem : {set.short_name, set.full_name}) {
      for (const char* ending : {".jsonl", ".json"}) {
        std::string path = folder + "/" + std::string(stem) + ending;
        std::error_code ignored;
        if (std::filesystem::is_regular_file(path, ignored)) return path;
      }
    }
  }
  return fail(error_kind::unsupported, "the data set \"" + std::string(set.full_name) + "\" lies on a hub, and this program never uses the network; export it once, in Python: "
                                           "datasets." + std::string(set.export_call) + ".to_json('" + short_name + ".jsonl'), and name the folder of that file with --dataset_dir" +
                                           (folder.empty() ? std::string() : " (" + folder + " holds no " + short_name + ".jsonl)"));
}

std::string_view builtin_text() { return {reinterpret_cast<const char*>(sample), sizeof sample}; }

}  // namespace auto_round::text
