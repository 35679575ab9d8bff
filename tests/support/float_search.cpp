// The searches and tuned forwards of all data types with the float lane, for several tests to compare with: compiled once.
#include "support/float_search.hpp"

#include "ar/detail/search_table-inl.h"

const ar::search_functions* float_search() noexcept { return ar::dispatch::search_table<float>(); }
