#!/usr/bin/env bash
# Includes go downwards only. Library and application each have an order of rooms; a file may include its own room and those before it.
# Also: who may see a third-party header, and that the public headers stay free of what they promise not to use.
set -u
cd "$(dirname "$0")/../.." || exit 2
bad=0
complain() { echo "$1"; bad=1; }

# Rank of a library header; a header may include ranks that are lower, or equal (a room may use itself).
lib_rank() {
  case "$1" in
    ar/version.hpp|ar/config.hpp|ar/errc.hpp|ar/view.hpp|ar/numeric/*) echo 0 ;;
    ar/detail/*) echo 1 ;;
    ar/dtype/*|ar/codec/*) echo 2 ;;
    ar/scheme.hpp|ar/data_types.hpp|ar/quantize.hpp|ar/tune.hpp|ar/search.hpp|ar/calibrate.hpp|ar/resolve.hpp|ar/codecs.hpp|ar/pack.hpp|ar/gguf.hpp|ar/convert.hpp|ar/hadamard.hpp|ar/awq.hpp) echo 3 ;;
    ar/dispatch.hpp|ar/cuda/*) echo 4 ;;
    ar/ar.hpp) echo 5 ;;
    *) echo "?" ;;
  esac
}
while IFS=: read -r file inc; do
  own=${file#include/}
  a=$(lib_rank "$own"); b=$(lib_rank "$inc")
  [ "$a" = "?" ] && complain "$file: no layer is known for this header"
  [ "$b" = "?" ] && complain "$file includes $inc, which has no layer"
  # scheme.hpp holds the concepts that the data types state, and detail/ drives them: both are below the doors.
  [ "$inc" = ar/scheme.hpp ] && continue
  # The row drivers are per-target text and see the types they drive.
  case "$own" in ar/detail/*-inl.h) [ "$b" -le 3 ] && continue ;; esac
  [ "$b" -gt "$a" ] && complain "$file (layer $a) includes $inc (layer $b)"
  case "$own:$inc" in
    ar/dtype/*:ar/codec/*|ar/codec/*:ar/dtype/*) complain "$file: data types and codecs do not know each other ($inc)" ;;
  esac
done < <(grep -rnoE '#include [<"]ar/[^>"]+' include | sed -E 's/:[0-9]+:#include [<"]/:/')

app_rank() {
  case "$1" in
    error.hpp) echo 0 ;;
    io/*) echo 1 ;;
    model/*|text/*) echo 2 ;;
    arch/*|report/*) echo 3 ;;
    tune/*|transform/*|evaluation/*) echo 4 ;;
    export/*|autoscheme/*) echo 5 ;;
    plan*) echo 6 ;;
    command/*) echo 7 ;;
    main.cpp) echo 8 ;;
    *) echo "?" ;;
  esac
}
while IFS=: read -r file inc; do
  own=${file#examples/auto_round/}
  b=$(app_rank "$inc")
  case "$inc" in *_registry.inc) continue ;; esac
  [ "$b" = "?" ] && continue  # a header of the same folder or of the system
  a=$(app_rank "$own")
  [ "$a" = "?" ] && { complain "$file: no room is known for this file"; continue; }
  [ "$b" -gt "$a" ] && complain "$file includes $inc, which is above it"
done < <(grep -rnoE '#include "[^"]+' examples/auto_round --include='*.hpp' --include='*.cpp' --include='*.h' | sed -E 's/:[0-9]+:#include "/:/')

only() { # only <regex of header> <regex of files that may include it> <why>
  local hits
  hits=$(grep -rlE "#include [<\"]($1)" include examples/auto_round | grep -vE "^($2)$")
  [ -n "$hits" ] && complain "$3: $hits"
}
only 'Eigen/|oneapi/|dnnl' 'examples/auto_round/model/linalg[a-z_]*\.(cpp|hpp)' "only model/linalg sees Eigen and oneDNN"
only 'nlohmann/' 'examples/auto_round/io/json_events\.cpp' "only io/json_events sees the JSON library"
only 'openssl/' 'examples/auto_round/export/export_checksums\.cpp' "only export/export_checksums sees OpenSSL"
only 'pcre2' 'examples/auto_round/text/[a-z_]+\.cpp' "only text sees PCRE2"
only '(iostream|fstream|sstream|thread|mutex|vector|string|memory|stdexcept|functional|map)>' 'examples/.*' "include/ar uses no heap, threads or streams"

if grep -rnE '\b(throw|new|malloc|dynamic_cast|typeid)\b' include --include='*.hpp' --include='*.h' | grep -vE '^[^:]+:[0-9]+: *(//|\*)' | grep -vE '//.*\b(throw|new|malloc)\b'; then
  complain "include/ar: no exceptions, no heap, no RTTI"
fi
[ $bad = 0 ] && echo "layers: every include goes downwards"
exit $bad
