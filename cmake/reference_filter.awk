# What doxygen (docs/Doxyfile) reads instead of a header: the comment that opens a header documents the file and, in dtype/ and codec/, the type of the
# same name. The members of data types and codecs are those that the concepts DataType and Codec describe (ar/scheme.hpp), so only their names are shown.
FNR == 1 {
  opening = ""
  stem = FILENAME
  sub(/.*\//, "", stem)
  sub(/\.hpp$/, "", stem)
  room = FILENAME ~ /\/(dtype|codec)\//
  open = 1
}
open && /^\/\// {
  line = $0
  sub(/^\/\/ ?/, "", line)
  opening = opening " " line
  print ""
  next
}
open {
  open = 0
  sub(/^ /, "", opening)
  text = opening
  gsub(/[<>]/, "\\\\&", text)
  printf "/** @file\n * %s */ ", text
}
/^#define AR_[A-Z0-9_]+_HPP$/ { print ""; next }
/^inline namespace AR_ABI \{$/ || /^}  \/\/ namespace AR_ABI$/ { print ""; next }  # where text lives is the compiler's business
/^ *\/\/\/ / { gsub(/[<>]/, "\\\\&") }  # templates, not HTML
room && /^(struct|class) [a-z0-9_]+ (: .*)?\{$/ {
  name = $2
  if (name == stem && last !~ /^(\/\/\/|template)/) printf "/** %s */ ", text
  else if (name == stem) sub(/^/, "/** " text " */ ")
  print $0 " /// @cond"
  last = $0
  next
}
room && /^};/ { print "/// @endcond"; printf "%s\n", $0; last = $0; next }
room && /^using [A-Z0-9_]+ = scheme<.*;$/ { print $0 "  ///< The preset of this name."; next }
{ print; last = $0 }
