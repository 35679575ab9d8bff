// Layers of the golden tuning tests: the grid that a case is named after, and the tensors of a layer with the view of them.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <vector>

#include "ar/dtype/mxfp4.hpp"
#include "ar/dtype/mxfp6.hpp"
#include "ar/dtype/mxfp8.hpp"
#include "ar/dtype/mxint.hpp"
#include "ar/dtype/nvfp4.hpp"
#include "ar/tune.hpp"

namespace golden {

/// The grid that a case of the golden SignRound and GGUF files names.
struct named_grid {
  ar::tune_grid grid;
  bool known = true;
};

inline named_grid grid_of(const std::string& name) {
  named_grid r;
  ar::tune_grid& g = r.grid;
  const auto starts = [&](const char* p) { return name.rfind(p, 0) == 0; };
  if (starts("int") && name.size() > 4 && name[4] == '_') {
    g.bits = name[3] - '0';
    g.family = name.find("_asym") != std::string::npos ? ar::tune_family::asymmetric : ar::tune_family::symmetric;
  } else if (starts("q4_1") || starts("q5_1")) {
    g.family = ar::tune_family::asymmetric;
    g.bits = name[1] - '0';
    g.whole_zero = false;
  } else if (starts("q2_k") || starts("q4_k") || starts("q5_k")) {
    g.family = ar::tune_family::superblock_asymmetric;
    g.bits = name[1] - '0';
    g.super_bits = g.bits == 2 ? 4 : 6;
    g.superblock_groups = g.bits == 2 ? 16 : 8;
  } else if (starts("q3_k") || starts("q6_k")) {
    g.family = ar::tune_family::superblock_symmetric;
    g.bits = name[1] - '0';
    g.super_bits = g.bits == 3 ? 6 : 8;
    g.superblock_groups = 16;
  } else if (starts("mx_fp4")) {
    g = ar::scaled_grid(ar::mxfp4<>::the_facts);
  } else if (starts("mx_fp6")) {
    g = ar::scaled_grid(ar::mxfp6<>::the_facts);
  } else if (starts("mx_fp8")) {
    g = ar::scaled_grid(ar::mxfp8<>::the_facts);
  } else if (starts("mx_int4")) {
    g = ar::scaled_grid(ar::mxint<4>::the_facts);
  } else if (starts("nv_fp4")) {
    g = ar::scaled_grid(ar::nvfp4<>::the_facts);
  } else {
    r.known = false;
  }
  return r;
}

/// The tensors of a layer in buffers of its own.
struct layer_buffers {
  std::vector<float> weight, v, min_scale, max_scale, init_scale, init_minimum, wmin, wmax;
  ar::tune_layer view;

  void attach(std::size_t rows, std::size_t cols, std::size_t group_size) {
    view.rows = rows;
    view.cols = cols;
    view.group_size = group_size;
    wmin.resize(rows * view.groups());
    wmax.resize(wmin.size());
    ASSERT_EQ(ar::group_extrema({weight.data(), rows, cols}, group_size, wmin.data(), wmax.data()), ar::errc::ok);
    view.weight = weight.data();
    view.wmin = wmin.data();
    view.wmax = wmax.data();
    view.v = v.data();
    view.min_scale = min_scale.data();
    view.max_scale = max_scale.data();
    view.init_scale = init_scale.empty() ? nullptr : init_scale.data();
    view.init_minimum = init_minimum.empty() ? nullptr : init_minimum.data();
  }
  void fresh(std::size_t rows, std::size_t cols, std::size_t group_size) {
    v.assign(rows * cols, 0.0f);
    min_scale.assign(rows * ar::ceil_div(cols, group_size), 1.0f);
    max_scale = min_scale;
    attach(rows, cols, group_size);
  }
};

}  // namespace golden
