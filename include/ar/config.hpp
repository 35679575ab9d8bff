// Compiler and target configuration: the only macros of the library that a user may set or use.
#pragma once

/// AR_FN marks a function that may run in a CUDA kernel. The same text is the host reference.
#if defined(__CUDACC__)
#define AR_FN __host__ __device__
#else
#define AR_FN
#endif

/// AR_INLINE is for one-line functions of types that units with different -march flags share: no copy of them may be left for the linker to
/// choose, because it could hold instructions that the other unit's machine does not have.
#define AR_INLINE [[gnu::always_inline]]

/// AR_NOINLINE keeps a long function out of its many callers: the searches would otherwise be compiled once per data type and use.
#if defined(__GNUC__)
#define AR_NOINLINE [[gnu::noinline]]
#else
#define AR_NOINLINE
#endif

/// AR_KEEP_LOOP before a short loop over bytes: g++ -O3 would write it out in full and then no longer see that it is a few vector instructions.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define AR_KEEP_LOOP _Pragma("GCC unroll 1")
#else
#define AR_KEEP_LOOP
#endif

// AR_NO_HIGHWAY (user-set): no dependency at all, scalar code only (embedded, freestanding).

// What Highway 1.0.3 must be told before it is included. Vectors without a fixed size (SVE, RVV) cannot be members of a lane type. And where the
// unit's own flags reach AVX3_DL (-march=sapphirerapids, -march=native there), it stops with "best baseline should be included": it tests
// HWY_BASELINE, which does not exist, for HWY_BASELINE_TARGETS. A program that includes Highway before us sets the same.
#if !defined(AR_NO_HIGHWAY)
#if !defined(HWY_DISABLED_TARGETS) && (defined(__aarch64__) || defined(__riscv))
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif
#if !defined(HWY_WANT_AVX3_DL) && defined(__AVXVNNI__) && defined(__AVX512VBMI2__)
#define HWY_WANT_AVX3_DL
#endif
#endif

/// AR_ABI names the instruction set that this translation unit is compiled for. It is an inline namespace, and so part of the mangled name, of
/// every function that does arithmetic: two units with different -march flags link without violating the one-definition rule.
#if defined(AR_NO_HIGHWAY)
#define AR_ABI abi_scalar
#elif defined(__AVX512BF16__) && defined(__AVX512VBMI2__)
#define AR_ABI abi_avx512_bf16
#elif defined(__AVX512VBMI2__)
#define AR_ABI abi_avx512_dl
#elif defined(__AVX512BW__)
#define AR_ABI abi_avx512
#elif defined(__AVX2__) && defined(__AES__)
#define AR_ABI abi_avx2
#elif defined(__AVX2__)
#define AR_ABI abi_avx2_noaes
#elif defined(__SSE4_2__)
#define AR_ABI abi_sse4
#elif defined(__SSSE3__)
#define AR_ABI abi_ssse3
#elif defined(__ARM_NEON)
#define AR_ABI abi_neon
#else
#define AR_ABI abi_baseline
#endif

#if defined(__FAST_MATH__)
#error "ar: -ffast-math breaks the documented rounding; build this unit without it"
#endif
