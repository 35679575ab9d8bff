// Importance as OPT-RTN of auto-round collected it when the golden exports were made: from token ids, one sample at a time, with the model in bfloat16.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "command/quantize_run.hpp"
#include "export/export_imatrix.hpp"
#include "support/golden.hpp"
#include "tune/importance.hpp"

namespace support {

/// Makes a run search with it; it lies in `file` then.
inline void weigh_by_importance(auto_round::command::run_options& o, const std::string& ids_file, const std::string& file) {
  const golden::file samples(ids_file);
  const auto ids = samples.tensors().begin()->second;
  auto source = auto_round::exporting::open_model(o.model);
  ASSERT_TRUE(source.has_value());
  auto_round::text::calibration_set set;
  set.seqlen = static_cast<std::int64_t>(ids.shape.at(1));
  for (std::size_t i = 0; i < ids.bytes / sizeof(std::int64_t); ++i) {
    std::int64_t id = 0;
    std::memcpy(&id, ids.data + i * sizeof id, sizeof id);
    set.ids.push_back(static_cast<std::int32_t>(id));
  }
  set.valid.assign(set.ids.size(), 1);
  set.batch_rows.assign(ids.shape.at(0), 1);
  const auto importance = auto_round::tune::collect_importance(
      **source, set, {.batch_size = 1, .precision = auto_round::linalg::precision::bf16, .bf16_activations = true, .rounded = true, .hides_last = true});
  ASSERT_TRUE(importance.has_value());
  ASSERT_TRUE(auto_round::exporting::write_importance(file, (*source)->spec(), *importance, set.seqlen, "golden").has_value());
  o.imatrix = file;
  o.request.has_importance = true;
  o.compat = true;
}

}  // namespace support
