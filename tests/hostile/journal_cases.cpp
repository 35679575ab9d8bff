// What an earlier run may have left behind, damaged or made up: journals, partial folders, caches, reports, and files of rules.
#include "hostile/model_files.hpp"

namespace hostile {
namespace {

std::vector<std::string> tunes(const std::vector<std::string>& more = {}) {
  std::vector<std::string> a = {"quantize", "--model", "@/model", "--output_dir", "@/out", "--scheme", "W4A16G32", "--iters", "1", "--dataset", "@/calib.jsonl",
                                "--nsamples", "4", "--seqlen", "16", "--batch_size", "2"};
  a.insert(a.end(), more.begin(), more.end());
  return a;
}

/// A frame of zstd as the journal stores it, with its size before it; a window of 1 MiB, blocks as they are.
std::string frame(std::uint64_t content, const std::string& blocks) {
  const std::string f = std::string("\x28\xB5\x2F\xFD\xC0\x50", 6) + bytes_of(content) + blocks;
  return bytes_of(static_cast<std::uint64_t>(f.size())) + f;
}
std::string block(std::uint32_t kind, std::uint32_t size, bool last) {
  const std::uint32_t head = size << 3 | kind << 1 | (last ? 1u : 0u);
  return bytes_of(head).substr(0, 3);
}
std::string raw(const std::string& content) { return frame(content.size(), block(0, static_cast<std::uint32_t>(content.size()), true) + content); }

}  // namespace

std::vector<one_case> journal_cases() {
  std::vector<one_case> all;
  const std::string magic = std::string("ar-log\n\1", 8);
  const auto journal = [&](std::string name, std::string content, std::vector<std::string> says, int status = bad_output) {
    if (status != accepted) says.push_back("@/out.journal");
    all.push_back({"journal: " + std::move(name), [content = std::move(content)](const fs::path& dir) {
                     tiny_model().write(dir / "model");
                     put(dir / "calib.jsonl", tiny_model::calibration(8));
                     put(dir / "out.journal", content);
                   }, tunes(), status, std::move(says)});
  };
  journal("of another program", "PRAGMA journal_mode=wal; this is no journal of ours", {"not made by this program"});
  journal("of another version", std::string("ar-log\n\2", 8) + raw("{}"), {});
  journal("a key that is no JSON", magic + raw("hello"), {"not valid JSON"}, bad_input);
  journal("a key of 200,000 brackets", magic + raw(std::string(100'000, '[')), {"too deep"}, bad_input);
  journal("a key of another run", magic + raw(R"({"version":"0.0.1","options":[]})"), {"differs"});
  journal("a key that is a list", magic + raw("[1]"), {"differs"});
  journal("a key that unpacks to 1 GB", magic + frame(std::uint64_t{8192} << 17, [] {
            std::string blocks;
            for (int i = 0; i < 8192; ++i) blocks += block(1, 1u << 17, i == 8191) + "x";
            return blocks;
          }()), {"--restart"});
  // A run that was killed while it wrote: what is no whole record is none.
  journal("empty", "", {}, accepted);
  journal("cut in the magic", "ar-l", {}, accepted);
  journal("magic alone", magic, {}, accepted);
  journal("a record cut short", magic + raw("{}").substr(0, 20), {}, accepted);
  journal("a record of 2^64-1 bytes", magic + bytes_of(UINT64_MAX) + "x", {}, accepted);
  journal("a record of 2^40 bytes", magic + bytes_of(std::uint64_t{1} << 40) + std::string(100, 'x'), {}, accepted);
  journal("a frame that claims 2^40 bytes", magic + frame(std::uint64_t{1} << 40, block(0, 4, true) + "abcd"), {}, accepted);
  journal("a frame of noise", magic + bytes_of(std::uint64_t{64}) + std::string(64, '\xA5'), {}, accepted);
  const auto before = [&](std::string name, std::function<void(const fs::path&)> write, std::vector<std::string> arguments, std::vector<std::string> says, int status = bad_output) {
    all.push_back({std::move(name), [write = std::move(write)](const fs::path& dir) {
                     tiny_model().write(dir / "model");
                     put(dir / "calib.jsonl", tiny_model::calibration(8));
                     write(dir);
                   }, std::move(arguments), status, std::move(says)});
  };
  before("journal: a folder", [](const fs::path& d) { fs::create_directory(d / "out.journal"); }, tunes(), {"@/out.journal"});
  before("journal: a link to a file of somebody", [](const fs::path& d) {
    put(d / "precious", "keep me");
    fs::create_symlink(d / "precious", d / "out.journal");
  }, tunes(), {"@/out.journal"});
  before("journal: a link to nothing", [](const fs::path& d) { fs::create_symlink("/nonexistent/x", d / "out.journal"); }, tunes(), {"@/out.journal"});
  before("journal: a link to itself", [](const fs::path& d) { fs::create_symlink("out.journal", d / "out.journal"); }, tunes(), {"@/out.journal"});
  // A pass in progress: another program's file is refused, what is cut or of another kind is no state.
  const std::vector<std::string> searches = tunes({"--iters", "0", "--enable_opt_rtn"});
  const auto pass = [&](std::string name, std::string content, std::vector<std::string> says, int status = bad_output) {
    if (status != accepted) says.push_back("@/out.pass");
    before("pass: " + std::move(name), [content = std::move(content)](const fs::path& d) { put(d / "out.pass", content); }, searches, std::move(says), status);
  };
  pass("of another program", "my diary", {"not made by this program"});
  pass("of another run", magic + raw(R"({"version":"0.0.1","options":[]})"), {"differs"});
  pass("a key that is no JSON", magic + raw("hello"), {"not valid JSON"}, bad_input);
  pass("empty", "", {}, accepted);
  pass("magic alone", magic, {}, accepted);
  pass("a record of 2^64-1 bytes", magic + bytes_of(UINT64_MAX) + "x", {}, accepted);
  before("pass: a link to a file of somebody", [](const fs::path& d) {
    put(d / "precious", "keep me");
    fs::create_symlink(d / "precious", d / "out.pass");
  }, searches, {"@/out.pass"});
  before("pass: a folder", [](const fs::path& d) { fs::create_directory(d / "out.pass"); }, searches, {"@/out.pass"});
  before("pass: a folder where the next state goes", [](const fs::path& d) { fs::create_directory(d / "out.pass.new"); }, searches, {"warning: the pass cannot be kept"}, accepted);
  before("output: a folder that holds something", [](const fs::path& d) { put(d / "out" / "precious", "keep me"); }, rounds(), {"@/out"});
  before("output: a file", [](const fs::path& d) { put(d / "out", "keep me"); }, rounds(), {"@/out"});
  before("output: a link to nothing", [](const fs::path& d) { fs::create_symlink("/nonexistent/x", d / "out"); }, rounds(), {"@/out"});
  before("partial: a folder of somebody", [](const fs::path& d) { put(d / "out.partial" / "precious", "keep me"); }, rounds(), {"@/out.partial"});
  before("partial: a file", [](const fs::path& d) { put(d / "out.partial", "keep me"); }, rounds(), {"@/out.partial"});
  before("partial: a link to a folder of somebody", [](const fs::path& d) {
    put(d / "elsewhere" / "precious", "keep me");
    fs::create_directory_symlink(d / "elsewhere", d / "out.partial");
  }, rounds(), {"@/out.partial"});

  const auto rules = [&](std::string name, const std::string& content, std::vector<std::string> says, int status = usage) {
    if (name != "bits beyond all") says.push_back("@/rules.json");
    before("layer_config: " + std::move(name), [content](const fs::path& d) { put(d / "rules.json", content); }, rounds({"--layer_config", "@/rules.json"}), std::move(says), status);
  };
  rules("empty", "", {});
  rules("a list", "[1]", {"must map"});
  rules("cut short", R"({"q_proj":{"bits":)", {});
  rules("deep", std::string(100'000, '{'), {});
  rules("bits beyond all", R"({"q_proj":{"bits":999}})", {"bits"});
  rules("noise", std::string(10'000, '\xA5'), {});

  const auto report = [&](std::string name, const std::string& content, std::vector<std::string> says, int status = bad_input) {
    says.push_back("@/run.json");
    before("report: " + std::move(name), [content](const fs::path& d) { put(d / "run.json", content); },
           {"report", "--runs", "@/run.json", "--ref", "@/model", "--ppl", "@/calib.jsonl", "--seqlen", "16"}, std::move(says), status);
  };
  report("empty", "", {});
  report("a list", "[]", {"no formats"});
  report("formats of numbers", R"({"formats":[1]})", {});
  report("a path to nothing", R"({"formats":[{"format":"x","path":""}]})", {});
  report("a path with a zero byte", R"({"formats":[{"format":"x","path":"/tmp\u0000/x"}]})", {});
  // To the root from wherever the test runs.
  report("a path that climbs", R"({"formats":[{"format":"x","path":"../../../../../../../../../../../../../../../../etc"}]})", {}, unsupported);
  return all;
}

}  // namespace hostile
