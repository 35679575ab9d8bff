#!/usr/bin/env bash
# Every public name of the doors is documented: doxygen says so, and would stop otherwise. Shown on a name that is not.
set -u
cd "$(dirname "$0")/../.." || exit 2
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
reference() { (cat docs/Doxyfile; echo "OUTPUT_DIRECTORY = $tmp/out"; echo "GENERATE_HTML = NO"; echo "GENERATE_XML = YES"; echo "INPUT = $*") | doxygen - ; }
reference include/ar || { echo "public names without a documentation, see above"; exit 1; }
echo "$(ls "$tmp"/out/xml/*.xml | wc -l) pages, no undocumented public name"
printf '// A header.\n#pragma once\nnamespace ar {\nint nameless();\n}\n' > "$tmp/undocumented.hpp"
if reference "$tmp/undocumented.hpp" 2> "$tmp/log"; then echo "an undocumented function passes"; exit 1; fi
grep -q nameless "$tmp/log"
