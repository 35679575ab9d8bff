#include "report/page.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "io/utf8.hpp"
#include "report/chart.hpp"
#include "report/resources.hpp"

namespace auto_round::report {
namespace {

constexpr std::string_view kStyle = R"(
:root{color-scheme:light dark;--page:#fbfbfa;--card:#fff;--ink:#1d2327;--soft:#5b656d;--line:#dfe3e6;
--c0:#3b6fd4;--c1:#d9730d;--c2:#1f9d61;--c3:#8b5cd6;--c4:#cf3f4f;--c5:#0f93a8;--c6:#96631f;--c7:#c94f9b}
@media (prefers-color-scheme:dark){:root{--page:#14171a;--card:#1c2024;--ink:#e6e9eb;--soft:#9aa4ac;--line:#343b41;
--c0:#7aa2ff;--c1:#ff9e4a;--c2:#4fd08f;--c3:#b794ff;--c4:#ff7b86;--c5:#45c8de;--c6:#d0a060;--c7:#f08cc8}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:76rem;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1rem;margin:0 0 .5rem}
p{margin:.25rem 0 1rem;color:var(--soft);overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.75rem;margin:1rem 0}
.tiles div,figure,section{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.75rem 1rem}
.tiles b{display:block;font-size:1.35rem;font-weight:600}
.tiles span{color:var(--soft);font-size:.85rem}
.charts{display:grid;margin-bottom:.75rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr));gap:.75rem}
figure{margin:0}
svg{display:block;width:100%;height:auto}
.bar svg{height:1.75rem}
svg text{fill:var(--soft);font-size:11px}
@media(max-width:40rem){svg text{font-size:15px}}
.end{text-anchor:end}.mid{text-anchor:middle}
line.grid{stroke:var(--line)}line.base{stroke:var(--soft)}
polyline{fill:none;stroke-width:1.5}
.legend{display:flex;flex-wrap:wrap;gap:.15rem .9rem;margin-top:.5rem;color:var(--soft);font-size:.85rem}
.legend i{display:inline-block;width:.7rem;height:.7rem;border-radius:.15rem;margin-right:.35rem}
.legend span{overflow-wrap:anywhere}
section{margin:.75rem 0}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.88rem;width:100%}
th,td{text-align:left;padding:.2rem .75rem .2rem 0;border-bottom:1px solid var(--line);white-space:nowrap}
.n{text-align:right;font-variant-numeric:tabular-nums}
summary{cursor:pointer;font-weight:600}
footer{color:var(--soft);font-size:.85rem;margin-top:1rem}
)";

std::string style() {
  std::string s(kStyle);
  for (int i = 0; i < 8; ++i) s += fmt::format(".s{0}{{stroke:var(--c{0})}}.f{0}{{fill:var(--c{0})}}.b{0}{{background:var(--c{0})}}\n", i);
  return s;
}

std::string bytes_of(const io::json& v) { return human_bytes(static_cast<std::uint64_t>(std::max<std::int64_t>(v.as_int(), 0))); }

std::string tile(std::string_view value, std::string_view label) { return fmt::format("<div><b>{}</b><span>{}</span></div>\n", escape_html(value), escape_html(label)); }

std::string tiles(const io::json& run) {
  std::string out = "<div class=\"tiles\">\n";
  const auto& formats = run.at("formats").items();
  if (!formats.empty()) {
    const io::json& f = formats.front();
    out += tile(fmt::format("{:.2f}", f.at("bits_per_weight").as_double()), "bits per weight");
    out += tile(bytes_of(f.at("weight_bytes")), fmt::format("of weights, from {}", bytes_of(run.at("weight_bytes_before"))));
  }
  out += tile(fmt::format("{}", run.at("quantized_layers").as_int()), "layers quantized");
  out += tile(human_seconds(run.at("seconds").as_double()), fmt::format("time, {} of CPU", human_seconds(run.at("cpu_seconds").as_double())));
  out += tile(bytes_of(run.at("peak_memory_bytes")), "peak memory");
  return out + "</div>\n";
}

std::string loss_chart(const io::json& run) {
  chart c{"Loss of each block", "block", "loss of its output", true, true, {{"before tuning", {}}, {"after tuning", {}}}};
  const bool iterates = run.at("tuning").as_string() != "gram";
  for (const io::json& b : run.at("blocks").items()) {
    const auto block = static_cast<double>(b.at("block").as_int());
    const double first = b.at("first_loss").as_double(NAN), best = b.at("best_loss").as_double(NAN);
    c.all[0].points.push_back({block, first, fmt::format("block {}, before: {:.4g}", block, first)});
    c.all[1].points.push_back({block, best, fmt::format("block {}, after: {:.4g}{}", block, best, iterates ? fmt::format(" (iteration {})", b.at("best_iteration").as_int()) : std::string())});
  }
  return svg_of(c);
}

/// "model.layers.3.mlp.experts.7.up_proj" -> block 3 of "mlp.experts.*.up_proj"; names without a number have no block.
std::pair<double, std::string> kind_of(std::string_view name) {
  double block = NAN;
  std::string kind;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    begin = end + 1;
    const bool digits = !part.empty() && part.size() < 9 && part.find_first_not_of("0123456789") == std::string_view::npos;
    if (digits && std::isnan(block)) {
      block = std::stod(std::string(part));
      kind.clear();
      continue;
    }
    kind += kind.empty() ? "" : ".";
    kind += digits ? "*" : part;
  }
  return {block, kind};
}

std::string distortion_chart(const io::json& run) {
  chart c{"Distortion of each tensor", "block", "relative error of the weight", false, true, {}};
  std::vector<std::pair<std::string, std::map<double, std::vector<double>>>> kinds;  // in order of appearance
  for (const io::json& l : run.at("layers").items()) {
    const double e = l.at("relative_error").as_double(NAN);
    const auto [block, kind] = kind_of(l.at("name").as_string());
    if (std::isnan(block) || std::isnan(e)) continue;
    auto at = std::find_if(kinds.begin(), kinds.end(), [&k = kind](const auto& entry) { return entry.first == k; });
    if (at == kinds.end()) at = kinds.insert(at, {kind, {}});
    at->second[block].push_back(e);
  }
  for (const auto& [kind, blocks] : kinds) {
    series s{kind, {}};
    for (const auto& [block, errors] : blocks) {
      double mean = 0;
      for (const double e : errors) mean += e / static_cast<double>(errors.size());
      s.points.push_back({block, mean, fmt::format("block {} {}: {:.4f}{}", block, kind, mean, errors.size() > 1 ? fmt::format(", mean of {}", errors.size()) : "")});
    }
    c.all.push_back(std::move(s));
  }
  return svg_of(c);
}

std::string frontier_chart(const io::json& run) {
  const io::json& a = run.at("autoscheme");
  chart c{"AutoScheme: loss for a budget of bits", "bits per weight", "estimated loss", true, false, {{"best mix for each budget", {}, true, false}}};
  for (const io::json& p : a.at("frontier").at("points").items()) c.all[0].points.push_back({p.at("avg_bits").as_double(NAN), p.at("loss").as_double(NAN), {}});
  series options{"one scheme for all layers", {}, false};
  for (const io::json& o : a.at("options").items()) {
    const double bits = o.at("avg_bits").as_double(NAN), loss = o.at("loss").as_double(NAN);
    options.points.push_back({bits, loss, fmt::format("{}: {:.3f} bits, loss {:.4g}", o.at("name").as_string(), bits, loss)});
  }
  c.all.push_back(std::move(options));
  const double bits = a.at("avg_bits").as_double(NAN), loss = a.at("loss").as_double(NAN);
  c.all.push_back({"chosen", {{bits, loss, fmt::format("chosen: {:.3f} bits, loss {:.4g}", bits, loss)}}, false});
  return svg_of(c);
}

std::string memory_chart(const io::json& run) {
  chart c{"Memory while tuning", "block", "MiB", false, true, {{"resident after the block", {}}}};
  for (const io::json& b : run.at("blocks").items()) {
    const double mib = b.at("memory_bytes").as_double(NAN) / (1 << 20);
    c.all[0].points.push_back({static_cast<double>(b.at("block").as_int()), mib, fmt::format("block {}: {:.0f} MiB", b.at("block").as_int(), mib)});
  }
  return svg_of(c);
}

std::string time_bar(const io::json& run) {
  std::vector<share> parts;
  for (const auto& [name, seconds] : run.at("timing").members()) {
    if (seconds.is_number()) parts.push_back({name, seconds.as_double(), human_seconds(seconds.as_double())});
  }
  return svg_bar("Time", parts);
}

std::string size_bar(const io::json& run) {
  std::vector<std::pair<std::string, std::int64_t>> types;
  for (const io::json& t : run.at("tensors").items()) {
    const std::string& type = t.at("type").as_string();
    auto at = std::find_if(types.begin(), types.end(), [&](const auto& e) { return e.first == type; });
    if (at == types.end()) at = types.insert(at, {type, 0});
    at->second += t.at("bytes").as_int();
  }
  std::stable_sort(types.begin(), types.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  std::vector<share> parts;
  for (const auto& [type, bytes] : types) parts.push_back({type, static_cast<double>(bytes), human_bytes(static_cast<std::uint64_t>(std::max<std::int64_t>(bytes, 0)))});
  return svg_bar("Size by stored type", parts);
}

std::string formats_table(const io::json& run) {
  std::string out = "<section><h2>Written</h2><div class=\"wide\"><table><tr><th>format</th><th>folder</th><th class=\"n\">files</th><th class=\"n\">weights</th>"
                    "<th class=\"n\">bits per weight</th><th class=\"n\">per quantized weight</th></tr>\n";
  for (const io::json& f : run.at("formats").items()) {
    out += fmt::format("<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{:.3f}</td><td class=\"n\">{:.3f}</td></tr>\n",
                       escape_html(f.at("format").as_string()), escape_html(f.at("path").as_string()), bytes_of(f.at("bytes")), bytes_of(f.at("weight_bytes")),
                       f.at("bits_per_weight").as_double(), f.at("bits_per_quantized_weight").as_double());
  }
  return out + "</table></div></section>\n";
}

std::string tensors_table(const io::json& run) {
  const auto& tensors = run.at("tensors").items();
  if (tensors.empty()) return {};
  std::map<std::string, double> errors;
  for (const io::json& l : run.at("layers").items()) errors[l.at("name").as_string() + ".weight"] = l.at("relative_error").as_double(NAN);
  std::string out = fmt::format("<section><details><summary>All {} tensors</summary><div class=\"wide\"><table><tr><th>tensor</th><th>shape</th><th>stored as</th>"
                                "<th class=\"n\">bytes</th><th class=\"n\">bits per weight</th><th class=\"n\">relative error</th></tr>\n", tensors.size());
  for (const io::json& t : tensors) {
    std::string shape;
    double elements = 1;
    for (const io::json& d : t.at("shape").items()) {
      shape += (shape.empty() ? "" : " × ") + fmt::format("{}", d.as_int());
      elements *= d.as_double();
    }
    const auto e = errors.find(t.at("name").as_string());
    out += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n", escape_html(t.at("name").as_string()),
                       shape, escape_html(t.at("type").as_string()), t.at("bytes").as_int(), elements > 0 ? fmt::format("{:.3f}", 8 * t.at("bytes").as_double() / elements) : "",
                       e != errors.end() && std::isfinite(e->second) ? fmt::format("{:.4f}", e->second) : "");
  }
  return out + "</table></div></details></section>\n";
}

/// How evenly routers spread the calibration set.
std::string experts_table(const io::json& run) {
  std::string rows;
  for (const io::json& block : run.at("expert_tokens").items()) {
    const auto& tokens = block.at("tokens").items();
    if (tokens.empty()) continue;
    std::int64_t none = 0, all = 0, least = tokens.front().as_int(), most = least;
    for (const io::json& t : tokens) {
      const std::int64_t n = t.as_int();
      none += n == 0 ? 1 : 0;
      all += n;
      least = std::min(least, n);
      most = std::max(most, n);
    }
    rows += fmt::format("<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{:.1f}</td><td class=\"n\">{}</td></tr>\n", escape_html(block.at("block").as_string()),
                        tokens.size(), none, least, static_cast<double>(all) / static_cast<double>(tokens.size()), most);
  }
  if (rows.empty()) return {};
  return "<section><h2>Tokens of the calibration set for experts</h2><div class=\"wide\"><table><tr><th>block</th><th class=\"n\">experts</th><th class=\"n\">without tokens</th><th class=\"n\">fewest</th>"
         "<th class=\"n\">mean</th><th class=\"n\">most</th></tr>\n" + rows + "</table></div></section>\n";
}

std::string kept_list(const io::json& run) {
  const auto& kept = run.at("kept_layers").items();
  if (kept.empty()) return {};
  std::string out = fmt::format("<section><details><summary>Not quantized: {}</summary><ul>\n", kept.size());
  for (const io::json& k : kept) out += fmt::format("<li>{}</li>\n", escape_html(k.as_string()));
  return out + "</ul></details></section>\n";
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const auto c = static_cast<unsigned char>(text[at]);
    const std::size_t length = c < 0x80 ? 1 : io::utf8_sequence(text, at);
    if (length == 0 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F) out += "\xEF\xBF\xBD";
    else if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '"') out += "&quot;";
    else if (c == '\'') out += "&#39;";
    else out.append(text, at, length);
    at += std::max<std::size_t>(length, 1);
  }
  return out;
}

std::string html_page(const io::json& run) {
  const std::string title = run.at("model").as_string() + ", " + run.at("scheme").as_string();
  std::string out = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
                    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n";
  out += fmt::format("<title>{}</title>\n<style>{}</style></head><body>\n<h1>{}</h1>\n<p>{}</p>\n", escape_html(title), style(), escape_html(title),
                     escape_html(run.at("method").as_string()));
  out += tiles(run);
  for (const std::string& charts : {loss_chart(run) + distortion_chart(run) + frontier_chart(run) + memory_chart(run), size_bar(run) + time_bar(run)}) {
    if (!charts.empty()) out += "<div class=\"charts\">\n" + charts + "</div>\n";
  }
  out += formats_table(run) + experts_table(run) + tensors_table(run) + kept_list(run);
  out += "<footer>Relative error of a weight: |q - w| / |w|, norms over the whole tensor. Every number is in report.json.</footer>\n</body></html>\n";
  return out;
}

}  // namespace auto_round::report
