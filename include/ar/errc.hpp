// Error codes of the library. Functions return them; nothing throws.
#pragma once

namespace ar {

/// What a function of the library says: `ok`, or why it did nothing.
enum class errc : unsigned char {
  ok = 0,             ///< all of the work is done
  bad_shape,          ///< rows, columns or group size do not fit together
  bad_size,           ///< a buffer is smaller than the shape demands, or a size computation overflows
  bad_value,          ///< a parameter is outside its documented range
  non_finite,         ///< the input holds NaN or infinity
  unsupported,        ///< this combination has no implementation (type, codec, target)
  not_representable,  ///< the values cannot be stored in the asked layout without loss
};

/// A short English sentence for `e`, without a full stop. Never null.
constexpr const char* message(errc e) noexcept {
  switch (e) {
    case errc::ok: return "ok";
    case errc::bad_shape: return "shape and group size do not fit together";
    case errc::bad_size: return "buffer too small for the shape";
    case errc::bad_value: return "parameter out of range";
    case errc::non_finite: return "input holds NaN or infinity";
    case errc::unsupported: return "combination not supported";
    case errc::not_representable: return "values cannot be stored in this layout without loss";
  }
  return "unknown error";
}

}  // namespace ar
