// Reading an output back before anybody can see it, and comparing it with what was planned, tensor by tensor.
#pragma once

#include <string>

#include "export/export_format.hpp"

namespace auto_round::exporting {

/// Both tensors are there and have the same type, shape and bytes. Null: it is not there.
bool same_tensor(const io::checkpoint_dir& a, const io::tensor_ref* x, const io::checkpoint_dir& b, const io::tensor_ref* y);

/// Checks a finished but uncommitted folder: exactly the planned files with the planned sizes; every quantized weight, unpacked and dequantized,
/// is the planned one to the last bit; every other tensor of the source is there unchanged, or rounded as planned; nothing is stored that was not
/// planned; configuration and tensors agree; at least one layer is quantized. error_kind::verification names file and tensor.
/// Hidden files (the lock of the partial folder) are not looked at.
result<void> verify_output(const job& run, const exporter& written, const std::string& directory);

}  // namespace auto_round::exporting
