// What all exporters to a Hugging Face folder share: the order of tensors, copying what is not quantized, and the plan of it all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "export/export_folder.hpp"
#include "export/export_format.hpp"

namespace auto_round::exporting {

/// Names of all tensors of the source in writing order: blocks in order (norms, then the linear layers in module order), embedding, final norm,
/// head, and whatever else there is.
std::vector<std::string> writing_order(const io::checkpoint_dir& source, const model::model_spec& spec);

/// Integer weight-only schemes leave layers in 16 bits whose rows or columns are no multiple of 32, unless a rule names them.
void apply_multiple_of_32_rule(std::vector<layer_decision>& layers);
/// MX and NVFP4 schemes leave layers in 16 bits whose columns are no multiple of the group size.
void apply_whole_groups_rule(job& run);

/// error_kind::unsupported if half precision would make infinity of a value of the tensor.
result<void> check_halves(std::span<const float> values, const std::string& tensor);
/// Values as a tensor of type F32, F16 or BF16 holds them.
std::vector<std::byte> to_bytes(std::span<const float> values, io::dtype type);
/// The values that are then read back.
void round_to_type(std::span<float> values, io::dtype type);

/// One tensor of a packed layer.
struct packed_part {
  io::tensor_decl tensor;
  std::vector<std::byte> data;
};

class safetensors_exporter : public exporter {
 public:
  const output_plan& plan() const final { return plan_; }
  result<void> begin(const std::string& directory) final { return folder_.begin(directory); }
  result<void> add(const tune::quantized_layer& layer) final;
  result<std::vector<float>> weight_of(const tune::quantized_layer& layer) const final { return read_back(layer); }
  result<void> finish() final;
  const std::vector<std::pair<std::string, std::uint64_t>>& expected() const final { return expected_; }

 protected:
  using part = packed_part;

  explicit safetensors_exporter(const job& run) : run_(run) {}
  /// Fills folder and plan; called by the makers of the formats after construction. `texts` are the configuration files.
  result<void> prepare(const std::vector<std::pair<std::string, std::string>>& texts);

  virtual std::vector<io::tensor_decl> packed_tensors(const layer_decision& layer) const = 0;
  virtual std::string packed_type(const layer_decision& layer) const = 0;  ///< for people
  virtual result<std::vector<part>> pack(const tune::quantized_layer& layer) const = 0;
  /// The weight as it must be read back.
  virtual std::vector<float> read_back(const tune::quantized_layer& layer) const = 0;
  virtual io::dtype bias_type(io::dtype source) const { return source; }  ///< of the bias of a packed layer

  const job run_;

 private:
  /// A tensor that is kept.
  struct copied {
    std::string name;
    std::vector<std::uint64_t> shape;
    io::dtype to = io::dtype::f32;
    const io::tensor_ref* source = nullptr;  // null: it is not in the source, or changed
  };
  result<void> copy(const io::tensor_ref& tensor, io::dtype to);
  result<void> write_changed(const copied& tensor);
  void plan_added();

  checkpoint_folder folder_;
  output_plan plan_;
  std::vector<std::pair<std::string, std::uint64_t>> expected_;
  std::vector<copied> copies_;
};

}  // namespace auto_round::exporting
