// The searches and tuned forwards with the float lane, numbered like kernel_table::range_types. Link ar_float_search.
#pragma once

#include "ar/detail/kernel_table.hpp"

const ar::search_functions* float_search() noexcept;
