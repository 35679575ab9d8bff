#include "tune/activations.hpp"

#include <algorithm>
#include <span>

#include "ar/numeric/half.hpp"
#include "model/kernels.hpp"
#include "model/linalg.hpp"

namespace auto_round::tune {

namespace {

constexpr std::size_t chunk = 4096;

/// f(first, n) for pieces of [0, count), by all threads.
template <class F>
void for_chunks(std::size_t count, const F& f) {
  const std::size_t chunks = (count + chunk - 1) / chunk;
#pragma omp parallel for schedule(static) if (chunks > 1)
  for (std::size_t i = 0; i < chunks; ++i) f(i * chunk, std::min(chunk, count - i * chunk));
}

}  // namespace

result<void> activations::reset(std::size_t samples, std::size_t size, bool bf16) {
  samples_ = samples;
  size_ = size;
  bf16_ = bf16;
  base_ = nullptr;
  if (!folder_.empty()) {
    if (!file_) {
      auto file = io::scratch_file::create(folder_);
      if (!file) return forward_error(file);
      file_ = std::move(*file);
    }
    return file_->reserve(samples * size * width());
  }
  if (bf16) halves_.resize(samples * size);
  else floats_.resize(samples * size);
  return {};
}

result<void> activations::reset_relative(std::size_t samples, std::size_t size, const activations& base) {
  file_.reset();  // a new one holds zeros
  if (auto r = reset(samples, size, true); !r) return r;
  base_ = &base;
  std::ranges::fill(halves_, std::uint16_t{0});
  return {};
}

void activations::note(result<void> outcome) const {
  if (outcome) return;
#pragma omp critical(activations_state)
  if (!failed_) failed_ = outcome.error();
}

result<void> activations::state() const {
  if (failed_) return tl::unexpected<error>(*failed_);
  return {};
}

const std::uint16_t* activations::halves(std::size_t at, std::size_t n, std::vector<std::uint16_t>& room) const {
  if (!file_) return halves_.data() + at;
  room.assign(n, 0);
  note(file_->read_at(at * sizeof(std::uint16_t), std::as_writable_bytes(std::span(room))));
  return room.data();
}

void activations::load(std::size_t first, std::size_t n, float* out) const {
  if (!bf16_) {
    if (const float* const floats = row(first, 0, n * size_, out); floats != out) std::copy_n(floats, n * size_, out);
  } else if (base_ == nullptr) {
    std::vector<std::uint16_t> room;
    kernels::from_bf16(halves(first * size_, n * size_, room), n * size_, out);
  } else {
    base_->load(first, n, out);
    for_chunks(n * size_, [&](std::size_t at, std::size_t count) { add_difference(first * size_ + at, count, out + at); });
  }
}

void activations::store(std::size_t first, std::size_t n, const float* in) {
  const std::size_t begin = first * size_, count = n * size_;
  if (!bf16_) {
    if (file_) note(file_->write_at(begin * sizeof(float), std::as_bytes(std::span(in, count))));
    else std::copy_n(in, count, floats_.data() + begin);
    return;
  }
  std::vector<std::uint16_t> room(file_ ? count : 0);
  std::uint16_t* const to = file_ ? room.data() : halves_.data() + begin;
  if (base_ == nullptr) {
    linalg::to_bf16(in, count, to);
  } else {
    for_chunks(count, [&](std::size_t at, std::size_t some) {
      float difference[chunk];
      const float* const base = base_->row(0, begin + at, some, difference);
      for (std::size_t i = 0; i < some; ++i) difference[i] = in[at + i] - base[i];
      kernels::to_bf16(difference, some, to + at);
    });
  }
  if (file_) note(file_->write_at(begin * sizeof(std::uint16_t), std::as_bytes(std::span(room))));
}

void activations::read_bytes(std::uint64_t offset, std::span<std::byte> to) const {
  const auto held = bf16_ ? std::as_bytes(std::span(halves_)) : std::as_bytes(std::span(floats_));
  if (!file_) std::ranges::copy(held.subspan(static_cast<std::size_t>(offset), to.size()), to.begin());
  else note(file_->read_at(offset, to));
}

void activations::write_bytes(std::uint64_t offset, std::span<const std::byte> from) {
  const auto held = bf16_ ? std::as_writable_bytes(std::span(halves_)) : std::as_writable_bytes(std::span(floats_));
  if (!file_) std::ranges::copy(from, held.begin() + static_cast<std::ptrdiff_t>(offset));
  else note(file_->write_at(offset, from));
}

const float* activations::row(std::size_t sample, std::size_t offset, std::size_t n, float* scratch) const {
  const std::size_t at = sample * size_ + offset;
  if (!bf16_ && !file_) return floats_.data() + at;
  if (!bf16_) {
    std::fill_n(scratch, n, 0.0f);
    note(file_->read_at(at * sizeof(float), std::as_writable_bytes(std::span(scratch, n))));
    return scratch;
  }
  if (base_ == nullptr) {
    std::vector<std::uint16_t> room;
    kernels::from_bf16(halves(at, n, room), n, scratch);
    return scratch;
  }
  if (const float* const base = base_->row(sample, offset, n, scratch); base != scratch) std::copy_n(base, n, scratch);
  add_difference(at, n, scratch);
  return scratch;
}

void activations::add_difference(std::size_t at, std::size_t n, float* to) const {
  std::vector<std::uint16_t> room;
  const std::uint16_t* const from = halves(at, n, room);
  for (std::size_t i = 0; i < n; ++i) to[i] += ar::f32_from_bf16(from[i]);
}

double squared_error(float* p, const float* target, std::size_t n, float factor) {
  // Sixteen independent sums: the compiler may use vectors, and the order does not depend on which.
  constexpr std::size_t lanes = 16;
  float sum[lanes] = {};
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::size_t l = 0; l < lanes; ++l) {
      const float d = p[i + l] - target[i + l];
      sum[l] += d * d;
      p[i + l] = factor * d;
    }
  double total = 0;
  for (; i < n; ++i) {
    const float d = p[i] - target[i];
    total += static_cast<double>(d * d);
    p[i] = factor * d;
  }
  for (float s : sum) total += static_cast<double>(s);
  return total;
}

}  // namespace auto_round::tune
