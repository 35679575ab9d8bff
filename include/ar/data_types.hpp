// Every data type of the library: the list that the doors and the dispatch unit walk. Written by cmake/registry.cmake from the files of ar/dtype/
// whenever the project is configured, and kept in the tree for users without CMake; no other file names a data type.
#if defined(AR_DATA_TYPES_HPP) == defined(HWY_TARGET_TOGGLE)  // see detail/target.hpp
#ifdef HWY_TARGET_TOGGLE
#undef AR_DATA_TYPES_HPP
#else
#define AR_DATA_TYPES_HPP
#endif

#include "ar/dtype/fp8.hpp"
#include "ar/dtype/gguf_mxfp4.hpp"
#include "ar/dtype/gguf_nvfp4.hpp"
#include "ar/dtype/int_asym.hpp"
#include "ar/dtype/int_sym.hpp"
#include "ar/dtype/int_sym_gptq.hpp"
#include "ar/dtype/iq1_m.hpp"
#include "ar/dtype/iq1_s.hpp"
#include "ar/dtype/iq2_s.hpp"
#include "ar/dtype/iq2_xs.hpp"
#include "ar/dtype/iq2_xxs.hpp"
#include "ar/dtype/iq3_s.hpp"
#include "ar/dtype/iq3_xxs.hpp"
#include "ar/dtype/iq4_nl.hpp"
#include "ar/dtype/iq4_xs.hpp"
#include "ar/dtype/mxfp4.hpp"
#include "ar/dtype/mxfp6.hpp"
#include "ar/dtype/mxfp8.hpp"
#include "ar/dtype/mxint.hpp"
#include "ar/dtype/mxuint.hpp"
#include "ar/dtype/nvfp4.hpp"
#include "ar/dtype/pass_through.hpp"
#include "ar/dtype/q1_0.hpp"
#include "ar/dtype/q2_0.hpp"
#include "ar/dtype/q2_k.hpp"
#include "ar/dtype/q3_k.hpp"
#include "ar/dtype/q4_0.hpp"
#include "ar/dtype/q4_1.hpp"
#include "ar/dtype/q4_k.hpp"
#include "ar/dtype/q5_0.hpp"
#include "ar/dtype/q5_1.hpp"
#include "ar/dtype/q5_k.hpp"
#include "ar/dtype/q6_k.hpp"
#include "ar/dtype/q8_0.hpp"
#include "ar/dtype/q8_1.hpp"
#include "ar/dtype/q8_k.hpp"
#include "ar/dtype/tq1_0.hpp"
#include "ar/dtype/tq2_0.hpp"

/// AR_FOR_EACH_DATA_TYPE(X) expands to X(<file stem>) for each; the header of that stem defines the list <stem>_types of its instances.
#undef AR_FOR_EACH_DATA_TYPE
#define AR_FOR_EACH_DATA_TYPE(X) \
  X(fp8) \
  X(gguf_mxfp4) \
  X(gguf_nvfp4) \
  X(int_asym) \
  X(int_sym) \
  X(int_sym_gptq) \
  X(iq1_m) \
  X(iq1_s) \
  X(iq2_s) \
  X(iq2_xs) \
  X(iq2_xxs) \
  X(iq3_s) \
  X(iq3_xxs) \
  X(iq4_nl) \
  X(iq4_xs) \
  X(mxfp4) \
  X(mxfp6) \
  X(mxfp8) \
  X(mxint) \
  X(mxuint) \
  X(nvfp4) \
  X(pass_through) \
  X(q1_0) \
  X(q2_0) \
  X(q2_k) \
  X(q3_k) \
  X(q4_0) \
  X(q4_1) \
  X(q4_k) \
  X(q5_0) \
  X(q5_1) \
  X(q5_k) \
  X(q6_k) \
  X(q8_0) \
  X(q8_1) \
  X(q8_k) \
  X(tq1_0) \
  X(tq2_0)

#endif
