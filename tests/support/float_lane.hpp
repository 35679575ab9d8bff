// The kernels of the float lane, the reference, behind the signatures of the dispatch table and in its order.
#pragma once

#include <type_traits>
#include <vector>

#include "ar/data_types.hpp"
#include "ar/detail/rows-inl.h"
#include "ar/detail/scaled_type-inl.h"
#include "ar/dispatch.hpp"

namespace support {

template <class T>
T from_values(const ar::type_values& v) {
  T t{};
  if constexpr (std::is_same_v<T, ar::any_scaled>) {
    t.the_facts = *v.facts;
    t.the_tensor = v.tensor;
  } else {
    t.width = decltype(t.width)(v.bits);
  }
  return t;
}

template <class T>
struct float_entry {
  using weights = ar::matrix_view<const float>;
  using numbers = ar::matrix_view<float>;
  static ar::errc fit(const ar::type_values& v, ar::group_shape g, weights w, numbers s, numbers z) {
    return ar::rows::fit<T, float>(from_values<T>(v), g, w, s, z);
  }
  static ar::errc quantize(const ar::type_values& v, ar::group_shape g, weights w, ar::matrix_view<std::uint8_t> c, numbers s, numbers z) {
    return ar::rows::quantize<T, float>(from_values<T>(v), g, w, c, s, z);
  }
  static ar::errc encode(const ar::type_values& v, ar::group_shape g, weights w, weights s, weights z, ar::matrix_view<std::uint8_t> c) {
    return ar::rows::encode<T, float>(from_values<T>(v), g, w, s, z, c);
  }
  static ar::errc dequantize(const ar::type_values& v, ar::group_shape g, ar::matrix_view<const std::uint8_t> c, weights s, weights z, numbers out) {
    return ar::rows::dequantize<T, float>(from_values<T>(v), g, c, s, z, out);
  }
  static ar::errc qdq(const ar::type_values& v, ar::group_shape g, weights w, numbers out) {
    return ar::rows::qdq<T, float>(from_values<T>(v), g, w, out);
  }
  static constexpr ar::range_functions functions{fit, quantize, encode, dequantize, qdq};
};

template <class T>
void add_float_lane(std::vector<ar::range_kernels>& all) {
  if constexpr (ar::RangeType<T>) {
    ar::range_kernels k = ar::kernels().range_types[all.size()];
    if constexpr (requires { T::the_facts; }) {
      k.functions = float_entry<ar::any_scaled>::functions;
    } else {
      k.functions = float_entry<T>::functions;
    }
    all.push_back(k);
  }
}
template <class... T>
void add_float_lanes(std::vector<ar::range_kernels>& all, ar::type_list<T...>) {
  (add_float_lane<T>(all), ...);
}

/// One entry for each of ar::kernels().range_types, in the same order.
inline std::vector<ar::range_kernels> float_lane() {
  std::vector<ar::range_kernels> all;
#define AR_ADD_FLOAT_LANE(stem) add_float_lanes(all, ar::stem##_types{});
  AR_FOR_EACH_DATA_TYPE(AR_ADD_FLOAT_LANE)
#undef AR_ADD_FLOAT_LANE
  return all;
}

}  // namespace support
