#include "command/option_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "ar/version.hpp"
#include "command/argument_reader.hpp"

namespace auto_round::command {
namespace {

constexpr std::size_t help_column = 38, help_width = 118;

std::string names_of(const option& o) {
  std::string text;
  for (const std::string& n : o.names) text += (text.empty() ? "--" : ", --") + n;
  const std::string value = o.choices.empty() ? o.value_name : fmt::format("{{{}}}", fmt::join(o.choices, ","));
  switch (o.count) {
    case values::none: return text;
    case values::one: return text + " " + value;
    case values::at_most_one: return fmt::format("{} [{}]", text, value);
    case values::some: return fmt::format("{} {} ...", text, value);
  }
  return text;
}

/// `text` in lines of help_width, all but the first behind help_column blanks.
std::string wrapped(std::string_view text) {
  std::string out;
  std::size_t column = help_column;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    if (column != help_column && column + 1 + end > help_width) {
      out += "\n" + std::string(help_column, ' ');
      column = help_column;
    } else if (column != help_column) {
      out += ' ';
      ++column;
    }
    out += text.substr(0, end);
    column += end;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

std::string line_of(const std::string& names, std::string_view help) {
  std::string text = "  " + names;
  if (text.size() + 1 >= help_column) text += "\n" + std::string(help_column, ' ');
  else text.resize(help_column, ' ');
  return text + wrapped(help) + "\n";
}

/// Groups in the order in which they first appear.
std::vector<std::string> groups_of(const option_set& set) {
  std::vector<std::string> groups;
  for (const option& o : set.options()) {
    if (o.what == effect::works && std::find(groups.begin(), groups.end(), o.group) == groups.end()) groups.push_back(o.group);
  }
  return groups;
}

bool has(const option_set& set, effect what) {
  return std::any_of(set.options().begin(), set.options().end(), [&](const option& o) { return o.what == what; });
}

/// For single quotation marks of a shell.
std::string shell_text(std::string_view s) {
  std::string out;
  for (const char c : s) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out;
}

/// Words of `texts` separated by blanks.
std::string words(const std::vector<std::string>& texts) { return fmt::format("{}", fmt::join(texts, " ")); }

std::vector<std::string> option_words(const option_set& set) {
  std::vector<std::string> all = {"--help"};
  for (const option& o : set.options()) {
    if (o.what == effect::works) all.push_back("--" + o.names.front());
  }
  return all;
}

std::string command_words(std::span<const described_command> commands) {
  std::vector<std::string> names;
  for (const described_command& c : commands) names.emplace_back(c.name);
  return words(names);
}

/// Values that are worth offering for an option.
const std::vector<std::string>& offered(const option& o) { return o.choices.empty() ? o.suggestions : o.choices; }

std::string bash_script(std::span<const described_command> commands, std::span<const std::string> programs) {
  std::string s = "# bash completion of auto-round: source it, or put it into /usr/share/bash-completion/completions/auto-round\n_auto_round() {\n";
  // Bash takes "gguf:q4_0" for three words, so words are those of the line.
  s += "  local line=${COMP_LINE:0:COMP_POINT} command=quantize before typed\n  local current=${line##*[[:blank:]]}\n  read -ra typed <<< \"${line%\"$current\"}\"\n  before=${typed[-1]}\n";
  s += fmt::format("  case ${{typed[1]}} in {}) command=${{typed[1]}};; esac\n  COMPREPLY=()\n", [&] {
    std::vector<std::string> names;
    for (const described_command& c : commands) names.emplace_back(c.name);
    return fmt::format("{}", fmt::join(names, "|"));
  }());
  const auto reply = [](const std::vector<std::string>& of) { return fmt::format("COMPREPLY=($(compgen -W '{}' -- \"$current\"))", words(of)); };
  s += "  case $command:${before//-/_} in\n";
  for (const described_command& c : commands) {
    for (const option& o : c.options->options()) {
      if (offered(o).empty() || o.what == effect::refused) continue;
      std::vector<std::string> patterns;
      for (const std::string& n : o.names) patterns.push_back(fmt::format("{}:__{}", c.name, n));
      s += fmt::format("    {}) {}; [[ $current == *:* ]] && COMPREPLY=(\"${{COMPREPLY[@]#\"${{current%:*}}:\"}}\"); return;;\n", fmt::join(patterns, "|"), reply(offered(o)));
    }
  }
  s += "  esac\n  if [[ ${#typed[@]} == 1 && $current != -* ]]; then\n";
  s += fmt::format("    COMPREPLY=($(compgen -W '{}' -- \"$current\") $(compgen -d -- \"$current\"))\n  elif [[ $current == -* ]]; then\n    case $command in\n", command_words(commands));
  for (const described_command& c : commands) s += fmt::format("      {}) {};;\n", c.name, reply(option_words(*c.options)));
  s += "    esac\n  fi\n}\n";
  return s + fmt::format("complete -o default -F _auto_round {}\n", fmt::join(programs, " "));
}

std::string zsh_script(std::span<const described_command> commands, std::span<const std::string> programs) {
  const auto escaped = [](std::string_view text) {
    std::string out;
    for (const char c : text) {
      if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
      out += c;
    }
    return shell_text(out);
  };
  std::string s = fmt::format("#compdef {}\n# zsh completion of auto-round: put it as _auto-round into a folder of $fpath\n_auto_round() {{\n  local command=quantize\n", fmt::join(programs, " "));
  s += "  local -a commands=(\n";
  for (const described_command& c : commands) s += fmt::format("    '{}:{}'\n", c.name, escaped(c.summary));
  s += "  )\n  (( CURRENT == 2 )) && [[ $words[2] != -* ]] && _describe command commands\n  [[ -n ${commands[(r)$words[2]:*]} ]] && command=$words[2]\n  case $command in\n";
  for (const described_command& c : commands) {
    s += fmt::format("    {}) _arguments -S '*:model:_files'", c.name);
    for (const option& o : c.options->options()) {
      if (o.what != effect::works) continue;
      std::string value;
      if (!offered(o).empty()) value = fmt::format(":{}:({})", o.value_name, escaped(words(offered(o))));
      else if (o.count != values::none) value = fmt::format(":{}:_files", o.value_name);
      s += fmt::format(" \\\n      '*--{}[{}]{}'", o.names.front(), escaped(o.help), value);
    }
    s += ";;\n";
  }
  return s + "  esac\n}\n_auto_round \"$@\"\n";
}

std::string fish_script(std::span<const described_command> commands, std::span<const std::string> programs) {
  std::string s = "# fish completion of auto-round: put it into ~/.config/fish/completions/auto-round.fish\n";
  const std::string names = command_words(commands);
  for (const std::string& p : programs) {
    for (const described_command& c : commands) {
      if (p == "auto-round") s += fmt::format("complete -c {} -n __fish_use_subcommand -a {} -d '{}'\n", p, c.name, shell_text(c.summary));
      else if (c.name != "quantize") continue;
      const std::string when = p != "auto-round" ? "true" : c.name == "quantize" ? fmt::format("__fish_seen_subcommand_from quantize; or not __fish_seen_subcommand_from {}", names)
                                                          : fmt::format("__fish_seen_subcommand_from {}", c.name);
      for (const option& o : c.options->options()) {
        if (o.what != effect::works) continue;
        s += fmt::format("complete -c {} -n '{}' -l {}", p, when, o.names.front());
        if (o.count == values::one || o.count == values::some || !o.suggestions.empty()) s += " -r";
        if (!offered(o).empty()) s += fmt::format(" -f -a '{}'", words(offered(o)));
        s += fmt::format(" -d '{}'\n", shell_text(o.help));
      }
    }
  }
  return s;
}

/// Text of a manual page: no line begins with a dot, backslashes and dashes are themselves.
std::string roff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') out += "\\e";
    else if (c == '-') out += "\\-";
    else out += c;
  }
  return out.starts_with('.') || out.starts_with('\'') ? "\\&" + out : out;
}

std::string upper(std::string_view s) {
  std::string out(s);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return out;
}

}  // namespace

std::string group_text(const option_set& set, std::string_view group, std::string_view part) {
  std::string text;
  for (const option& o : set.options()) {
    if (o.group == group && o.what == effect::works && o.names.front().find(part) != std::string::npos) text += line_of(names_of(o), o.help);
  }
  return text;
}

std::string help_text(std::string_view program, const described_command& c) {
  const option_set& set = *c.options;
  std::string text = fmt::format("{}\nusage: {} {}", c.summary, program, c.name);
  if (set.positional() != nullptr) text += fmt::format(" [{}]", set.positional()->value_name);
  text += " [options]\n\n" + line_of("-h, --help", "print this help");
  for (const std::string& group : groups_of(set)) {
    text += "\n" + group + ":\n" + group_text(set, group);
  }
  if (has(set, effect::notice) || has(set, effect::refused)) text += "\nOptions of the Python program without effect here, or refused: `auto-round man`.\n";
  return text;
}

std::string completion_script(std::string_view shell, std::span<const described_command> commands, std::span<const std::string> programs) {
  if (shell == "zsh") return zsh_script(commands, programs);
  return shell == "fish" ? fish_script(commands, programs) : bash_script(commands, programs);
}

std::string manual_page(std::span<const described_command> commands) {
  std::string s = fmt::format(".TH AUTO\\-ROUND 1 \"\" \"auto\\-round {}\"\n.SH NAME\nauto\\-round \\- makes large language models small\n", AR_VERSION_STRING);
  s += ".SH SYNOPSIS\n.B auto\\-round\n[quantize] \\-\\-model DIR [options]\n.br\n.B auto\\-round\nCOMMAND [options]\n";
  s += ".SH DESCRIPTION\nReads a float checkpoint from a Hugging Face folder, quantizes its linear layers and writes a checkpoint that other programs load. "
       "Options may be written with \\- or _ between words and abbreviated; the last of several values wins.\n.PP\n"
       "auto\\-round\\-best, auto\\-round\\-light, auto\\-round\\-rtn and auto\\-round\\-opt\\-rtn are the same program with other defaults.\n";
  for (const described_command& c : commands) {
    s += fmt::format(".SH {}\n{}.\n", roff(upper(c.name)), roff(c.summary));
    const option_set& set = *c.options;
    for (const std::string& group : groups_of(set)) {
      s += fmt::format(".SS {}\n", roff(group));
      for (const option& o : set.options()) {
        if (o.group == group && o.what == effect::works) s += fmt::format(".TP\n.B {}\n{}\n", roff(names_of(o)), roff(o.help));
      }
    }
    for (const effect what : {effect::notice, effect::refused}) {
      if (!has(set, what)) continue;
      s += what == effect::notice ? ".SS Accepted, without effect\n" : ".SS Known, but refused\n";
      for (const option& o : set.options()) {
        if (o.what == what) s += fmt::format(".TP\n.B {}\n{}\n", roff(names_of(o)), roff(o.help));
      }
    }
  }
  s += ".SH ENVIRONMENT\n";
  for (const environment_variable& v : environment_variables()) {
    const std::string refused = v.what == effect::refused ? fmt::format(" (any value but {} is refused)", v.harmless) : std::string();
    s += fmt::format(".TP\n.B {}\n{}{}\n", v.name, roff(v.text), roff(refused));
  }
  s += ".SH EXIT STATUS\n0 done; 1 our own fault, or out of memory; 2 wrong option, value or combination; 3 an input file is missing or damaged; 4 the output could not be "
       "written; 5 a correct input that this version cannot handle; 6 what was written does not match; 130 interrupted.\n";
  return s;
}

}  // namespace auto_round::command
