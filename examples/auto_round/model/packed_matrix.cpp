#include "model/packed_matrix.hpp"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "ar/dispatch.hpp"
#include "ar/numeric/half.hpp"
#include "ar/pack.hpp"
#include "model/kernels.hpp"
#include "model/packed_kernel.hpp"

namespace auto_round::model {
namespace {

/// Memory of the calling thread that only grows.
template <class T>
T* own_room(std::vector<T>& room, std::size_t n) {
  if (room.size() < n) room.resize(n);
  return room.data();
}

/// Activations in memory of the calling thread, until it asks again.
packed::activations rounded(const float* x, std::size_t n) {
  thread_local std::vector<std::int16_t> q;
  thread_local std::vector<float> scale, sums, half_sums;
  const std::size_t groups = (n + 31) / 32;
  return packed::round_activations(x, n, own_room(q, groups * 32), own_room(scale, groups), own_room(sums, groups), own_room(half_sums, groups * 2));
}

/// Rows whose floats stay in the second-level cache or near it; enough of them for the product to be worth its packing.
std::size_t panel_rows(std::size_t cols) { return std::clamp<std::size_t>((std::size_t{128} << 10) / std::max<std::size_t>(cols, 1) / 16 * 16, 32, 256); }

// ---- GGUF blocks ----

class blocks_of_type final : public packed_matrix {
 public:
  blocks_of_type(const ar::gguf_kernels& type, packed::block_dot product, io::pinned_bytes blocks, std::size_t rows, std::size_t cols)
      : packed_matrix(rows, cols), type_(type), dot_(product), blocks_(std::move(blocks)), row_bytes_(cols / type.block_elements * type.block_bytes) {}

  std::uint64_t bytes() const override { return blocks_.size(); }
  void decode(std::size_t first, std::size_t count, float* out) const override {
    // Sizes were checked when the matrix was made; nothing else can fail.
    (void)type_.dequantize({row(first), count * row_bytes_}, {out, count, cols()});
  }
  void dot(const float* x, std::size_t first, std::size_t count, float* y) const override {
    dot_(row(first), count, cols(), rounded(x, cols()), y);
  }

 private:
  const std::uint8_t* row(std::size_t r) const { return reinterpret_cast<const std::uint8_t*>(blocks_.data()) + r * row_bytes_; }

  const ar::gguf_kernels& type_;
  packed::block_dot dot_;
  io::pinned_bytes blocks_;
  std::size_t row_bytes_;
};

// ---- numbers ----

class numbers_of_type final : public packed_matrix {
 public:
  numbers_of_type(io::dtype type, io::pinned_bytes numbers, std::size_t rows, std::size_t cols)
      : packed_matrix(rows, cols), half_(type == io::dtype::f16), numbers_(std::move(numbers)) {}

  std::uint64_t bytes() const override { return numbers_.size(); }
  void decode(std::size_t first, std::size_t count, float* out) const override {
    const std::byte* const at = numbers_.data() + 2 * first * cols();
    if (!half_ && aligned(at)) return kernels::from_bf16(reinterpret_cast<const std::uint16_t*>(at), count * cols(), out);
    for (std::size_t i = 0; i < count * cols(); ++i) {
      std::uint16_t v = 0;
      std::memcpy(&v, at + 2 * i, 2);
      out[i] = half_ ? ar::f32_from_f16(v) : ar::f32_from_bf16(v);
    }
  }
  void dot(const float* x, std::size_t first, std::size_t count, float* y) const override {
    thread_local std::vector<std::uint16_t> room;
    const std::byte* at = numbers_.data() + 2 * first * cols();
    for (std::size_t i = 0; i < count; ++i, at += 2 * cols()) {
      const auto* w = reinterpret_cast<const std::uint16_t*>(at);
      if (!aligned(at)) w = static_cast<const std::uint16_t*>(std::memcpy(own_room(room, cols()), at, 2 * cols()));
      y[i] = half_ ? packed::dot_f16(w, x, cols()) : packed::dot_bf16(w, x, cols());
    }
  }

 private:
  static bool aligned(const std::byte* p) { return reinterpret_cast<std::uintptr_t>(p) % 2 == 0; }  // data of files need not be

  bool half_;
  io::pinned_bytes numbers_;
};

// ---- codes ----

class code_rows final : public packed_matrix {
 public:
  explicit code_rows(packed_codes c) : packed_matrix(c.rows, c.cols), c_(std::move(c)), codec_(*ar::kernels().codec(ar::ct_int32::name)), row_words_(c_.words.size() / c_.rows) {
    // A table of 16 values becomes bytes in units of a quarter, if all of them are whole numbers of it.
    small_ = c_.values.size() == 16;
    for (std::size_t i = 0; i < 16 && small_; ++i) {
      const float quarters = c_.values[i] * 4;
      small_ = quarters == std::round(quarters) && std::abs(quarters) <= 127;
      if (small_) table_[i] = static_cast<std::int8_t>(quarters);
    }
  }

  std::uint64_t bytes() const override {
    return 4 * (c_.words.size() + c_.values.size() + c_.group.size()) + c_.scale.bytes() + 2 * c_.zero.size() + c_.bias.bytes();
  }

  void decode(std::size_t first, std::size_t count, float* out) const override {
    scratch& own = room();
    for (std::size_t r = first; r < first + count; ++r, out += cols()) {
      unpack(r, own);
      terms(r, own);
      if (c_.group.empty()) {
        for (std::size_t g = 0; g < own.step.size(); ++g) {
          const std::size_t end = std::min(cols(), (g + 1) * c_.block_cols);
          for (std::size_t k = g * c_.block_cols; k < end; ++k) out[k] = (value(own.code[k]) - own.zero[g]) * own.step[g];
          if (own.bias.empty()) continue;
          for (std::size_t k = g * c_.block_cols; k < end; ++k) out[k] += own.bias[g];
        }
      } else {
        for (std::size_t k = 0; k < cols(); ++k) {
          const std::size_t g = c_.group[k];
          out[k] = (value(own.code[k]) - own.zero[g]) * own.step[g] + (own.bias.empty() ? 0.0f : own.bias[g]);
        }
      }
    }
  }

  void dot(const float* x, std::size_t first, std::size_t count, float* y) const override {
    scratch& own = room();
    const bool fused = c_.group.empty() && (c_.values.empty() || small_);
    // What is subtracted or added in all columns of a group goes with the sum of its activations.
    const bool shifted = fused && (c_.values.empty() || !c_.bias.empty());
    if (shifted) {
      own.sums.assign(c_.groups(), 0.0f);
      for (std::size_t g = 0; g < own.sums.size(); ++g) own.sums[g] = std::accumulate(x + g * c_.block_cols, x + std::min(cols(), (g + 1) * c_.block_cols), 0.0f);
    }
    const packed::activations row = fused ? rounded(x, cols()) : packed::activations{};
    for (std::size_t i = 0; i < count; ++i) {
      if (!fused) {
        own.row.resize(cols());
        decode(first + i, 1, own.row.data());
        y[i] = kernels::dot(own.row.data(), x, cols());
        continue;
      }
      unpack(first + i, own);
      terms(first + i, own);
      float shift = 0;
      if (shifted)
        for (std::size_t g = 0; g < own.step.size(); ++g) shift += own.sums[g] * ((own.bias.empty() ? 0.0f : own.bias[g]) - own.zero[g] * own.step[g]);
      if (small_) {
        packed::look_up(own.code.data(), cols(), table_, own.small.data());
        for (float& s : own.step) s *= 0.25f;
        y[i] = packed::dot_codes(own.small.data(), cols(), c_.block_cols, own.step.data(), row) + shift;
      } else {
        y[i] = packed::dot_codes(own.code.data(), cols(), c_.block_cols, own.step.data(), row) + shift;
      }
    }
  }

 private:
  struct scratch {
    std::vector<std::uint8_t> code;
    std::vector<std::int8_t> small;
    std::vector<float> step, zero, bias, sums, row;
  };
  scratch& room() const {
    thread_local scratch own;
    const std::size_t padded = (cols() + 63) / 64 * 64;
    if (own.code.size() < padded) own.code.resize(padded), own.small.resize(padded);
    own.step.resize(c_.groups()), own.zero.resize(c_.groups()), own.bias.resize(c_.bias.empty() ? 0 : c_.groups());
    return own;
  }

  float value(std::uint8_t code) const { return c_.values.empty() ? static_cast<float>(code) : c_.values[code]; }

  void unpack(std::size_t r, scratch& own) const {
    (void)codec_.unpack_words(c_.bits, {c_.words.data() + r * row_words_, 1, row_words_}, {own.code.data(), 1, cols()});
  }
  void terms(std::size_t r, scratch& own) const {
    const std::size_t at = r / c_.block_rows * c_.groups();
    for (std::size_t g = 0; g < own.step.size(); ++g) {
      const float s = c_.scale[at + g];
      own.step[g] = c_.divisor == 1.0f ? s : c_.divisor == 0.0f ? 0.0f : s / c_.divisor;
      own.zero[g] = static_cast<float>(c_.zero.empty() ? c_.middle : c_.zero[at + g]);
      if (!own.bias.empty()) own.bias[g] = c_.bias[at + g];
    }
  }

  packed_codes c_;
  const ar::codec_kernels& codec_;
  std::size_t row_words_;
  bool small_ = false;
  std::array<std::int8_t, 16> table_{};
};

class scaled_rows final : public packed_matrix {
 public:
  scaled_rows(packed_pointer inner, float factor) : packed_matrix(inner->rows(), inner->cols()), inner_(std::move(inner)), factor_(factor) {}

  std::uint64_t bytes() const override { return inner_->bytes(); }
  void decode(std::size_t first, std::size_t count, float* out) const override {
    inner_->decode(first, count, out);
    for (std::size_t i = 0; i < count * cols(); ++i) out[i] *= factor_;
  }
  void dot(const float* x, std::size_t first, std::size_t count, float* y) const override {
    inner_->dot(x, first, count, y);
    for (std::size_t i = 0; i < count; ++i) y[i] *= factor_;
  }

 private:
  packed_pointer inner_;
  float factor_;
};

/// Rows of a product with one token that are computed at a time. Each call rounds the activations anew, which is nothing beside so many rows.
constexpr std::size_t dot_rows = 512;
/// Weights below which waking another thread costs more than it saves: it takes some microseconds, in which a thread multiplies this many.
constexpr std::size_t small_product = std::size_t{1} << 16;

/// f(first, count) over pieces of `step` rows. Pieces follow from the shape alone.
template <class F>
void for_rows(std::size_t rows, std::size_t step, bool parallel, const F& f) {
  const std::size_t pieces = (rows + step - 1) / step;
#pragma omp parallel for schedule(static) if (parallel && pieces > 1)
  for (std::size_t i = 0; i < pieces; ++i) f(i * step, std::min(step, rows - i * step));
}

}  // namespace

void multiply(const packed_matrix& w, const float* x, std::size_t tokens, float* y, std::size_t stride, bool accumulate, linalg::work who) {
  const std::size_t rows = w.rows(), cols = w.cols();
  const bool parallel = who == linalg::work::shared && omp_in_parallel() == 0 && rows * cols * tokens > small_product;
  if (tokens == 1) {
    // A row is the same wherever it is computed, so that each thread may have one piece.
    const std::size_t threads = parallel ? static_cast<std::size_t>(omp_get_max_threads()) : 1;
    return for_rows(rows, std::min(dot_rows, (rows + threads - 1) / threads), parallel, [&](std::size_t first, std::size_t count) {
      float part[dot_rows];
      w.dot(x, first, count, accumulate ? part : y + first);
      if (accumulate)
        for (std::size_t i = 0; i < count; ++i) y[first + i] += part[i];
    });
  }
  for_rows(rows, panel_rows(cols), parallel, [&](std::size_t first, std::size_t count) {
    thread_local std::vector<float> room;
    float* const panel = own_room(room, count * cols);
    w.decode(first, count, panel);
    linalg::gemm_nt({x, tokens, cols, cols}, {panel, count, cols, cols}, y + first, stride, accumulate, linalg::work::own);
  });
}

bool all_finite(const packed_matrix& w) {
  std::atomic<bool> finite{true};
  for_rows(w.rows(), panel_rows(w.cols()), omp_in_parallel() == 0, [&](std::size_t first, std::size_t count) {
    thread_local std::vector<float> room;
    float* const panel = own_room(room, count * w.cols());
    w.decode(first, count, panel);
    if (!io::all_finite({panel, count * w.cols()})) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

packed_pointer block_matrix(std::uint32_t type, io::pinned_bytes blocks, std::size_t rows, std::size_t cols) {
  const ar::gguf_kernels* k = ar::kernels().gguf_type(type);
  const packed::block_dot dot = packed::find_block_dot(type);
  if (k == nullptr || dot == nullptr || rows == 0 || cols % k->block_elements != 0) return {};
  const std::size_t row_bytes = cols / k->block_elements * k->block_bytes, size = blocks.size();
  if (row_bytes == 0 || size / row_bytes != rows || size % row_bytes != 0) return {};
  return std::make_shared<blocks_of_type>(*k, dot, std::move(blocks), rows, cols);
}

packed_pointer number_matrix(io::dtype type, io::pinned_bytes numbers, std::size_t rows, std::size_t cols) {
  const std::size_t size = numbers.size();
  if ((type != io::dtype::f16 && type != io::dtype::bf16) || rows == 0 || cols == 0 || size % 2 != 0 || size / 2 % cols != 0 || size / 2 / cols != rows) return {};
  return std::make_shared<numbers_of_type>(type, std::move(numbers), rows, cols);
}

stored_numbers::stored_numbers(io::dtype type, std::span<const std::byte> bytes, const std::array<float, 256>& table)
    : type_(type), width_(io::size_of(type)), bytes_(bytes.begin(), bytes.end()), table_(table) {}

float stored_numbers::operator[](std::size_t i) const {
  const std::byte* const at = bytes_.data() + i * width_;
  if (width_ == 1) return table_[static_cast<std::size_t>(*at)];
  if (width_ == 4) {
    float v = 0;
    std::memcpy(&v, at, 4);
    return v;
  }
  std::uint16_t v = 0;
  std::memcpy(&v, at, 2);
  return type_ == io::dtype::f16 ? ar::f32_from_f16(v) : ar::f32_from_bf16(v);
}

void stored_numbers::transpose(std::size_t rows, std::size_t cols) {
  std::vector<std::byte> turned(bytes_.size());
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < cols; ++c) std::memcpy(turned.data() + (c * rows + r) * width_, bytes_.data() + (r * cols + c) * width_, width_);
  bytes_ = std::move(turned);
}

bool set_codes(packed_codes& to, std::span<const std::uint8_t> code) {
  const ar::codec_kernels& codec = *ar::kernels().codec(ar::ct_int32::name);
  const ar::matrix_shape shape = codec.packed_shape(to.bits, to.rows, to.cols);
  to.words.resize(shape.rows * shape.cols);
  return codec.pack_words(to.bits, {code.data(), to.rows, to.cols}, {to.words.data(), shape.rows, shape.cols}) == ar::errc::ok;
}

packed_pointer scaled_matrix(packed_pointer inner, float factor) { return std::make_shared<scaled_rows>(std::move(inner), factor); }

packed_pointer code_matrix(packed_codes codes) { return std::make_shared<code_rows>(std::move(codes)); }

}  // namespace auto_round::model
