#include "command/convert_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <span>

#include "command/plan_output.hpp"
#include "export/export_inventory.hpp"
#include "export/export_safetensors.hpp"
#include "export/export_stored_layer.hpp"
#include "export/export_unpacked_source.hpp"
#include "io/file.hpp"
#include "plan_convert.hpp"
#include "report/resources.hpp"
#include "report/table.hpp"

namespace auto_round::command {
namespace {

using exporting::layer_decision;

/// A tensor that is another one for readers of the new checkpoint.
struct lossy_tensor {
  std::string name, why;
  double largest = 0;  ///< absolute difference of a value
};

/// What a conversion into one format costs.
struct account {
  std::size_t packed = 0, kept = 0;  ///< layers and other tensors that read back as they were
  std::vector<lossy_tensor> lossy;

  double largest() const {
    double most = 0;
    for (const lossy_tensor& t : lossy) most = std::max(most, t.largest);
    return most;
  }
};

class converter {
 public:
  explicit converter(const convert_options& options) : o_(options), bar_(options.progress) {}

  result<void> run() {
    if (auto r = open(); !r) return r;
    if (auto r = plan::check_memory(plan().memory, o_.max_memory); !r) return r;
    // An output folder that cannot be used must not cost a pass over the model.
    auto begun = begin_output(o_.output_dir, o_.overwrite, o_.model);
    if (!begun) return forward_error(begun);
    std::optional<io::output_dir> dir(std::move(*begun));
    if (auto r = dir->require_space(plan().total_bytes()); !r) return r;
    if (o_.dry_run) dir.reset();  // nothing of it stays
    const io::interrupt_watch watch;
    if (auto r = check_floats(); !r) return r;
    if (auto r = take_account(); !r) return r;
    if (o_.dry_run) {
      print_dry_run();
      return {};
    }
    print_accounts();
    if (auto r = refuse_loss(); !r) return r;
    if (auto r = begin_exports(plan(), dir->partial()); !r) return r;
    if (auto r = write_layers(); !r) return r;
    if (auto r = finish_exports(plan()); !r) return r;
    if (auto r = verify_exports(plan(), dir->partial()); !r) return r;
    if (auto r = dir->commit(); !r) return r;
    report_end(dir->path());
    return {};
  }

 private:
  plan::run_plan& plan() { return conversion_.plan; }

  result<void> open() {
    auto source = exporting::open_model(o_.model);
    if (!source) return forward_error(source);
    source_ = std::move(*source);
    if (!exporting::has_packed_layers(*source_))
      return fail(error_kind::usage, "the model is not quantized, so there is nothing to convert; `auto-round quantize` quantizes it", o_.model);
    if (auto r = source_->check(); !r) return fail(error_kind::input, r.error().message, r.error().file, r.error().tensor);
    auto planned = plan::make_conversion(*source_, o_.formats, o_.max_shard_bytes);
    if (!planned) return forward_error(planned);
    conversion_ = std::move(*planned);
    for (const std::string& w : plan().warnings) bar_.message("warning: " + w);
    const io::checkpoint_dir& view = *conversion_.views.front()->directory();
    const bool has_tokenizer = std::find(view.side_files().begin(), view.side_files().end(), "tokenizer.json") != view.side_files().end();
    if (!has_tokenizer) bar_.message("warning: there is no tokenizer.json beside the model, so the output gets none; copy it from the model that this one was made from");
    return {};
  }

  static const layer_decision* decision_of(const exporting::job& run, const std::string& weight) {
    for (const layer_decision& l : run.layers)
      if (l.quantize && l.name + ".weight" == weight) return &l;
    return nullptr;
  }

  /// f(job, layer as the job takes it, layer as it is stored) for every packed layer and every job that packs it.
  template <class F>
  result<void> each_layer(const char* what, const F& f) {
    std::int64_t done = 0;
    bar_.start(what, 1);
    for (const std::string& weight : conversion_.layers) {
      if (io::interrupt_watch::requested()) return fail(error_kind::interrupted, "interrupted while converting");
      auto stored = plan::read_stored(*source_, weight, plan());
      if (!stored) return forward_error(stored);
      for (std::size_t i = 0; i < plan().jobs.size(); ++i) {
        const layer_decision* decision = decision_of(plan().jobs[i], weight);
        if (decision == nullptr) continue;
        auto layer = plan::adapted(*stored, *decision);
        if (!layer) return forward_error(layer);
        if (auto r = f(i, *layer, *stored); !r) return r;
      }
      bar_.step(++done, static_cast<std::int64_t>(conversion_.layers.size()), weight);
    }
    bar_.finish();
    return {};
  }

  /// What is copied; packed layers are looked at when they are read.
  result<void> check_floats() const {
    const exporting::stored_model& view = *conversion_.views.front();
    for (const io::tensor_ref& t : view.directory()->tensors()) {
      if (view.changed(t.name)) continue;
      if (auto r = exporting::check_finite(*view.directory(), t); !r) return r;
    }
    return {};
  }

  result<void> take_account() {
    accounts_.resize(plan().jobs.size());
    auto layers = each_layer("comparing", [&](std::size_t i, const tune::quantized_layer& layer, const tune::quantized_layer& stored) -> result<void> {
      auto weight = plan().exporters[i]->weight_of(layer);
      if (!weight) return forward_error(weight);
      const exporting::difference d = exporting::compare(*weight, stored.weight);
      const bool inputs = plan::loses_inputs(layer, stored);
      if (!d.any && !inputs) {
        ++accounts_[i].packed;
        return {};
      }
      if (plan().jobs[i].format != "fake" && stored.zero_point.empty() && !stored.bias.empty()) {
        return fail(error_kind::unsupported, fmt::format("format {} has whole zero points, and the layer's biases are no multiples of its scales; mlx and GGUF types with a minimum store biases", plan().jobs[i].format),
                    o_.model, layer.name);
      }
      std::string why = !d.any ? "" : plan().jobs[i].format == "fake" ? "dequantized weights are rounded" : "scales or zero points are rounded";
      if (inputs) why += why.empty() ? "what layers read is no longer quantized" : ", and what layers read is no longer quantized";
      accounts_[i].lossy.push_back({layer.name, std::move(why), d.largest});
      return {};
    });
    if (!layers) return layers;
    for (std::size_t i = 0; i < plan().jobs.size(); ++i) {
      for (const std::string& name : conversion_.dropped[i]) accounts_[i].lossy.push_back({name, "the format has no words for scales of attention", 0});
      if (auto r = compare_floats(i); !r) return r;
    }
    return {};
  }

  /// Everything that is not packed in the output: is it rounded on the way?
  result<void> compare_floats(std::size_t i) {
    for (const exporting::tensor_plan& t : plan().exporters[i]->plan().tensors) {
      if (t.what == exporting::action::drop || t.what == exporting::action::quantize || t.source_type.empty()) continue;
      io::dtype to = io::dtype::f32;
      const bool floats = io::dtype_from_name(t.output_type, to) && (to == io::dtype::f32 || to == io::dtype::f16 || to == io::dtype::bf16);
      const bool same = t.source_type == t.output_type && !source_computes(i, t.name);
      if (floats && !same) {
        std::uint64_t elements = 1;
        for (const std::uint64_t d : t.shape) elements *= d;
        std::vector<float> values(static_cast<std::size_t>(elements));
        if (auto r = source_->read(t.name, values); !r) return r;
        std::vector<float> rounded = values;
        exporting::round_to_type(rounded, to);
        if (const exporting::difference d = exporting::compare(values, rounded); d.any) {
          accounts_[i].lossy.push_back({t.name, fmt::format("values are rounded to {}", t.output_type), d.largest});
          continue;
        }
      }
      ++accounts_[i].kept;
    }
    return {};
  }

  bool source_computes(std::size_t i, const std::string& name) const { return conversion_.views[i]->changed(name); }

  result<void> refuse_loss() {
    if (o_.allow_loss) return {};
    for (std::size_t i = 0; i < accounts_.size(); ++i) {
      const account& a = accounts_[i];
      if (plan().jobs[i].format == "fake" || a.lossy.empty()) continue;
      const auto worst = std::max_element(a.lossy.begin(), a.lossy.end(), [](const lossy_tensor& x, const lossy_tensor& y) { return x.largest < y.largest; });
      return fail(error_kind::unsupported,
                  fmt::format("{} of {} tensors would be others in format {}: {}{}; --allow_loss writes them all the same", a.lossy.size(), a.lossy.size() + a.packed + a.kept,
                              plan().jobs[i].format, worst->why, worst->largest == 0 ? std::string() : fmt::format(", by {:.3g} at most", worst->largest)),
                  o_.model, worst->name);
    }
    return {};
  }

  result<void> write_layers() {
    return each_layer("writing", [&](std::size_t i, const tune::quantized_layer& layer, const tune::quantized_layer&) { return plan().exporters[i]->add(layer); });
  }

  // ---- for people and programs ----

  std::string summary(std::size_t i) {
    const account& a = accounts_[i];
    std::string text = fmt::format("{} -> {}: {} layers without loss", source_->format(), plan().jobs[i].format, a.packed);
    std::map<std::string, std::vector<const lossy_tensor*>> by_reason;
    for (const lossy_tensor& t : a.lossy) by_reason[t.why].push_back(&t);
    for (const auto& [why, tensors] : by_reason) {
      double most = 0;
      std::vector<std::string> names;
      for (const lossy_tensor* t : tensors) {
        most = std::max(most, t->largest);
        names.push_back(t->name);
      }
      text += fmt::format("; {} with loss ({}, by {:.3g} at most): {}", tensors.size(), why, most, fmt::join(plan::compress_names(std::move(names)), ", "));
    }
    if (!conversion_.expanded[i].empty()) text += fmt::format("; expanded to floats: {}", fmt::join(conversion_.expanded[i], ", "));
    return text;
  }

  void print_accounts() {
    for (std::size_t i = 0; i < accounts_.size(); ++i) bar_.message(summary(i));
  }

  io::json account_json(std::size_t i) const {
    const account& a = accounts_[i];
    io::json::array lossy, expanded;
    for (const lossy_tensor& t : a.lossy) {
      io::json one = io::json::object{};
      lossy.push_back(one.set("name", t.name).set("why", t.why).set("largest_difference", t.largest));
    }
    for (const std::string& name : conversion_.expanded[i]) expanded.emplace_back(name);
    io::json out = io::json::object{};
    out.set("layers_without_loss", a.packed).set("tensors_kept", a.kept).set("largest_difference", a.largest());
    return out.set("lossy", std::move(lossy)).set("expanded", std::move(expanded));
  }

  void print_dry_run() {
    if (!o_.json) {
      fmt::print("{}Packed tensors of the source have no size above; its weight files have {}.\n", plan::describe(plan()), report::human_bytes(source_->file_bytes()));
      for (std::size_t i = 0; i < accounts_.size(); ++i) fmt::print("{}\n", summary(i));
      return;
    }
    io::json out = plan::to_json(plan());
    io::json::array loss;
    for (std::size_t i = 0; i < accounts_.size(); ++i) loss.push_back(account_json(i).set("format", plan().jobs[i].format));
    fmt::print("{}\n", io::dump(out.set("loss", std::move(loss))));
  }

  void report_end(const std::string& path) {
    if (o_.json) {
      const auto number = [](std::uint64_t v) { return io::json(static_cast<std::int64_t>(v)); };
      io::json::array formats;
      for (std::size_t i = 0; i < accounts_.size(); ++i) {
        const exporting::output_plan& p = plan().exporters[i]->plan();
        io::json one = io::json::object{};
        one.set("format", plan().jobs[i].format).set("path", export_folder(plan(), path, i)).set("bytes", number(p.total_bytes())).set("weight_bytes", number(p.weight_bytes()));
        one.set("bits_per_weight", p.bits_per_weight());
        const io::json told = account_json(i);
        for (const auto& [key, value] : told.members()) one.set(key, value);
        formats.push_back(std::move(one));
      }
      io::json out = io::json::object{};
      out.set("model", o_.model).set("from", source_->format()).set("scheme", plan().scheme_name).set("output_dir", path).set("packed_layers", conversion_.layers.size());
      out.set("formats", std::move(formats)).set("seconds", total_.seconds()).set("cpu_seconds", report::cpu_seconds());
      out.set("peak_memory_bytes", number(report::peak_memory_bytes()));
      fmt::print("{}\n", io::dump(out));
    }
    bar_.message(fmt::format("time: {} ({} of CPU); peak memory {}", report::human_seconds(total_.seconds()), report::human_seconds(report::cpu_seconds()),
                             report::human_bytes(report::peak_memory_bytes())));
    for (std::size_t i = 0; i < plan().jobs.size(); ++i) bar_.message(fmt::format("written and verified: {} ({})", export_folder(plan(), path, i), plan().jobs[i].format));
  }

  const convert_options& o_;
  std::unique_ptr<exporting::stored_model> source_;
  plan::conversion conversion_;
  std::vector<account> accounts_;
  report::progress bar_;
  report::stopwatch total_;
};

}  // namespace

result<void> run_convert(const convert_options& options) { return converter(options).run(); }

}  // namespace auto_round::command
