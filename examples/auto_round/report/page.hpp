// report.html: one page about one run, complete in itself (inline SVG and CSS, no script, nothing from the network), light or dark as the reader's system
// is, readable on a telephone and on a wide screen.
#pragma once

#include <string>
#include <string_view>

#include "io/json.hpp"

namespace auto_round::report {

/// The page for a report.json (what `quantize --json` prints, with `blocks`, `layers` and `autoscheme` where there are any). What is absent or of another
/// kind is left out. All texts are escaped: names come from files of strangers.
std::string html_page(const io::json& run);

/// Text for HTML, in and between tags: & < > " ' as entities; control characters and bytes that form no UTF-8 become U+FFFD.
std::string escape_html(std::string_view text);

}  // namespace auto_round::report
