#include "export/export_stored_layer.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace auto_round::exporting {

std::size_t groups_of(const tune::quantized_layer& layer) { return layer.rows == 0 ? 0 : layer.scale.size() / layer.rows; }

void find_zero_points(tune::quantized_layer& layer) {
  // Biases were rounded to half precision, which moves a quotient of 8 bits by less than that.
  constexpr float tolerance = 0.26f;
  const float top = static_cast<float>((1 << layer.scheme.bits) - 1), middle = static_cast<float>(1 << (layer.scheme.bits - 1));
  std::vector<float> zero(layer.bias.size());
  for (std::size_t i = 0; i < zero.size(); ++i) {
    const float s = layer.scale[i], b = layer.bias[i];
    const float exact = s != 0 ? -b / s : b == 0 ? middle : std::nanf("");
    zero[i] = std::nearbyint(exact);
    if (!(std::abs(exact - zero[i]) <= tolerance && zero[i] >= 0 && zero[i] <= top)) return;
  }
  layer.zero_point = std::move(zero);
}

bool is_symmetric(const tune::quantized_layer& layer) {
  if (layer.zero_point.empty()) return layer.bias.empty();
  const float middle = static_cast<float>(1 << (layer.scheme.bits - 1));
  if (!std::all_of(layer.zero_point.begin(), layer.zero_point.end(), [&](float z) { return z == middle; })) return false;
  for (std::size_t i = 0; i < layer.bias.size(); ++i)
    if (layer.bias[i] != -(layer.scale[i] * middle)) return false;
  return true;
}

bool split_groups(tune::quantized_layer& layer, std::size_t size) {
  const std::size_t before = groups_of(layer);
  if (size == 0 || before == 0 || layer.cols % size != 0 || !layer.group.empty()) return false;
  const std::size_t wide = layer.scheme.group_size > 0 ? std::min(layer.cols, static_cast<std::size_t>(layer.scheme.group_size)) : layer.cols, after = layer.cols / size;
  if (wide % size != 0) return false;
  const auto split = [&](std::vector<float>& values) {
    if (values.empty()) return;
    std::vector<float> all(layer.rows * after);
    for (std::size_t r = 0; r < layer.rows; ++r)
      for (std::size_t g = 0; g < after; ++g) all[r * after + g] = values[r * before + g * size / wide];
    values = std::move(all);
  };
  split(layer.scale);
  split(layer.zero_point);
  split(layer.bias);
  layer.scheme.group_size = static_cast<int>(size);
  return true;
}

difference compare(std::span<const float> a, std::span<const float> b) {
  double largest = 0;
  bool any = a.size() != b.size();
  const std::size_t n = std::min(a.size(), b.size());
#pragma omp parallel for schedule(static) reduction(max : largest) reduction(|| : any)
  for (std::size_t i = 0; i < n; ++i) {
    if (a[i] == b[i]) continue;
    any = true;
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return {any, largest};
}

}  // namespace auto_round::exporting
