// One use of one scheme, for tests/house/code_size.sh: SCHEME, and one of QUANTIZE, DEQUANTIZE, QDQ. The shape is 4 rows of COLS columns, or with
// ANY_SHAPE an argument. BLOCKS says that the type is a block type.
#include <ar/quantize.hpp>

namespace {
constexpr ar::SCHEME scheme;
#if defined(BLOCKS)
using type = decltype(scheme)::data_type;
#endif
#if defined(ANY_SHAPE)
#define SHAPE , std::size_t rows, std::size_t cols
#else
#define SHAPE
constexpr std::size_t rows = 4, cols = COLS;
#endif
}  // namespace

#if defined(QDQ)
extern "C" int use(float* w SHAPE) { return static_cast<int>(ar::qdq(scheme, {w, rows, cols}, {w, rows, cols})); }
#elif defined(QUANTIZE) && defined(BLOCKS)
extern "C" int use(const float* w, std::uint8_t* bytes SHAPE) {
  return static_cast<int>(ar::quantize(scheme, {w, rows, cols}, {bytes, rows, cols / type::block_size * type::block_bytes}));
}
#elif defined(DEQUANTIZE) && defined(BLOCKS)
extern "C" int use(const std::uint8_t* bytes, float* w SHAPE) {
  return static_cast<int>(ar::dequantize(scheme, {bytes, rows, cols / type::block_size * type::block_bytes}, {w, rows, cols}));
}
#elif defined(QUANTIZE)
extern "C" int use(const float* w, std::uint8_t* code, float* scale, float* zero_point SHAPE) {
  const std::size_t groups = cols / static_cast<std::size_t>(scheme.group_size());
  return static_cast<int>(ar::quantize(scheme, {w, rows, cols}, {code, rows, cols}, {scale, rows, groups}, {zero_point, rows, groups}));
}
#elif defined(DEQUANTIZE)
extern "C" int use(const std::uint8_t* code, const float* scale, const float* zero_point, float* w SHAPE) {
  const std::size_t groups = cols / static_cast<std::size_t>(scheme.group_size());
  return static_cast<int>(ar::dequantize(scheme, {code, rows, cols}, {scale, rows, groups}, {zero_point, rows, groups}, {w, rows, cols}));
}
#endif
