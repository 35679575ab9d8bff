// Drawing of the progress bar.
#include "report/progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace auto_round::report {
namespace {

constexpr double redraw_seconds = 0.1;
constexpr int bar_cells = 24;

void put(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

std::size_t terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

progress_style resolve(progress_style asked) {
  if (asked != progress_style::automatic) return asked;
  const char* terminal = std::getenv("TERM");
  const bool dumb = terminal == nullptr || std::strcmp(terminal, "dumb") == 0;
  return isatty(STDERR_FILENO) == 1 && std::getenv("CI") == nullptr && !dumb ? progress_style::bar : progress_style::lines;
}

progress::progress(progress_style asked) : style_(resolve(asked)) {}
progress::~progress() { finish(); }

void progress::start(std::string_view what, std::int64_t total) {
  finish();
  what_ = what;
  total_ = std::max<std::int64_t>(total, 1);
  done_ = 0;
  fraction_ = 0;
  running_ = true;
  since_start_.restart();
  if (style_ == progress_style::bar) draw({});
}

void progress::step(std::int64_t done, std::int64_t total, std::string_view detail) {
  fraction_ = total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0) : 0.0;
  if (style_ == progress_style::bar && running_ && since_draw_.seconds() >= redraw_seconds) draw(detail);
}

void progress::finish_unit(std::string_view line) {
  ++done_;
  fraction_ = 0;
  if (style_ == progress_style::lines) {
    const double left = seconds_left();
    put(fmt::format("{} {}/{}: {}{}\n", what_, done_, total_, line, done_ < total_ && left >= 0 ? ", about " + human_seconds(left) + " left" : ""));
  } else if (style_ == progress_style::bar) {
    draw(line);
  }
}

void progress::finish() {
  if (running_) erase();
  running_ = false;
}

void progress::message(std::string_view line) {
  if (style_ == progress_style::none) return;
  const bool redraw = drawn_;
  erase();
  put(fmt::format("{}\n", line));
  if (redraw) draw({});
}

double progress::seconds_left() const {
  const double share = (static_cast<double>(done_) + fraction_) / static_cast<double>(std::max<std::int64_t>(total_, 1));
  return share > 0 ? since_start_.seconds() * (1 - share) / share : -1;
}

void progress::draw(std::string_view detail) {
  const double share = std::min(1.0, (static_cast<double>(done_) + fraction_) / static_cast<double>(total_));
  const int full = static_cast<int>(share * bar_cells);
  const double left = seconds_left();
  std::string line = fmt::format("{} [{}{}] {}/{} {:3.0f}%", what_, std::string(static_cast<std::size_t>(full), '#'),
                                 std::string(static_cast<std::size_t>(bar_cells - full), '.'), done_, total_, share * 100);
  if (left >= 0) line += fmt::format(", {} left", human_seconds(left));
  if (!detail.empty()) line += fmt::format("  {}", detail);
  const std::size_t width = terminal_width();
  if (line.size() >= width) line.resize(width - 1);
  put("\r\x1b[K" + line);
  drawn_ = true;
  since_draw_.restart();
}

void progress::erase() {
  if (drawn_) put("\r\x1b[K");
  drawn_ = false;
}

}  // namespace auto_round::report
