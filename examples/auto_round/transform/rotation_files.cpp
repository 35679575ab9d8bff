// Reading and writing of rotations. Source: auto-round 0.16.1, algorithms/transforms and inference/convert_model.py;
// golden/rotation/config_json.json.
#include "transform/rotation_files.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string_view>
#include <utility>

#include "io/tensor.hpp"

namespace auto_round::transform {
namespace {

using model::row_rotation;

constexpr std::string_view signs_prefix = "rotation_signs.";
enum buffer_type : std::int32_t { fixed_matrix = 0, random_matrix = 1, trained_matrix = 2 };

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& v) {
  const auto raw = std::as_bytes(std::span(v));
  return {raw.begin(), raw.end()};
}

stored_tensor scalar(std::string name, std::size_t value) {
  return {{std::move(name), io::dtype::i32, {}}, bytes_of(std::vector<std::int32_t>{static_cast<std::int32_t>(value)})};
}

stored_tensor packed_signs(const std::string& key, const std::vector<std::int8_t>& signs) {
  std::vector<std::byte> bits((signs.size() + 7) / 8);
  for (std::size_t i = 0; i < signs.size(); ++i)
    if (signs[i] > 0) bits[i / 8] |= std::byte{1} << (i % 8);
  const std::uint64_t n = bits.size();
  return {{std::string(signs_prefix) + key, io::dtype::u8, {n}}, std::move(bits)};
}

/// Signs of R = diag(signs) U: row i is U of the i-th unit vector times its sign.
std::vector<std::int8_t> matrix_signs(std::size_t n, const std::vector<std::int8_t>& signs) {
  ar::hadamard h;
  const auto rule = ar::hadamard_factor(n, ar::hadamard_rule::spinquant) != 0 ? ar::hadamard_rule::spinquant : ar::hadamard_rule::any;
  std::vector<std::int8_t> m(n * n);
  if (ar::hadamard::make(n, rule, h) != ar::errc::ok) return m;
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) m[i * n + j] = static_cast<std::int8_t>(signs[i] * h.entry(j, i));
  return m;
}

/// The matrix M of family transform, from the rotation of inputs: rows x become x M'.
std::vector<float> applied_matrix(const row_rotation& by) {
  const std::size_t n = by.order();
  std::vector<float> m(n * n, 0.0f);
  for (std::size_t i = 0; i < n; ++i) m[i * n + i] = 1.0f;
  by.rows(m.data(), n, n, true);
  return m;
}

constexpr std::array<const char*, 3> type_names = {"hadamard", "random_hadamard", "quarot_hadamard"};

// ---- reading ----

/// A checked object of config.json: every field that is asked for must be there with its type.
class fields {
 public:
  fields(const io::json& object, std::string where, std::string file) : object_(object), where_(std::move(where)), file_(std::move(file)) {}
  bool boolean(const char* key) {
    const io::json& v = object_.at(key);
    if (!v.is_bool()) refuse(key, "must be true or false");
    return v.as_bool();
  }
  /// 0 for null.
  std::int64_t size(const char* key) {
    const io::json* v = object_.find(key);
    if (v != nullptr && v->is_null()) return 0;
    const std::int64_t n = v == nullptr ? 0 : v->as_int();
    if (n < 1 || n > (std::int64_t{1} << 24)) refuse(key, "must be a positive number or null");
    return std::max<std::int64_t>(n, 0);
  }
  void same(const char* key, std::int64_t expected) {
    if (object_.at(key).as_int(-1) != expected) refuse(key, "must be " + std::to_string(expected) + " for this model");
  }
  void same(const char* key, const char* expected) {
    if (object_.at(key).as_string() != expected) refuse(key, std::string("must be \"") + expected + "\"");
  }
  const std::string& text(const char* key) {
    if (!object_.at(key).is_string()) refuse(key, "must be a string");
    return object_.at(key).as_string();
  }
  const io::json& raw(const char* key) const { return object_.at(key); }
  void refuse(const char* key, const std::string& what) {
    if (!problem_)
      problem_ =
          error{error_kind::input, "'" + where_ + "." + key + "' " + what + "; the rotation of this model cannot be undone without it", file_, {}};
  }
  const std::optional<error>& problem() const { return problem_; }

 private:
  const io::json& object_;
  std::string where_, file_;
  std::optional<error> problem_;
};

class reader {
 public:
  reader(const io::checkpoint_dir& dir, const model::model_spec& spec) : dir_(dir), spec_(spec), file_(dir.path() + "/config.json") {}

  result<std::optional<found_rotation>> read() {
    const io::json& config = dir_.config();
    const io::json& quantization = config.at("quantization_config");
    const auto section = [&](const char* key) -> const io::json& {
      return quantization.find(key) != nullptr ? quantization.at(key) : config.at(key);
    };
    const io::json &spinquant = section("spinquant_config"), &hadamard = section("rotation_config");
    const bool has_spinquant = spinquant.is_object() && !spinquant.members().empty(),
               has_hadamard = hadamard.is_object() && !hadamard.members().empty();
    if (has_spinquant && has_hadamard) return bad("config.json describes two rotations, 'spinquant_config' and 'rotation_config'");
    for (const io::json* v : {&spinquant, &hadamard})
      if (!v->is_null() && !v->is_object()) return bad("'spinquant_config' and 'rotation_config' must be objects");
    if (!has_spinquant) {
      // Stray spinquant_R1 and the like, which the reference also writes, are no buffers of layers.
      for (const io::tensor_ref& t : dir_.tensors())
        if (is_buffer(t.name) || (!has_hadamard && (t.name.starts_with(signs_prefix) || t.name.ends_with(".hadamard_matrix"))))
          return bad("the tensor belongs to a rotation of which config.json says nothing", t.name);
      if (!has_hadamard) return std::optional<found_rotation>();
    }
    if (auto r = has_spinquant ? read_spinquant(spinquant) : read_hadamard(hadamard, quantization); !r) return forward_error(r);
    auto places = place_rotations(
        spec_, found_.options, [this](const std::string& key, std::size_t n) { return signs(key, n); }, true);
    if (!places) {
      error e = places.error();
      if (e.file.empty()) e.file = file_;
      if (e.kind == error_kind::usage) e.kind = error_kind::input;
      return tl::unexpected<error>(std::move(e));
    }
    if (has_spinquant) {
      if (auto r = check_buffers(*places); !r) return forward_error(r);
    } else if (auto r = check_matrices(*places); !r) {
      return forward_error(r);
    }
    if (places->online.any()) found_.online = std::make_shared<const model::block_rotations>(std::move(places->online));
    if (auto r = read_other_signs(); !r) return forward_error(r);
    return std::optional<found_rotation>(std::move(found_));
  }

 private:
  tl::unexpected<error> bad(std::string what, std::string tensor = {}) const {
    return fail(error_kind::input, std::move(what), file_, std::move(tensor));
  }

  static bool is_buffer(std::string_view name) {
    for (const char* part :
         {".spinquant_r1_type", ".spinquant_r1_size", ".spinquant_r1_matrix", ".spinquant_r4_type", ".spinquant_r4_size", ".spinquant_r4_matrix"})
      if (name.ends_with(part)) return true;
    return false;
  }

  result<void> read_spinquant(const io::json& object) {
    fields f(object, "spinquant_config", file_);
    rotation_options& o = found_.options;
    o.family = rotation_family::spinquant;
    o.r1 = f.boolean("r1"), o.r2 = f.boolean("r2"), o.r3 = f.boolean("r3"), o.r4 = f.boolean("r4");
    o.online_r1 = f.boolean("online_r1_rotation");
    o.rotation_size = f.size("rotation_size");
    o.random_r1 = f.boolean("random_r1"), o.random_r2 = f.boolean("random_r2"), o.random_r3 = f.boolean("random_r3"),
    o.random_r4 = f.boolean("random_r4");
    o.trained = f.boolean("trainable_rotation");
    f.same("head_dim", spec_.head_dim);
    f.same("hidden_size", spec_.hidden_size);
    f.same("intermediate_size", spec_.intermediate_size);
    f.same("algorithm", "spinquant");
    if (f.problem()) return tl::unexpected<error>(*f.problem());
    return {};
  }

  result<void> read_hadamard(const io::json& object, const io::json& quantization) {
    fields f(object, "rotation_config", file_);
    rotation_options& o = found_.options;
    f.same("algorithm", "hadamard");
    o.block_size = f.size("block_size");
    const std::string type = f.text("hadamard_type"), backend = f.text("backend");
    const auto at = std::find(type_names.begin(), type_names.end(), type);
    if (at == type_names.end())
      f.refuse("hadamard_type", "is none of hadamard, random_hadamard, quarot_hadamard");
    else
      o.type = static_cast<hadamard_type>(at - type_names.begin());
    const io::json& fuse = f.raw("fuse_online_to_weight");
    const std::string& data_type = quantization.at("data_type").as_string();
    const bool blocks = data_type.starts_with("mx") || data_type.starts_with("nv");
    if (backend == "transform" || (backend == "auto" && blocks && !fuse.as_bool())) {
      o.family = rotation_family::transform;
    } else if (backend == "inplace" && fuse.is_bool()) {
      o.family = rotation_family::inplace;
      o.fused = fuse.as_bool();
    } else {
      f.refuse("backend", "and 'fuse_online_to_weight' do not say which weights are rotated (auto-round cannot load such a checkpoint either)");
    }
    if (f.problem()) return tl::unexpected<error>(*f.problem());
    return {};
  }

  const io::tensor_ref* find(const std::string& name) const { return dir_.find(name); }

  result<std::vector<std::int8_t>> unpack(const io::tensor_ref& t, std::size_t n) const {
    if (t.type != io::dtype::u8 || t.shape != std::vector<std::uint64_t>{(n + 7) / 8})
      return bad("the signs of a rotation have another type or number than " + std::to_string(n), t.name);
    std::vector<std::int8_t> signs(n);
    const io::pinned_bytes stored = t.bytes.pin();
    for (std::size_t i = 0; i < n; ++i) signs[i] = (stored[i / 8] >> (i % 8) & std::byte{1}) != std::byte{} ? std::int8_t{1} : std::int8_t{-1};
    return signs;
  }

  /// Random signs: ours, or what the reference's matrices show.
  result<std::vector<std::int8_t>> signs(const std::string& key, std::size_t n) {
    if (const io::tensor_ref* t = find(std::string(signs_prefix) + key)) {
      auto s = unpack(*t, n);
      if (s) found_.signs[key] = *s;
      return s;
    }
    const bool spinquant = found_.options.family == rotation_family::spinquant;
    if (spinquant && key == "r3") return signs_of_float_matrix("spinquant_R3_head", n);
    if (spinquant && (key == "r1" || key == "r4")) {
      const int linear = key == "r1" ? spec_.q : spec_.down;
      return signs_of_matrix(spec_.linear_name(0, linear) + ".spinquant_" + key + "_matrix", n);
    }
    return bad("a random rotation needs the signs that it was made with", std::string(signs_prefix) + key);
  }

  /// The signs behind a matrix of signs, which must be diag(signs) times the known Hadamard matrix.
  template <class At>
  result<std::vector<std::int8_t>> recover(const std::string& name, std::size_t n, At at) {
    const std::vector<std::int8_t> plain = matrix_signs(n, std::vector<std::int8_t>(n, 1));
    std::vector<std::int8_t> signs(n);
    for (std::size_t i = 0; i < n; ++i) {
      signs[i] = (at(i, 0) > 0) == (plain[i * n] > 0) ? std::int8_t{1} : std::int8_t{-1};
      for (std::size_t j = 0; j < n; ++j)
        if ((at(i, j) > 0) != (signs[i] * plain[i * n + j] > 0)) return bad("the matrix is no random Hadamard matrix as auto-round makes them", name);
    }
    return signs;
  }
  result<std::vector<std::int8_t>> signs_of_matrix(const std::string& name, std::size_t n) {
    const io::tensor_ref* t = find(name);
    if (t == nullptr) return bad("a random rotation needs the matrix or the signs that it was made with", name);
    if (t->type != io::dtype::i8 || t->shape != std::vector<std::uint64_t>{n, n})
      return bad("the matrix of a rotation has another type or shape", name);
    const io::pinned_bytes stored = t->bytes.pin();
    auto s = recover(name, n, [&](std::size_t i, std::size_t j) { return static_cast<std::int8_t>(stored[i * n + j]); });
    if (s) found_.signs[name.find("_r1_") != std::string::npos ? "r1" : "r4"] = *s;
    return s;
  }
  result<std::vector<std::int8_t>> signs_of_float_matrix(const std::string& name, std::size_t n) {
    const io::tensor_ref* t = find(name);
    if (t == nullptr) return bad("a random rotation needs the matrix or the signs that it was made with", name);
    if (t->shape != std::vector<std::uint64_t>{n, n}) return bad("the matrix of a rotation has another shape", name);
    auto values = io::read_f32(*t);
    if (!values) return forward_error(values);
    return recover(name, n, [&](std::size_t i, std::size_t j) { return (*values)[i * n + j]; });
  }

  /// Buffers of R1 (online) and R4: there for every packed layer, and saying what config.json says.
  result<void> check_buffers(rotation_places& places) {
    const rotation_options& o = found_.options;
    for (std::int64_t l = 0; l < spec_.num_layers; ++l)
      for (int i = 0; i < static_cast<int>(spec_.linears.size()); ++i) {
        const std::string layer = spec_.linear_name(l, i);
        const bool reads_norm = i != spec_.o && i != spec_.down;
        const auto& by = reads_norm ? places.online.attention_input : i == spec_.down ? places.online.down_input : nothing_;
        if (auto r = check_layer(layer, "r1", reads_norm && o.r1 && o.online_r1, o.random_r1, by.get(), places, reads_norm); !r) return r;
        if (auto r = check_layer(layer, "r4", i == spec_.down && o.r4, o.random_r4, by.get(), places, false); !r) return r;
      }
    return {};
  }

  result<std::int32_t> scalar_of(const std::string& name) const {
    const io::tensor_ref* t = find(name);
    if (t == nullptr) return bad("a packed layer of a rotated model has no such buffer", name);
    if (t->type != io::dtype::i32 || t->elements() != 1) return bad("the buffer must be one I32 number", name);
    std::int32_t v = 0;
    std::memcpy(&v, t->bytes.pin().data(), sizeof(v));
    return v;
  }

  result<void> check_layer(const std::string& layer, const std::string& which, bool expected, bool random, const row_rotation* by,
                           rotation_places& places, bool reads_norm) {
    const std::string prefix = layer + ".spinquant_" + which;
    const bool present = find(prefix + "_type") != nullptr || find(prefix + "_size") != nullptr || find(prefix + "_matrix") != nullptr;
    if (!expected) {
      if (present) return bad("the layer has a rotation that config.json does not know", prefix + "_type");
      return {};
    }
    const bool packed = find(layer + ".qweight") != nullptr || find(layer + ".weight_packed") != nullptr;
    if (!present && !packed) return {};  // kept in float: the reference marks packed layers only
    auto type = scalar_of(prefix + "_type");
    if (!type) return forward_error(type);
    auto size = scalar_of(prefix + "_size");
    if (!size) return forward_error(size);
    if (*size < 1 || static_cast<std::size_t>(*size) != by->order())
      return bad("the size of the rotation, " + std::to_string(*size) + ", is not the " + std::to_string(by->order()) + " that config.json means",
                 prefix + "_size");
    if (*type == trained_matrix && found_.options.trained) return use_trained(prefix + "_matrix", by->order(), places, reads_norm);
    if (*type != (random ? random_matrix : fixed_matrix))
      return bad("the kind of rotation, " + std::to_string(*type) + ", is not what config.json says", prefix + "_type");
    const io::tensor_ref* matrix = find(prefix + "_matrix");
    if (matrix == nullptr) return {};
    if (!random) return bad("a rotation without random signs has no matrix", prefix + "_matrix");
    // All layers share one matrix.
    const std::string first = spec_.linear_name(0, which == "r1" ? spec_.q : spec_.down) + ".spinquant_" + which + "_matrix";
    const io::tensor_ref* same = find(first);
    if (same == nullptr || same->shape != matrix->shape || same->type != matrix->type ||
        std::memcmp(same->bytes.pin().data(), matrix->bytes.pin().data(), matrix->bytes.size()) != 0)
      return bad("the layers of a model share one matrix, but this is another", prefix + "_matrix");
    return {};
  }

  /// A float matrix of a trained online rotation, the same for all layers.
  result<void> use_trained(const std::string& name, std::size_t n, rotation_places& places, bool reads_norm) {
    const io::tensor_ref* t = find(name);
    if (t == nullptr || t->type != io::dtype::f32 || t->shape != std::vector<std::uint64_t>{n, n})
      return bad("a trained rotation needs its matrix", name);
    auto m = io::read_f32(*t);
    if (!m) return forward_error(m);
    std::vector<float>& known = trained_[reads_norm];
    if (known.empty()) {
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j <= i; ++j) {
          double dot = 0;
          for (std::size_t c = 0; c < n; ++c) dot += static_cast<double>((*m)[i * n + c]) * static_cast<double>((*m)[j * n + c]);
          if (!(std::abs(dot - (i == j ? 1.0 : 0.0)) < 1e-3)) return bad("the matrix of a trained rotation is not orthogonal", name);
        }
      known = *m;
      auto by = std::make_shared<const row_rotation>(row_rotation::dense(n, std::move(*m)));
      if (reads_norm)
        places.online.attention_input = places.online.mlp_input = by;
      else
        places.online.down_input = by;
    } else if (known != *m) {
      return bad("the layers of a model share one matrix, but this is another", name);
    }
    return {};
  }

  /// Matrices that the reference stores for its random transform: all are the same known one, or damaged (it writes only the first correctly).
  result<void> check_matrices(const rotation_places& places) const {
    for (const io::tensor_ref& t : dir_.tensors()) {
      if (!t.name.ends_with(".hadamard_matrix")) continue;
      const row_rotation* by = places.online.attention_input.get();
      const std::size_t n = by == nullptr ? 0 : by->order();
      if (found_.options.family != rotation_family::transform || found_.options.type == hadamard_type::hadamard ||
          t.shape != std::vector<std::uint64_t>{n, n})
        return bad("the matrix does not belong to the rotation that config.json describes", t.name);
      auto m = io::read_f32(t);
      if (!m) return forward_error(m);
      const std::vector<float> ours = applied_matrix(*by);
      if (!io::all_finite(*m)) continue;
      for (std::size_t i = 0; i < m->size(); ++i)
        if (!(std::abs((*m)[i] - ours[i]) < 1e-4f)) return bad("the matrix is not the one that auto-round makes", t.name);
      return {};
    }
    return {};
  }

  /// Signs of what is part of the weights: not needed to run the model, but to compare it with its source.
  result<void> read_other_signs() {
    const rotation_options& o = found_.options;
    for (const io::tensor_ref& t : dir_.tensors()) {
      if (!t.name.starts_with(signs_prefix)) continue;
      const std::string key = t.name.substr(signs_prefix.size());
      if (found_.signs.contains(key)) continue;
      std::size_t n = 0;
      const auto residual = static_cast<std::size_t>(o.rotation_size > 0 ? o.rotation_size : spec_.hidden_size);
      if (key == "r1" && o.random_r1 && o.family == rotation_family::spinquant)
        n = residual;
      else if (key == "r2" && o.random_r2 && o.family == rotation_family::spinquant)
        n = static_cast<std::size_t>(spec_.head_dim);
      else if (o.family == rotation_family::inplace && !key.empty() && key.size() < 9 && key.find_first_not_of("0123456789") == key.npos)
        n = std::stoul(key);
      if (n == 0) return bad("the signs belong to no rotation that config.json describes", t.name);
      auto s = unpack(t, n);
      if (!s) return forward_error(s);
      found_.signs[key] = std::move(*s);
    }
    return {};
  }

  const io::checkpoint_dir& dir_;
  const model::model_spec& spec_;
  std::string file_;
  found_rotation found_;
  std::vector<float> trained_[2];
  const std::shared_ptr<const row_rotation> nothing_;
};

}  // namespace

stored_rotation store_rotation(const model::model_spec& spec, const rotation_options& o, const rotation_places& places, bool matrices) {
  stored_rotation s;
  s.config = io::json::object{};
  const auto size = [](std::int64_t n) { return n > 0 ? io::json(n) : io::json(nullptr); };
  if (o.family != rotation_family::spinquant) {
    const bool in_place = o.family == rotation_family::inplace;
    s.key = "rotation_config";
    s.config.set("algorithm", "hadamard").set("layerwise", false).set("backend", in_place ? "inplace" : "transform");
    s.config.set("block_size", in_place ? size(o.block_size) : size(o.block_size > 0 ? o.block_size : 32))
        .set("hadamard_type", type_names[static_cast<std::size_t>(o.type)]);
    s.config.set("fuse_online_to_weight", in_place ? io::json(o.fused) : io::json(nullptr)).set("allow_online_rotation", true);
    for (const auto& [key, signs] : places.signs) s.tensors.push_back(packed_signs(key, signs));
    if (o.family == rotation_family::transform && o.type != hadamard_type::hadamard && matrices) {
      const row_rotation& by = *places.online.attention_input;  // all inputs have the same, of a known seed
      const std::size_t n = by.order();
      const std::vector<float> matrix = applied_matrix(by);
      for (std::int64_t l = 0; l < spec.num_layers; ++l)
        for (int i = 0; i < static_cast<int>(spec.linears.size()); ++i)
          s.tensors.push_back({{spec.linear_name(l, i) + ".hadamard_matrix", io::dtype::f32, {n, n}}, bytes_of(matrix)});
    }
    return s;
  }
  s.key = "spinquant_config";
  const auto& down = places.online.down_input;
  s.config.set("r1", o.r1).set("r2", o.r2).set("r3", o.r3).set("r4", o.r4).set("online_r1_rotation", o.online_r1);
  s.config.set("rotation_size", size(o.rotation_size));
  s.config.set("random_r1", o.random_r1).set("random_r2", o.random_r2).set("random_r3", o.random_r3).set("random_r4", o.random_r4);
  s.config.set("trainable_rotation", o.trained).set("head_dim", spec.head_dim).set("hidden_size", spec.hidden_size);
  s.config.set("intermediate_size", spec.intermediate_size).set("algorithm", "spinquant");
  const auto add = [&](const std::string& layer, const std::string& which, bool random, std::size_t n) {
    const std::string prefix = layer + ".spinquant_" + which;
    s.tensors.push_back(scalar(prefix + "_type", random ? random_matrix : fixed_matrix));
    s.tensors.push_back(scalar(prefix + "_size", n));
    if (random && matrices) s.tensors.push_back({{prefix + "_matrix", io::dtype::i8, {n, n}}, bytes_of(matrix_signs(n, places.signs.at(which)))});
  };
  for (std::int64_t l = 0; l < spec.num_layers; ++l)
    for (int i = 0; i < static_cast<int>(spec.linears.size()); ++i) {
      const std::string layer = spec.linear_name(l, i);
      if (i == spec.down && down != nullptr) add(layer, "r4", o.random_r4, down->order());
      if (i != spec.o && i != spec.down && places.online.attention_input != nullptr)
        add(layer, "r1", o.random_r1, places.online.attention_input->order());
    }
  for (const auto& [key, signs] : places.signs)
    if (!matrices || key == "r2" || key == "r3" || (key == "r1" && !o.online_r1)) s.tensors.push_back(packed_signs(key, signs));
  return s;
}

result<std::optional<found_rotation>> find_rotation(const io::checkpoint_dir& dir, const model::model_spec& spec) { return reader(dir, spec).read(); }

sign_source found_signs(const found_rotation& found) {
  return [&found](const std::string& key, std::size_t n) -> result<std::vector<std::int8_t>> {
    const auto at = found.signs.find(key);
    if (at == found.signs.end() || at->second.size() != n)
      return fail(error_kind::unsupported, "the checkpoint does not say with which signs '" + key + "' its weights were rotated");
    return at->second;
  };
}

result<rotation_options> parse_rotation(const io::json& request, bool blocks) {
  rotation_options o;
  std::string name = request.as_string();
  const io::json* object = nullptr;
  if (request.is_object()) {
    object = &request;
    name = request.at("algorithm").is_null() ? "hadamard" : request.at("algorithm").as_string();
    for (const char* key : {"r1", "r2", "r3", "r4", "online_r1_rotation", "rotation_size", "trainable_rotation"})
      if (request.find(key) != nullptr && request.at("algorithm").is_null()) name = "quarot";
  }
  const auto usage = [](std::string what) { return fail(error_kind::usage, std::move(what)); };
  const bool spinquant = name == "quarot" || name == "spinquant";
  std::string backend = "auto";
  std::optional<bool> fuse;
  if (spinquant) {
    o.trained = name == "spinquant" && object == nullptr;
  } else if (name == "default" || name == "hadamard" || name == "random_hadamard" || name == "quarot_hadamard") {
    if (object == nullptr) o.block_size = 32;
    const auto at = std::find(type_names.begin(), type_names.end(), name);
    if (at != type_names.end()) o.type = static_cast<hadamard_type>(at - type_names.begin());
  } else {
    return usage("rotation \"" + name + "\" is unknown; quarot, spinquant, hadamard, random_hadamard or quarot_hadamard");
  }
  if (object != nullptr) {
    for (const auto& [key, v] : object->members()) {
      bool* flag = nullptr;
      if (key == "algorithm" || v.is_null()) continue;
      if (spinquant) {
        flag = key == "r1"                   ? &o.r1
               : key == "r2"                 ? &o.r2
               : key == "r3"                 ? &o.r3
               : key == "r4"                 ? &o.r4
               : key == "random_r1"          ? &o.random_r1
               : key == "random_r2"          ? &o.random_r2
               : key == "random_r3"          ? &o.random_r3
               : key == "random_r4"          ? &o.random_r4
               : key == "online_r1_rotation" ? &o.online_r1
               : key == "trainable_rotation" ? &o.trained
                                             : nullptr;
        if (flag != nullptr && !v.is_bool()) return usage("rotation: '" + key + "' must be true or false");
        if (flag != nullptr)
          *flag = v.as_bool();
        else if (key == "rotation_size" && v.as_int() > 0)
          o.rotation_size = v.as_int();
        else
          return usage("rotation: '" + key + "' is unknown, or its value out of range");
        continue;
      }
      if (key == "backend" && v.is_string()) {
        backend = v.as_string();
      } else if (key == "block_size" && v.is_number()) {
        o.block_size = std::max<std::int64_t>(0, v.as_int());
      } else if (key == "hadamard_type" && v.is_string()) {
        std::string type = v.as_string();
        if (type.starts_with("inplace_")) {
          type = type.substr(8);
          backend = "inplace";
        }
        if (type == "random") type = "random_hadamard";
        const auto at = std::find(type_names.begin(), type_names.end(), type);
        if (at == type_names.end()) return usage("rotation: hadamard_type \"" + type + "\": hadamard, random_hadamard or quarot_hadamard");
        o.type = static_cast<hadamard_type>(at - type_names.begin());
      } else if (key == "fuse_online_to_weight" && v.is_bool()) {
        fuse = v.as_bool();
      } else if (key == "allow_online_rotation" && v.is_bool()) {
        if (!v.as_bool())
          return usage(
              "rotation: these rotations always leave something to do online; the algorithm quarot with --online_r1_rotation false does not");
      } else if (key == "layerwise" && v.is_bool()) {
        continue;  // weights are rotated when they are read, always
      } else {
        return usage("rotation: '" + key + "' is unknown, or its value out of range");
      }
    }
  }
  if (spinquant) return o;
  if (backend != "auto" && backend != "inplace" && backend != "transform")
    return usage("rotation: backend \"" + backend + "\": auto, inplace or transform");
  const bool in_place = backend == "inplace" || (backend == "auto" && (fuse.value_or(false) || !blocks));
  o.family = in_place ? rotation_family::inplace : rotation_family::transform;
  o.fused = fuse.value_or(true);
  if (!in_place && fuse.value_or(false)) return usage("rotation: backend transform cannot be fused into the weights");
  if (!in_place && !blocks) return usage("rotation: backend transform is for MX and NVFP4 data types");
  if (!in_place && o.type == hadamard_type::quarot_hadamard) return usage("rotation: quarot_hadamard needs backend inplace");
  return o;
}

}  // namespace auto_round::transform
