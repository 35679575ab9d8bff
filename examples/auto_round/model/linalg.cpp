// Splits products into fixed pieces of the result and hands each piece to one thread of the chosen backend.
#include "model/linalg.hpp"

#include <malloc.h>
#include <omp.h>

#define EIGEN_DONT_PARALLELIZE  // pieces belong to one thread
#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ar/numeric/half.hpp"
#include "model/gemm_kernel.hpp"
#include "model/kernels.hpp"
#ifdef AR_HAVE_ONEDNN
#include <oneapi/dnnl/dnnl.hpp>
#endif

namespace auto_round::linalg {
namespace {

using piece_fn = void (*)(product, extents, const operand&, const operand&, float*, std::size_t, bool);

const char* element(const operand& o, std::size_t offset) { return static_cast<const char*>(o.data) + offset * (o.bf16 ? 2 : 4); }

// ---- Eigen: no run-time dispatch, so with portable flags it computes with SSE2. A second opinion rather than a fast path. ----

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// The operand as floats: mapped if it is float, widened into `store` otherwise.
Eigen::Map<const matrix, 0, Eigen::OuterStride<>> as_floats(const operand& o, std::size_t rows, std::size_t cols, std::vector<float>& store) {
  const auto r = static_cast<Eigen::Index>(rows), c = static_cast<Eigen::Index>(cols);
  if (!o.bf16) return {static_cast<const float*>(o.data), r, c, Eigen::OuterStride<>(static_cast<Eigen::Index>(o.stride))};
  store.resize(rows * cols);
  for (std::size_t i = 0; i < rows; ++i) kernels::from_bf16(static_cast<const std::uint16_t*>(o.data) + i * o.stride, cols, store.data() + i * cols);
  return {store.data(), r, c, Eigen::OuterStride<>(c)};
}

void piece_eigen(product p, extents e, const operand& a, const operand& b, float* c, std::size_t c_stride, bool accumulate) {
  std::vector<float> a_store, b_store;
  const auto am = p == product::tn ? as_floats(a, e.k, e.m, a_store) : as_floats(a, e.m, e.k, a_store);
  const auto bm = p == product::nt ? as_floats(b, e.n, e.k, b_store) : as_floats(b, e.k, e.n, b_store);
  Eigen::Map<matrix, 0, Eigen::OuterStride<>> cm(c, static_cast<Eigen::Index>(e.m), static_cast<Eigen::Index>(e.n),
                                                  Eigen::OuterStride<>(static_cast<Eigen::Index>(c_stride)));
  if (!accumulate) cm.setZero();
  if (p == product::nt) cm.noalias() += am * bm.transpose();
  if (p == product::nn) cm.noalias() += am * bm;
  if (p == product::tn) cm.noalias() += am.transpose() * bm;
}

#ifdef AR_HAVE_ONEDNN
// ---- oneDNN: code generated for the CPU it runs on. ----

/// oneDNN asks OpenMP how many threads it may use, when a primitive is made and when it runs. A piece belongs to one thread: more of them could
/// split k, and the bits would then depend on their number.
class one_thread {
 public:
  one_thread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~one_thread() { omp_set_num_threads(before_); }
  one_thread(const one_thread&) = delete;
  one_thread& operator=(const one_thread&) = delete;

 private:
  int before_;
};

struct primitive_key {
  std::array<std::size_t, 7> v;  // product, element type and accumulation; m, n, k; strides of a, b, c
  bool operator==(const primitive_key&) const = default;
};
struct primitive_hash {
  std::size_t operator()(const primitive_key& k) const {
    std::size_t h = 0;
    for (std::size_t x : k.v) h = (h ^ x) * 0x9E3779B97F4A7C15u + (h >> 29);
    return h;
  }
};
/// A product of one shape, with memory objects whose addresses are set for each call: making objects costs as much as a small product.
struct primitive {
  dnnl::matmul run;
  dnnl::memory a, b, c, scratch;
  std::size_t scratch_bytes = 0;
  enum class reads { nothing, plain, packed } form = reads::nothing;  // of b; nothing: oneDNN has no fast code for this shape
  std::array<dnnl_exec_arg_t, 4> arguments{};
};

const dnnl::engine& engine() {
  static const dnnl::engine e(dnnl::engine::kind::cpu, 0);
  return e;
}

dnnl::memory::dim dim(std::size_t n) { return static_cast<dnnl::memory::dim>(n); }
dnnl::memory::data_type type_of(const operand& o) { return o.bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32; }

/// b as a row-major or transposed matrix of k x n, as it lies in memory.
dnnl::memory::desc plain_b(product p, extents e, const operand& b) {
  using memory = dnnl::memory;
  return {{dim(e.k), dim(e.n)}, type_of(b), p == product::nt ? memory::dims{1, dim(b.stride)} : memory::dims{dim(b.stride), 1}};
}

dnnl::matmul::primitive_desc describe_product(product p, extents e, const operand& a, const dnnl::memory::desc& bd, std::size_t c_stride, bool accumulate) {
  using memory = dnnl::memory;
  const memory::desc ad({dim(e.m), dim(e.k)}, type_of(a), p == product::tn ? memory::dims{1, dim(a.stride)} : memory::dims{dim(a.stride), 1});
  const memory::desc cd({dim(e.m), dim(e.n)}, memory::data_type::f32, {dim(c_stride), 1});
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  attr.set_fpmath_mode(dnnl::fpmath_mode::strict);  // float stays float whatever the environment variable says
  if (accumulate) {
    dnnl::post_ops ops;
    ops.append_sum(1.0f);
    attr.set_post_ops(ops);
  }
  return {dnnl::matmul::desc(ad, bd, cd), attr, engine()};
}

primitive make_primitive(const dnnl::matmul::primitive_desc& desc, primitive::reads form) {
  using dnnl::memory;
  primitive out;
  out.run = dnnl::matmul(desc);
  out.a = memory(desc.src_desc(), engine(), DNNL_MEMORY_NONE);
  out.b = memory(desc.weights_desc(), engine(), DNNL_MEMORY_NONE);
  out.c = memory(desc.dst_desc(), engine(), DNNL_MEMORY_NONE);
  out.scratch = memory(desc.scratchpad_desc(), engine(), DNNL_MEMORY_NONE);
  out.scratch_bytes = desc.scratchpad_desc().get_size();
  out.form = form;
  out.arguments = {{{DNNL_ARG_SRC, out.a.get()}, {DNNL_ARG_WEIGHTS, out.b.get()}, {DNNL_ARG_DST, out.c.get()}, {DNNL_ARG_SCRATCHPAD, out.scratch.get()}}};
  return out;
}

/// oneDNN takes what it has no code for to its reference loops, which are a hundred times slower than anything else here.
bool fast(const dnnl::matmul::primitive_desc& desc) { return std::string_view(desc.impl_info_str()).find("ref") == std::string_view::npos; }

char* aligned(std::vector<char>& store, std::size_t bytes) {
  constexpr std::size_t align = 64;
  if (store.size() < bytes + align) store.resize(bytes + align);
  return store.data() + (align - reinterpret_cast<std::uintptr_t>(store.data()) % align);
}

/// b rearranged as oneDNN likes it, once for all pieces of a product.
struct packed_operand {
  dnnl::memory::desc layout;
  void* data = nullptr;
};

/// The fastest way that oneDNN has for a shape: from the packed b if there is one, else from b as it lies.
primitive choose_primitive(product p, extents e, const operand& a, const operand& b, std::size_t c_stride, bool accumulate, const packed_operand* packed) {
  for (const packed_operand* form : {packed, static_cast<const packed_operand*>(nullptr)}) {
    try {
      const auto desc = describe_product(p, e, a, form != nullptr ? form->layout : plain_b(p, e, b), c_stride, accumulate);
      if (fast(desc)) return make_primitive(desc, form != nullptr ? primitive::reads::packed : primitive::reads::plain);
    } catch (const dnnl::error&) {  // not even a slow one
    }
  }
  return {};
}

/// One piece by the calling thread, from b or, if given, from its packed form.
void run_onednn(product p, extents e, const operand& a, const operand& b, float* c, std::size_t c_stride, bool accumulate, const packed_operand* packed) {
  if (e.m == 0 || e.n == 0 || e.k == 0) return gemm_highway(p, e, a, b, c, c_stride, accumulate);
  const one_thread guard;
  try {
    // Each thread keeps what it has used: making a primitive generates code and takes about a millisecond (oneDNN shares the code between
    // threads). The number of shapes of a run is small; the bound only matters to a program that evaluates texts of every length.
    thread_local dnnl::stream stream(engine());
    thread_local std::unordered_map<primitive_key, primitive, primitive_hash> cache;
    thread_local std::vector<char> scratch;
    const std::size_t kind = static_cast<std::size_t>(p) * 8 + (packed != nullptr ? 4u : 0u) + (a.bf16 ? 2u : 0u) + (accumulate ? 1u : 0u);
    const primitive_key key{{kind, e.m, e.n, e.k, a.stride, b.stride, c_stride}};
    auto at = cache.find(key);
    if (at == cache.end()) {
      if (cache.size() > 4096) cache.clear();
      at = cache.emplace(key, choose_primitive(p, e, a, b, c_stride, accumulate, packed)).first;
    }
    primitive& use = at->second;
    if (use.form == primitive::reads::nothing) return gemm_highway(p, e, a, b, c, c_stride, accumulate);
    // oneDNN's interface has no const; sources are only read.
    use.a.set_data_handle(const_cast<void*>(a.data));
    use.b.set_data_handle(use.form == primitive::reads::packed ? packed->data : const_cast<void*>(b.data));
    use.c.set_data_handle(c);
    use.scratch.set_data_handle(aligned(scratch, use.scratch_bytes));
    dnnl::error::wrap_c_api(dnnl_primitive_execute(use.run.get(), stream.get(), static_cast<int>(use.arguments.size()), use.arguments.data()),
                            "oneDNN could not run a matrix product");
    stream.wait();
  } catch (const dnnl::error&) {
    gemm_highway(p, e, a, b, c, c_stride, accumulate);  // out of memory, most likely: c was not touched
  }
}

void piece_onednn(product p, extents e, const operand& a, const operand& b, float* c, std::size_t c_stride, bool accumulate) {
  run_onednn(p, e, a, b, c, c_stride, accumulate, nullptr);
}

/// Packs b for pieces of `rows` rows with all threads (a copy: the same bits whatever their number); false if oneDNN wants it as it is.
bool pack_b(product p, extents e, const operand& b, std::vector<char>& store, packed_operand& out) {
  struct plan {
    dnnl::memory::desc layout;
    dnnl::reorder run;
    dnnl::memory from, to;
    bool useful = false;
  };
  try {
    thread_local dnnl::stream stream(engine());
    thread_local std::unordered_map<primitive_key, plan, primitive_hash> plans;
    const primitive_key key{{static_cast<std::size_t>(p), static_cast<std::size_t>(omp_get_max_threads()), e.m, e.n, e.k, b.stride, 0}};
    auto at = plans.find(key);
    if (at == plans.end()) {
      if (plans.size() > 256) plans.clear();
      plan made;
      const dnnl::memory::desc plain = plain_b(p, e, b);
      {
        const one_thread guard;
        const dnnl::memory::desc any(plain.dims(), type_of(b), dnnl::memory::format_tag::any);
        const auto desc = describe_product(p, e, {nullptr, e.m, e.k, e.k, b.bf16}, any, e.n, false);
        made.layout = desc.weights_desc();
        made.useful = fast(desc) && made.layout != plain;
      }
      if (made.useful) {
        made.from = dnnl::memory(plain, engine(), DNNL_MEMORY_NONE);
        made.to = dnnl::memory(made.layout, engine(), DNNL_MEMORY_NONE);
        made.run = dnnl::reorder(made.from, made.to);
      }
      at = plans.emplace(key, std::move(made)).first;
    }
    plan& use = at->second;
    if (!use.useful) return false;
    out.layout = use.layout;
    out.data = aligned(store, use.layout.get_size());
    use.from.set_data_handle(const_cast<void*>(b.data));
    use.to.set_data_handle(out.data);
    use.run.execute(stream, use.from, use.to);
    stream.wait();
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}
#endif

struct chosen {
  backend which = backend::highway;
  piece_fn piece = gemm_highway;
};

/// c = a * b by the plain loop in double, for the check at start.
std::vector<double> plain(product p, extents e, const std::vector<float>& a, std::size_t as, const std::vector<float>& b, std::size_t bs) {
  std::vector<double> c(e.m * e.n);
  for (std::size_t i = 0; i < e.m; ++i)
    for (std::size_t j = 0; j < e.n; ++j)
      for (std::size_t k = 0; k < e.k; ++k)
        c[i * e.n + j] += static_cast<double>(p == product::tn ? a[k * as + i] : a[i * as + k]) * static_cast<double>(p == product::nt ? b[j * bs + k] : b[k * bs + j]);
  return c;
}

/// Compares a backend with plain loops: odd shapes, strides, both element types, with and without accumulation. Values are multiples of 1/8 up
/// to 2 in magnitude and exact in bfloat16, so every partial sum is exact and the result must be equal.
bool correct(piece_fn piece) {
  constexpr std::array<extents, 3> shapes{{{3, 5, 7}, {17, 33, 65}, {130, 67, 129}}};
  std::uint32_t state = 1;
  const auto next = [&state] {
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(static_cast<int>(state >> 27) - 16) / 8.0f;
  };
  for (const extents& e : shapes)
    for (product p : {product::nt, product::nn, product::tn})
      for (bool bf16 : {false, true})
        for (bool accumulate : {false, true}) {
          const std::size_t a_rows = p == product::tn ? e.k : e.m, a_cols = p == product::tn ? e.m : e.k, a_stride = a_cols + 3;
          const std::size_t b_rows = p == product::nt ? e.n : e.k, b_cols = p == product::nt ? e.k : e.n, b_stride = b_cols + 5;
          const std::size_t c_stride = e.n + 2;
          std::vector<float> a(a_rows * a_stride), b(b_rows * b_stride), c(e.m * c_stride, 0.5f);
          for (float& x : a) x = next();
          for (float& x : b) x = next();
          std::vector<std::uint16_t> a16(a.size()), b16(b.size());
          kernels::to_bf16(a.data(), a.size(), a16.data());
          kernels::to_bf16(b.data(), b.size(), b16.data());
          const operand ao{bf16 ? static_cast<const void*>(a16.data()) : a.data(), a_rows, a_cols, a_stride, bf16};
          const operand bo{bf16 ? static_cast<const void*>(b16.data()) : b.data(), b_rows, b_cols, b_stride, bf16};
          piece(p, e, ao, bo, c.data(), c_stride, accumulate);
          const std::vector<double> want = plain(p, e, a, a_stride, b, b_stride);
          for (std::size_t i = 0; i < e.m; ++i) {
            for (std::size_t j = 0; j < e.n; ++j)
              if (static_cast<double>(c[i * c_stride + j]) != want[i * e.n + j] + (accumulate ? 0.5 : 0.0)) return false;
            for (std::size_t j = e.n; j < c_stride; ++j)
              if (c[i * c_stride + j] != 0.5f) return false;  // wrote beside the result
          }
        }
  return true;
}

result<chosen> choose(backend wanted) {
#ifdef AR_HAVE_ONEDNN
  if (wanted == backend::onednn || wanted == backend::automatic) {
    try {
      if (correct(piece_onednn)) return chosen{backend::onednn, piece_onednn};
    } catch (const std::exception&) {  // no engine; the next choice is as good
    }
    if (wanted == backend::onednn) return fail(error_kind::unsupported, "oneDNN gives wrong matrix products on this CPU; choose another backend");
  }
#else
  if (wanted == backend::onednn)
    return fail(error_kind::unsupported, "this program was built without oneDNN; install libdnnl-dev and build again, or choose another backend");
#endif
  if (wanted == backend::eigen) {
    if (!correct(piece_eigen)) return fail(error_kind::unsupported, "Eigen gives wrong matrix products in this build; choose another backend");
    return chosen{backend::eigen, piece_eigen};
  }
  if (!correct(gemm_highway)) return fail(error_kind::internal, "the built-in matrix product is wrong on this CPU; please report it with the CPU's name");
  return chosen{backend::highway, gemm_highway};
}

std::atomic<piece_fn> active_piece{nullptr};
std::atomic<backend> active_backend{backend::automatic};
std::atomic<bool> packs{false};  // prepared operands are packed

piece_fn active() {
  piece_fn piece = active_piece.load(std::memory_order_acquire);
  if (piece == nullptr) {
    (void)initialize(backend::automatic);
    piece = active_piece.load(std::memory_order_acquire);
    if (piece == nullptr) piece = gemm_highway;
  }
  return piece;
}

/// Splits n into pieces of about `target`, an even number of them where there are several, all but the last equal and a multiple of 16.
std::size_t piece_size(std::size_t n, std::size_t target) {
  if (n <= target) return std::max<std::size_t>(n, 1);
  const std::size_t pieces = (n + 2 * target - 1) / (2 * target) * 2;
  return ((n + pieces - 1) / pieces + 15) / 16 * 16;
}

/// f(i) for i < count, by all threads if the whole product is worth waking them: below about 20 microseconds of work it is not, and on a busy
/// machine much less so.
template <class F>
void for_pieces(double operations, std::size_t count, const F& f) {
  if (count <= 1 || operations < 4e6 || omp_in_parallel() != 0) {
    for (std::size_t i = 0; i < count; ++i) f(i);
    return;
  }
#pragma omp parallel for schedule(dynamic)
  for (std::size_t i = 0; i < count; ++i) f(i);
}

/// Runs a product as pieces of `rows` x `cols` results, each by one thread. The pieces follow from the shape alone.
void split(product p, extents e, const operand& a, const operand& b, float* c, std::size_t c_stride, bool accumulate, std::size_t rows, std::size_t cols) {
  const piece_fn piece = active();
  const std::size_t down = e.m == 0 ? 0 : (e.m + rows - 1) / rows, across = e.n == 0 ? 0 : (e.n + cols - 1) / cols;
  const double operations = 2.0 * static_cast<double>(e.m) * static_cast<double>(e.n) * static_cast<double>(e.k);
  for_pieces(operations, down * across, [&](std::size_t i) {
    const std::size_t m0 = i % down * rows, n0 = i / down * cols;
    const extents part{std::min(rows, e.m - m0), std::min(cols, e.n - n0), e.k};
    operand pa = a, pb = b;
    pa.data = element(a, p == product::tn ? m0 : m0 * a.stride);
    pb.data = element(b, p == product::nt ? n0 * b.stride : n0);
    piece(p, part, pa, pb, c + m0 * c_stride + n0, c_stride, accumulate);
  });
}

// Pieces measured on Zen 5 (AVX512-BF16, 2048 tokens): 256 rows lose 1 % to one large product. A weight gradient in pieces of 128 rows runs at 400
// GFLOP/s, of 256 at 426, whole (then both operands are dense) at 460 to 480.
constexpr std::size_t row_piece = 256, gradient_piece = 512, column_piece = 512, single_row_piece = 128;

/// Compares packed products with the kernel that `correct` has checked; sums are exact, so the bits must be the same.
bool packing_correct() {
  const std::size_t m = 131, n = 67, k = 66;
  std::vector<std::uint16_t> a(m * k), b(std::max(n, k) * (std::max(n, k) + 1));
  std::uint32_t state = 2;
  for (auto* v : {&a, &b})
    for (std::uint16_t& x : *v) {
      state = state * 1664525u + 1013904223u;
      x = ar::bf16_from_f32(static_cast<float>(static_cast<int>(state >> 27) - 16) / 8.0f);
    }
  const operand ao{a.data(), m, k, k, true}, nt{b.data(), n, k, k + 1, true}, nn{b.data(), k, n, n + 1, true};
  std::vector<float> got(m * n), want(m * n);
  prepared p;
  p.set(true, nt, 128, 4 * m);
  p.multiply(ao, got.data(), n, false);
  gemm_highway(product::nt, {m, n, k}, ao, nt, want.data(), n, false);
  if (got != want) return false;
  p.set(false, nn, 128, 4 * m);
  p.multiply(ao, got.data(), n, true);
  gemm_highway(product::nn, {m, n, k}, ao, nn, want.data(), n, true);
  return got == want;
}

}  // namespace

result<void> initialize(backend choice) {
  const result<chosen> c = choose(choice);
  if (!c) return forward_error(c);
  active_backend.store(c->which);
  active_piece.store(c->piece, std::memory_order_release);
  packs.store(fast_bf16());
  if (packs.load() && !packing_correct()) packs.store(false);
  return {};
}

void keep_buffers() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
}

std::string description() {
  (void)active();
  switch (active_backend.load()) {
    case backend::onednn: {
#ifdef AR_HAVE_ONEDNN
      const dnnl::version_t* v = dnnl::version();
      std::string isa = "unknown instruction set";
      const dnnl::cpu_isa cpu = dnnl::get_effective_cpu_isa();
      for (const auto& [value, name] : std::initializer_list<std::pair<dnnl::cpu_isa, const char*>>{{dnnl::cpu_isa::sse41, "sse41"},
                                                                                                    {dnnl::cpu_isa::avx, "avx"},
                                                                                                    {dnnl::cpu_isa::avx2, "avx2"},
                                                                                                    {dnnl::cpu_isa::avx2_vnni, "avx2_vnni"},
                                                                                                    {dnnl::cpu_isa::avx512_core, "avx512_core"},
                                                                                                    {dnnl::cpu_isa::avx512_core_vnni, "avx512_core_vnni"},
                                                                                                    {dnnl::cpu_isa::avx512_core_bf16, "avx512_core_bf16"},
                                                                                                    {dnnl::cpu_isa::avx512_core_amx, "avx512_core_amx"}})
        if (cpu == value) isa = name;
      return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch) + " (" + isa + ")";
#else
      break;
#endif
    }
    case backend::eigen:
      return "Eigen " + std::to_string(EIGEN_WORLD_VERSION) + "." + std::to_string(EIGEN_MAJOR_VERSION) + "." + std::to_string(EIGEN_MINOR_VERSION);
    default:
      break;
  }
  return std::string("Highway (") + gemm_highway_target() + ")";
}

bool fast_bf16() {
  (void)active();
#ifdef AR_HAVE_ONEDNN
  // The kind of CPU decides, not a timing: a default that changed with the load of the machine would change results. Without AMX, Intel's cores multiply pairs
  // of bfloat16 at half the rate of AMD's: 75 to 80 GFLOP/s where products of floats reach 95 to 145 (Xeon, family 6 model 207, one core, oneDNN 2.6.3).
  if (active_backend.load() == backend::onednn) {
    const dnnl::cpu_isa cpu = dnnl::get_effective_cpu_isa();
    return cpu == dnnl::cpu_isa::avx512_core_amx || (cpu == dnnl::cpu_isa::avx512_core_bf16 && __builtin_cpu_is("amd") != 0);
  }
#endif
  return false;
}

namespace {

/// a * b^T or a * b, split along the rows of a and, where b is not packed, along the columns of the result.
void rows_times(product p, extents e, const operand& a, const operand& b, float* c, std::size_t c_stride, bool accumulate, work who) {
  if (who == work::own) return active()(p, e, a, b, c, c_stride, accumulate);
  split(p, e, a, b, c, c_stride, accumulate, row_piece, piece_size(e.n, e.m < 16 ? single_row_piece : column_piece));
}

}  // namespace

void gemm_nt(const operand& a, const operand& b, float* c, std::size_t c_stride, bool accumulate, work who) {
  rows_times(product::nt, {a.rows, b.rows, a.cols}, a, b, c, c_stride, accumulate, who);
}

void gemm_nn(const operand& a, const operand& b, float* c, std::size_t c_stride, bool accumulate, work who) {
  rows_times(product::nn, {a.rows, b.cols, a.cols}, a, b, c, c_stride, accumulate, who);
}

void gemm_tn(const operand& a, const operand& b, float* c, std::size_t c_stride, bool accumulate, work who) {
  const extents e{a.cols, b.cols, a.rows};
  if (who == work::own) return active()(product::tn, e, a, b, c, c_stride, accumulate);
  const gradient_product one{a, b, c, c_stride};
  gemm_tn(&one, 1, accumulate);
}

void gemm_tn(const gradient_product* products, std::size_t count, bool accumulate) {
  struct piece {
    const gradient_product* of;
    std::size_t first, rows;
  };
  std::vector<piece> pieces;
  double operations = 0;
  for (const gradient_product* g = products; g != products + count; ++g) {
    const std::size_t step = piece_size(g->a.cols, gradient_piece);
    for (std::size_t first = 0; first < g->a.cols; first += step) pieces.push_back({g, first, std::min(step, g->a.cols - first)});
    operations += 2.0 * static_cast<double>(g->a.cols) * static_cast<double>(g->b.cols) * static_cast<double>(g->a.rows);
  }
  const piece_fn run = active();
  for_pieces(operations, pieces.size(), [&](std::size_t i) {
    const piece& x = pieces[i];
    operand a = x.of->a;
    a.data = element(a, x.first);
    run(product::tn, {x.rows, x.of->b.cols, a.rows}, a, x.of->b, x.of->c + x.first * x.of->c_stride, x.of->c_stride, accumulate);
  });
}

struct prepared::impl {
  product kind = product::nt;
  operand b;
  std::size_t n = 0, k = 0;
#ifdef AR_HAVE_ONEDNN
  std::vector<char> store;
  packed_operand packed;
  bool use_packed = false;
#endif
};

prepared::prepared() : impl_(std::make_unique<impl>()) {}
prepared::~prepared() = default;
prepared::prepared(prepared&&) noexcept = default;
prepared& prepared::operator=(prepared&&) noexcept = default;

void prepared::set(bool transposed, const operand& b, [[maybe_unused]] std::size_t rows, [[maybe_unused]] std::size_t total) {
  impl_->kind = transposed ? product::nt : product::nn;
  impl_->b = b;
  impl_->n = transposed ? b.rows : b.cols;
  impl_->k = transposed ? b.cols : b.rows;
  (void)active();
#ifdef AR_HAVE_ONEDNN
  impl_->use_packed = packs.load(std::memory_order_relaxed) && b.bf16 && total >= 4 * rows && impl_->n >= 64 && impl_->k >= 64 &&
                      pack_b(impl_->kind, {rows, impl_->n, impl_->k}, b, impl_->store, impl_->packed);
#endif
}

void prepared::multiply(const operand& a, float* c, std::size_t c_stride, bool accumulate) const {
  const extents e{a.rows, impl_->n, impl_->k};
#ifdef AR_HAVE_ONEDNN
  if (impl_->use_packed) return run_onednn(impl_->kind, e, a, impl_->b, c, c_stride, accumulate, &impl_->packed);
#endif
  active()(impl_->kind, e, a, impl_->b, c, c_stride, accumulate);
}

void to_bf16(const float* in, std::size_t n, std::uint16_t* out) {
  constexpr std::size_t chunk = 16384;
  const std::size_t chunks = (n + chunk - 1) / chunk;
#pragma omp parallel for schedule(static) if (chunks > 1)
  for (std::size_t i = 0; i < chunks; ++i) kernels::to_bf16(in + i * chunk, std::min(chunk, n - i * chunk), out + i * chunk);
}

}  // namespace auto_round::linalg
