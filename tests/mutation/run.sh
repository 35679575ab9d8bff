#!/usr/bin/env bash
# Are the tests awake? Plants one mistake after the other into a copy of the library (mutants.sh), builds the tests that should notice and runs them.
# A mutant that no test kills is a test that is missing. The tree itself is not touched.
#   tests/mutation/run.sh [regular expression of names]       AR_MUTATION_DIR keeps the copy and its build between runs
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
pattern=${1:-.}
scratch=${AR_MUTATION_DIR:-$(mktemp -d)}
[ -n "${AR_MUTATION_DIR:-}" ] || trap 'rm -rf "$scratch"' EXIT
copy=$scratch/tree build=$scratch/build log=$scratch/log
mkdir -p "$copy"
# -m: newer than what an earlier run built of a mutant.
(cd "$root" && git ls-files -co --exclude-standard -z | tar --null -T - -cf -) | tar -xmf - -C "$copy"

# One SIMD target, not optimized: the reference and one more lane, compiled quickly. All targets give the same bits, so one is enough to be wrong. It is
# this machine's own, because the narrowest of x86 has no packing kernels (detail/moves-inl.h).
cmake -S "$copy" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS=-O0 -g0 -march=native -DHWY_COMPILE_ONLY_STATIC" -DAR_BUILD_EXAMPLES=OFF \
  > "$log" 2>&1 || { cat "$log"; exit 2; }

names=() files=() edits=() tests=()
mutant() { # name, file, sed expressions, tests
  [[ $1 =~ $pattern ]] || return 0
  names+=("$1"); files+=("include/ar/$2"); shift 2
  local e="" t=""
  for word; do case $word in *_test) t+=" $word" ;; *) e+="$word"$'\n' ;; esac; done
  edits+=("$e"); tests+=("$t")
}
# shellcheck source=tests/mutation/mutants.sh
. "$root/tests/mutation/mutants.sh"

build_and_run() { # tests; 0: all pass, 1: one fails (named on stdout), 2: does not compile
  # shellcheck disable=SC2086
  cmake --build "$build" --target $1 > "$log" 2>&1 || return 2
  local t
  for t in $1; do
    if ! GTEST_FILTER='-*Nightly*:*Real*' GTEST_FAIL_FAST=1 timeout 3600 "$build/bin/$t" > "$log" 2>&1; then
      grep -m1 -oE 'FAILED  \] [A-Za-z0-9_/]+\.[A-Za-z0-9_/]+' "$log" | sed 's/.*\] //' || echo "$t ends by a signal"
      return 1
    fi
  done
}

all=$(printf '%s\n' "${tests[@]}" | tr ' ' '\n' | sort -u | xargs)
if ! failed=$(build_and_run "$all"); then echo "the tests fail without a mutant: $failed"; tail -20 "$log"; exit 2; fi

survived=0
for i in "${!names[@]}"; do
  file=$copy/${files[i]}
  cp "$file" "$scratch/original"
  while IFS= read -r edit; do
    [ -n "$edit" ] || continue
    cp "$file" "$scratch/before"
    sed -i "$edit" "$file"
    if cmp -s "$file" "$scratch/before"; then echo "${names[i]}: this finds nothing to change: $edit"; survived=$((survived + 1)); fi
  done <<< "${edits[i]}"
  what=$(build_and_run "${tests[i]# }")
  case $? in
    0) verdict="SURVIVED${tests[i]}"; survived=$((survived + 1)) ;;
    1) verdict="killed by $what" ;;
    *) verdict="killed by the compiler: $(grep -m1 -oE 'error: .{0,80}' "$log")" ;;
  esac
  printf '%-28s %-32s %s\n' "${names[i]}" "${files[i]#include/ar/}" "$verdict"
  cp "$scratch/original" "$file"
done
echo "${#names[@]} mutants, $survived not killed"
[ "$survived" = 0 ]
