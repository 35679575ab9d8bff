#include "text/calibration.hpp"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <numeric>
#include <optional>
#include <utility>

#include "ar/tune.hpp"
#include "text/chat_template.hpp"
#include "text/dataset_spec.hpp"
#include "text/named_datasets.hpp"
#include "text/numpy_random.hpp"
#include "text/records.hpp"

namespace auto_round::text {
namespace {

using row = std::vector<std::int32_t>;

std::vector<std::uint32_t> seed_words(std::int64_t seed) {
  const auto s = static_cast<std::uint64_t>(seed);
  std::vector<std::uint32_t> words = {static_cast<std::uint32_t>(s)};
  if (s >> 32 != 0) words.push_back(static_cast<std::uint32_t>(s >> 32));
  return words;
}

// Where the records of a part come from.
struct place {
  std::string path;                     // empty: the built-in sample
  const named_dataset* named = nullptr;
};

result<place> resolve(const std::string& name, const std::string& folder) {
  std::error_code ignored;
  if (name == builtin_dataset) return place{};
  if (std::filesystem::exists(name, ignored)) return place{name};
  if (!folder.empty() && std::filesystem::is_regular_file(folder + "/" + name, ignored)) return place{folder + "/" + name};
  const bool file = name.ends_with(".json") || name.ends_with(".jsonl") || name.ends_with(".txt");
  if (const named_dataset* known = file ? nullptr : find_named_dataset(name)) {
    auto copy = local_copy(*known, folder);
    if (!copy) return forward_error(copy);
    return place{std::move(*copy), known};
  }
  if (file || name.find('/') != std::string::npos) return fail(error_kind::input, "the calibration file does not exist", name);
  return fail(error_kind::usage, "--dataset: \"" + name + "\" is no file; give a .json, .jsonl or .txt file, or a name of `auto-round list datasets`");
}

// Packs rows into full ones. The original's special tokens at the ends of records go, and each packed row gets its own; the original counts
// them over all records instead, which shortens every row but the first (a bug that drops them).
class packer {
 public:
  packer(std::size_t seqlen, std::int32_t bos, std::int32_t eos) : seqlen_(seqlen), bos_(bos), eos_(eos) {}

  void add(const row& r, std::vector<row>& out) {
    auto first = r.begin(), last = r.end();
    if (first != last && bos_ >= 0 && *first == bos_) {
      ++first;
      have_bos_ = true;
    }
    if (first != last && eos_ >= 0 && last[-1] == eos_) {
      --last;
      have_eos_ = true;
    }
    buffer_.insert(buffer_.end(), first, last);
    const std::size_t special = (have_bos_ ? 1u : 0u) + (have_eos_ ? 1u : 0u);
    if (seqlen_ <= special) return;
    const std::size_t take = seqlen_ - special;
    std::size_t at = 0;
    for (; buffer_.size() - at >= take; at += take) {
      row packed;
      if (have_bos_) packed.push_back(bos_);
      packed.insert(packed.end(), buffer_.begin() + static_cast<std::ptrdiff_t>(at), buffer_.begin() + static_cast<std::ptrdiff_t>(at + take));
      if (have_eos_) packed.push_back(eos_);
      out.push_back(std::move(packed));
    }
    buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(at));
  }
  std::size_t left() const { return buffer_.size(); }

 private:
  std::size_t seqlen_;
  std::int32_t bos_, eos_;
  bool have_bos_ = false, have_eos_ = false;
  row buffer_;
};

class loader {
 public:
  loader(const tokenizer& tok, const calibration_options& options, calibration_set& set) : tok_(tok), options_(options), set_(set) {}

  // The rows of one part that pass the filter, `most` at most.
  result<std::vector<row>> load(const dataset_part& part, std::size_t most) {
    const auto from = resolve(part.name, options_.dataset_dir);
    if (!from) return forward_error(from);
    const std::string* const path = &from->path;
    if (from->named != nullptr) {
      const bool exact = part.name == from->named->full_name || part.name == from->named->short_name;
      set_.notes.push_back("calibration text: " + (exact ? std::string() : "\"" + part.name + "\" is no file and is taken for the data set ") + std::string(from->named->full_name) + " (" + *path + ")");
    }
    const bool builtin = path->empty();  // always packed: its paragraphs are short
    const bool concat = part.concat || builtin, whole_text = concat && (builtin || path->ends_with(".txt"));
    result<std::vector<record>> read;
    if (builtin) read->emplace_back(std::string(builtin_text()));
    else read = read_records(*path, whole_text, from->named != nullptr ? from->named->columns : record_columns{});
    if (!read) return forward_error(read);
    std::vector<record>& records = *read;
    if (records.size() > INT32_MAX) return fail(error_kind::input, "the file has more than 2147483647 records", *path);
    set_.records += static_cast<std::int64_t>(records.size());

    std::vector<std::int32_t> order(records.size());
    std::iota(order.begin(), order.end(), 0);
    const record_order shuffle = from->named != nullptr ? from->named->order : record_order::python;
    if (shuffle == record_order::numpy) {
      const auto permutation = numpy_permutation(seed_words(options_.seed), static_cast<std::uint32_t>(records.size()));
      std::copy(permutation.begin(), permutation.end(), order.begin());
    } else {
      ar::python_random(static_cast<std::uint64_t>(options_.seed)).shuffle(order.data(), order.size());
    }
    if (shuffle == record_order::streaming) {
      set_.warnings.push_back("the Python auto-round streams \"" + part.name + "\" in an order of its own; this program shuffles the records of the file");
    }

    std::optional<chat_template> chat;
    const bool conversations = std::any_of(records.begin(), records.end(), [](const record& r) { return r.index() == 2; });
    if (part.apply_chat_template || conversations) {
      if (tok_.chat_template().empty()) return fail(error_kind::input, "a chat template is asked for, but the tokenizer has none", *path);
      auto parsed = chat_template::parse(tok_.chat_template());
      if (!parsed) return fail(parsed.error().kind, parsed.error().message, tok_.chat_template_file());
      chat = std::move(*parsed);
    }

    std::vector<row> kept;
    packer pack(seqlen(), tok_.bos_id(), tok_.eos_id());
    std::vector<row> candidates;
    std::vector<result<row>> tokenized;
    // In rounds, so that no more records are tokenized than needed, by several threads.
    for (std::size_t done = 0; done < order.size() && kept.size() < most;) {
      const std::size_t count = std::min(order.size() - done, std::max<std::size_t>(64, most == SIZE_MAX ? 1024 : most - kept.size()));
      tokenized.assign(count, row());
      std::atomic<std::size_t> first_failed = count;  // what fails may have taken long: nothing behind it is tried
#pragma omp parallel for schedule(dynamic, 8)
      for (std::size_t i = 0; i < count; ++i) {
        if (i > first_failed) continue;
        tokenized[i] = ids_of(records[static_cast<std::size_t>(order[done + i])], part, chat ? &*chat : nullptr, whole_text);
        for (std::size_t known = first_failed; !tokenized[i] && i < known && !first_failed.compare_exchange_weak(known, i);) {
        }
      }
      for (std::size_t i = 0; i < count && kept.size() < most; ++i) {
        if (!tokenized[i]) {
          const error& e = tokenized[i].error();
          if (e.file.empty()) return fail(e.kind, e.message, *path);
          return fail(e.kind, e.message + "; met in " + (builtin ? "the sample text" : *path), e.file);
        }
        const auto length = static_cast<std::int64_t>(tokenized[i]->size());
        set_.longest_record_tokens = std::max(set_.longest_record_tokens, length);
        candidates.clear();
        if (concat) {
          total_tokens_ += length;
          pack.add(*tokenized[i], candidates);
        } else {
          lengths_.push_back(length);
          candidates.push_back(std::move(*tokenized[i]));
        }
        for (row& r : candidates) {
          if (passes(r) && kept.size() < most) kept.push_back(std::move(r));
        }
      }
      done += count;
    }
    any_concat_ |= concat;
    return kept;
  }

  bool without_system_turn() const { return without_system_turn_; }

  // What to do when no row is left.
  std::string advice() const {
    std::string text = "the calibration data gives no row of " + std::to_string(set_.seqlen) + " tokens: ";
    text += std::to_string(set_.records) + " records were read, the longest has " + std::to_string(set_.longest_record_tokens) + " tokens";
    if (set_.dropped_repetitive > 0)
      text += ", " + std::to_string(set_.dropped_repetitive) + " rows were dropped because one token fills more than half of them";
    if (any_concat_)
      return text + "; packed together (concat) they have " + std::to_string(total_tokens_) + " tokens; give more text or a smaller --seqlen";
    std::vector<std::int64_t> sorted = lengths_;
    std::sort(sorted.rbegin(), sorted.rend());
    while (!sorted.empty() && sorted.back() < 1) sorted.pop_back();
    if (sorted.empty() || set_.dropped_repetitive > 0) return text + "; give more and longer texts";
    const std::size_t wanted = std::min(sorted.size(), static_cast<std::size_t>(options_.nsamples));
    return text + "; give longer texts, pack them with :concat, or use --seqlen " + std::to_string(sorted[wanted - 1]) + ", which keeps " +
           std::to_string(wanted) + " rows";
  }

 private:
  std::size_t seqlen() const { return static_cast<std::size_t>(set_.seqlen); }

  // Called by several threads at a time.
  result<row> ids_of(const record& r, const dataset_part& part, const chat_template* chat, bool whole_text) {
    if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&r)) {
      if (part.apply_chat_template) return fail(error_kind::input, "a record is a list of token ids, which no chat template can take");
      for (const std::int32_t id : *ids) {
        if (static_cast<std::size_t>(id) >= tok_.vocab_size()) {
          return fail(error_kind::input, "a record has the token id " + std::to_string(id) + ", which the tokenizer does not have");
        }
      }
      return row(ids->begin(), ids->begin() + static_cast<std::ptrdiff_t>(std::min(ids->size(), seqlen())));
    }
    if (chat == nullptr || (r.index() == 0 && !part.apply_chat_template)) {
      const std::string& text = std::get<std::string>(r);
      return whole_text ? tok_.encode(text, true) : tok_.encode_truncated(text, seqlen());
    }
    std::vector<chat_message> messages;
    if (part.apply_chat_template && !part.system_prompt.empty()) messages.push_back({"system", part.system_prompt});
    if (const auto* text = std::get_if<std::string>(&r)) {
      messages.push_back({"user", *text});
    } else {
      const auto& turns = std::get<std::vector<chat_message>>(r);
      messages.insert(messages.end(), turns.begin(), turns.end());
    }
    auto rendered = chat->render(messages, true, tok_.bos_token(), tok_.eos_token());
    if (!rendered && rendered.error().kind == error_kind::input) {
      // Some templates refuse a system turn.
      std::erase_if(messages, [](const chat_message& m) { return m.role == "system"; });
      rendered = chat->render(messages, true, tok_.bos_token(), tok_.eos_token());
      if (rendered) {
#pragma omp atomic write
        without_system_turn_ = true;
      }
    }
    if (!rendered) return fail(rendered.error().kind, rendered.error().message, tok_.chat_template_file());
    // Special tokens are added to those that the template printed: two BOS are possible, as in the original.
    return tok_.encode_truncated(*rendered, seqlen());
  }

  // Full length, and not mostly one token: the original drops such rows as padding.
  bool passes(const row& r) {
    if (r.size() < seqlen()) {
      ++set_.dropped_short;
      return false;
    }
    const auto end = r.begin() + set_.seqlen;
    if (set_.seqlen > 2 && std::count(r.begin(), end, end[-1]) > set_.seqlen / 2) {
      ++set_.dropped_repetitive;
      return false;
    }
    return true;
  }

  const tokenizer& tok_;
  const calibration_options& options_;
  calibration_set& set_;
  std::vector<std::int64_t> lengths_;
  std::int64_t total_tokens_ = 0;
  bool any_concat_ = false;
  bool without_system_turn_ = false;
};

// How many rows of each part are used, and in which order of the parts (spec section 8, with its two oddities kept: `available` is indexed by the
// place in the sorted order although it is in the given order, and every count that is taken lowers what is left for the others).
std::vector<row> mix(const std::vector<dataset_part>& parts, std::vector<std::vector<row>> rows, const calibration_options& options,
                     std::vector<std::string>& warnings) {
  const std::size_t count = parts.size();
  std::vector<std::pair<std::string, std::int64_t>> num;  // by name; the last one given counts for all parts of that name
  for (const dataset_part& p : parts) {
    if (!p.num) continue;
    const auto known = std::find_if(num.begin(), num.end(), [&](const auto& n) { return n.first == p.name; });
    if (known == num.end()) {
      num.emplace_back(p.name, *p.num);
    } else {
      known->second = *p.num;
    }
  }
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return rows[a].size() < rows[b].size(); });
  std::vector<std::int64_t> available;
  for (const auto& r : rows) available.push_back(static_cast<std::int64_t>(r.size()));

  const auto floor_div = [](std::int64_t a, std::int64_t b) { return a / b - ((a % b != 0 && (a < 0) != (b < 0)) ? 1 : 0); };
  std::int64_t taken = 0;
  for (const auto& [name, n] : num) taken += n;
  if (taken > options.nsamples) taken = 0;
  std::vector<row> all;
  for (std::size_t i = 0; i < count; ++i) {
    const dataset_part& part = parts[order[i]];
    const auto fixed = std::find_if(num.begin(), num.end(), [&](const auto& n) { return n.first == part.name; });
    std::int64_t target = 0;
    if (fixed != num.end()) {
      target = fixed->second;
    } else {
      const auto others = static_cast<std::int64_t>(num.empty() ? count - i : count - num.size());
      target = std::min(floor_div(options.nsamples - taken, others), available[i]);
      taken += target;
    }
    auto& from = rows[order[i]];
    if (target > static_cast<std::int64_t>(from.size())) {
      warnings.push_back("the data set \"" + part.name + "\" has only " + std::to_string(from.size()) + " usable rows of the " +
                         std::to_string(target) + " that were to be taken from it");
      target = static_cast<std::int64_t>(from.size());
    }
    for (std::int64_t r = 0; r < target; ++r) all.push_back(std::move(from[static_cast<std::size_t>(r)]));
  }
  const auto permutation = numpy_permutation(seed_words(options.seed), static_cast<std::uint32_t>(all.size()));
  std::vector<row> out;
  for (const std::uint32_t p : permutation) out.push_back(std::move(all[p]));
  return out;
}

// Positions that a loss counts: neither padding, nor a repeated token at the end, nor the last (spec section 10).
void mark_valid(std::span<const std::int32_t> ids, std::int32_t pad, std::vector<std::uint8_t>& valid) {
  const std::size_t first = valid.size(), n = ids.size();
  for (const std::int32_t id : ids) valid.push_back(pad < 0 || id != pad ? 1 : 0);
  if (pad < 0) {
    for (std::size_t i = n - 1; i-- > 0 && ids[i] == ids[n - 1];) valid[first + i] = 0;
  }
  valid[first + n - 1] = 0;
}

}  // namespace

result<calibration_set> load_calibration(const tokenizer& tok, const calibration_options& options) {
  if (options.nsamples < 1 || options.nsamples > INT32_MAX) return fail(error_kind::usage, "--nsamples needs a number of 1 to 2147483647");
  if (options.seqlen < 1 || options.seqlen > INT32_MAX) return fail(error_kind::usage, "--seqlen needs a number of 1 to 2147483647");
  if (options.batch_size < 1) return fail(error_kind::usage, "--batch_size needs a number of 1 or more");
  if (options.seed < 0) return fail(error_kind::usage, "--seed needs a number of 0 or more");
  const auto parts = parse_dataset(options.dataset);
  if (!parts) return forward_error(parts);

  calibration_set set;
  set.seqlen = options.seqlen;
  if (tok.model_max_length() > 0 && tok.model_max_length() < set.seqlen) {
    set.seqlen = tok.model_max_length();
    set.warnings.push_back("seqlen is lowered to " + std::to_string(set.seqlen) + ", the tokenizer's model_max_length");
  }

  loader load(tok, options, set);
  std::vector<std::vector<row>> rows;
  std::vector<std::pair<std::string, std::size_t>> num;  // the last count given for a name so far: it holds for parts behind it too
  for (const dataset_part& part : *parts) {
    if (part.num) num.emplace_back(part.name, static_cast<std::size_t>(*part.num));
    std::size_t most = parts->size() == 1 ? static_cast<std::size_t>(options.nsamples) : SIZE_MAX;
    const auto limit = std::find_if(num.rbegin(), num.rend(), [&](const auto& n) { return n.first == part.name; });
    if (limit != num.rend()) most = std::min(most, limit->second);
    auto loaded = load.load(part, most);
    if (!loaded) return forward_error(loaded);
    rows.push_back(std::move(*loaded));
  }
  std::vector<row> chosen = parts->size() == 1 ? std::move(rows[0]) : mix(*parts, std::move(rows), options, set.warnings);
  if (chosen.size() > static_cast<std::size_t>(options.nsamples)) chosen.resize(static_cast<std::size_t>(options.nsamples));
  if (load.without_system_turn()) set.warnings.push_back("the chat template refused a system turn; such records were rendered without it");

  // Batches, each of which is filtered once more, this time whatever the length of a row.
  const std::int32_t pad = tok.pad_id();
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    if (i % static_cast<std::size_t>(options.batch_size) == 0) set.batch_rows.push_back(0);
    const row& r = chosen[i];
    if (std::count(r.begin(), r.end(), r.back()) > set.seqlen / 2) {
      ++set.dropped_repetitive;
      continue;
    }
    ++set.batch_rows.back();
    set.ids.insert(set.ids.end(), r.begin(), r.end());
    mark_valid(r, pad, set.valid);
  }
  if (set.rows() == 0) return fail(error_kind::input, load.advice(), parts->size() == 1 ? parts->front().name : std::string());
  if (set.rows() < options.nsamples) {
    set.warnings.push_back("the calibration data gives " + std::to_string(set.rows()) + " rows of " + std::to_string(set.seqlen) + " tokens, " +
                           std::to_string(options.nsamples) + " were asked for");
  }
  if (set.rows() < options.batch_size) {
    set.warnings.push_back("the batch size is lowered to " + std::to_string(set.rows()) + ", the number of rows");
  }
  return set;
}

}  // namespace auto_round::text
