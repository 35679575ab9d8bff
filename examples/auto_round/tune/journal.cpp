#include "tune/journal.hpp"

#include <cstring>
#include <type_traits>
#include <utility>

namespace auto_round::tune {
namespace {

/// Numbers as they lie in memory: a journal is read by the program and on the machine that wrote it, which its key says.
class writer {
 public:
  template <class T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto bytes = std::as_bytes(std::span(&value, 1));
    out_.insert(out_.end(), bytes.begin(), bytes.end());
  }
  template <class T>
  void put_all(std::span<const T> values) {
    put(static_cast<std::uint64_t>(values.size()));
    const auto bytes = std::as_bytes(values);
    out_.insert(out_.end(), bytes.begin(), bytes.end());
  }
  std::span<const std::byte> bytes() const { return out_; }

 private:
  std::vector<std::byte> out_;
};

class reader {
 public:
  explicit reader(std::span<const std::byte> in) : in_(in) {}
  template <class T>
  void get(T& value) {
    if (in_.size() < sizeof value) {
      ok_ = false;
      return;
    }
    std::memcpy(&value, in_.data(), sizeof value);
    in_ = in_.subspan(sizeof value);
  }
  template <class Container>
  void get_all(Container& values) {
    using T = typename Container::value_type;
    std::uint64_t n = 0;
    get(n);
    if (!ok_ || n > in_.size() / sizeof(T)) {
      ok_ = false;
      return;
    }
    values.resize(static_cast<std::size_t>(n));
    if (n != 0) std::memcpy(values.data(), in_.data(), values.size() * sizeof(T));
    in_ = in_.subspan(values.size() * sizeof(T));
  }
  bool ok() const { return ok_; }
  bool done() const { return ok_ && in_.empty(); }

 private:
  std::span<const std::byte> in_;
  bool ok_ = true;
};

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

result<journal> journal::open(const std::string& path, const io::json& key, bool restart) {
  auto log = io::record_log::open(path);
  if (!log) return forward_error(log);
  journal j(std::move(*log));
  if (restart) {
    if (auto r = j.log_.clear(); !r) return forward_error(r);
  }
  if (j.log_.size() == 0) {
    const std::string text = io::dump(key);
    if (auto r = j.log_.append(std::as_bytes(std::span(text))); !r) return forward_error(r);
    return j;
  }
  constexpr std::uint64_t longest_key = std::uint64_t{16} << 20;  // options and names of files
  if (j.log_.bytes(0) > longest_key) return fail(error_kind::output, "the journal does not begin with the run that it is of; --restart begins anew", path);
  auto record = j.log_.read(0);
  if (!record) return forward_error(record);
  auto known = io::parse_json(std::string(reinterpret_cast<const char*>(record->data()), record->size()), path);
  if (!known) return forward_error(known);
  std::string differing;
  const auto add = [&](const std::string& name) { differing += (differing.empty() ? "" : ", ") + name; };
  for (const auto& [name, value] : key.members())
    if (io::dump(value) != io::dump(known->at(name))) add(name);
  for (const auto& [name, value] : known->members())
    if (key.find(name) == nullptr) add(name);
  if (differing.empty()) return j;
  return fail(error_kind::output,
              "the journal of an interrupted run differs from this one in: " + differing + "; run the old command again to go on with it, or add --restart to begin anew",
              path);
}

result<recorded_block> journal::read(std::size_t i) const {
  auto record = log_.read(i + 1);
  if (!record) return forward_error(record);
  reader in(*record);
  recorded_block b;
  each_number(b.result, [&](auto& x) { in.get(x); });
  in.get_all(b.result.random);
  std::uint64_t vectors = 0, layers = 0;
  in.get(vectors);
  for (std::uint64_t v = 0; in.ok() && v < vectors; ++v) {
    auto& [name, values] = b.result.vectors.emplace_back();
    in.get_all(name), in.get_all(values);
  }
  in.get(layers);
  for (std::uint64_t l = 0; in.ok() && l < layers; ++l) {
    quantized_layer& layer = b.layers.emplace_back();
    in.get_all(layer.name);
    in.get(layer.rows), in.get(layer.cols), in.get(layer.act_max), in.get(layer.global_scale);
    each_list(layer, [&](auto& x) { in.get_all(x); });
  }
  if (!in.done()) return fail(error_kind::output, "record " + std::to_string(i + 1) + " of the journal is none of this program; --restart begins anew", log_.path());
  return b;
}

result<void> journal::add(const block_result& block, std::span<const quantized_layer> layers) {
  writer out;
  each_number(block, [&](const auto& x) { out.put(x); });
  out.put_all(std::span(block.random));
  out.put(static_cast<std::uint64_t>(block.vectors.size()));
  for (const auto& [name, values] : block.vectors) {
    out.put_all(std::span<const char>(name));
    out.put_all(std::span<const float>(values));
  }
  out.put(static_cast<std::uint64_t>(layers.size()));
  for (const quantized_layer& layer : layers) {
    out.put_all(std::span<const char>(layer.name));
    out.put(layer.rows), out.put(layer.cols), out.put(layer.act_max), out.put(layer.global_scale);
    each_list(layer, [&](const auto& x) { out.put_all(std::span(x)); });
  }
  return log_.append(out.bytes());
}

}  // namespace auto_round::tune
