// The command inspect: what is stored in a checkpoint, without running it.
#include <fmt/format.h>

#include <cstdio>
#include <map>

#include "command/command.hpp"
#include "command/model_path.hpp"
#include "export/export_format.hpp"
#include "export/export_inventory.hpp"
#include "plan.hpp"
#include "report/resources.hpp"
#include "report/table.hpp"

namespace auto_round::command {
namespace {

class inspect final : public command {
 public:
  std::string_view name() const override { return "inspect"; }
  std::string_view summary() const override { return "list what a checkpoint holds"; }

  void declare(option_set& o) override {
    o.positional("MODEL", positional_model_, "model folder or GGUF file");
    o.text("model,model_name,model_name_or_path", "PATH", model_, "model folder or GGUF file");
    o.flag("json", json_, true, "print one JSON object on stdout");
  }

  result<void> run() override {
    if (!positional_model_.empty()) model_ = positional_model_;
    if (model_.empty()) return fail(error_kind::usage, "no model given; write --model PATH");
    if (auto r = find_local_model(model_); !r) return r;
    auto opened = exporting::open_model(model_);
    if (!opened) return forward_error(opened);
    const exporting::stored_model& m = **opened;
    const model::model_spec& s = m.spec();
    const auto entries = m.entries();
    std::uint64_t weights = 0, bytes = 0, quantized = 0;
    for (const auto& e : entries) {
      std::uint64_t n = 1;
      for (const std::uint64_t d : e.shape) n *= d;
      weights += n;
      bytes += e.bytes;
      quantized += e.quantized ? 1 : 0;
    }
    const double bits = weights == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
    if (json_) {
      print_json(m, entries, weights, bytes, bits, quantized);
      return {};
    }
    fmt::print("{}: {}, {}\n", model_, s.model_class.empty() ? s.architecture : s.model_class, m.format());
    fmt::print("{} blocks, width {}, MLP {}, {} heads ({} for keys and values) of {}, {} tokens, context {}{}\n", s.num_layers, s.hidden_size,
               s.intermediate_size, s.num_heads, s.num_kv_heads, s.head_dim, s.vocab_size, s.max_position_embeddings,
               s.tie_word_embeddings ? ", head tied to the embedding" : "");
    fmt::print("{} weights in {} ({:.2f} bits each), {} of {} tensors quantized\n\n", weights, report::human_bytes(bytes), bits, quantized, entries.size());
    print_table(entries);
    return {};
  }

 private:
  static void print_table(const std::vector<exporting::stored_model::entry>& entries) {
    // Equal tensors of different blocks share a line.
    std::map<std::string, std::vector<std::size_t>> groups;
    std::vector<std::string> order;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      std::string key = exporting::shape_text(entries[i].shape) + "|" + entries[i].type + "|";
      bool in_number = false;
      for (const char c : entries[i].name) {
        const bool digit = c >= '0' && c <= '9';
        if (!digit) key += c;
        if (digit && !in_number) key += '#';
        in_number = digit;
      }
      if (groups[key].empty()) order.push_back(key);
      groups[key].push_back(i);
    }
    std::vector<std::vector<std::string>> rows;
    for (const std::string& key : order) {
      std::vector<std::string> names;
      std::uint64_t bytes = 0;
      for (const std::size_t i : groups[key]) {
        names.push_back(entries[i].name);
        bytes += entries[i].bytes;
      }
      const auto& first = entries[groups[key].front()];
      rows.push_back({fmt::format("{}", fmt::join(plan::compress_names(names), ", ")), exporting::shape_text(first.shape), first.type, fmt::format("{}", bytes)});
    }
    fmt::print("{}", report::text_table({{"tensor"}, {"shape"}, {"type"}, {"bytes", report::align::right}}, rows));
  }

  void print_json(const exporting::stored_model& m, const std::vector<exporting::stored_model::entry>& entries, std::uint64_t weights, std::uint64_t bytes,
                  double bits, std::uint64_t quantized) const {
    const auto number = [](std::uint64_t v) { return io::json(static_cast<std::int64_t>(v)); };
    const model::model_spec& s = m.spec();
    io::json::array tensors;
    for (const auto& e : entries) {
      io::json::array shape;
      for (const std::uint64_t d : e.shape) shape.push_back(number(d));
      io::json t = io::json::object{};
      t.set("name", e.name).set("type", e.type).set("shape", std::move(shape)).set("bytes", number(e.bytes)).set("quantized", e.quantized).set("file", e.file);
      tensors.push_back(std::move(t));
    }
    io::json out = io::json::object{};
    out.set("model", model_).set("architecture", s.architecture).set("format", m.format()).set("num_layers", s.num_layers).set("hidden_size", s.hidden_size);
    out.set("vocab_size", s.vocab_size).set("tie_word_embeddings", s.tie_word_embeddings).set("weights", number(weights)).set("weight_bytes", number(bytes));
    out.set("file_bytes", number(m.file_bytes())).set("bits_per_weight", bits).set("quantized_tensors", number(quantized)).set("tensors", std::move(tensors));
    fmt::print("{}\n", io::dump(out, {.indent = -1}));
  }

  std::string model_, positional_model_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<command> make_inspect() { return std::make_unique<inspect>(); }

}  // namespace auto_round::command
