#include "report/chart.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/page.hpp"

namespace auto_round::report {
namespace {

// Units of the view box; the browser scales it to the width of its column.
constexpr double kWidth = 480, kHeight = 250, kLeft = 80, kRight = 12, kTop = 12, kBottom = 40;
constexpr std::size_t kColors = 8;

std::string number(double v) {
  const double a = std::fabs(v);
  return a != 0 && (a < 1e-3 || a >= 1e5) ? fmt::format("{:.3g}", v) : fmt::format("{:.4g}", v);
}

std::string legend(const std::vector<std::string>& names) {
  std::string out = "<figcaption class=\"legend\">";
  for (std::size_t i = 0; i < names.size(); ++i) out += fmt::format("<span><i class=\"b{}\"></i>{}</span> ", i % kColors, escape_html(names[i]));
  return out + "</figcaption>";
}

}  // namespace

axis::axis(const std::vector<double>& values, bool logarithmic, bool from_zero, double begin, double end) : begin_(begin), end_(end), log_(logarithmic) {
  bool any = false;
  for (const double v : values) {
    if (!std::isfinite(v) || (log_ && v <= 0)) continue;
    low_ = any ? std::min(low_, v) : v;
    high_ = any ? std::max(high_, v) : v;
    any = true;
  }
  if (!any) low_ = log_ ? 1 : 0, high_ = 1;
  if (log_) {
    low_ /= 1.15;
    high_ *= 1.15;
    return;
  }
  if (from_zero) low_ = std::min(low_, 0.0), high_ = std::max(high_, 0.0);
  if (low_ == high_) low_ -= 0.5, high_ += 0.5;
  const double margin = 0.04 * (high_ - low_);
  if (!from_zero || low_ < 0) low_ -= margin;
  high_ += margin;
}

bool axis::has(double value) const { return std::isfinite(value) && (!log_ || value > 0); }

double axis::place(double value) const {
  const double share = log_ ? std::log(value / low_) / std::log(high_ / low_) : (value - low_) / (high_ - low_);
  return begin_ + share * (end_ - begin_);
}

std::vector<double> axis::ticks() const {
  std::vector<double> out;
  if (log_) {
    const int first = static_cast<int>(std::floor(std::log10(low_))), last = static_cast<int>(std::ceil(std::log10(high_)));
    const int step = std::max(1, (last - first) / 6);
    const bool fine = last - first <= 2;
    for (int e = first; e <= last; e += step) {
      for (const double digit : {1.0, 2.0, 5.0}) {
        const double v = digit * std::pow(10.0, e);
        if ((digit == 1.0 || fine) && v >= low_ && v <= high_) out.push_back(v);
      }
    }
    if (out.size() >= 2) return out;
    return {low_, std::sqrt(low_ * high_), high_};
  }
  const double rough = (high_ - low_) / 5, power = std::pow(10.0, std::floor(std::log10(rough)));
  const double step = power * (rough < 1.5 * power ? 1 : rough < 3.5 * power ? 2 : rough < 7.5 * power ? 5 : 10);
  for (double i = std::ceil(low_ / step); i * step <= high_; ++i) out.push_back(i * step + 0.0);  // -0 becomes 0
  return out;
}

std::string svg_of(const chart& c) {
  std::vector<double> xs, ys;
  bool any = false;
  for (const series& s : c.all) {
    for (const point& p : s.points) {
      xs.push_back(p.x);
      ys.push_back(p.y);
      any = any || (std::isfinite(p.x) && std::isfinite(p.y) && (!c.log_y || p.y > 0));
    }
  }
  if (!any) return {};
  const axis x(xs, false, false, kLeft, kWidth - kRight), y(ys, c.log_y, !c.log_y, kHeight - kBottom, kTop);
  std::string out = fmt::format("<figure><h2>{}</h2>\n<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n", escape_html(c.title), kWidth, kHeight, escape_html(c.title));
  for (const double t : y.ticks()) {
    out += fmt::format("<line class=\"grid\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/><text x=\"{:.1f}\" y=\"{:.1f}\" class=\"end\">{}</text>\n", kLeft,
                       kWidth - kRight, y.place(t), y.place(t), kLeft - 6, y.place(t) + 4, number(t));
  }
  for (const double t : x.ticks()) {
    if (c.whole_x && t != std::round(t)) continue;
    out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"mid\">{}</text>\n", x.place(t), kHeight - kBottom + 16, number(t));
  }
  out += fmt::format("<line class=\"base\" x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>\n", kLeft, kWidth - kRight, kHeight - kBottom);
  out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"mid\">{}</text>\n", (kLeft + kWidth - kRight) / 2, kHeight - 6, escape_html(c.x_title));
  out += fmt::format("<text transform=\"translate(12 {:.1f}) rotate(-90)\" class=\"mid\">{}</text>\n", (kTop + kHeight - kBottom) / 2, escape_html(c.y_title));
  std::vector<std::string> names;
  for (std::size_t i = 0; i < c.all.size(); ++i) {
    const series& s = c.all[i];
    names.push_back(s.name);
    std::string line, dots;
    for (const point& p : s.points) {
      if (!x.has(p.x) || !y.has(p.y)) continue;
      line += fmt::format("{:.1f},{:.1f} ", x.place(p.x), y.place(p.y));
      if (s.dots) {
        dots += fmt::format("<circle class=\"f{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"><title>{}</title></circle>\n", i % kColors, x.place(p.x), y.place(p.y),
                            s.line ? 2.5 : 4, escape_html(p.label));
      }
    }
    if (s.line && !line.empty()) out += fmt::format("<polyline class=\"s{}\" points=\"{}\"/>\n", i % kColors, line);
    out += dots;
  }
  return out + "</svg>\n" + legend(names) + "</figure>\n";
}

std::string svg_bar(std::string_view title, const std::vector<share>& parts) {
  double total = 0;
  for (const share& s : parts) total += std::isfinite(s.value) && s.value > 0 ? s.value : 0;
  if (!(total > 0)) return {};
  std::string out = fmt::format("<figure class=\"bar\"><h2>{}</h2>\n<svg viewBox=\"0 0 {} 26\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">\n", escape_html(title),
                                kWidth, escape_html(title));
  std::vector<std::string> names;
  double at = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const share& s = parts[i];
    names.push_back(s.name + " " + s.text);
    if (!std::isfinite(s.value) || s.value <= 0) continue;
    const double width = s.value / total * kWidth;
    out += fmt::format("<rect class=\"f{}\" x=\"{:.2f}\" width=\"{:.2f}\" y=\"0\" height=\"26\"><title>{}</title></rect>\n", i % kColors, at, std::max(width - 1, 0.5),
                       escape_html(names.back()));
    at += width;
  }
  return out + "</svg>\n" + legend(names) + "</figure>\n";
}

}  // namespace auto_round::report
