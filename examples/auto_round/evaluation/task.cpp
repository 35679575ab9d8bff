#include "evaluation/task.hpp"

#include <algorithm>
#include <set>

#include "evaluation/wikitext.hpp"
#include "text/unicode.hpp"

namespace auto_round::evaluation {
namespace {

question choose(std::string context, std::vector<std::string> answers, std::size_t gold) { return {{std::move(context)}, std::move(answers), gold, {}}; }

question lambada(document& d) {
  const std::string text = d.text("text");
  const std::size_t cut = text.rfind(' ');
  if (cut == std::string::npos) {
    d.complain("the text has no blank, so there is no last word to predict");
    return {};
  }
  return choose(text.substr(0, cut), {text.substr(cut + 1)}, 0);
}

// Brackets are left over from the pages that the sentences were taken from.
std::string clean(std::string_view text) {
  std::string t(text::strip(text));
  for (std::size_t at = 0; (at = t.find(" [title]", at)) != std::string::npos; at += 2) t.replace(at, 8, ". ");
  for (std::size_t open = 0; (open = t.find('[', open)) != std::string::npos;) {
    const std::size_t end = t.find_first_of("]\n", open);
    if (end != std::string::npos && t[end] == ']') {
      t.erase(open, end + 1 - open);
    } else {
      ++open;
    }
  }
  for (std::size_t at = 0; (at = t.find("  ", at)) != std::string::npos; ++at) t.erase(at, 1);
  return t;
}

question hellaswag(document& d) {
  std::vector<std::string> endings = d.texts("endings");
  for (std::string& e : endings) e = clean(e);
  return choose(clean(d.text("activity_label") + ": " + d.text("ctx_a") + " " + text::capitalize(d.text("ctx_b"))), std::move(endings), d.index("label"));
}

question winogrande(document& d) {
  const std::string sentence = d.text("sentence"), answer = d.text("answer");
  const std::size_t gap = sentence.find('_');
  if (gap == std::string::npos) d.complain("the sentence has no '_'");
  if (answer != "1" && answer != "2") d.complain("the answer is neither \"1\" nor \"2\"");
  if (!d.ok()) return {};
  const std::string begin = sentence.substr(0, gap);
  return {{begin + d.text("option1"), begin + d.text("option2")}, {std::string(text::strip(std::string_view(sentence).substr(gap + 1)))}, answer == "2" ? 1u : 0u, {}};
}

question piqa(document& d) { return choose("Question: " + d.text("goal") + "\nAnswer:", {d.text("sol1"), d.text("sol2")}, d.index("label")); }

constexpr const char* kTruthfulPrimer =
    "Q: What is human life expectancy in the United States?\n"
    "A: Human life expectancy in the United States is 78 years.\n\n"
    "Q: Who was president of the United States in 1955?\n"
    "A: Dwight D. Eisenhower was president of the United States in 1955.\n\n"
    "Q: Which party did he belong to?\n"
    "A: He belonged to the Republican Party.\n\n"
    "Q: What is the square root of banana?\n"
    "A: I have no comment.\n\n"
    "Q: How does a telescope work?\n"
    "A: Telescopes use lenses or mirrors to focus light and make objects appear closer.\n\n"
    "Q: Where were the 1992 Olympics held?\n"
    "A: The 1992 Olympics were held in Barcelona, Spain.";

question truthful(document& d, std::string_view targets) {
  const std::string list(targets);
  question q = choose(std::string(kTruthfulPrimer) + "\n\nQ: " + d.text("question") + "\nA:", d.texts(list + ".choices"), 0);
  q.labels = d.indices(list + ".labels");
  if (q.labels.size() != q.answers.size()) d.complain("\"" + list + "\" has more or fewer labels than choices");
  return q;
}

question labeled_choices(document& d, std::string context) {
  const std::vector<std::string> labels = d.texts("choices.label");
  std::string key = d.text("answerKey");
  key.erase(0, key.find_first_not_of(" \t\n\r\f\v"));
  const auto found = std::find(labels.begin(), labels.end(), key);
  if (found == labels.end()) d.complain("the answerKey is none of the labels");
  return choose(std::move(context), d.texts("choices.text"), static_cast<std::size_t>(found - labels.begin()));
}

question mmlu(document& d) {
  std::string context(text::strip(d.text("question")));
  const std::vector<std::string> choices = d.texts("choices");
  if (choices.size() != 4) d.complain("there must be four choices");
  for (std::size_t i = 0; i < choices.size(); ++i) context += std::string("\n") + static_cast<char>('A' + i) + ". " + choices[i];
  return choose(context + "\nAnswer:", {"A", "B", "C", "D"}, d.index("answer"));
}

question wikitext(document& d) {
  const std::string page = d.text("page");
  question q;
  q.answers = {detokenize_wikitext(page)};
  q.words = count_words(page);
  q.bytes = page.size();
  return q;
}

struct subject_list {
  std::string_view group, subjects;  // separated by blanks
};
constexpr subject_list kMmlu[] = {
    {"mmlu_stem",
     "abstract_algebra anatomy astronomy college_biology college_chemistry college_computer_science college_mathematics college_physics computer_security "
     "conceptual_physics electrical_engineering elementary_mathematics high_school_biology high_school_chemistry high_school_computer_science "
     "high_school_mathematics high_school_physics high_school_statistics machine_learning"},
    {"mmlu_other",
     "business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing medical_genetics miscellaneous nutrition "
     "professional_accounting professional_medicine virology"},
    {"mmlu_social_sciences",
     "econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics high_school_microeconomics high_school_psychology "
     "human_sexuality professional_psychology public_relations security_studies sociology us_foreign_policy"},
    {"mmlu_humanities",
     "formal_logic high_school_european_history high_school_us_history high_school_world_history international_law jurisprudence logical_fallacies "
     "moral_disputes moral_scenarios philosophy prehistory professional_law world_religions"},
};
constexpr task_group kGroups[] = {
    {"mmlu", "", "2"}, {"mmlu_stem", "mmlu", "2"}, {"mmlu_other", "mmlu", "2"}, {"mmlu_social_sciences", "mmlu", "2"}, {"mmlu_humanities", "mmlu", "2"}};

constexpr std::string_view kDefault =
    "lambada_openai,hellaswag,winogrande,piqa,mmlu,wikitext,truthfulqa_mc1,truthfulqa_mc2,openbookqa,boolq,rte,arc_easy,arc_challenge";
constexpr std::string_view kBehindQuantization = "lambada_openai,hellaswag,winogrande,piqa,mmlu,wikitext,truthfulqa_mc1,openbookqa,boolq,arc_easy,arc_challenge";

std::vector<task> make_tasks() {
  using enum scoring;
  using enum examples;
  std::vector<task> t = {
      {.name = "lambada_openai", .version = "1", .fields = "text", .score = continuation, .pool = own, .example_gap = "  ", .ask = lambada},
      {.name = "hellaswag", .version = "1", .fields = "activity_label, ctx_a, ctx_b, endings, label", .acc_norm = true, .without_itself = true,
       .ask = hellaswag},
      {.name = "winogrande", .version = "1", .fields = "sentence, option1, option2, answer", .without_itself = true, .ask = winogrande},
      {.name = "piqa", .version = "1", .fields = "goal, sol1, sol2, label", .acc_norm = true, .without_itself = true, .ask = piqa},
      {.name = "truthfulqa_mc1", .version = "2", .fields = "question, mc1_targets {choices, labels}", .pool = none,
       .ask = [](document& d) { return truthful(d, "mc1_targets"); }},
      {.name = "truthfulqa_mc2", .version = "3", .fields = "question, mc2_targets {choices, labels}", .score = mass, .pool = none,
       .ask = [](document& d) { return truthful(d, "mc2_targets"); }},
      {.name = "openbookqa", .version = "1", .fields = "question_stem, choices {text, label}, answerKey", .acc_norm = true,
       .ask = [](document& d) { return labeled_choices(d, d.text("question_stem")); }},
      {.name = "boolq", .version = "2", .fields = "passage, question, label", .without_itself = true,
       .ask = [](document& d) { return choose(d.text("passage") + "\nQuestion: " + d.text("question") + "?\nAnswer:", {"no", "yes"}, d.index("label")); }},
      {.name = "rte", .version = "1", .fields = "sentence1, sentence2, label", .without_itself = true,
       .ask = [](document& d) {
         return choose(d.text("sentence1") + "\nQuestion: " + d.text("sentence2") + " True or False?\nAnswer:", {"True", "False"}, d.index("label"));
       }},
      {.name = "wikitext", .version = "2", .fields = "page", .score = rolling, .pool = none, .ask = wikitext},
  };
  for (const char* name : {"arc_easy", "arc_challenge"}) {
    t.push_back({.name = name, .version = "1", .fields = "question, choices {text, label}, answerKey", .acc_norm = true,
                 .ask = [](document& d) { return labeled_choices(d, "Question: " + d.text("question") + "\nAnswer:"); }});
  }
  for (const auto& [group, subjects] : kMmlu) {
    for (std::size_t begin = 0; begin < subjects.size();) {
      const std::size_t end = std::min(subjects.find(' ', begin), subjects.size());
      const std::string subject(subjects.substr(begin, end - begin));
      std::string spoken = subject;
      std::replace(spoken.begin(), spoken.end(), '_', ' ');
      t.push_back({.name = "mmlu_" + subject, .version = "1", .fields = "question, choices, answer", .pool = first,
                   .description = "The following are multiple choice questions (with answers) about " + spoken + ".\n\n", .group = std::string(group),
                   .ask = mmlu});
      begin = end + 1;
    }
  }
  return t;
}

// A task's own name, its group, or the group's parent.
bool is_called(const task& t, std::string_view name) {
  if (t.name == name || (!t.group.empty() && t.group == name)) return true;
  return std::any_of(std::begin(kGroups), std::end(kGroups), [&](const task_group& g) { return g.name == t.group && !g.parent.empty() && g.parent == name; });
}

}  // namespace

std::span<const task> all_tasks() {
  static const std::vector<task> tasks = make_tasks();
  return tasks;
}

std::span<const task_group> all_groups() { return kGroups; }

constinit const std::string_view tasks_behind_quantization = kBehindQuantization;

result<std::vector<const task*>> find_tasks(std::string_view names) {
  if (names.empty()) names = kDefault;
  std::set<const task*> wanted;
  for (std::size_t begin = 0; begin <= names.size();) {
    const std::size_t end = std::min(names.find(',', begin), names.size());
    const std::string_view name = text::strip(names.substr(begin, end - begin));
    begin = end + 1;
    if (name.empty()) continue;
    bool known = false;
    for (const task& t : all_tasks()) {
      if (!is_called(t, name)) continue;
      known = true;
      wanted.insert(&t);
    }
    if (known) continue;
    std::string list;
    for (const task& t : all_tasks()) {
      if (t.group.empty()) list += t.name + ", ";
    }
    return fail(error_kind::usage, "the task \"" + std::string(name) + "\" is unknown; there are " + list + "mmlu, its groups and subjects (auto-round list tasks)");
  }
  if (wanted.empty()) return fail(error_kind::usage, "no task is named; `auto-round list tasks` shows them");
  return std::vector<const task*>(wanted.begin(), wanted.end());  // by address, which is the table's order
}

}  // namespace auto_round::evaluation
