// JSON lines on top of io's durable file.
#include "report/event_log.hpp"

#include <cmath>
#include <optional>

#include "io/file.hpp"
#include "report/resources.hpp"

namespace auto_round::report {

struct event_log::impl {
  explicit impl(io::output_file f) : file(std::move(f)) {}
  io::output_file file;
  std::uint64_t offset = 0;
  stopwatch clock;
  std::optional<error> failed;
  bool closed = false;
};

event_log::event_log() = default;
event_log::event_log(event_log&&) noexcept = default;
event_log& event_log::operator=(event_log&&) noexcept = default;
event_log::~event_log() {
  // A log is worth keeping most when the run ended early.
  if (impl_ && !impl_->closed) (void)close();
}

result<event_log> event_log::create(const std::string& path) {
  if (path.empty()) return event_log();
  auto file = io::output_file::create(path);
  if (!file) return fail(error_kind::output, "the event log cannot be written (a file of that name is never replaced): " + file.error().message, path);
  event_log log;
  log.impl_ = std::make_unique<impl>(std::move(*file));
  return log;
}

void event_log::write(std::string_view event, io::json::object fields) {
  if (!impl_ || impl_->closed || impl_->failed) return;
  io::json::object line;
  line.emplace_back("event", event);
  line.emplace_back("seconds", std::round(impl_->clock.seconds() * 1e3) / 1e3);
  for (auto& field : fields) line.push_back(std::move(field));
  const std::string text = io::dump(std::move(line), {.indent = -1}) + "\n";
  const auto written = impl_->file.write_at(impl_->offset, std::as_bytes(std::span(text)));
  if (!written) impl_->failed = written.error();
  impl_->offset += text.size();
}

result<void> event_log::close() {
  if (!impl_ || impl_->closed) return {};
  impl_->closed = true;
  if (impl_->failed) return tl::unexpected<error>(*impl_->failed);
  return impl_->file.finish();
}

}  // namespace auto_round::report
