// links: ar_io
// Files and output folders: what is written is there, what fails leaves nothing behind, and nobody else's files are touched.
#include "io/file.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "support/temp_dir.hpp"

namespace {

namespace fs = std::filesystem;
using auto_round::error_kind;
using auto_round::io::interrupt_watch;
using auto_round::io::mapped_file;
using auto_round::io::output_dir;
using auto_round::io::output_file;
using auto_round::io::read_text;
using auto_round::io::write_text;

std::span<const std::byte> bytes_of(const std::string& s) { return std::as_bytes(std::span(s)); }

/// Exit status of `body`, run in a process of its own; 1000 + signal if one killed it.
int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/// As in_child(), without the rights of root, who may read and write everything.
int in_child_without_rights(const std::function<int()>& body) {
  return in_child([&] { return ::geteuid() == 0 && ::setuid(65534) != 0 ? 250 : body(); });
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& e : fs::directory_iterator(folder)) names.push_back(e.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// Reading.

TEST(MappedFile, GivesTheBytesOfTheFile) {
  const support::temp_dir dir;
  const std::string path = dir.write("f", std::string("a\0b", 3));
  const auto map = mapped_file::open(path);
  ASSERT_TRUE(map);
  EXPECT_EQ(map->path(), path);
  ASSERT_EQ(map->bytes().size(), 3u);
  EXPECT_EQ(std::memcmp(map->bytes().data(), "a\0b", 3), 0);
}

TEST(MappedFile, AnEmptyFileIsAnEmptySpan) {
  const support::temp_dir dir;
  const auto map = mapped_file::open(dir.write("f", ""));
  ASSERT_TRUE(map);
  EXPECT_TRUE(map->bytes().empty());
}

TEST(MappedFile, MovesAndReleasesPages) {
  const support::temp_dir dir;
  auto first = mapped_file::open(dir.write("f", std::string(100'000, 'x')));
  ASSERT_TRUE(first);
  mapped_file second = std::move(*first);
  EXPECT_TRUE(first->bytes().empty());
  second.release(second.bytes().subspan(5000, 60'000));
  second.release(second.bytes().subspan(5, 10));
  second.release({});
  for (const std::byte b : second.bytes()) ASSERT_EQ(b, std::byte{'x'}) << "released pages come back from the file";
  auto third = mapped_file::open(dir.write("g", "y"));
  ASSERT_TRUE(third);
  second = std::move(*third);
  EXPECT_EQ(second.bytes().size(), 1u);
}

TEST(MappedFile, RefusesWhatIsNoRegularFile) {
  const support::temp_dir dir;
  fs::create_directory(dir / "folder");
  fs::create_symlink("loop", dir / "loop");
  fs::create_symlink("nowhere", dir / "dangling");
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  for (const char* name : {"absent", "folder", "loop", "dangling", "fifo", "absent/inside"}) {
    const auto map = mapped_file::open(dir / name);
    ASSERT_FALSE(map) << name;
    EXPECT_EQ(map.error().kind, error_kind::input) << name;
    EXPECT_EQ(map.error().file, dir / name);
    EXPECT_FALSE(read_text(dir / name)) << name;
  }
  EXPECT_FALSE(mapped_file::open("/dev/zero"));
  EXPECT_FALSE(mapped_file::open(std::string("a\0b", 3)));
  EXPECT_FALSE(mapped_file::open(""));
  EXPECT_FALSE(mapped_file::open(std::string(10'000, 'n')));
}

TEST(MappedFile, SaysWhyAFileCannotBeRead) {
  const support::temp_dir dir;
  const std::string path = dir.write("f", "x");
  fs::permissions(dir.path(), fs::perms::all);
  fs::permissions(path, fs::perms::none);
  const int status = in_child_without_rights([&] {
    const auto map = mapped_file::open(path);
    return !map && map.error().kind == error_kind::input && map.error().message.find("Permission denied") != std::string::npos ? 0 : 1;
  });
  EXPECT_EQ(status, 0);
}

TEST(ReadText, KeepsToItsLimit) {
  const support::temp_dir dir;
  const std::string path = dir.write("f", std::string(100, 'x'));
  EXPECT_EQ(read_text(path, 100)->size(), 100u);
  const auto r = read_text(path, 99);
  ASSERT_FALSE(r);
  EXPECT_NE(r.error().message.find("100 bytes"), std::string::npos);
  // A file that claims a terabyte takes no memory.
  fs::resize_file(path, std::uint64_t{1} << 40);
  EXPECT_FALSE(read_text(path));
}

// Writing.

TEST(OutputFile, PositionedWritesMakeAFile) {
  const support::temp_dir dir;
  auto file = output_file::create(dir / "f");
  ASSERT_TRUE(file);
  ASSERT_TRUE(file->write_at(4, bytes_of("def")));
  ASSERT_TRUE(file->write_at(0, bytes_of("abc")));
  ASSERT_TRUE(file->write_at(7, {}));
  ASSERT_TRUE(file->finish());
  EXPECT_EQ(*read_text(dir / "f"), std::string("abc\0def", 7));
  EXPECT_FALSE(file->finish()) << "finished already";
  EXPECT_FALSE(file->write_at(0, bytes_of("x")));
}

TEST(OutputFile, RemovedIfNotFinished) {
  const support::temp_dir dir;
  {
    auto file = output_file::create(dir / "f");
    ASSERT_TRUE(file);
    ASSERT_TRUE(file->write_at(0, bytes_of("abc")));
  }
  EXPECT_TRUE(names_in(dir.path()).empty());
}

TEST(OutputFile, NeverOverwrites) {
  const support::temp_dir dir;
  const std::string path = dir.write("f", "precious");
  fs::create_symlink("elsewhere", dir / "link");
  EXPECT_FALSE(output_file::create(path));
  EXPECT_FALSE(write_text(path, "x"));
  EXPECT_FALSE(write_text(dir / "link", "x"));
  EXPECT_EQ(*read_text(path), "precious");
  const auto r = output_file::create(dir / "no/such/folder/f");
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().kind, error_kind::output);
  EXPECT_NE(r.error().message.find("No such file"), std::string::npos);
}

TEST(OutputFile, OffsetsThatWrapAreRefused) {
  const support::temp_dir dir;
  auto file = output_file::create(dir / "f");
  ASSERT_TRUE(file);
  EXPECT_FALSE(file->write_at(UINT64_MAX, bytes_of("x")));
  EXPECT_FALSE(file->write_at(static_cast<std::uint64_t>(INT64_MAX), bytes_of("x")));
}

TEST(OutputFile, AWriteThatFailsNamesFileBytesAndReason) {
  const support::temp_dir dir;
  const int status = in_child([&] {
    auto_round::io::clean_up_on_signals();  // SIGXFSZ must not kill
    const rlimit limit = {4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    auto file = output_file::create(dir / "f");
    if (!file) return 10;
    if (!file->write_at(0, bytes_of(std::string(4096, 'x')))) return 11;
    const auto r = file->write_at(4096, bytes_of(std::string(100, 'x')));
    if (r) return 12;
    if (r.error().kind != error_kind::output || r.error().file != dir / "f") return 13;
    if (r.error().message.find("100 bytes") == std::string::npos || r.error().message.find("File too large") == std::string::npos) return 14;
    // A write of which a part still fits: the rest is tried and its failure reported.
    auto second = output_file::create(dir / "g");
    if (!second || second->write_at(0, bytes_of(std::string(5000, 'x')))) return 15;
    return 0;
  });
  EXPECT_EQ(status, 0);
}

TEST(CopyFile, CopiesAllBytes) {
  const support::temp_dir dir;
  std::string data(3'000'001, '\0');
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 31);
  ASSERT_TRUE(auto_round::io::copy_file_durably(dir.write("from", data), dir / "to"));
  EXPECT_EQ(*read_text(dir / "to"), data);
  ASSERT_TRUE(auto_round::io::copy_file_durably(dir.write("empty", ""), dir / "empty2"));
  EXPECT_EQ(auto_round::io::copy_file_durably(dir / "absent", dir / "x").error().kind, error_kind::input);
  EXPECT_EQ(auto_round::io::copy_file_durably(dir / "from", dir / "to").error().kind, error_kind::output);
}

// Output folders.

TEST(OutputDir, AppearsWithCommitAndNotBefore) {
  const support::temp_dir dir;
  auto out = output_dir::begin(dir / "out");
  ASSERT_TRUE(out) << describe(out.error());
  EXPECT_EQ(out->path(), fs::weakly_canonical(dir / "out").string());
  EXPECT_EQ(out->partial(), out->path() + ".partial");
  ASSERT_TRUE(write_text(out->partial() + "/a", "1"));
  ASSERT_TRUE(auto_round::io::create_folder(out->partial() + "/sub"));
  ASSERT_TRUE(write_text(out->partial() + "/sub/b", "2"));
  EXPECT_FALSE(fs::exists(dir / "out"));
  ASSERT_TRUE(out->require_space(1));
  const auto r = out->commit();
  ASSERT_TRUE(r) << describe(r.error());
  EXPECT_EQ(names_in(dir.path()), std::vector<std::string>{"out"});
  EXPECT_EQ(names_in(dir / "out"), (std::vector<std::string>{"a", "sub"})) << "the lock file is gone";
  EXPECT_EQ(*read_text(dir / "out/sub/b"), "2");
  EXPECT_FALSE(out->commit()) << "once only";
}

TEST(OutputDir, WithoutCommitNothingIsLeft) {
  const support::temp_dir dir;
  {
    auto out = output_dir::begin(dir / "a/b/out");
    ASSERT_TRUE(out);
    ASSERT_TRUE(auto_round::io::create_folder(out->partial() + "/sub"));
    for (int i = 0; i < 300; ++i) std::ofstream(out->partial() + "/sub/" + std::string(100, 'n') + std::to_string(i)) << "x";
    fs::create_symlink(dir.path(), out->partial() + "/link");
    output_dir moved = std::move(*out);
    EXPECT_TRUE(fs::exists(moved.partial()));
  }
  EXPECT_TRUE(names_in(dir.path()).empty()) << "the parents that begin() made are gone too";
}

TEST(OutputDir, ParentsThatWereThereStay) {
  const support::temp_dir dir;
  fs::create_directories(dir / "a");
  { EXPECT_TRUE(output_dir::begin(dir / "a/b/out")); }
  EXPECT_TRUE(fs::exists(dir / "a"));
  EXPECT_FALSE(fs::exists(dir / "a/b"));
}

TEST(OutputDir, AnEmptyFolderMayBeNamed) {
  const support::temp_dir dir;
  fs::create_directory(dir / "out");
  fs::create_directory_symlink("out", dir / "link");
  {
    auto out = output_dir::begin(dir / "link/");
    ASSERT_TRUE(out) << describe(out.error());
    ASSERT_TRUE(write_text(out->partial() + "/a", "1"));
    ASSERT_TRUE(out->commit());
  }
  EXPECT_EQ(names_in(dir / "out"), std::vector<std::string>{"a"});
  EXPECT_TRUE(fs::is_symlink(dir / "link"));
}

TEST(OutputDir, RefusesWhatIsTaken) {
  const support::temp_dir dir;
  fs::create_directory(dir / "full");
  dir.write("full/x", "precious");
  dir.write("file", "precious");
  fs::create_symlink("nowhere/else", dir / "link");
  for (const char* name : {"full", "file", "file/below", "link"}) {
    const auto out = output_dir::begin(dir / name);
    ASSERT_FALSE(out) << name;
    EXPECT_EQ(out.error().kind, error_kind::output) << name;
    EXPECT_FALSE(fs::exists((dir / name) + ".partial")) << name;
  }
  EXPECT_EQ(*read_text(dir / "full/x"), "precious");
  EXPECT_EQ(output_dir::begin("").error().kind, error_kind::usage);
  EXPECT_FALSE(output_dir::begin("/"));
  EXPECT_FALSE(output_dir::begin("/proc/self/ar-out"));
  EXPECT_FALSE(output_dir::begin(dir / std::string(300, 'n')));
}

TEST(OutputDir, FolderThatIsNotWritableIsNamed) {
  const support::temp_dir dir;
  fs::create_directory(dir / "closed");
  fs::permissions(dir.path(), fs::perms::all);
  fs::permissions(dir / "closed", fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read | fs::perms::others_exec);
  const int status = in_child_without_rights([&] {
    for (const char* name : {"closed/out", "closed/new/out"}) {
      const auto out = output_dir::begin(dir / name);
      if (out || out.error().kind != error_kind::output || describe(out.error()).find("Permission denied") == std::string::npos) return 1;
      if (describe(out.error()).find(dir / "closed/") == std::string::npos) return 2;
    }
    return 0;
  });
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(names_in(dir / "closed").empty());
}

TEST(OutputDir, WhatAKilledRunLeftBehindIsReplaced) {
  const support::temp_dir dir;
  const int status = in_child([&] {
    auto out = output_dir::begin(dir / "out");
    if (!out || !write_text(out->partial() + "/old", "x")) return 1;
    ::kill(::getpid(), SIGKILL);
    return 2;
  });
  ASSERT_EQ(status, 1000 + SIGKILL);
  ASSERT_TRUE(fs::exists(dir / "out.partial/old"));
  auto out = output_dir::begin(dir / "out");
  ASSERT_TRUE(out) << describe(out.error());
  EXPECT_FALSE(fs::exists(dir / "out.partial/old"));
  ASSERT_TRUE(write_text(out->partial() + "/new", "x"));
  ASSERT_TRUE(out->commit());
  EXPECT_EQ(names_in(dir / "out"), std::vector<std::string>{"new"});
}

TEST(OutputDir, AFolderOfSomebodyElseIsNotReplaced) {
  const support::temp_dir dir;
  fs::create_directory(dir / "out.partial");
  dir.write("out.partial/thesis.tex", "precious");
  const auto out = output_dir::begin(dir / "out");
  ASSERT_FALSE(out);
  EXPECT_EQ(out.error().kind, error_kind::output);
  EXPECT_EQ(*read_text(dir / "out.partial/thesis.tex"), "precious");
  fs::create_directory_symlink(dir.path(), dir / "other.partial");
  EXPECT_FALSE(output_dir::begin(dir / "other")) << "a link is not followed";
  EXPECT_EQ(names_in(dir.path()), (std::vector<std::string>{"other.partial", "out.partial"}));
}

TEST(OutputDir, ASecondRunIsRefused) {
  const support::temp_dir dir;
  auto first = output_dir::begin(dir / "out");
  ASSERT_TRUE(first);
  ASSERT_TRUE(write_text(first->partial() + "/a", "1"));
  const auto second = output_dir::begin(dir / "out");
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message.find("another run"), std::string::npos);
  EXPECT_EQ(in_child([&] { return output_dir::begin(dir / "out") ? 1 : 0; }), 0);
  EXPECT_TRUE(fs::exists(dir / "out.partial/a"));
  ASSERT_TRUE(first->commit());
  EXPECT_FALSE(output_dir::begin(dir / "out")) << "now it is not empty";
}

TEST(OutputDir, FilledMeanwhileByOthersItIsNotReplaced) {
  const support::temp_dir dir;
  {
    auto out = output_dir::begin(dir / "out");
    ASSERT_TRUE(out);
    fs::create_directory(dir / "out");
    dir.write("out/x", "precious");
    const auto r = out->commit();
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().kind, error_kind::output);
  }
  EXPECT_EQ(*read_text(dir / "out/x"), "precious");
  EXPECT_FALSE(fs::exists(dir / "out.partial"));
}

TEST(OutputDir, ToldToReplaceItLeavesTheOldFolderAloneUntilTheNewOneIsFinished) {
  const support::temp_dir dir;
  fs::create_directories(dir / "out/inner");
  dir.write("out/old", "1");
  dir.write("out/inner/older", "2");
  {
    auto out = output_dir::begin(dir / "out", output_dir::existing::replace);
    ASSERT_TRUE(out);
    ASSERT_TRUE(write_text(out->partial() + "/new", "3"));
    EXPECT_EQ(*read_text(dir / "out/old"), "1");
  }
  EXPECT_EQ(names_in(dir / "out"), (std::vector<std::string>{"inner", "old"})) << "a run that failed";
  auto out = output_dir::begin(dir / "out", output_dir::existing::replace);
  ASSERT_TRUE(out);
  ASSERT_TRUE(write_text(out->partial() + "/new", "3"));
  ASSERT_TRUE(out->commit());
  EXPECT_EQ(names_in(dir / "out"), std::vector<std::string>{"new"});
  EXPECT_EQ(names_in(dir.path()), std::vector<std::string>{"out"});
}

TEST(OutputDir, WhatWasToBeReplacedMayGoAwayMeanwhile) {
  const support::temp_dir dir;
  fs::create_directory(dir / "out");
  dir.write("out/old", "1");
  auto out = output_dir::begin(dir / "out", output_dir::existing::replace);
  ASSERT_TRUE(out);
  fs::remove_all(dir / "out");
  ASSERT_TRUE(write_text(out->partial() + "/new", "3"));
  ASSERT_TRUE(out->commit());
  EXPECT_EQ(names_in(dir.path()), std::vector<std::string>{"out"});
}

TEST(OutputDir, MoreThanTheDiskHasIsRefusedAtOnce) {
  const support::temp_dir dir;
  auto out = output_dir::begin(dir / "out");
  ASSERT_TRUE(out);
  for (const std::uint64_t bytes : {std::uint64_t{1} << 60, UINT64_MAX}) {
    const auto r = out->require_space(bytes);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().kind, error_kind::output);
    EXPECT_EQ(r.error().file, out->path());
    EXPECT_NE(r.error().message.find("bytes free"), std::string::npos);
  }
}

TEST(OutputDir, SignalsRemoveIt) {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    const support::temp_dir dir;
    const int status = in_child([&] {
      auto_round::io::clean_up_on_signals();
      auto out = output_dir::begin(dir / "new/out");
      auto other = output_dir::begin(dir / "other");
      if (!out || !other || !auto_round::io::create_folder(out->partial() + "/sub") || !write_text(out->partial() + "/sub/f", "x")) return 1;
      auto open = output_file::create(out->partial() + "/open");
      if (!open || !open->write_at(0, bytes_of("x"))) return 2;
      ::raise(number);
      return 3;
    });
    EXPECT_EQ(status, 130) << number;
    EXPECT_TRUE(names_in(dir.path()).empty()) << number;
  }
}

TEST(OutputDir, SignalsKeepWhatIsComplete) {
  const support::temp_dir dir;
  const int status = in_child([&] {
    auto_round::io::clean_up_on_signals();
    auto out = output_dir::begin(dir / "out");
    if (!out || !write_text(out->partial() + "/f", "x") || !out->commit()) return 1;
    ::raise(SIGTERM);
    return 2;
  });
  EXPECT_EQ(status, 130);
  EXPECT_EQ(names_in(dir / "out"), std::vector<std::string>{"f"});
}

TEST(InterruptWatch, TakesTheFirstSignalAndLeavesTheSecond) {
  for (const int number : {SIGINT, SIGTERM}) {
    const support::temp_dir dir;
    const int status = in_child([&] {
      auto_round::io::clean_up_on_signals();
      auto out = output_dir::begin(dir / "out");
      const interrupt_watch watch;
      if (!out || interrupt_watch::requested()) return 1;
      ::raise(number);
      if (!interrupt_watch::requested() || !interrupt_watch::requested() || !write_text(out->partial() + "/f", "x")) return 2;
      ::raise(number);
      return 3;
    });
    EXPECT_EQ(status, 130) << number;
    EXPECT_TRUE(names_in(dir.path()).empty()) << number;
  }
}

TEST(InterruptWatch, OverlooksNoSignal) {
  const support::temp_dir dir;
  const int status = in_child([&] {
    auto_round::io::clean_up_on_signals();
    auto out = output_dir::begin(dir / "out");
    if (!out) return 1;
    {
      const interrupt_watch watch;
      ::raise(SIGINT);
    }
    return 2;
  });
  EXPECT_EQ(status, 130) << "it came after the last question";
  EXPECT_TRUE(names_in(dir.path()).empty());
}

TEST(InterruptWatch, EndsWithItsScope) {
  const support::temp_dir dir;
  const int status = in_child([&] {
    auto_round::io::clean_up_on_signals();
    {
      const interrupt_watch watch;
      ::raise(SIGINT);
      if (!interrupt_watch::requested()) return 1;
    }
    if (interrupt_watch::requested()) return 2;
    ::raise(SIGINT);
    return 3;
  });
  EXPECT_EQ(status, 130);
}

TEST(MappedFile, CutShortWhileReadEndsWithASentence) {
  const support::temp_dir dir;
  const std::string path = dir.write("f", std::string(100'000, 'x'));
  const std::string said = dir / "said";
  const int status = in_child([&] {
    auto_round::io::clean_up_on_signals();
    const int fd = ::open(said.c_str(), O_CREAT | O_WRONLY, 0600);
    ::dup2(fd, STDERR_FILENO);
    auto out = output_dir::begin(dir / "out");
    const auto map = mapped_file::open(path);
    if (!out || !map || ::truncate(path.c_str(), 10) != 0) return 1;
    int sum = 0;
    for (const std::byte b : map->bytes()) sum += std::to_integer<int>(b);
    return sum == 0 ? 4 : 5;
  });
  EXPECT_EQ(status, 3);
  EXPECT_NE(read_text(said)->find("became shorter"), std::string::npos);
  EXPECT_FALSE(fs::exists(dir / "out.partial"));
}

/// Runs `body(folder)` in a child with a file system of `kib` KiB mounted on `folder` for it alone. 200: mounting is not allowed here.
int on_small_disk(const std::string& folder, int kib, const std::function<int()>& body) {
  return in_child([&] {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return 200;
    if (::mount("tmpfs", folder.c_str(), "tmpfs", 0, ("size=" + std::to_string(kib) + "k").c_str()) != 0) return 200;
    return body();
  });
}

TEST(OutputDir, AFullDiskGivesASentenceAndLeavesNothing) {
  const support::temp_dir dir;
  fs::create_directory(dir / "disk");
  constexpr int kNeed = 256;  // KiB
  bool fitted = false;
  for (int kib = 4; kib <= 320; kib += 4) {
    const int status = on_small_disk(dir / "disk", kib, [&] {
      std::string message;
      bool complete = false;
      const bool promised = [&] {
        auto out = output_dir::begin(dir / "disk/out");
        if (!out) return message = describe(out.error()), false;
        const bool room = static_cast<bool>(out->require_space(kNeed * 1024));
        for (int i = 0; i < kNeed / 32; ++i) {
          auto file = output_file::create(out->partial() + "/" + std::to_string(i));
          if (!file) return message = describe(file.error()), room;
          for (int part = 0; part < 4; ++part) {
            const auto r = file->write_at(static_cast<std::uint64_t>(part) * 8192, bytes_of(std::string(8192, 'x')));
            if (!r) return message = describe(r.error()), room;
          }
          if (const auto r = file->finish(); !r) return message = describe(r.error()), room;
        }
        const auto r = out->commit();
        if (!r) return message = describe(r.error()), room;
        complete = true;
        return room;
      }();
      if (complete) return names_in(dir / "disk") == std::vector<std::string>{"out"} ? 0 : 1;
      if (promised) return 2;  // require_space() said that there is room
      if (message.find("No space left") == std::string::npos || message.find(dir / "disk/out") == std::string::npos) return 3;
      return names_in(dir / "disk").empty() ? 100 : 4;
    });
    if (status == 200) GTEST_SKIP() << "file systems cannot be mounted here: run as root to test a full disk";
    EXPECT_TRUE(status == 0 || status == 100) << kib << " KiB: status " << status;
    fitted |= status == 0;
  }
  EXPECT_TRUE(fitted) << "the largest disk holds everything";
}

}  // namespace
