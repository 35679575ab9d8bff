// links: ar_hostile_corpus
// Hostile inputs through the program: every one is refused by one line that names the file and what is wrong, or is legal and accepted; within bounds
// of memory and of time, and without a trace. AR_HOSTILE_PRINT=1 prints what each case said and took.
#include <cstdio>
#include <set>

#include "hostile/run_case.hpp"

namespace {

class Corpus : public testing::TestWithParam<hostile::group> {};

TEST_P(Corpus, IsRefusedByOneLineOrAccepted) {
  const bool print = std::getenv("AR_HOSTILE_PRINT") != nullptr;
  const char* only = std::getenv("AR_HOSTILE_ONLY");
  double seconds = 0;
  long megabytes = 0;
  std::string slowest, largest;
  std::size_t count = 0;
  for (const hostile::one_case& c : GetParam().cases()) {
    if (only != nullptr && c.name.find(only) == std::string::npos) continue;
    SCOPED_TRACE(GetParam().name + ": " + c.name);
    const hostile::ending e = hostile::check_case(c);
    ++count;
    if (print) {
      std::printf("%s: %s\n    status %d, %.2f s, %ld MiB: %s\n", GetParam().name.c_str(), c.name.c_str(), e.status, e.cpu_seconds, e.megabytes,
                  e.err.substr(0, 700).c_str());
      std::fflush(stdout);
    }
    if (e.cpu_seconds > seconds) seconds = e.cpu_seconds, slowest = c.name;
    if (e.megabytes > megabytes) megabytes = e.megabytes, largest = c.name;
  }
  std::printf("%s: %zu cases, at most %.2f CPU s (%s), %ld MiB (%s)\n", GetParam().name.c_str(), count, seconds, slowest.c_str(), megabytes,
              largest.c_str());
}

INSTANTIATE_TEST_SUITE_P(All, Corpus, testing::ValuesIn(hostile::groups()), [](const auto& i) { return i.param.name; });

TEST(CorpusSize, FourHundredDistinctCases) {
  std::set<std::string> names;
  std::size_t count = 0;
  for (const hostile::group& g : hostile::groups()) {
    for (const hostile::one_case& c : g.cases()) {
      ++count;
      EXPECT_TRUE(names.insert(g.name + "/" + c.name).second) << g.name << "/" << c.name << " appears twice";
    }
  }
  EXPECT_GE(count, 400u);
}

}  // namespace
