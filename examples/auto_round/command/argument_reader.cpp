#include "command/argument_reader.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string_view>

#include "io/json.hpp"
#include "plan_scheme.hpp"

namespace auto_round::command {
namespace {

bool is_negative_number(const std::string& s) {
  return s.size() > 1 && s[0] == '-' && (std::isdigit(static_cast<unsigned char>(s[1])) != 0 || s[1] == '.') &&
         s.find_first_not_of("0123456789.eE+-,", 1) == std::string::npos;
}

/// Could it be an option? "-" alone, negative numbers and texts with blanks are values.
bool looks_like_option(const std::string& s) { return s.size() > 1 && s[0] == '-' && !is_negative_number(s) && s.find(' ') == std::string::npos; }

class line_reader {
 public:
  line_reader(const option_set& set, const std::vector<std::string>& arguments) : set_(set), arguments_(arguments) {}

  result<given_arguments> read() {
    while (at_ < arguments_.size() && !out_.help) {
      const std::string& a = arguments_[at_++];
      if (a == "--") {
        for (; at_ < arguments_.size(); ++at_) take_plain(arguments_[at_]);
      } else if (a == "-h" || a == "--help") {
        out_.help = true;
      } else if (a.starts_with("-h") && looks_like_option(a)) {
        return fail(error_kind::usage, fmt::format("argument -h/--help: ignored explicit argument '{}'", a.substr(2)));
      } else if (!looks_like_option(a)) {
        take_plain(a);
      } else if (auto r = take_option(a); !r) {
        return forward_error(r);
      }
    }
    if (!out_.help && !extra_.empty()) return fail(error_kind::usage, fmt::format("unrecognized arguments: {}{}", fmt::join(extra_, " "), suggestion()));
    return std::move(out_);
  }

 private:
  void take_plain(const std::string& a) {
    if (set_.positional() != nullptr && !have_positional_) {
      have_positional_ = true;
      out_.positional = a;
    } else if (have_positional_ && set_.positional()->count == values::some) {
      out_.positional += " " + a;
    } else {
      extra_.push_back(a);
    }
  }

  result<void> take_option(const std::string& a) {
    const std::size_t equal = std::min(a.find('='), a.size());
    auto found = find_name(a.substr(0, equal));
    if (!found) return forward_error(found);
    const auto [o, name] = *found;
    if (o == nullptr) {
      extra_.push_back(a);
      return {};
    }
    given_option given{o, equal < a.size() ? a.substr(equal + 1) : std::string()};
    const auto next_is_value = [&] { return at_ < arguments_.size() && arguments_[at_] != "--" && !looks_like_option(arguments_[at_]); };
    if (equal < a.size()) {
      if (o->count == values::none) return fail(error_kind::usage, fmt::format("argument --{}: ignored explicit argument '{}'", name, given.value));
    } else if (o->count == values::one || o->count == values::some) {
      if (!next_is_value()) return fail(error_kind::usage, fmt::format("argument --{}: expected one argument", name));
      given.value = arguments_[at_++];
      while (o->count == values::some && next_is_value()) given.value += " " + arguments_[at_++];
    } else if (o->count == values::at_most_one && next_is_value()) {
      given.value = arguments_[at_++];
    }
    if (o->count != values::none && !given.value.empty()) {
      if (auto r = check_choice(name, given.value, o->choices); !r) return r;
    }
    for (const given_option& g : out_.options) {
      if (!o->exclusive.empty() && g.which != o && g.which->exclusive == o->exclusive)
        return fail(error_kind::usage, fmt::format("argument --{}: not allowed with argument --{}", name, g.which->names.front()));
    }
    out_.options.push_back(std::move(given));
    return {};
  }

  /// The option that "--name", or a unique beginning of it, means; null if there is none.
  result<std::pair<const option*, std::string>> find_name(const std::string& written) const {
    if (!written.starts_with("--")) return std::pair<const option*, std::string>{};
    const std::string name = with_underscores(written.substr(2));
    std::pair<const option*, std::string> found{};
    std::vector<std::string> candidates;
    bool several = false;
    for (const option& o : set_.options()) {
      for (const std::string& n : o.names) {
        if (n == name) return std::pair<const option*, std::string>{&o, n};
        if (!n.starts_with(name)) continue;
        candidates.push_back("--" + n);
        several |= found.first != nullptr && found.first != &o;
        found = {&o, n};
      }
    }
    if (several) return fail(error_kind::usage, fmt::format("ambiguous option: {} could match {}", written, fmt::join(candidates, ", ")));
    return found;
  }

  std::string suggestion() const {
    if (!extra_.front().starts_with("--")) return {};
    std::vector<std::string> names;
    for (const option& o : set_.options()) {
      for (const std::string& n : o.names) names.push_back("--" + n);
    }
    const std::string asked = with_underscores(extra_.front().substr(0, extra_.front().find('=')).substr(2));
    const std::vector<std::string> near = plan::nearest_names("--" + asked, names, 1);
    return near.empty() ? "" : "; did you mean " + near.front() + "?";
  }

  const option_set& set_;
  const std::vector<std::string>& arguments_;
  std::size_t at_ = 0;
  bool have_positional_ = false;
  given_arguments out_;
  std::vector<std::string> extra_;
};

const option* find_option(const option_set& set, const std::string& name) {
  for (const option& o : set.options()) {
    if (std::find(o.names.begin(), o.names.end(), name) != o.names.end()) return &o;
  }
  return nullptr;
}

/// The value of a variable, or of the first one whose name begins as `v` says; empty if there is none.
std::string value_of(const environment_variable& v) {
  const std::string_view name = v.name;
  if (!name.ends_with('*')) {
    const char* value = std::getenv(v.name);
    return value == nullptr ? "" : value;
  }
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::size_t equal = text.find('=');
    if (equal != std::string_view::npos && text.starts_with(name.substr(0, name.size() - 1))) return std::string(text.substr(equal + 1));
  }
  return {};
}

/// "1" and "1.0" are one value; so are "0" and "false".
bool same_value(const std::string& a, const std::string& b) {
  const auto number = [](const std::string& s) { return s == "true" || s == "True" ? "1" : s == "false" || s == "False" ? "0" : s; };
  const auto x = parse_real("", number(a)), y = parse_real("", number(b));
  return x && y ? *x == *y : a == b;
}

/// A JSON value as it would be typed, a list with `between` its items.
std::string typed(const io::json& v, char between) {
  if (v.is_string()) return v.as_string();
  if (v.is_bool()) return v.as_bool() ? "true" : "false";
  if (v.is_object()) return io::dump(v, {.indent = -2, .ensure_ascii = false});
  if (!v.is_array()) return v.number_text();
  std::string text;
  for (const io::json& item : v.items()) text += (text.empty() ? std::string() : std::string(1, between)) + typed(item, between);
  return text;
}

}  // namespace

result<given_arguments> read_arguments(const option_set& set, const std::vector<std::string>& arguments) { return line_reader(set, arguments).read(); }

result<std::vector<given_option>> read_config_file(const option_set& set, const std::string& file) {
  auto json = io::read_json(file);
  if (!json) return forward_error(json);
  if (!json->is_object()) return fail(error_kind::usage, "a configuration is an object of options: {\"scheme\": \"W4A16\", \"iters\": 200}", file);
  std::vector<given_option> given;
  for (const auto& [key, value] : json->members()) {
    const option* o = find_option(set, with_underscores(key));
    if (o == nullptr || key == "config") return fail(error_kind::usage, fmt::format("there is no option \"{}\"", key), file);
    if (value.is_null()) continue;
    if (o->count == values::none) {
      if (!value.is_bool()) return fail(error_kind::usage, fmt::format("option \"{}\" is a flag: true or false", key), file);
      if (value.as_bool()) given.push_back({o, {}, file});
      continue;
    }
    std::string text = typed(value, o->count == values::some ? ' ' : ',');
    if (auto r = check_choice(key, text, o->choices); !r) return fail(r.error().kind, r.error().message, file);
    if (text.find('\0') != std::string::npos) return fail(error_kind::usage, fmt::format("option \"{}\" holds a zero byte", key), file);
    given.push_back({o, std::move(text), file});
  }
  return given;
}

const std::vector<environment_variable>& environment_variables() {
  static const std::vector<environment_variable> all = {
      {"AR_LOG_LEVEL", "quiet", "ERROR or CRITICAL: as --quiet; other levels change nothing", effect::works},
      {"AR_OMP_NUM_THREADS", "threads", "as --threads", effect::works},
      {"AR_AUTO_SCHEME_NSAMPLES", "score_nsamples", "as --score_nsamples", effect::works},
      {"AR_AUTO_SCHEME_SEQLEN", "score_seqlen", "as --score_seqlen", effect::works},
      {"AR_AUTO_SCHEME_BATCH_SIZE", "score_batch_size", "as --score_batch_size", effect::works},
      {"AR_AUTO_SCHEME_CACHE", "score_cache", "as --score_cache", effect::works},
      {"AR_DEBUG_LAYER_NUM", "num_hidden_layers", "as --num_hidden_layers", effect::works},
      {"AR_DATASET_DIR", "dataset_dir", "as --dataset_dir", effect::works},
      {"AR_ALLOW_W8_ASYM", nullptr, "1: allows 8-bit asymmetric integers in any format", effect::works},
      {"AR_MODEL_FREE_SHARD_PARALLELISM", nullptr, "all threads work on one shard; --threads sets their number", effect::notice},
      {"AR_WORK_SPACE", nullptr, "nothing is offloaded; work goes on beside the output folder", effect::notice},
      {"AR_RESUME_DIR", nullptr, "a journal lies beside the output folder: OUT.journal", effect::notice},
      {"AR_USE_MODELSCOPE", nullptr, "models are read from local folders", effect::notice},
      {"AR_ENABLE_COMPILE_PACKING", nullptr, "nothing needs to be compiled at run time", effect::notice},
      {"AR_DISABLE_OFFLOAD", nullptr, "nothing is offloaded", effect::notice},
      {"AR_DISABLE_DATASET_SUBPROCESS", nullptr, "there is one process", effect::notice},
      {"AR_CALIB_STREAM_DEVICE", nullptr, "this program runs on the CPU", effect::notice},
      {"AR_DISK_STREAM_MODEL", nullptr, "weights are always mapped", effect::notice},
      {"AR_DISABLE_META_LOAD", nullptr, "weights are always mapped", effect::notice},
      {"AR_DYNAMO_CACHE_SIZE_LIMIT", nullptr, "nothing needs to be compiled at run time", effect::notice},
      {"AR_DISABLE_COPY_MTP_WEIGHTS", nullptr, "tensors that no layer of the model owns are always carried over", effect::notice},
      {"AR_DISABLE_GGUF_MTP_EXPORT", nullptr, "gguf files never hold next-token heads", effect::notice},
      {"AR_NGRAM_DEVICE", nullptr, "this program runs on the CPU", effect::notice},
      {"AR_MOE_*", nullptr, "experts are always taken one by one", effect::notice},
      {"AR_NVFP4_FUSED_LAYER_GLOBAL_SCALE", nullptr, "q, k, v and gate, up always share the global scale of NVFP4, as engines fuse them", effect::refused, "1"},
      {"AR_ENABLE_UNIFY_MOE_INPUT_SCALE", nullptr, "every expert has an input scale of its own", effect::refused, "0"},
      {"AR_ACT_SCALE", nullptr, "ranges of activations are not scaled", effect::refused, "1"},
      {"AR_ENABLE_ACT_MINMAX_TUNING", nullptr, "ranges of dynamic activations are not tuned", effect::refused, "0"},
      {"AR_SEARCH_SCALE_RATIO", nullptr, "the search for scales has its own steps", effect::refused, "0.75"},
      {"LLAMA_CPP_ROOT", nullptr, "gguf files are written without llama.cpp", effect::notice},
      {"AUTO_ROUND_GGUF_AUTO_UPDATE", nullptr, "gguf files are written without llama.cpp", effect::notice},
  };
  return all;
}

result<std::vector<given_option>> read_environment(const option_set& set, std::vector<std::string>& notes) {
  std::vector<given_option> given;
  for (const environment_variable& v : environment_variables()) {
    const std::string text = value_of(v);
    if (text.empty()) continue;
    if (v.what == effect::notice) notes.push_back(fmt::format("environment variable {}: {}", v.name, v.text));
    if (v.what == effect::refused && !same_value(text, v.harmless))
      return fail(error_kind::unsupported, fmt::format("environment variable {}={}: {}; unset it", v.name, text, v.text));
    const option* o = v.option == nullptr ? nullptr : find_option(set, v.option);
    if (o == nullptr) continue;
    if (o->count == values::none && text != "ERROR" && text != "CRITICAL") continue;
    given.push_back({o, o->count == values::none ? std::string() : text, v.name});
  }
  return given;
}

std::string config_text(const std::vector<given_option>& given, const std::string& positional) {
  io::json out = io::json::object{};
  for (const given_option& g : given) {
    const std::string& name = g.which->names.front();
    if (name == "config" || name == "print_config") continue;
    io::json value = g.which->count == values::none ? io::json(true) : io::json(g.value);
    if (const io::json* before = out.find(name); before != nullptr && g.which->joined) value = g.which->joined(before->as_string(), g.value);
    out.erase(name);  // the last of a flag and its negation is the one that counts
    out.set(name, std::move(value));
  }
  if (!positional.empty()) out.set("model", positional);  // which counts more than --model
  return io::dump(out, {.ensure_ascii = false}) + "\n";
}

}  // namespace auto_round::command
