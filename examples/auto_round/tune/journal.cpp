#include "tune/journal.hpp"

#include <utility>

#include "io/record_fields.hpp"

namespace auto_round::tune {
namespace {

/// f(field) for the numbers of a block and of a layer: one list for both directions.
template <class Block, class F>
void each_number(Block& b, const F& f) {
  f(b.first_block), f(b.blocks), f(b.quantized), f(b.layers), f(b.first_loss), f(b.best_loss), f(b.best_iteration), f(b.iterations);
}
template <class Layer, class F>
void each_list(Layer& l, const F& f) {
  f(l.weight), f(l.code), f(l.scale), f(l.zero_point), f(l.wmin), f(l.d_scale), f(l.d_wmin);
}

}  // namespace

result<void> begin_or_check(io::record_log& log, const io::json& key) {
  const std::string& path = log.path();
  if (log.size() == 0) {
    const std::string text = io::dump(key);
    return log.append(std::as_bytes(std::span(text)));
  }
  constexpr std::uint64_t longest_key = std::uint64_t{16} << 20;  // options and names of files
  if (log.bytes(0) > longest_key) return fail(error_kind::output, "the journal does not begin with the run that it is of; --restart begins anew", path);
  auto record = log.read(0);
  if (!record) return forward_error(record);
  auto known = io::parse_json(std::string(reinterpret_cast<const char*>(record->data()), record->size()), path);
  if (!known) return forward_error(known);
  std::string differing;
  const auto add = [&](const std::string& name) { differing += (differing.empty() ? "" : ", ") + name; };
  for (const auto& [name, value] : key.members())
    if (io::dump(value) != io::dump(known->at(name))) add(name);
  for (const auto& [name, value] : known->members())
    if (key.find(name) == nullptr) add(name);
  if (differing.empty()) return {};
  return fail(error_kind::output,
              "the journal of an interrupted run differs from this one in: " + differing + "; run the old command again to go on with it, or add --restart to begin anew",
              path);
}

result<journal> journal::open(const std::string& path, const io::json& key, bool restart) {
  auto log = io::record_log::open(path);
  if (!log) return forward_error(log);
  if (restart) {
    if (auto r = log->clear(); !r) return forward_error(r);
  }
  if (auto r = begin_or_check(*log, key); !r) return forward_error(r);
  return journal(std::move(*log));
}

result<journal::record> journal::read(std::size_t i) const {
  auto bytes = log_.read(i + 1);
  if (!bytes) return forward_error(bytes);
  if (bytes->empty()) return fail(error_kind::output, "record " + std::to_string(i + 1) + " of the journal is none of this program; --restart begins anew", log_.path());
  record r{static_cast<part>(bytes->back()), {}};
  bytes->pop_back();
  r.bytes = std::move(*bytes);
  return r;
}

result<void> journal::add(part of, std::vector<std::byte> bytes) {
  bytes.push_back(static_cast<std::byte>(of));
  return log_.append(bytes);
}

std::vector<std::byte> to_record(const block_result& block, std::span<const quantized_layer> layers) {
  io::record_writer out;
  each_number(block, [&](const auto& x) { out.put(x); });
  out.put_all(block.random);
  out.put(static_cast<std::uint64_t>(block.vectors.size()));
  for (const auto& [name, values] : block.vectors) out.put_all(name), out.put_all(values);
  out.put(static_cast<std::uint64_t>(layers.size()));
  for (const quantized_layer& layer : layers) {
    out.put_all(layer.name);
    out.put(layer.rows), out.put(layer.cols), out.put(layer.act_max), out.put(layer.global_scale);
    each_list(layer, [&](const auto& x) { out.put_all(x); });
  }
  return out.take();
}

std::optional<recorded_block> block_of_record(std::span<const std::byte> record) {
  io::record_reader in(record);
  recorded_block b;
  each_number(b.result, [&](auto& x) { in.get(x); });
  in.get_all(b.result.random);
  for (std::uint64_t v = in.count(2 * sizeof(std::uint64_t)); v > 0 && in.ok(); --v) {
    auto& [name, values] = b.result.vectors.emplace_back();
    in.get_all(name), in.get_all(values);
  }
  for (std::uint64_t l = in.count(sizeof(std::uint64_t)); l > 0 && in.ok(); --l) {
    quantized_layer& layer = b.layers.emplace_back();
    in.get_all(layer.name);
    in.get(layer.rows), in.get(layer.cols), in.get(layer.act_max), in.get(layer.global_scale);
    each_list(layer, [&](auto& x) { in.get_all(x); });
  }
  if (!in.done()) return std::nullopt;
  return b;
}

std::vector<std::byte> to_record(const importance_matrix& importance, const static_maxima& maxima) {
  io::record_writer out;
  out.put(static_cast<std::uint64_t>(importance.size()));
  for (const auto& [layer, c] : importance) out.put_all(layer), out.put_all(c.sum), out.put(c.sequences), out.put(c.tokens);
  out.put(static_cast<std::uint64_t>(maxima.inputs.size()));
  for (const auto& [layer, largest] : maxima.inputs) out.put_all(layer), out.put(largest);
  out.put(static_cast<std::uint64_t>(maxima.attention.size()));
  for (const attention_maxima& a : maxima.attention) out.put_all(a.q), out.put_all(a.k), out.put_all(a.v);
  return out.take();
}

bool from_record(std::span<const std::byte> record, importance_matrix& importance, static_maxima& maxima) {
  io::record_reader in(record);
  std::string layer;
  for (std::uint64_t n = in.count(sizeof(std::uint64_t)); n > 0 && in.ok(); --n) {
    column_importance c;
    in.get_all(layer), in.get_all(c.sum), in.get(c.sequences), in.get(c.tokens);
    importance.insert_or_assign(layer, std::move(c));
  }
  for (std::uint64_t n = in.count(sizeof(std::uint64_t)); n > 0 && in.ok(); --n) {
    float largest = 0;
    in.get_all(layer), in.get(largest);
    maxima.inputs.insert_or_assign(layer, largest);
  }
  for (std::uint64_t n = in.count(3 * sizeof(std::uint64_t)); n > 0 && in.ok(); --n) {
    attention_maxima& a = maxima.attention.emplace_back();
    in.get_all(a.q), in.get_all(a.k), in.get_all(a.v);
  }
  return in.done();
}

}  // namespace auto_round::tune
