// links: ar_dispatch ${CMAKE_DL_LIBS}
// How fast are GGUF blocks made and read? Every type plain, with an importance matrix, and decoded; paired with ggml in the same process, whose
// library (libggml-base.so, as in the PyPI package llama-cpp-python) AR_GGML or --ggml names. Our function, ggml's and memcpy of the same matrix
// take turns in every round; the time is CPU time of the thread. Prints GB of float32 per second and, of the rounds' ratios, the median. Where the
// bytes or floats of the two differ, the row says so.
//   gguf_bench --ggml=.../llama_cpp/lib/libggml-base.so [--types=q4_k,q6_k] [--rounds=9] [--rows=64] [--scalar] [--search]
#include <dlfcn.h>
#include <time.h>

#include <algorithm>
#include <ar/dispatch.hpp>
#include <ar/gguf.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr std::size_t cols = 4096;

double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// ggml_type_traits of ggml 0.25.3, ggml.h.
struct ggml_traits {
  const char* type_name;
  std::int64_t block_elements, block_interleave;
  std::size_t block_bytes;
  bool is_quantized;
  void (*to_float)(const void*, float*, std::int64_t);
  void (*from_float_ref)(const float*, void*, std::int64_t);
};
struct peer {
  std::size_t (*quantize)(int, const float*, void*, std::int64_t, std::int64_t, std::int64_t, const float*) = nullptr;
  const ggml_traits* (*traits)(int) = nullptr;
  void (*quantize_q8_k)(const float*, void*, std::int64_t) = nullptr;  // not in the traits

  bool open(const char* path) {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      std::fprintf(stderr, "%s\n", dlerror());
      return false;
    }
    quantize = reinterpret_cast<decltype(quantize)>(dlsym(library, "ggml_quantize_chunk"));
    traits = reinterpret_cast<decltype(traits)>(dlsym(library, "ggml_get_type_traits"));
    quantize_q8_k = reinterpret_cast<decltype(quantize_q8_k)>(dlsym(library, "quantize_row_q8_K_ref"));
    return quantize != nullptr && traits != nullptr;
  }
  /// Null if there is no peer, or if this is not the layout of the structure that we know.
  const ggml_traits* find(const ar::gguf_kernels& k) const {
    if (traits == nullptr) return nullptr;
    const ggml_traits* t = traits(static_cast<int>(k.id));
    return t->block_bytes == k.block_bytes && t->block_elements == k.block_elements ? t : nullptr;
  }
};

struct options {
  std::string types;
  std::size_t rows = 64;
  int rounds = 9;
  bool scalar = false, search = false;
};

/// Times of one round, seconds per call.
using work = std::function<void()>;
double time_of(const work& f, int calls) {
  const double start = cpu_seconds();
  for (int i = 0; i < calls; ++i) f();
  return (cpu_seconds() - start) / calls;
}
/// How many calls make a round of some milliseconds.
int calls_for(const work& f) {
  f();
  const double once = time_of(f, 1);
  return std::max(1, static_cast<int>(0.004 / std::max(once, 1e-7)));
}
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

struct bench {
  options opt;
  peer ggml;
  std::vector<float> w, out, importance;

  explicit bench(const options& o) : opt(o), w(o.rows * cols), out(w.size()), importance(cols) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, 0.02f);
    std::lognormal_distribution<float> heavy(0.0f, 1.0f);
    for (float& x : w) x = normal(random);
    for (float& x : importance) x = heavy(random);
  }
  double bytes() const { return static_cast<double>(w.size() * sizeof(float)); }

  void row(const char* type, const char* what, const work& ours, const work& theirs, const char* remark) {
    const work copy = [this] {
      std::memcpy(out.data(), w.data(), w.size() * sizeof(float));
      asm volatile("" : : "r"(out.data()) : "memory");
    };
    const int n = calls_for(ours), m = theirs ? calls_for(theirs) : 0, c = calls_for(copy);
    std::vector<double> a, b, to_peer, to_copy;
    for (int round = 0; round < opt.rounds; ++round) {
      const double copying = time_of(copy, c), own = time_of(ours, n);
      a.push_back(own);
      to_copy.push_back(copying / own);
      if (!theirs) continue;
      b.push_back(time_of(theirs, m));
      to_peer.push_back(b.back() / own);
    }
    std::printf("| %s | %s | %.3f | ", type, what, bytes() / median(a) * 1e-9);
    if (theirs)
      std::printf("%.3f | %.2f | ", bytes() / median(b) * 1e-9, median(to_peer));
    else
      std::printf("- | - | ");
    std::printf("%.0f %% |%s\n", 100.0 * median(to_copy), remark);
    std::fflush(stdout);
  }

  void encode(const ar::gguf_kernels& k, const ar::gguf_kernels* scalar, bool weighted) {
    std::vector<std::uint8_t> own(w.size() / k.block_elements * k.block_bytes), other(own.size());
    const std::span<const float> im = weighted ? std::span<const float>(importance) : std::span<const float>{};
    const ar::matrix_view<const float> view{w.data(), opt.rows, cols};
    if (k.quantize(view, im, own) != ar::errc::ok) return;  // a type that is only read
    work theirs;
    const ggml_traits* t = ggml.find(k);
    const auto rows = static_cast<std::int64_t>(opt.rows);
    if (k.id == 9 || k.id == 15) {  // ggml_quantize_chunk aborts on activation formats
      const auto f = t == nullptr ? nullptr : k.id == 15 ? ggml.quantize_q8_k : t->from_float_ref;
      if (weighted) return;
      if (f != nullptr) theirs = [&, f] { f(w.data(), other.data(), static_cast<std::int64_t>(w.size())); };
    } else if (t != nullptr) {
      theirs = [&] { ggml.quantize(static_cast<int>(k.id), w.data(), other.data(), 0, rows, cols, weighted ? importance.data() : nullptr); };
    }
    if (weighted && !depends_on_importance(k, own)) return;
    if (theirs) theirs();
    const work ours = [&] { (void)k.quantize(view, im, own); };
    row(k.name, weighted ? "quantize, imatrix" : "quantize", ours, theirs, theirs && own != other ? " BYTES DIFFER" : "");
    if (opt.scalar && scalar != nullptr)
      row(
          k.name, "  float lane", [&] { (void)scalar->quantize(view, im, own); }, theirs, "");
  }
  bool depends_on_importance(const ar::gguf_kernels& k, const std::vector<std::uint8_t>& weighted) const {
    std::vector<std::uint8_t> plain(weighted.size());
    (void)k.quantize({w.data(), opt.rows, cols}, {}, plain);
    return plain != weighted;
  }

  void decode(const ar::gguf_kernels& k, const ar::gguf_kernels* scalar) {
    std::vector<std::uint8_t> blocks(w.size() / k.block_elements * k.block_bytes);
    std::vector<float> own(w.size()), other(w.size());
    const ar::matrix_view<float> view{own.data(), opt.rows, cols};
    if (k.quantize({w.data(), opt.rows, cols}, {}, blocks) != ar::errc::ok) {
      std::mt19937 random(3);
      for (std::uint8_t& b : blocks) b = static_cast<std::uint8_t>(random() & 0x3Fu);  // fields that are halves then are finite
    }
    work theirs;
    if (const ggml_traits* t = ggml.find(k); t != nullptr && t->to_float != nullptr)
      theirs = [&, t] { t->to_float(blocks.data(), other.data(), static_cast<std::int64_t>(w.size())); };
    const work ours = [&] { (void)k.dequantize(blocks, view); };
    ours();
    if (theirs) theirs();
    const bool differ = theirs && std::memcmp(own.data(), other.data(), own.size() * sizeof(float)) != 0;
    row(k.name, "dequantize", ours, theirs, differ ? " VALUES DIFFER" : "");
    if (opt.scalar && scalar != nullptr)
      row(
          k.name, "  float lane", [&] { (void)scalar->dequantize(blocks, view); }, theirs, "");
  }

  void search(const ar::gguf_kernels& k, bool weighted) {
    std::vector<float> scale(w.size() / k.group_size), offset(scale.size()), d(w.size() / 256), dm(d.size());
    const std::span<const float> im = weighted ? std::span<const float>(importance) : std::span<const float>{};
    const work ours = [&] { (void)k.search({w.data(), opt.rows, cols}, im, {}, {}, {scale.data(), offset.data(), d.data(), dm.data()}); };
    row(k.name, weighted ? "auto-round's search, imatrix" : "auto-round's search", ours, {}, "");
  }

  void run() {
    std::printf(
        "target %s, %zu x %zu float32, median of %d rounds\n\n| type | | GB/s | ggml GB/s | times ggml | of memcpy |\n| --- | --- | --- | --- | --- "
        "| --- |\n",
        ar::kernels().target, opt.rows, cols, opt.rounds);
    const std::span<const ar::gguf_kernels> scalars = ar::gguf::kernel_table<float>();
    for (const ar::gguf_kernels& k : ar::kernels().gguf_types()) {
      if (!opt.types.empty() && ("," + opt.types + ",").find("," + std::string(k.name) + ",") == std::string::npos) continue;
      const auto scalar = std::find_if(scalars.begin(), scalars.end(), [&](const ar::gguf_kernels& s) { return s.id == k.id; });
      encode(k, &*scalar, false);
      encode(k, &*scalar, true);
      decode(k, &*scalar);
      if (!opt.search || k.search == nullptr) continue;
      search(k, false);
      if (k.superblock) search(k, true);
    }
  }
};

}  // namespace

int main(int argc, char** argv) {
  options o;
  const char* path = std::getenv("AR_GGML");
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    const auto value = [&](const char* name) { return a.rfind(name, 0) == 0 ? argv[i] + std::strlen(name) : nullptr; };
    if (const char* v = value("--ggml="))
      path = v;
    else if (const char* v2 = value("--types="))
      o.types = v2;
    else if (const char* v3 = value("--rounds="))
      o.rounds = std::max(1, std::atoi(v3));
    else if (const char* v4 = value("--rows="))
      o.rows = static_cast<std::size_t>(std::max(1, std::atoi(v4)));
    else if (a == "--scalar")
      o.scalar = true;
    else if (a == "--search")
      o.search = true;
    else {
      std::fprintf(stderr, "gguf_bench: %s? See the head of its source.\n", argv[i]);
      return 2;
    }
  }
  bench b(o);
  if (path != nullptr && !b.ggml.open(path)) return 1;
  b.run();
  return 0;
}
