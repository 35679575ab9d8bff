// Every data type of the library: the list that the doors and the dispatch unit walk. A new file in ar/dtype/ is added here, in alphabetical
// order (a test compares this list with the folder); no other file names a data type.
#if defined(AR_DATA_TYPES_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DATA_TYPES_HPP
#else
#define AR_DATA_TYPES_HPP
#endif

#include "ar/dtype/int_asym.hpp"
#include "ar/dtype/int_sym.hpp"
#include "ar/dtype/int_sym_gptq.hpp"

/// AR_FOR_EACH_DATA_TYPE(X) expands to X(<file stem>) for each; the header of that stem defines the list <stem>_types of its instances.
#undef AR_FOR_EACH_DATA_TYPE
#define AR_FOR_EACH_DATA_TYPE(X) \
  X(int_asym)                    \
  X(int_sym)                     \
  X(int_sym_gptq)

#endif
