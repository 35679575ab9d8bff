// The searches and the tuned forward of every data type of the registry, as a table for one SIMD target.
#if defined(AR_DETAIL_SEARCH_TABLE_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_SEARCH_TABLE_INL_H
#else
#define AR_DETAIL_SEARCH_TABLE_INL_H
#endif

#include "ar/data_types.hpp"
#include "ar/detail/kernel_table.hpp"
#include "ar/detail/search-inl.h"

AR_BEGIN_TARGET
namespace dispatch {

/// The type that `values` describe.
template <class T>
constexpr T from_values(const type_values& values) noexcept {
  T t{};
  if constexpr (std::is_same_v<T, any_scaled>) t.the_facts = *values.facts;
  if constexpr (requires { t.the_tensor; }) {
    t.the_tensor = values.tensor;
  } else {
    t.width = decltype(t.width)(values.bits);
  }
  return t;
}

/// One instance serves all types that are told apart by their facts.
template <class T>
constexpr auto instance_of() noexcept {
  if constexpr (requires { T::the_facts; }) {
    return any_scaled{};
  } else {
    return T{};
  }
}

template <class... T>
constexpr std::size_t length(type_list<T...>) noexcept {
  return sizeof...(T);
}
#define AR_COUNT_TYPES(stem) +length(stem##_types{})
inline constexpr std::size_t capacity = 0 AR_FOR_EACH_DATA_TYPE(AR_COUNT_TYPES);
#undef AR_COUNT_TYPES

template <class T, class V>
struct search_entry {
  static errc search(const type_values& type, group_shape group, matrix_view<const float> w, const search_options& how, const group_output& out) {
    return searches::search<T, V>(from_values<T>(type), group, w, how, out);
  }
  static errc quantize_tuned(const type_values& type, group_shape group, matrix_view<const float> w, const tuned_values& values,
                             const group_output& out) {
    return searches::quantize_tuned<T, V>(from_values<T>(type), group, w, values, out);
  }
  static constexpr search_functions functions{search, quantize_tuned};
};

/// The range types in the order of the registry.
template <class V>
struct search_functions_of_all {
  search_functions of[capacity] = {};
  std::size_t count = 0;
  template <class T>
  constexpr void add() noexcept {
    if constexpr (RangeType<T>) of[count++] = search_entry<decltype(instance_of<T>()), V>::functions;
  }
  template <class... T>
  constexpr void add_all(type_list<T...>) noexcept {
    (add<T>(), ...);
  }
  constexpr search_functions_of_all() noexcept {
#define AR_ADD_TYPES(stem) add_all(stem##_types{});
    AR_FOR_EACH_DATA_TYPE(AR_ADD_TYPES)
#undef AR_ADD_TYPES
  }
};

template <class V>
const search_functions* search_table() noexcept {
  static constexpr search_functions_of_all<V> all;
  return all.of;
}

}  // namespace dispatch
AR_END_TARGET
#endif
