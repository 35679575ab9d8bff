// The evaluation tasks as data: what a document asks, and what is scored. A new task is an entry of the table in task.cpp.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "evaluation/document.hpp"

namespace auto_round::evaluation {

/// What one document asks of the model: the likelihood of each answer behind its context, with a blank between them.
struct question {
  std::vector<std::string> contexts;  ///< one for all answers, or one for each of them (and then a single answer)
  std::vector<std::string> answers;
  std::size_t gold = 0;               ///< the right one
  std::vector<std::size_t> labels;    ///< kind mass: 1 for each answer that is right
  // Kind rolling: contexts is empty and answers[0] the text. Its perplexities count what the document had before it was prepared:
  std::size_t words = 0, bytes = 0;

  std::size_t requests() const { return std::max(contexts.size(), answers.size()); }
  const std::string& context(std::size_t i) const { return contexts[contexts.size() == 1 ? 0 : i]; }
  const std::string& answer(std::size_t i) const { return answers[answers.size() == 1 ? 0 : i]; }
};

enum class scoring {
  choice,        ///< acc: the likeliest answer is the right one; acc_norm: the same by likelihood per character
  mass,          ///< acc: the share of probability that the right answers have
  continuation,  ///< perplexity of the answer; acc: every token of it is the likeliest one
  rolling,       ///< word_perplexity, byte_perplexity and bits_per_byte of whole texts
};

enum class examples {
  none,      ///< the task has no few-shot form
  training,  ///< drawn from NAME.train.jsonl
  own,       ///< drawn from the file of the task itself
  first,     ///< the first of NAME.dev.jsonl
};

/// Source of all entries: the task files of lm-eval 0.4.13, whose scores they reproduce.
struct task {
  std::string name;           ///< also the stem of its file
  std::string_view version;   ///< of lm-eval's task file
  std::string_view fields;    ///< of a document
  scoring score = scoring::choice;
  bool acc_norm = false;
  examples pool = examples::training;
  bool without_itself = false;           ///< few-shot examples equal to the document are left out (tasks without a test split)
  std::string_view example_gap = " ";    ///< between an example's context and its answer
  std::string description = {};          ///< in front of every context
  std::string group = {};                ///< "mmlu_stem"; empty if it is in none
  question (*ask)(document&) = nullptr;  ///< errors stay in the document
};

/// Tasks whose sizes weigh in a common accuracy.
struct task_group {
  std::string_view name, parent;  ///< parent: "mmlu"; empty if it is in none
  std::string_view version;
};

std::span<const task> all_tasks();
std::span<const task_group> all_groups();  ///< parents first

/// What tasks without names are behind a quantization: two less than those of `auto-round eval`, as in the original.
extern const std::string_view tasks_behind_quantization;

/// The tasks that a list of names separated by commas means, in the table's order, each once; names of groups stand for their tasks. An empty list
/// means the default of `auto-round eval`. error_kind::usage names what is unknown and the names that there are.
result<std::vector<const task*>> find_tasks(std::string_view names);

}  // namespace auto_round::evaluation
