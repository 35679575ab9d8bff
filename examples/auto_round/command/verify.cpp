// The command verify: is a finished checkpoint whole, consistent and as close to its source as it should be?
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <set>
#include <span>

#include "command/command.hpp"
#include "command/model_path.hpp"
#include "export/export_checksums.hpp"
#include "export/export_format.hpp"
#include "export/export_inventory.hpp"
#include "export/export_verify.hpp"
#include "io/tensor.hpp"
#include "report/table.hpp"

namespace auto_round::command {
namespace {

/// Distance of one stored weight to its source.
struct distortion {
  std::string name, type;
  double relative = 0;  ///< Frobenius norm of the difference over that of the source
  double largest = 0;   ///< largest absolute difference
  double cosine = 0;    ///< of the angle between the two
  double shared = 0;    ///< part of the error that neighbors have in common
};

/// What comparing a checkpoint with its source found.
struct comparison {
  std::vector<distortion> distances;
  std::vector<std::string> changed;   ///< kept in floats, but not as the source has them
  std::vector<std::string> left_out;  ///< of the source
};

/// Sums over a tensor and what it was made from. Tuning at few bits moves weights by more than they are large, so distance alone says little: rounded weights
/// point the way of their source, and are off to either side of it.
class resemblance {
 public:
  void add(std::span<const float> source, std::span<const float> stored) {
    for (std::size_t first = 0; first < source.size(); first += run) {
      const std::size_t end = std::min(source.size(), first + run);
      double sum = 0;
      for (std::size_t i = first; i < end; ++i) {
        const double a = static_cast<double>(source[i]), b = static_cast<double>(stored[i]);
        source_ += a * a;
        stored_ += b * b;
        both_ += a * b;
        error_ += (b - a) * (b - a);
        sum += b - a;
        largest_ = std::max(largest_, std::abs(b - a));
      }
      shifts_ += sum * sum / static_cast<double>(end - first);
    }
  }
  double relative() const { return source_ > 0 ? std::sqrt(error_ / source_) : error_ > 0 ? 1.0 : 0.0; }
  double largest() const { return largest_; }
  double cosine() const { return source_ > 0 && stored_ > 0 ? both_ / std::sqrt(source_ * stored_) : source_ == stored_ ? 1.0 : 0.0; }
  /// 1/32 where each is rounded by itself, near 1 where all codes are off by one.
  double shared() const { return error_ > 0 ? shifts_ / error_ : 0.0; }

 private:
  static constexpr std::size_t run = 32;  // no group is smaller, but those of NVFP4
  double source_ = 0, stored_ = 0, both_ = 0, error_ = 0, shifts_ = 0, largest_ = 0;
};

class verify final : public command {
 public:
  std::string_view name() const override { return "verify"; }
  std::string_view summary() const override { return "check a finished checkpoint, alone or against its source"; }

  void declare(option_set& o) override {
    o.positional("MODEL", positional_model_, "model folder or GGUF file");
    o.text("model,model_name,model_name_or_path", "PATH", model_, "the checkpoint to check");
    o.text("source,ref", "DIR", source_, "the float checkpoint it was made from: every tensor is compared");
    o.flag("json", json_, true, "print one JSON object on stdout");
  }

  result<void> run() override {
    if (!positional_model_.empty()) model_ = positional_model_;
    if (model_.empty()) return fail(error_kind::usage, "no model given; write --model PATH");
    result<void> done = check();
    if (!done && json_ && done.error().kind == error_kind::verification) {
      io::json out = io::json::object{};
      fmt::print("{}\n", io::dump(out.set("model", model_).set("ok", false).set("error", describe(done.error())), {.indent = -1}));
    }
    return done;
  }

 private:
  using entry = exporting::stored_model::entry;

  result<void> check() {
    if (auto r = find_local_model(model_); !r) return r;
    auto opened = exporting::open_model(model_);
    if (!opened) return forward_error(opened);
    const exporting::stored_model& m = **opened;
    if (auto r = m.check(); !r) return as_verification(r.error());
    std::size_t files = 0;
    if (std::filesystem::is_directory(model_)) {
      auto checked = exporting::check_checksums(model_);
      if (!checked) return forward_error(checked);
      files = *checked;
    }
    std::size_t tensors = 0, quantized = 0;
    comparison found;
    if (!source_.empty()) {
      if (auto r = find_local_model(source_); !r) return r;
      auto source = exporting::open_model(source_);
      if (!source) return forward_error(source);
      if (auto r = compare_rotated(m, **source, found); !r) return r;
    }
    for (const auto& e : m.entries()) {
      ++tensors;
      quantized += e.quantized ? 1 : 0;
      if (!m.has(e.name) || !is_real(e)) continue;  // buffers of rotations: opening the model has looked at them
      std::vector<float> values;
      auto r = by_rows(e, e.quantized, [&](std::uint64_t first, std::size_t count) {
        values.resize(count);
        return m.read_part(e.name, elements(e.shape), first, values);
      });
      if (!r) return as_verification(r.error());
    }
    print(m, tensors, quantized, files, found);
    return {};
  }

  static std::string some_of(const std::vector<std::string>& names) {
    const std::size_t n = std::min<std::size_t>(names.size(), 5);
    return fmt::format("{}{}", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(n), ", "), names.size() > n ? fmt::format(" and {} more", names.size() - n) : "");
  }

  static std::uint64_t elements(const std::vector<std::uint64_t>& shape) {
    std::uint64_t n = 1;
    for (const std::uint64_t d : shape) n *= d;
    return n;
  }

  /// Packed, or of a type that can be read as floats.
  static bool is_real(const entry& e) {
    io::dtype type;
    return e.quantized || !io::dtype_from_name(e.type, type) || type == io::dtype::f32 || type == io::dtype::bf16 || type == io::dtype::f16 || type == io::dtype::f64;
  }

  /// f(first, count) over the elements of a tensor, some rows at a time; `at_once`: all of them.
  template <class F>
  static result<void> by_rows(const entry& e, bool at_once, const F& f) {
    constexpr std::uint64_t elements_at_once = std::uint64_t{1} << 22;
    const std::uint64_t n = elements(e.shape), row = e.shape.empty() ? 1 : std::max<std::uint64_t>(1, e.shape.back());
    const std::uint64_t step = at_once ? std::max<std::uint64_t>(1, n) : std::max<std::uint64_t>(1, elements_at_once / row) * row;
    for (std::uint64_t first = 0; first < n; first += step) {
      if (auto r = f(first, static_cast<std::size_t>(std::min(step, n - first))); !r) return r;
    }
    return {};
  }

  static result<void> as_verification(error e) {
    e.kind = error_kind::verification;
    return tl::unexpected<error>(std::move(e));
  }

  /// A rotated checkpoint is compared with its source after the same rotation.
  static result<void> compare_rotated(const exporting::stored_model& m, const exporting::stored_model& source, comparison& out) {
    const transform::found_rotation* rotation = m.rotation();
    if (rotation == nullptr) return compare(m, source, source, out);
    if (rotation->options.trained) {
      return fail(error_kind::unsupported, "the rotation was trained and is part of the weights; they cannot be compared with the source's", m.tokenizer_directory());
    }
    auto places = transform::place_rotations(source.spec(), rotation->options, transform::found_signs(*rotation));
    if (!places) return forward_error(places);
    const transform::rotated_source rotated(source, std::move(*places), {});
    return compare(m, source, rotated, out);
  }

  /// Every tensor of the source is there (a GGUF file has no place for those that are no part of the model); what is stored in floats is unchanged up to the
  /// rounding of its type; what is quantized is near; what are no numbers of either kind is the same.
  static result<void> compare(const exporting::stored_model& m, const exporting::stored_model& source, const model::weight_source& weights, comparison& out) {
    std::set<std::string> stored_quantized, needed;
    for (const auto& e : m.entries()) {
      if (e.quantized) stored_quantized.insert(e.name);
    }
    // A checkpoint without packed layers may be a fake one: any linear layer may hold quantized values in a float type.
    const bool may_be_fake = stored_quantized.empty();
    for (const auto& need : exporting::required_tensors(m.spec())) {
      if (may_be_fake && need.linear) stored_quantized.insert(need.name);
      needed.insert(need.name);
    }
    for (const auto& e : source.entries()) {
      if (!source.has(e.name)) continue;
      if (!m.has(e.name)) {
        if (weights.spec().tie_word_embeddings && e.name == weights.spec().head_name) continue;
        if (m.directory() == nullptr && !needed.contains(e.name)) {
          out.left_out.push_back(e.name);
          continue;
        }
        return fail(error_kind::verification, "a tensor of the source is missing", m.tokenizer_directory(), e.name);
      }
      if (!is_real(e)) {
        const io::checkpoint_dir *const theirs = source.directory(), *const ours = m.directory();
        if (theirs == nullptr || ours == nullptr || !exporting::same_tensor(*theirs, theirs->find(e.name), *ours, ours->find(e.name)))
          return fail(error_kind::verification, "the tensor is not the source's", m.tokenizer_directory(), e.name);
        continue;
      }
      const bool quantized = stored_quantized.contains(e.name);
      resemblance alike;
      std::vector<float> expected, read;
      auto r = by_rows(e, quantized || e.quantized || weights.changed(e.name), [&](std::uint64_t first, std::size_t count) -> result<void> {
        expected.resize(count);
        read.resize(count);
        if (auto got = weights.read_part(e.name, elements(e.shape), first, expected); !got) return got;
        if (auto got = m.read_part(e.name, elements(e.shape), first, read); !got) return as_verification(got.error());
        alike.add(expected, read);
        return {};
      });
      if (!r) return r;
      distortion d{e.name, quantized ? "quantized" : "kept", alike.relative(), alike.largest(), alike.cosine(), alike.shared()};
      const auto refuse = [&](std::string_view why) {
        return fail(error_kind::verification, fmt::format("the tensor is {:.3g} (relative) away from the source, {}", d.relative, why), m.tokenizer_directory(), e.name);
      };
      constexpr double half_precision = 1e-3;  // the coarsest type that unquantized tensors are converted to
      constexpr double rewritten = 0x1p-8;     // and that rotated ones are rounded to: bfloat16
      if (quantized) {
        if (d.cosine < 0.1) return refuse("and has nothing in common with it");
        if (d.shared > 0.6) return refuse("nearly all of it a step of its grid to the same side: its zero points are meant in another way than the configuration says");
      } else if (!(d.relative <= (weights.changed(e.name) ? rewritten : half_precision))) {
        // Norms and biases that were smoothed or tuned; an embedding or a head that was rounded in a file that this one was made from.
        const bool vector = e.shape.size() == 1, outside = e.name == m.spec().embed_name || e.name == m.spec().head_name;
        if (weights.changed(e.name) || !(vector || outside) || !needed.contains(e.name) || d.cosine < (vector ? 0.3 : 0.9)) return refuse("which nothing explains");
        d.type = "changed";
        out.changed.push_back(e.name);
      }
      out.distances.push_back(std::move(d));
    }
    return {};
  }

  void print(const exporting::stored_model& m, std::size_t tensors, std::size_t quantized, std::size_t files, comparison& found) const {
    std::vector<distortion>& distances = found.distances;
    std::stable_sort(distances.begin(), distances.end(), [](const distortion& a, const distortion& b) { return a.relative > b.relative; });
    if (json_) {
      io::json::array list;
      for (const distortion& d : distances) {
        io::json one = io::json::object{};
        list.push_back(one.set("name", d.name).set("stored", d.type).set("relative", d.relative).set("largest", d.largest).set("cosine", d.cosine).set("shared_error", d.shared));
      }
      io::json out = io::json::object{};
      out.set("model", model_).set("ok", true).set("format", m.format()).set("tensors", tensors).set("quantized", quantized).set("checksums", files);
      if (!source_.empty()) {
        out.set("distortion", std::move(list));
        out.set("changed", io::json(io::json::array(found.changed.begin(), found.changed.end())));
        out.set("left_out", io::json(io::json::array(found.left_out.begin(), found.left_out.end())));
      }
      fmt::print("{}\n", io::dump(out, {.indent = -1}));
      return;
    }
    if (!distances.empty()) {
      std::vector<std::vector<std::string>> rows;
      for (const distortion& d : distances) rows.push_back({d.name, d.type, fmt::format("{:.5f}", d.relative), fmt::format("{:.3g}", d.largest)});
      using report::align;
      fmt::print("{}\n", report::text_table({{"tensor"}, {"stored"}, {"relative error", align::right}, {"largest error", align::right}}, rows));
    }
    if (!found.changed.empty())
      fmt::print("kept in floats, but not as the source has them (norms and biases are smoothed by AWQ and moved by --enable_norm_bias_tuning; an embedding or head was rounded before): {}\n", some_of(found.changed));
    if (!found.left_out.empty())
      fmt::print("tensors of the source that are no part of the model, for which this format has no place: {}\n", some_of(found.left_out));
    fmt::print("{}: {}, {} tensors, {} quantized, all finite{}: good\n", model_, m.format(), tensors, quantized,
               files > 0 ? fmt::format(", {} checksums right", files) : "");
  }

  std::string model_, positional_model_, source_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<command> make_verify() { return std::make_unique<verify>(); }

}  // namespace auto_round::command
