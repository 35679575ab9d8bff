// A main for fuzz targets without libFuzzer: replays every seed, then so many inputs made of them by chance, always the same ones. Not led by coverage, but
// it runs in every build of the tests, sanitized ones among them; the preset fuzz has the real thing.
// Usage: TARGET FOLDER EXECUTIONS [NUMBER]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t longest = 4096;

/// An exact copy on the heap, so that the sanitizers see a byte beyond it.
void run(const std::string& input) {
  const std::vector<std::uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

class mutator {
 public:
  mutator(std::vector<std::string> seeds, std::uint64_t number) : seeds_(std::move(seeds)), random_(number) {}

  std::string next() {
    std::string s = any_seed();
    for (std::size_t i = 0, n = 1 + below(6); i < n; ++i) change(s);
    if (s.size() > longest) s.resize(longest);
    return s;
  }

 private:
  std::size_t below(std::size_t n) { return n == 0 ? 0 : static_cast<std::size_t>(random_() % n); }
  const std::string& any_seed() { return seeds_[below(seeds_.size())]; }

  void change(std::string& s) {
    static const std::string words[] = {"0", "-1", "1e400", "9223372036854775807", "18446744073709551615", "null", "true", "[", "]", "{", "}", "\"", ",", ":",
                                        "\\u0000", "\\ud800", "\xFF", "\xC0\x80", "\n", "=", "--", ".", "..", "/", "(", ")*", "%", std::string(1, '\0')};
    const std::size_t at = below(s.size() + 1);
    switch (below(9)) {
      case 0:
        if (!s.empty()) s[below(s.size())] = static_cast<char>(random_());
        break;
      case 1:
        if (!s.empty()) s[below(s.size())] ^= static_cast<char>(1 << below(8));
        break;
      case 2:
        s.insert(at, 1, static_cast<char>(random_()));
        break;
      case 3:
        s.erase(at, 1 + below(16));
        break;
      case 4:
        s.insert(at, words[below(std::size(words))]);
        break;
      case 5: {  // a piece of itself, elsewhere
        const std::string piece = s.substr(below(s.size() + 1), 1 + below(64));
        s.insert(at, piece);
        break;
      }
      case 6: {  // a piece of another seed
        const std::string& other = any_seed();
        s.insert(at, other.substr(below(other.size() + 1), 1 + below(64)));
        break;
      }
      case 7: {  // the beginning of one, the end of another
        const std::string& other = any_seed();
        s = s.substr(0, at) + other.substr(below(other.size() + 1));
        break;
      }
      default: {  // numbers in binary files
        const std::uint64_t numbers[] = {0, 1, 0x7FFFFFFF, 0xFFFFFFFF, std::uint64_t{1} << 32, std::uint64_t{1} << 63, UINT64_MAX, random_()};
        const std::uint64_t v = numbers[below(8)];
        const std::size_t n = std::min<std::size_t>(below(2) == 0 ? 4 : 8, s.size() - std::min(at, s.size()));
        std::copy_n(reinterpret_cast<const char*>(&v), n, s.begin() + static_cast<std::ptrdiff_t>(at));
      }
    }
  }

  std::vector<std::string> seeds_;
  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  std::vector<std::string> seeds, names;
  for (const auto& e : std::filesystem::directory_iterator(argv[1])) names.push_back(e.path().string());
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    std::ifstream in(name, std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    run(seeds.back());
  }
  if (seeds.empty()) {
    std::fprintf(stderr, "no seeds in %s\n", argv[1]);
    return 1;
  }
  const unsigned long executions = std::strtoul(argv[2], nullptr, 10);
  mutator m(seeds, argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1);
  const char* keep = std::getenv("AR_FUZZ_KEEP");  // where the last input goes, to find what ended the program
  for (unsigned long i = 0; i < executions; ++i) {
    const std::string input = m.next();
    if (keep != nullptr) std::ofstream(keep, std::ios::binary) << input;
    run(input);
  }
  std::printf("%zu seeds and %lu inputs\n", seeds.size(), executions);
  return 0;
}
