// Integer layers in the packed layouts of checkpoints: which tensors a layout has, and layers to those tensors and back. Bits are packed by
// ar/pack.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ar/scheme.hpp"
#include "error.hpp"
#include "export/export_packed_model.hpp"
#include "export/export_safetensors.hpp"
#include "tune/layer.hpp"

namespace auto_round::exporting {

/// gptq_v1 stores zero points less one, gptq_v2 as they are; gptq_planes are GPTQModel's words of bit planes; mlx has biases in place of zero points.
enum class int_layout { gptq_v1, gptq_v2, gptq_planes, awq, mlx };

/// A layer of N rows and K columns in a layout, G = ceil(K / group) groups to a row:
/// - GPTQ: qweight I32 [K*bits/32, N], qzeros I32 [G, N*bits/32], scales [G, N], and g_idx I32 [K] where it is stored;
/// - AWQ: qweight I32 [K, N*bits/32], qzeros I32 [G, N*bits/32], scales [G, N];
/// - MLX: weight U32 [N, K*bits/32], scales [N, G], biases [N, G].
struct int_matrix {
  int_layout layout = int_layout::gptq_v1;
  int bits = 0;
  std::size_t rows = 0, cols = 0;
  std::size_t group_size = 0, groups = 0;  ///< columns of a group; the last group may be shorter
  bool g_idx = false;                      ///< the group of every column is stored too
  io::dtype numbers = io::dtype::f16;      ///< type of scales and biases
};
int_matrix int_matrix_of(int_layout layout, const ar::scheme_fields& scheme, std::uint64_t rows, std::uint64_t cols);

/// True if the layout has words for this width and shape.
bool is_storable(const int_matrix& m);

/// The tensors of a layer, codes first.
std::vector<io::tensor_decl> int_tensors(const int_matrix& m, const std::string& layer);

/// The same with their bytes. error_kind::internal if codes or zero points do not fit the width.
result<std::vector<packed_part>> pack_int(const int_matrix& m, const tune::quantized_layer& layer);

/// The weight that is read back from them, computed without packing: scales rounded to their type, zero points as the layout stores them.
std::vector<float> stored_weight(const int_matrix& m, const tune::quantized_layer& layer);

/// The tensors of a checkpoint as a layer: their types and shapes must be what layout, scheme and shape call for, scales and biases in any 16- or
/// 32-bit type. A g_idx is taken if there is one: any assignment of columns to groups if `any_order` (desc_act), else only the plain one. Zero points
/// are always those of the file, symmetric or not. error_kind::input names file and tensor.
result<std::unique_ptr<packed_layer>> open_int_layer(const io::checkpoint_dir& dir, const std::string& layer, int_layout layout,
                                                     const ar::scheme_fields& scheme, std::uint64_t rows, std::uint64_t cols, bool any_order = false);

}  // namespace auto_round::exporting
