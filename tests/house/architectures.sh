#!/usr/bin/env bash
# A new architecture touches one file. So no file of the application outside arch/ asks which architecture a model is, or has the name of one (its stem, its
# classes, its name in GGUF files) among its strings: what is different about an architecture is said in arch/<name>.cpp, as data.
set -u
cd "$(dirname "$0")/../../examples/auto_round" || exit 2
bad=0
complain() { printf '%s:\n%s\n' "$1" "$2"; bad=1; }

own=$(find arch -name '*.cpp' | grep -vE '/architecture(_[a-z]+)?\.cpp$')
names=$({ for f in $own; do basename "$f" .cpp; done; grep -hoE '"[A-Za-z0-9]+ForCausalLM"|\.name = "[a-z0-9]+"' $own arch/architecture_gguf.hpp | grep -oE '[A-Za-z0-9]+"' | tr -d '"'; } | sort -u)
count=$(wc -w <<< "$names")
[ "$count" -gt "$(wc -w <<< "$own")" ] || complain "too few names were found" "$names"

# Without comments. Some tokenizers of llama.cpp have names of architectures, and the peer looks for a word in a path.
code=$(grep -rn '' . --include='*.cpp' --include='*.hpp' --include='*.h' --exclude-dir=arch | sed -E 's#(:[0-9]+:|[[:space:]])//.*#\1#' |
  grep -vE '^\./export/export_gguf_tokenizer\.cpp:[0-9]+:.*(\{"qwen2", R"|"tokenizer\.ggml\.model", std::string\("llama"\))|^\./command/eval_tasks\.cpp:[0-9]+:.*lower\.find\("llama"\)')
[ "$(wc -l <<< "$code")" -gt 10000 ] || complain "too little code was found" ""

asks=$(grep -E '\barchitecture(\(\))? *(==|!=)|(==|!=) *[A-Za-z_.]*(\.|->)architecture\b|\barchitecture\.(compare|find|starts_with|ends_with)\(' <<< "$code" | grep -vE '(==|!=) *nullptr')
[ -n "$asks" ] && complain "which architecture it is must not matter outside arch" "$asks"
named=$(grep -E "\"($(paste -sd'|' <<< "$names"))\"" <<< "$code")
[ -n "$named" ] && complain "these have the name of an architecture" "$named"
[ $bad = 0 ] && echo "architectures: none of $count names is known outside arch"
exit $bad
