// One of two units that are compiled for different instruction sets and linked together.
#include <ar/quantize.hpp>

#define NAME2(unit) quantize_##unit
#define NAME(unit) NAME2(unit)

ar::errc NAME(UNIT)(ar::matrix_view<const float> w, ar::matrix_view<float> out) { return ar::qdq(ar::scheme<ar::int_asym<4>, ar::group<32>>{}, w, out); }
