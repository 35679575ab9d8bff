// --log_json: one JSON object per event and line, on disk as soon as it happened.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "error.hpp"
#include "io/json.hpp"

namespace auto_round::report {

class event_log {
 public:
  event_log();  ///< a log that goes nowhere
  static result<event_log> create(const std::string& path);  ///< an empty path: one that goes nowhere
  event_log(event_log&&) noexcept;
  event_log& operator=(event_log&&) noexcept;
  ~event_log();

  /// Appends {"event": event, "seconds": since creation, ...fields}. A write that fails ends the log, not the run; close() then reports it.
  void write(std::string_view event, io::json::object fields = {});
  result<void> close();

 private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace auto_round::report
