// Choice of matrices and the weights that follow. Source: auto-round 0.16.1, algorithms/transforms; where it changes what a model computes (biases of
// v_proj) or leaves a rotation out (sizes that are no power of two), this does what it means.
#include "transform/rotation.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "ar/hadamard.hpp"
#include "ar/numeric/half.hpp"

namespace auto_round::transform {
namespace {

using model::row_rotation;
using shared_rotation = std::shared_ptr<const row_rotation>;

float rounded(float x, ar::real type) {
  if (type == ar::real::bf16) return ar::round_to_bf16(x);
  if (type == ar::real::f16) return ar::round_to_f16(x);
  return x;
}

/// How a family makes its matrices.
class matrix_maker {
 public:
  matrix_maker(rotation_family family, const sign_source& signs, bool peer, rotation_places& to)
      : family_(family), signs_(signs), peer_(peer), to_(to) {}

  /// U of order n. `applied`: to weights or activations one by one; else the reference keeps a matrix, whose entries are rounded.
  result<row_rotation> fixed(std::size_t n, bool applied) const {
    auto r = row_rotation::hadamard(n, rule(n));
    if (!r || !peer_ || (applied && family_ == rotation_family::spinquant)) return r;
    const double root = std::sqrt(static_cast<double>(n)), short_root = static_cast<double>(static_cast<float>(root));
    if (family_ == rotation_family::inplace) return r->divided_by(short_root);
    if (family_ == rotation_family::transform) return r->divided_by(1.0 / static_cast<double>(static_cast<float>(1.0 / root)));
    return r->divided_by(1.0 / static_cast<double>(1.0f / static_cast<float>(short_root)));
  }

  /// R of order n behind the signs of `key`.
  result<row_rotation> random(const std::string& key, std::size_t n) const {
    auto signs = signs_(key, n);
    if (!signs) return forward_error(signs);
    to_.signs[key] = *signs;
    auto r = row_rotation::random(n, rule(n), std::move(*signs));
    if (!r || !peer_) return r;
    const double root = std::sqrt(static_cast<double>(n));
    if (family_ == rotation_family::inplace) return r->divided_by(static_cast<double>(static_cast<float>(root)));
    return r->divided_by(1.0 / static_cast<double>(static_cast<float>(1.0 / root)));
  }

 private:
  ar::hadamard_rule rule(std::size_t n) const {
    if (family_ == rotation_family::spinquant && ar::hadamard_factor(n, ar::hadamard_rule::spinquant) != 0) return ar::hadamard_rule::spinquant;
    return ar::hadamard_rule::any;
  }

  rotation_family family_;
  const sign_source& signs_;
  bool peer_;
  rotation_places& to_;
};

result<std::size_t> block_of(const char* what, std::int64_t size, std::int64_t width, rotation_places& places) {
  const auto n = static_cast<std::size_t>(width);
  if (size > 0) {
    if (width % size != 0) {
      return fail(error_kind::usage, std::string(what) + " in blocks of " + std::to_string(size) + " does not fit rows of " + std::to_string(width) +
                                         " values; choose a size that divides them");
    }
    return static_cast<std::size_t>(size);
  }
  if (ar::hadamard_factor(n, ar::hadamard_rule::any) != 0) return n;
  const std::size_t block = ar::largest_hadamard_divisor(n);
  if (block < 4) {
    return fail(error_kind::unsupported,
                std::string(what) + ": there is no Hadamard matrix for rows of " + std::to_string(width) + " values, nor for parts of them");
  }
  places.notes.push_back(std::string(what) + ": no Hadamard matrix has " + std::to_string(width) + " rows; blocks of " + std::to_string(block) +
                         " are rotated");
  return block;
}

shared_rotation share(row_rotation r) { return std::make_shared<const row_rotation>(std::move(r)); }

result<void> place_spinquant(const model::model_spec& spec, const rotation_options& o, bool online_only, const matrix_maker& make,
                             rotation_places& places) {
  const auto head = static_cast<std::size_t>(spec.head_dim);
  if (o.r1 && !(online_only && !o.online_r1)) {
    auto n = block_of("R1", o.rotation_size, spec.hidden_size, places);
    if (!n) return forward_error(n);
    const bool whole = *n == static_cast<std::size_t>(spec.hidden_size);
    auto r = o.random_r1 ? make.random("r1", *n) : make.fixed(*n, o.online_r1);
    if (!r) return forward_error(r);
    const shared_rotation r1 = share(std::move(*r));
    if (o.online_r1) {
      places.online.attention_input = places.online.mlp_input = r1;
      places.weights_in_own_type[0] = places.weights_in_own_type[2] = whole && !o.random_r1;
    } else {
      places.residual = r1;
    }
  }
  if (o.r2 && !online_only) {
    auto r = o.random_r2 ? make.random("r2", head) : make.fixed(head, false);
    if (!r) return forward_error(r);
    places.values = share(std::move(*r));
  }
  if (o.r3) {
    auto r = o.random_r3 ? make.random("r3", head) : make.fixed(head, true);
    if (!r) return forward_error(r);
    places.online.query_key = share(std::move(*r));
  }
  if (o.r4) {
    auto n = block_of("R4", o.rotation_size, spec.intermediate_size, places);
    if (!n) return forward_error(n);
    auto r = o.random_r4 ? make.random("r4", *n) : make.fixed(*n, true);
    if (!r) return forward_error(r);
    places.online.down_input = share(std::move(*r));
    places.weights_in_own_type[3] = !o.random_r4;
  }
  return {};
}

result<void> place_inplace(const model::model_spec& spec, const rotation_options& o, bool online_only, const matrix_maker& make,
                           rotation_places& places) {
  const auto hidden = static_cast<std::size_t>(spec.hidden_size), inner = static_cast<std::size_t>(spec.intermediate_size);
  const auto head = static_cast<std::size_t>(spec.head_dim), heads = static_cast<std::size_t>(spec.num_heads);
  const bool random = o.type == hadamard_type::random_hadamard;
  std::map<std::size_t, row_rotation> kept;  // one random matrix for each order
  const auto drawn = [&](std::size_t n) -> result<row_rotation> {
    if (const auto at = kept.find(n); at != kept.end()) return at->second;
    auto r = make.random(std::to_string(n), n);
    if (r) kept.emplace(n, *r);
    return r;
  };
  // The reference applies its random matrices the other way round, except to the whole residual stream.
  const auto transform = [&](std::size_t n) -> result<row_rotation> {
    if (!random) return make.fixed(n, true);
    auto r = drawn(n);
    if (!r) return r;
    return r->transposed();
  };
  const auto place = [&](shared_rotation& at, result<row_rotation> r) -> result<void> {
    if (!r) return forward_error(r);
    at = share(std::move(*r));
    return {};
  };
  const auto blocks = o.block_size > 0 ? o.block_size : 0;
  if (blocks > 0) {
    for (const std::int64_t width : {spec.hidden_size, spec.intermediate_size, spec.num_heads * spec.head_dim})
      if (auto n = block_of("the rotation", blocks, width, places); !n) return forward_error(n);
  }
  const auto width = [&](std::size_t whole) { return blocks > 0 ? static_cast<std::size_t>(blocks) : whole; };
  if (!o.fused) {
    for (const auto& [at, whole] : {std::pair{&places.online.attention_input, hidden}, std::pair{&places.online.down_input, inner},
                                    std::pair{&places.online.o_input, heads * head}})
      if (auto r = place(*at, transform(width(whole))); !r) return r;
    places.online.mlp_input = places.online.attention_input;
    return {};
  }
  if (blocks > 0) {
    if (!online_only)
      if (auto r = place(places.residual, transform(width(hidden))); !r) return r;
    if (auto r = place(places.online.down_input, transform(width(inner))); !r) return r;
    places.online.o_input = places.online.down_input;
    return {};
  }
  if (!online_only)
    if (auto r = place(places.residual, random || o.type == hadamard_type::quarot_hadamard ? drawn(hidden) : make.fixed(hidden, true)); !r) return r;
  if (auto r = place(places.online.down_input, transform(inner)); !r) return r;
  if (!online_only)
    if (auto r = place(places.values, transform(head)); !r) return r;
  auto across = transform(heads);
  if (!across) {
    return fail(error_kind::unsupported, "the rotation mixes heads, and there is no Hadamard matrix for " + std::to_string(heads) +
                                             " of them; rotate in blocks (--rotation_block_size), or use the algorithm quarot");
  }
  return place(places.online.o_input, across->across(head));
}

result<void> place_transform(const model::model_spec& spec, const rotation_options& o, bool peer, rotation_places& places) {
  const std::int64_t size = o.block_size > 0 ? o.block_size : 32;
  for (const std::int64_t width : {spec.hidden_size, spec.intermediate_size, spec.num_heads * spec.head_dim})
    if (auto n = block_of("the rotation", size, width, places); !n) return forward_error(n);
  const auto b = static_cast<std::size_t>(size);
  const bool random = o.type != hadamard_type::hadamard;
  std::vector<std::int8_t> signs(b);
  ar::mt19937 generator(ar::hadamard_default_seed);  // the reference's: all its random matrices are the same
  ar::random_signs(generator, signs.data(), b);
  auto r = random ? row_rotation::random(b, ar::hadamard_rule::random, std::move(signs)) : row_rotation::hadamard(b, ar::hadamard_rule::any);
  if (!r) return forward_error(r);
  if (peer) r = r->divided_by(1.0 / static_cast<double>(static_cast<float>(1.0 / std::sqrt(static_cast<double>(b)))));
  const shared_rotation all = share(r->transposed());
  places.online.attention_input = places.online.o_input = places.online.mlp_input = places.online.down_input = all;
  return {};
}

}  // namespace

sign_source drawn_signs(std::uint32_t seed) {
  return [generator = ar::mt19937(seed)](const std::string&, std::size_t n) mutable -> result<std::vector<std::int8_t>> {
    std::vector<std::int8_t> signs(n);
    ar::random_signs(generator, signs.data(), n);
    return signs;
  };
}

result<rotation_places> place_rotations(const model::model_spec& spec, const rotation_options& options, const sign_source& signs, bool online_only,
                                        bool peer) {
  if (!spec.plain()) {
    return fail(error_kind::unsupported,
                "rotation is worked out for models laid out as LLaMA; of '" + spec.architecture +
                    "' it is not known what reads and writes the residual stream, so its rotated model might compute something else");
  }
  rotation_places places;
  const matrix_maker make(options.family, signs, peer, places);
  result<void> done;
  switch (options.family) {
    case rotation_family::spinquant:
      done = place_spinquant(spec, options, online_only, make, places);
      break;
    case rotation_family::inplace:
      done = place_inplace(spec, options, online_only, make, places);
      break;
    case rotation_family::transform:
      done = place_transform(spec, options, peer, places);
      break;
  }
  if (!done) return forward_error(done);
  return places;
}

rotated_source::rotated_source(const model::weight_source& base, rotation_places places, arithmetic how)
    : base_(base), places_(std::move(places)), how_(std::move(how)), spec_(base.spec()), tied_(base.spec().tie_word_embeddings) {
  if (places_.residual != nullptr) spec_.tie_word_embeddings = false;  // the head takes the weight of the final norm, the embedding does not
  if (places_.online.any()) online_ = std::make_shared<const model::block_rotations>(places_.online);
  for (std::size_t i = 0; i < spec_.linears.size(); ++i) linear_index_.emplace(spec_.linears[i].name, static_cast<int>(i));
}

std::shared_ptr<const model::block_rotations> rotated_source::rotations(std::int64_t layer) const {
  return online_ != nullptr ? online_ : base_.rotations(layer);
}

rotated_source::recipe rotated_source::recipe_of(const std::string& name) const {
  recipe r;
  r.source = name;
  const row_rotation* const residual = places_.residual.get();
  const auto add = [&](step::side where, const row_rotation* by, bool own_type = false) {
    if (by != nullptr) r.steps.push_back({where, by, {}, own_type});
  };
  if (name == spec_.embed_name || name == spec_.head_name) {
    r.cols = static_cast<std::uint64_t>(spec_.hidden_size);
    if (residual == nullptr) return r;
    if (name == spec_.head_name) {
      if (tied_) r.source = spec_.embed_name;
      r.steps.push_back({step::side::scale, nullptr, spec_.final_norm_name, false});
    }
    add(step::side::in, residual);
    return r;
  }
  if (name == spec_.final_norm_name) {
    r.ones = residual != nullptr;
    return r;
  }
  if (!name.starts_with(spec_.block_prefix)) return r;
  const std::size_t dot = name.find('.', spec_.block_prefix.size());
  if (dot == std::string::npos) return r;
  const std::string prefix = name.substr(0, dot + 1), inside = name.substr(dot + 1);
  if (inside == spec_.input_norm_name || inside == spec_.post_attention_norm_name) {
    r.ones = residual != nullptr;
    return r;
  }
  const std::size_t end = inside.rfind('.');
  const std::string part = end == std::string::npos ? std::string() : inside.substr(end);
  const auto at = linear_index_.find(std::string_view(inside).substr(0, end == std::string::npos ? inside.size() : end));
  if (at == linear_index_.end() || (part != ".weight" && part != ".bias")) return r;
  const int i = at->second;
  const bool writes = i == spec_.o || i == spec_.down;
  r.bias = part == ".bias";
  r.cols = static_cast<std::uint64_t>(spec_.linears[static_cast<std::size_t>(i)].in_features);
  if (r.bias) {
    if (writes) add(step::side::out, residual);
    if (i == spec_.v) add(step::side::out, places_.values.get());
    return r;
  }
  r.kept = false;
  if (residual != nullptr && !writes)
    r.steps.push_back(
        {step::side::scale, nullptr, prefix + (i == spec_.gate || i == spec_.up ? spec_.post_attention_norm_name : spec_.input_norm_name), false});
  add(writes ? step::side::out : step::side::in, residual);
  if (i == spec_.v) add(step::side::out, places_.values.get());
  if (i == spec_.o) add(step::side::in, places_.values.get());
  const int site = i == spec_.o ? 1 : i == spec_.gate || i == spec_.up ? 2 : i == spec_.down ? 3 : 0;
  const shared_rotation* const inputs[4] = {&places_.online.attention_input, &places_.online.o_input, &places_.online.mlp_input,
                                            &places_.online.down_input};
  // v is rotated at its input before its output in the reference, which rounds between the two.
  if (i == spec_.v && places_.values != nullptr && inputs[site]->get() != nullptr)
    r.steps.insert(r.steps.end() - 1, {step::side::in, inputs[site]->get(), {}, places_.weights_in_own_type[site]});
  else
    add(step::side::in, inputs[site]->get(), places_.weights_in_own_type[site]);
  return r;
}

bool rotated_source::changed(const std::string& name) const {
  const recipe r = recipe_of(name);
  return r.ones || !r.steps.empty() || base_.changed(r.source);
}

bool rotated_source::has(const std::string& name) const { return base_.has(recipe_of(name).source); }

std::vector<std::uint64_t> rotated_source::shape(const std::string& name) const { return base_.shape(recipe_of(name).source); }

result<std::vector<float>> rotated_source::gamma(const std::string& norm) const {
  return model::read_tensor(base_, norm, {static_cast<std::uint64_t>(spec_.hidden_size)});
}

result<void> rotated_source::read(const std::string& name, std::span<float> out) const {
  const recipe r = recipe_of(name);
  if (r.ones) {
    std::fill(out.begin(), out.end(), 1.0f);
    return {};
  }
  if (auto read = base_.read(r.source, out); !read) return read;
  if (r.steps.empty()) return {};
  return how_.peer ? apply_as_peer(r, out) : apply(r, out);
}

result<void> rotated_source::read_part(const std::string& name, std::uint64_t elements, std::uint64_t first, std::span<float> out) const {
  const recipe r = recipe_of(name);
  const bool by_rows = r.cols != 0 && first % r.cols == 0 && out.size() % r.cols == 0 &&
                       std::none_of(r.steps.begin(), r.steps.end(), [](const step& s) { return s.where == step::side::out; });
  if (!by_rows) return weight_source::read_part(name, elements, first, out);
  if (auto read = base_.read_part(r.source, elements, first, out); !read) return read;
  if (r.steps.empty()) return {};
  return how_.peer ? apply_as_peer(r, out) : apply(r, out);
}

result<void> rotated_source::apply(const recipe& r, std::span<float> values) const {
  const std::size_t cols = r.bias ? 1 : static_cast<std::size_t>(r.cols), rows = values.size() / cols;
  const ar::real type = r.kept ? type_of(r) : ar::real::f32;
  std::vector<std::vector<float>> scales;
  for (const step& s : r.steps) {
    if (s.where != step::side::scale) continue;
    auto g = gamma(s.norm);
    if (!g) return forward_error(g);
    scales.push_back(std::move(*g));
  }
  // Factors from the left and from the right commute, so all that mix rows come first.
  const bool mixes_rows = std::any_of(r.steps.begin(), r.steps.end(), [](const step& s) { return s.where == step::side::out; });
  std::vector<double> whole(mixes_rows ? values.size() : 0);
  if (mixes_rows) {
    std::copy(values.begin(), values.end(), whole.begin());
    constexpr std::size_t strip = 64;
    for (const step& s : r.steps) {
      if (s.where != step::side::out) continue;
#pragma omp parallel for schedule(static)
      for (std::size_t c = 0; c < cols; c += strip) s.by->columns(whole.data() + c, rows, std::min(strip, cols - c), cols);
    }
  }
  const std::size_t piece = std::max<std::size_t>(1, (std::size_t{1} << 15) / cols);
#pragma omp parallel
  {
    std::vector<double> own(mixes_rows ? 0 : piece * cols);
#pragma omp for schedule(static)
    for (std::size_t first = 0; first < rows; first += piece) {
      const std::size_t n = std::min(piece, rows - first);
      double* const x = mixes_rows ? whole.data() + first * cols : own.data();
      float* const out = values.data() + first * cols;
      if (!mixes_rows) std::copy_n(out, n * cols, x);
      auto scale = scales.begin();
      for (const step& s : r.steps) {
        if (s.where == step::side::in) s.by->rows(x, n, cols);
        if (s.where != step::side::scale) continue;
        for (std::size_t i = 0; i < n; ++i)
          for (std::size_t c = 0; c < cols; ++c) x[i * cols + c] *= static_cast<double>((*scale)[c]);
        ++scale;
      }
      for (std::size_t i = 0; i < n * cols; ++i) out[i] = rounded(static_cast<float>(x[i]), type);
    }
  }
  return {};
}

result<void> rotated_source::apply_as_peer(const recipe& r, std::span<float> values) const {
  const std::size_t cols = r.bias ? 1 : static_cast<std::size_t>(r.cols), rows = values.size() / cols;
  const ar::real type = type_of(r);
  std::vector<double> x(values.size());
  for (const step& s : r.steps) {
    if (s.own_type) {
      s.by->rows(values.data(), rows, cols, false, type);
      continue;
    }
    std::copy(values.begin(), values.end(), x.begin());
    if (s.where == step::side::scale) {
      auto g = gamma(s.norm);
      if (!g) return forward_error(g);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] *= static_cast<double>((*g)[i % cols]);
    } else if (s.where == step::side::in) {
      s.by->rows(x.data(), rows, cols);
    } else {
      s.by->columns(x.data(), rows, cols, cols);
    }
    std::transform(x.begin(), x.end(), values.begin(), [&](double v) { return rounded(static_cast<float>(v), type); });
  }
  return {};
}

}  // namespace auto_round::transform
