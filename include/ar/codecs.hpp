// Every packed layout of the library: the list that ar/pack.hpp walks to find one by name. Written by cmake/registry.cmake from the files of
// ar/codec/ whenever the project is configured, and kept in the tree for users without CMake.
#pragma once

#include "ar/codec/awq_int32.hpp"
#include "ar/codec/ct_int32.hpp"
#include "ar/codec/fp8_block_bytes.hpp"
#include "ar/codec/fp8_bytes.hpp"
#include "ar/codec/gptq_int32.hpp"
#include "ar/codec/gptq_planar.hpp"
#include "ar/codec/int8_bytes.hpp"
#include "ar/codec/mlx_uint32.hpp"
#include "ar/codec/mxfp4_nibbles.hpp"
#include "ar/codec/mxfp8_bytes.hpp"
#include "ar/codec/nvfp4_nibbles.hpp"

namespace ar {
inline namespace AR_ABI {

/// All packed layouts.
using all_codecs = type_list<awq_int32,
                             ct_int32,
                             fp8_block_bytes,
                             fp8_bytes,
                             gptq_int32,
                             gptq_planar,
                             int8_bytes,
                             mlx_uint32,
                             mxfp4_nibbles,
                             mxfp8_bytes,
                             nvfp4_nibbles>;

}  // namespace AR_ABI
}  // namespace ar
