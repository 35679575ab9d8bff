#include "command/model_free_run.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <future>
#include <memory>
#include <new>
#include <numeric>
#include <utility>

#include "ar/dispatch.hpp"
#include "ar/numeric/half.hpp"
#include "ar/numeric/small_float.hpp"
#include "command/model_free_journal.hpp"
#include "command/plan_output.hpp"
#include "command/unused_options.hpp"
#include "export/export_checksums.hpp"
#include "export/export_folder.hpp"
#include "export/export_int_layout.hpp"
#include "export/export_inventory.hpp"
#include "io/file.hpp"
#include "io/safetensors.hpp"
#include "plan_model_free.hpp"
#include "report/event_log.hpp"
#include "report/resources.hpp"
#include "tune/quantizer.hpp"

namespace auto_round::command {
namespace {

using exporting::layer_decision;
using plan::piece;

constexpr std::size_t band_rows = 32;  // rows are rounded by whole numbers of these

/// Without the copies that a list in braces makes.
template <class... Part>
std::vector<std::vector<std::byte>> parts_of(Part&&... part) {
  std::vector<std::vector<std::byte>> all;
  (all.push_back(std::forward<Part>(part)), ...);
  return all;
}

class run {
 public:
  explicit run(const run_options& options) : o_(options), bar_(options.progress) {}

  result<void> go() {
    auto log = report::event_log::create(o_.log_json);
    if (!log) return forward_error(log);
    log_ = std::move(*log);
    result<void> outcome = prepare_and_run();
    if (!outcome && journal_ && journal_->empty()) journal_->remove();
    if (!outcome) log_.write("error", {{"message", describe(outcome.error())}, {"status", static_cast<int>(outcome.error().kind)}});
    if (auto r = log_.close(); !r && outcome) return r;
    return outcome;
  }

 private:
  result<void> prepare_and_run() {
    auto source = io::checkpoint_dir::open(o_.model);
    if (!source) return forward_error(source);
    source_ = std::make_unique<io::checkpoint_dir>(std::move(*source));
    auto plan = plan::make_model_free_plan(o_.request, *source_);
    if (!plan) return forward_error(plan);
    plan_ = std::move(*plan);
    for (const std::string& w : plan_.warnings) bar_.message("warning: " + w);
    for (const std::string& line : unused_options(o_, {.shard_wise = true, .integers = true})) bar_.message("note: " + line);
    // Fewer tensors at a time give the same bytes.
    const std::uint64_t limit = plan::memory_limit(o_.max_memory);
    for (memory_ = plan_.memory(threads_); limit != 0 && memory_.bytes() > limit && threads_ > 1;) memory_ = plan_.memory(--threads_);
    if (auto r = plan::check_memory(memory_, o_.max_memory); !r) return r;
    auto dir = begin_output(o_.output_dir, o_.overwrite, o_.model);
    if (!dir) return forward_error(dir);
    if (auto r = dir->require_space(plan_.bytes()); !r) return r;
    if (o_.dry_run) {  // refuses what a run would; nothing of the folder stays
      if (o_.json) fmt::print("{}\n", io::dump(plan::to_json(plan_, memory_)));
      else fmt::print("{}", plan::describe(plan_, memory_));
      return {};
    }
    bar_.message(fmt::format("{}: {} layers of {} files by {}, shard by shard; {} threads, about {} of memory", o_.model, plan_.quantized(), plan_.shards.size(), plan_.scheme_name,
                             threads_, report::human_bytes(memory_.bytes())));
    log_.write("start", {{"model", o_.model}, {"scheme", plan_.scheme_name}, {"method", "round to nearest, model-free"}, {"planned_bytes", static_cast<std::int64_t>(plan_.bytes())}});
    if (auto r = write_shards(dir->partial()); !r) return r;
    if (auto r = write_rest(dir->partial()); !r) return r;
    if (auto r = check(dir->partial()); !r) return r;
    if (auto r = dir->commit(); !r) return r;
    if (journal_) journal_->remove();
    auto scores = score_output(o_.tasks, dir->path(), o_.max_memory, o_.json);
    if (!scores) return forward_error(scores);
    report_end(dir->path(), *scores);
    return {};
  }

  // --- shards ----------------------------------------------------------------------------------------------------------------------------------

  result<void> write_shards(const std::string& partial) {
    if (plan_.shards.size() > 1) {  // of a single file nothing is finished before everything is
      std::string note;
      auto journal = model_free_journal::open(o_.output_dir + ".shards", *source_, plan_, o_.restart, note);
      if (!journal) return forward_error(journal);
      journal_ = std::make_unique<model_free_journal>(std::move(*journal));
      if (!note.empty()) bar_.message("note: " + note);
    }
    const io::interrupt_watch watch;
    bar_.start("file", static_cast<std::int64_t>(plan_.shards.size()));
    const std::string folder = journal_ ? journal_->folder() : partial;
    std::vector<const plan::shard*> to_write;
    for (const plan::shard& s : plan_.shards) {
      if (!journal_ || !journal_->has(s.name)) {
        to_write.push_back(&s);
        continue;
      }
      bar_.finish_unit(fmt::format("{}: finished before", s.name));
      log_.write("shard", {{"file", s.name}, {"reused", true}});
    }
    // A file that is complete is brought to the disk, hashed and recorded while the next one is rounded. (Whatever ends this function waits for it.)
    std::future<result<void>> behind;
    const auto settle = [&]() -> result<void> { return behind.valid() ? behind.get() : result<void>(); };
    for (const plan::shard* const one : to_write) {
      const plan::shard& s = *one;
      auto written = write_shard(s, folder);
      if (auto r = settle(); !r) return r;
      if (!written) return forward_error(written);
      behind = std::async(std::launch::async, [this, &s, writer = std::move(*written)]() mutable -> result<void> {
        if (auto r = writer.finish(); !r) return r;
        return journal_ ? journal_->record(s.name) : result<void>();
      });
      std::int64_t quantized = std::count_if(s.pieces.begin(), s.pieces.end(), [](const piece& p) { return p.quantize; });
      bar_.finish_unit(fmt::format("{}: {}/{} tensors rounded", s.name, quantized, s.pieces.size()));
      log_.write("shard", {{"file", s.name}, {"quantized", quantized}, {"tensors", static_cast<std::int64_t>(s.pieces.size())}});
    }
    if (auto r = settle(); !r) return r;
    bar_.finish();
    if (!journal_) return {};
    for (const plan::shard& s : plan_.shards) {
      std::error_code ec;
      std::filesystem::rename(folder + "/" + s.name, partial + "/" + s.name, ec);
      if (ec) return fail(error_kind::output, "a finished file cannot be moved into the output: " + ec.message(), partial + "/" + s.name);
    }
    return {};
  }

  /// All bytes of a file; it is not finished.
  result<io::safetensors_writer> write_shard(const plan::shard& s, const std::string& folder) {
    std::vector<io::tensor_decl> all;
    for (const piece& p : s.pieces) all.insert(all.end(), p.output.begin(), p.output.end());
    io::sort_as_reference(all);
    const std::string path = folder + "/" + s.name;
    if (journal_) {  // what a run before left unfinished
      std::error_code ec;
      std::filesystem::remove(path, ec);
    }
    auto writer = io::safetensors_writer::create(path, std::move(all));
    if (!writer) return forward_error(writer);

    std::vector<const piece*> order;  // the largest first
    for (const piece& p : s.pieces) order.push_back(&p);
    std::stable_sort(order.begin(), order.end(), [](const piece* a, const piece* b) { return a->quantize != b->quantize ? a->quantize : a->elements() > b->elements(); });
    const auto alone = [&](const piece* p) { return plan_.by_all_threads(s, *p, threads_); };
    const std::size_t first = static_cast<std::size_t>(std::find_if_not(order.begin(), order.end(), alone) - order.begin());
    for (std::size_t i = 0; i < first; ++i) {
      if (auto r = write_piece(*order[i], *writer); !r) return forward_error(r);
    }
    error failed;
    std::atomic<bool> stop = false;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads_)
    for (std::size_t i = first; i < order.size(); ++i) {
      if (stop) continue;
      if (auto r = write_piece(*order[i], *writer); !r) {
#pragma omp critical(model_free_error)
        if (!stop.exchange(true)) failed = r.error();
      }
    }
    if (stop) return tl::unexpected<error>(std::move(failed));
    for (const piece& p : s.pieces) source_->release(*p.source);
    return writer;
  }

  /// Called by several threads at a time; one of them writes. No exception may leave a thread.
  result<void> write_piece(const piece& p, io::safetensors_writer& writer) {
    try {
      return round_and_write(p, writer);
    } catch (const std::bad_alloc&) {
      return fail(error_kind::internal, "out of memory; fewer --threads need less", source_->files()[p.source->file], p.name);
    }
  }

  result<void> round_and_write(const piece& p, io::safetensors_writer& writer) {
    if (io::interrupt_watch::requested()) return fail(error_kind::interrupted, "interrupted while rounding");
    std::vector<std::vector<std::byte>> parts;
    if (p.quantize || p.scale != nullptr || p.packed != nullptr) {
      auto made = p.quantize ? rounded(p) : in_bf16(p);
      if (!made) return forward_error(made);
      parts = std::move(*made);
    } else if (auto r = exporting::check_finite(*source_, *p.source); !r) {
      return r;
    }
    result<void> done;
#pragma omp critical(model_free_write)
    {
      if (parts.empty()) done = copy(p, writer);
      for (std::size_t i = 0; i < parts.size() && done; ++i) done = writer.write(p.output[i].name, parts[i]);
    }
    if (p.packed != nullptr || p.source->elements() == p.elements()) source_->release(*p.source);
    return done;
  }

  result<void> copy(const piece& p, io::safetensors_writer& writer) const {
    io::tensor_ref part = *p.source;  // a tensor may be written as several pieces
    const std::size_t width = io::size_of(part.type);
    part.bytes = part.bytes.subspan(static_cast<std::size_t>(p.first) * width, static_cast<std::size_t>(p.elements()) * width);
    return source_->for_pieces(part, [&](std::span<const std::byte> bytes, std::size_t offset) { return writer.write(p.name, bytes, offset); });
  }

  // --- one tensor ------------------------------------------------------------------------------------------------------------------------------

  /// All of a matrix as floats; of a packed layer rounded to bfloat16, as the original does.
  result<std::vector<float>> read_all(const piece& p) const {
    std::vector<float> w(static_cast<std::size_t>(p.elements()));
    if (p.packed == nullptr) {
      if (auto r = read(p, 0, static_cast<std::size_t>(p.shape[0]), w); !r) return forward_error(r);
      return w;
    }
    if (auto r = p.packed->weight->read(w); !r) return forward_error(r);
    for (float& x : w) x = ar::round_to_bf16(x);
    if (auto r = check_finite(p, w); !r) return forward_error(r);
    return w;
  }

  /// Of values that were computed: io::read_f32 looks at what it reads.
  result<void> check_finite(const piece& p, std::span<const float> values) const {
    if (io::all_finite(values)) return {};
    return fail(error_kind::input, "the tensor holds NaN or infinity; the checkpoint is damaged", source_->files()[p.source->file], p.name);
  }

  /// Rows [first, first + rows) of a piece that is not packed as floats.
  result<void> read(const piece& p, std::size_t first, std::size_t rows, std::vector<float>& out) const {
    if (p.scale != nullptr) return read_tiles(p, first, rows, out);
    const auto cols = static_cast<std::size_t>(p.shape[1]);
    return io::read_f32(*p.source, p.first + first * cols, std::span(out.data(), rows * cols));
  }

  /// FP8 times the scale of its tile: the scale is rounded to bfloat16 first, and so is the product, as the original computes it.
  result<void> read_tiles(const piece& p, std::size_t first, std::size_t rows, std::vector<float>& out) const {
    const auto tile_rows = static_cast<std::size_t>(plan_.tile_rows), tile_cols = static_cast<std::size_t>(plan_.tile_cols);
    const std::size_t cols = static_cast<std::size_t>(p.shape[1]), tiles = (cols + tile_cols - 1) / tile_cols, first_tile = first / tile_rows;
    std::vector<float> scale(rows == 0 ? 0 : ((first + rows - 1) / tile_rows - first_tile + 1) * tiles);
    if (auto r = io::read_f32(*p.scale, first_tile * tiles, scale); !r) return r;
    for (float& s : scale) s = ar::round_to_bf16(s);
    const io::pinned_bytes stored = p.source->bytes.subspan(first * cols, rows * cols).pin();
    for (std::size_t r = 0; r < rows; ++r) {
      const std::byte* const codes = stored.data() + r * cols;
      const float* const row_scale = scale.data() + ((first + r) / tile_rows - first_tile) * tiles;
      for (std::size_t c = 0; c < cols; ++c) {
        out[r * cols + c] = ar::round_to_bf16(ar::f32_from_small<ar::e4m3fn>(static_cast<std::uint8_t>(codes[c])) * row_scale[c / tile_cols]);
      }
      if (auto finite = check_finite(p, std::span(out.data() + r * cols, cols)); !finite) return finite;
    }
    return {};
  }

  result<std::vector<std::vector<std::byte>>> in_bf16(const piece& p) const {
    const auto w = read_all(p);
    if (!w) return forward_error(w);
    return parts_of(exporting::to_bytes(*w, io::dtype::bf16));
  }

  /// The tensors of a layer, in the order of piece::output.
  result<std::vector<std::vector<std::byte>>> rounded(const piece& p) const {
    const ar::scheme_fields& scheme = plan_.layers[static_cast<std::size_t>(p.layer)].scheme;
    if (p.packed != nullptr && plan_.format != "fake") {
      auto same = exporting::carried_over(*p.packed, scheme);
      if (!same) return forward_error(same);
      if (*same) {
        if (auto r = check_finite(p, (*same)->weight); !r) return forward_error(r);
        (*same)->weight = std::vector<float>();
        return plan::model_free_floats(std::move(**same));
      }
    }
    const bool floats = scheme.data_type != "int", fake = plan_.format == "fake";
    tune::rounding how;
    how.reference = true;
    if (floats) {
      const io::dtype type = p.plain_type();
      how.weight_type = type == io::dtype::bf16 ? ar::real::bf16 : type == io::dtype::f16 ? ar::real::f16 : ar::real::f32;
      how.search = plan_.search;
    }
    how.codes_only = !fake && !how.search;
    auto layer = how.codes_only ? in_bands(p, scheme, how) : at_once(p, scheme, how);
    if (!layer) return forward_error(layer);
    if (fake) return parts_of(exporting::to_bytes(layer->weight, p.plain_type()));
    return floats ? plan::model_free_floats(std::move(*layer)) : words(*layer);
  }

  result<tune::quantized_layer> at_once(const piece& p, const ar::scheme_fields& scheme, const tune::rounding& how) const {
    const auto w = read_all(p);
    if (!w) return forward_error(w);
    return tune::quantize_layer(w->data(), p.name.substr(0, p.name.rfind('.')), scheme, static_cast<std::size_t>(p.shape[0]), static_cast<std::size_t>(p.shape[1]), how);
  }

  /// Rows know nothing of each other: as many at a time as fit a cache, of which codes and scales are kept. Packed layers are read as a whole.
  result<tune::quantized_layer> in_bands(const piece& p, const ar::scheme_fields& scheme, const tune::rounding& how) const {
    constexpr std::size_t floats_at_once = std::size_t{1} << 18;
    const auto rows = static_cast<std::size_t>(p.shape[0]), cols = static_cast<std::size_t>(p.shape[1]);
    const std::size_t band = std::max<std::size_t>(band_rows, floats_at_once / std::max<std::size_t>(1, cols) / band_rows * band_rows);
    std::vector<float> whole;
    if (p.packed != nullptr) {
      auto read = read_all(p);
      if (!read) return forward_error(read);
      whole = std::move(*read);
    }
    tune::quantized_layer all;
    all.code.reserve(rows * cols);
    std::vector<float> w;
    for (std::size_t first = 0; first < rows; first += band) {
      const std::size_t n = std::min(band, rows - first);
      const float* weights = whole.data() + first * cols;
      if (p.packed == nullptr) {
        w.resize(n * cols);
        if (auto r = read(p, first, n, w); !r) return forward_error(r);
        weights = w.data();
        if (p.source->elements() == p.elements()) {  // what was read may leave the memory
          const std::size_t row = p.source->bytes.size() / rows;
          source_->release(*p.source, p.source->bytes.subspan(first * row, n * row));
        }
      }
      auto part = tune::quantize_layer(weights, p.name.substr(0, p.name.rfind('.')), scheme, n, cols, how);
      if (!part) return forward_error(part);
      if (first == 0) all.scale.reserve(part->scale.size() / n * rows);
      all.code.insert(all.code.end(), part->code.begin(), part->code.end());
      all.scale.insert(all.scale.end(), part->scale.begin(), part->scale.end());
      all.zero_point.insert(all.zero_point.end(), part->zero_point.begin(), part->zero_point.end());
      all.name = std::move(part->name);
      all.scheme = part->scheme;
      all.cols = cols;
      all.rows += n;
    }
    return all;
  }

  static result<std::vector<std::vector<std::byte>>> words(const tune::quantized_layer& l) {
    const exporting::int_matrix m = exporting::int_matrix_of(l.scheme.sym ? exporting::int_layout::gptq_v1 : exporting::int_layout::gptq_v2, l.scheme, l.rows, l.cols);
    auto packed = exporting::pack_int(m, l);
    if (!packed) return forward_error(packed);
    std::vector<std::vector<std::byte>> out;
    for (exporting::packed_part& p : *packed) out.push_back(std::move(p.data));
    return out;
  }

  // --- the folder ------------------------------------------------------------------------------------------------------------------------------

  result<void> write_rest(const std::string& partial) {
    for (const auto& [name, content] : plan_.texts)
      if (auto r = io::write_text(partial + "/" + name, content); !r) return r;
    for (const exporting::file_plan& f : plan_.companions)
      if (auto r = io::copy_file_durably(o_.model + "/" + f.name, partial + "/" + f.name); !r) return r;
    std::vector<std::string> names;
    for (const exporting::file_plan& f : plan_.files())
      if (f.name != exporting::checksums_name) names.push_back(f.name);
    return exporting::write_checksums(partial, names, journal_ ? journal_->sums() : std::map<std::string, std::string>{});
  }

  /// The folder opens, and holds the tensors that were planned.
  result<void> check(const std::string& partial) const {
    auto written = io::checkpoint_dir::open(partial);
    if (!written) return forward_error(written);
    std::size_t planned = 0;
    for (const plan::shard& s : plan_.shards) {
      for (const piece& p : s.pieces) {
        for (const io::tensor_decl& t : p.output) {
          ++planned;
          const io::tensor_ref* found = written->find(t.name);
          if (found == nullptr || found->type != t.type || found->shape != t.shape) return fail(error_kind::verification, "a tensor was not written as planned", partial, t.name);
        }
      }
    }
    if (planned != written->tensors().size()) return fail(error_kind::verification, "the output holds other tensors than planned", partial);
    return {};
  }

  void report_end(const std::string& path, const io::json& scores) {
    const auto number = [](std::uint64_t v) { return io::json(static_cast<std::int64_t>(v)); };
    std::uint64_t before = 0;
    for (const io::tensor_ref& t : source_->tensors()) before += t.bytes.size();
    io::json::array kept, formats;
    for (const layer_decision& l : plan_.layers) {
      if (l.quantize) continue;
      kept.emplace_back(l.name + " (" + l.reason + ")");
    }
    io::json one = io::json::object{};
    formats.push_back(one.set("format", plan_.format).set("path", path).set("bytes", number(plan_.bytes())).set("weight_bytes", number(plan_.weight_bytes())));
    io::json out = io::json::object{};
    out.set("model", o_.model).set("output_dir", path).set("scheme", plan_.scheme_name).set("method", "round to nearest, model-free").set("tuning", "none");
    out.set("quantized_layers", plan_.quantized()).set("weight_bytes_before", number(before)).set("formats", std::move(formats)).set("kept_layers", std::move(kept));
    out.set("seconds", total_.seconds()).set("cpu_seconds", report::cpu_seconds()).set("peak_memory_bytes", number(report::peak_memory_bytes()));
    log_.write("end", out.members());
    if (!scores.members().empty()) out.set("evaluation", scores);
    if (o_.json) fmt::print("{}\n", io::dump(out));
    bar_.message(fmt::format("time: {} ({} of CPU); peak memory {}", report::human_seconds(total_.seconds()), report::human_seconds(report::cpu_seconds()),
                             report::human_bytes(report::peak_memory_bytes())));
    bar_.message(plan::summary(plan_.quantized(), plan_.layers));
    bar_.message(fmt::format("written: {} ({}), {} -> {}", path, plan_.format, report::human_bytes(before), report::human_bytes(plan_.weight_bytes())));
  }

  const run_options& o_;
  std::unique_ptr<io::checkpoint_dir> source_;
  plan::model_free_plan plan_;
  plan::memory_estimate memory_;
  std::unique_ptr<model_free_journal> journal_;
  report::event_log log_;
  report::progress bar_;
  report::stopwatch total_;
  int threads_ = omp_get_max_threads();
};

}  // namespace

result<void> run_model_free(const run_options& options) { return run(options).go(); }

}  // namespace auto_round::command
