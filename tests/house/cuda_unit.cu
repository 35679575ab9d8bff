// Kernels for tests/house/cuda.sh: nvcc compiles and links them for the device, and on the host the same objects are emulated.
#include <ar/cuda/kernels.cuh>
#include <cstdio>

template <class Kernel>
static bool refers_to(const Kernel& kernel) {
  // Never called without a device: what matters is that it compiles and links.
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return true;
  return ar::cuda::launch(kernel) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess;
}

int main() {
  float* memory = nullptr;
  int devices = 0;
  const bool device = cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
  constexpr std::size_t rows = 64, cols = 512, n = rows * cols;
  if (device && cudaMalloc(reinterpret_cast<void**>(&memory), n * 16) != cudaSuccess) return 1;
  if (device && cudaMemset(memory, 0, n * 16) != cudaSuccess) return 1;
  float* const out = memory + n;
  auto* const code = reinterpret_cast<std::uint8_t*>(memory + 2 * n);
  float* const scale = memory + 3 * n;
  bool ok = true;
  {
    ar::cuda::quantize_kernel<ar::int_sym<4>> k;
    if (device)
      ok = ok && ar::cuda::prepare(ar::int_sym<4>(), 32, {memory, rows, cols}, {code, rows, cols}, {scale, rows, cols / 32}, {}, k) == ar::errc::ok;
    ok = ok && refers_to(k);
  }
  ok = ok && refers_to(ar::cuda::dequantize_kernel<ar::int_asym<4>>());
  ok = ok && refers_to(ar::cuda::qdq_kernel<ar::any_scaled>());
  ok = ok && refers_to(ar::cuda::quantize_kernel<ar::any_scaled>());
  ok = ok && refers_to(ar::cuda::dequantize_kernel<ar::any_scaled>());
  ok = ok && refers_to(ar::cuda::dequantize_blocks_kernel<ar::q4_0>());
  ok = ok && refers_to(ar::cuda::dequantize_blocks_kernel<ar::q4_k>());
  ok = ok && refers_to(ar::cuda::dequantize_blocks_kernel<ar::q6_k>());
  (void)out;
  std::printf("%s, %d devices\n", ok ? "ok" : "a kernel failed", devices);
  return ok ? 0 : 1;
}
