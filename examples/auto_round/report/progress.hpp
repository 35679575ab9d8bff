// What a person sees while waiting: a bar on a terminal, one line per finished block everywhere else. Writes to stderr only.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "report/resources.hpp"

namespace auto_round::report {

enum class progress_style { automatic, bar, lines, none };

/// automatic: a bar if stderr is a terminal, CI is not set and TERM is not "dumb"; lines otherwise.
progress_style resolve(progress_style asked);

class progress {
 public:
  explicit progress(progress_style asked = progress_style::automatic);
  ~progress();
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;

  void start(std::string_view what, std::int64_t total);  ///< `total` counts the units that finish_unit() closes, usually blocks
  /// Inside a unit: `done` of `total` steps (iterations). Draws at most ten times a second.
  void step(std::int64_t done, std::int64_t total, std::string_view detail = {});
  void finish_unit(std::string_view line);                ///< closes a unit; `line` is printed in lines style and shortly replaces the bar's text
  void finish();

  void message(std::string_view line);  ///< a line of its own, above the bar if there is one; printed in every style but none
  double seconds_left() const;          ///< from the units done so far; negative while unknown

 private:
  void draw(std::string_view detail);
  void erase();

  progress_style style_;
  std::string what_;
  std::int64_t total_ = 0, done_ = 0;
  double fraction_ = 0;  // of the current unit
  stopwatch since_start_, since_draw_;
  bool drawn_ = false, running_ = false;
};

}  // namespace auto_round::report
