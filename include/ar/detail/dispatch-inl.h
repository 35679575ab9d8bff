// One SIMD target's kernel table: instances of the row drivers for every data type of the registry. Included by the dispatch unit alone, once
// per target.
#if defined(AR_DETAIL_DISPATCH_INL_H) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DETAIL_DISPATCH_INL_H
#else
#define AR_DETAIL_DISPATCH_INL_H
#endif

#include <hwy/highway.h>  // before all else: it opens the target's region

#include "ar/data_types.hpp"
#include "ar/detail/calibrate-inl.h"
#if !defined(AR_DISPATCH_WITHOUT_CODECS)
#include "ar/detail/dispatch_codec-inl.h"
#endif
#if !defined(AR_DISPATCH_WITHOUT_TUNE)
#include "ar/detail/dispatch_tune-inl.h"
#endif
#include "ar/detail/gguf_table-inl.h"
#include "ar/detail/kernel_table.hpp"
#include "ar/detail/lane-inl.h"
#include "ar/detail/rows-inl.h"
#include "ar/detail/scaled_type-inl.h"
#include "ar/detail/search_table-inl.h"

AR_BEGIN_TARGET
#if defined(AR_DISPATCH_WITHOUT_SEARCH)
namespace dispatch {
extern template const search_functions* search_table<vec>() noexcept;
}
#endif
namespace dispatch {

template <class T>
struct range_entry {
  static errc fit(const type_values& type, group_shape group, matrix_view<const float> w, matrix_view<float> scale, matrix_view<float> zero_point) {
    return rows::fit<T, vec>(from_values<T>(type), group, w, scale, zero_point);
  }
  static errc quantize(const type_values& type, group_shape group, matrix_view<const float> w, matrix_view<std::uint8_t> code, matrix_view<float> scale,
                       matrix_view<float> zero_point) {
    return rows::quantize<T, vec>(from_values<T>(type), group, w, code, scale, zero_point);
  }
  static errc encode(const type_values& type, group_shape group, matrix_view<const float> w, matrix_view<const float> scale,
                     matrix_view<const float> zero_point, matrix_view<std::uint8_t> code) {
    return rows::encode<T, vec>(from_values<T>(type), group, w, scale, zero_point, code);
  }
  static errc dequantize(const type_values& type, group_shape group, matrix_view<const std::uint8_t> code, matrix_view<const float> scale,
                         matrix_view<const float> zero_point, matrix_view<float> out) {
    return rows::dequantize<T, vec>(from_values<T>(type), group, code, scale, zero_point, out);
  }
  static errc qdq(const type_values& type, group_shape group, matrix_view<const float> w, matrix_view<float> out) {
    return rows::qdq<T, vec>(from_values<T>(type), group, w, out);
  }
  static constexpr range_functions functions{fit, quantize, encode, dequantize, qdq};
};

/// The types most in use have kernels of their own, in which their facts are constants: about twice as fast. The others share those of any_scaled.
template <class T>
constexpr auto kernels_of() noexcept {
  if constexpr (requires { requires T::own_kernels; }) {
    return fixed_scaled<T>{};
  } else {
    return instance_of<T>();
  }
}

template <class T>
constexpr range_kernels entry(std::size_t number) noexcept {
  const scaled_facts* facts = nullptr;
  if constexpr (requires { T::the_facts; }) facts = &T::the_facts;
  using instance = decltype(kernels_of<T>());
  return {T::name, T::weight_format, T::scale_format, rows::has_zero_point<T>, facts, range_entry<instance>::functions, search_table<vec>, number};
}

/// Room for every instance of the registry; the range types fill it from the front.
struct type_tables {
  range_kernels range[capacity] = {};
  std::size_t ranges = 0;

  template <class T>
  constexpr void add() noexcept {
    if constexpr (RangeType<T>) {
      range[ranges] = entry<T>(ranges);
      ++ranges;
    }
  }
  template <class... T>
  constexpr void add_all(type_list<T...>) noexcept {
    (add<T>(), ...);
  }
};

constexpr type_tables make_type_tables() noexcept {
  type_tables t;
#define AR_ADD_TYPES(stem) t.add_all(stem##_types{});
  AR_FOR_EACH_DATA_TYPE(AR_ADD_TYPES)
#undef AR_ADD_TYPES
  return t;
}
inline constexpr type_tables types = make_type_tables();

}  // namespace dispatch

#if defined(AR_DISPATCH_WITHOUT_GGUF)
namespace gguf {
extern template std::span<const gguf_kernels> kernel_table<vec>() noexcept;
}
#endif

#if defined(AR_DISPATCH_WITHOUT_CODECS)
namespace dispatch {
std::span<const codec_kernels> codec_table() noexcept;
}
#endif

#if defined(AR_DISPATCH_WITHOUT_TUNE)
namespace dispatch {
void tune_fake_quantize(const tune_grid&, const tune_layer&, std::size_t, std::size_t, float*) noexcept;
void tune_fake_quantize_bf16(const tune_grid&, const tune_layer&, std::size_t, std::size_t, std::uint16_t*) noexcept;
void tune_gradient(const tune_grid&, const tune_layer&, std::size_t, std::size_t, const float*, bool, bool, const tune_parameters&) noexcept;
void tune_step(const tune_grid&, const tune_layer&, std::size_t, std::size_t, const float*, bool, float, float, const tune_parameters&) noexcept;
void tune_quantize(const tune_grid&, const tune_layer&, std::size_t, std::size_t, const tune_output&) noexcept;
void tune_input_gradient(const tune_grid&, const tune_layer&, std::size_t, std::size_t, const float*, float*, float*) noexcept;
}
#endif

// HWY_NAMESPACE is "N_" and the name of the target.
inline constexpr kernel_table table{&HWY_STR(HWY_NAMESPACE)[2], dispatch::types.range, dispatch::types.ranges, gguf::kernel_table<vec>,
                                    {dispatch::tune_fake_quantize, dispatch::tune_fake_quantize_bf16, dispatch::tune_gradient, dispatch::tune_step,
                                     dispatch::tune_quantize, dispatch::tune_input_gradient},
                                    {calibrate::add_maxima<vec>, calibrate::add_head_maxima<vec>, calibrate::add_importance<vec>},
                                    dispatch::codec_table};

AR_END_TARGET
#endif
