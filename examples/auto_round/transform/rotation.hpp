// Rotations of a whole model: weights multiplied with orthogonal matrices such that the model computes the same, and what remains to be applied to
// activations while it runs. The three families of auto-round 0.16.1 are ways to choose places and matrices; the arithmetic is one.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ar/numeric/real.hpp"
#include "error.hpp"
#include "model/decoder.hpp"
#include "model/rotation.hpp"

namespace auto_round::transform {

/// spinquant: QuaRot's R1 to R4. inplace: the residual stream, heads and the MLP's inner rows. transform: the inputs of every layer, in blocks.
enum class rotation_family { spinquant, inplace, transform };
/// hadamard: deterministic. random_hadamard: behind random signs. quarot_hadamard: the residual stream random, the rest deterministic (inplace only).
enum class hadamard_type { hadamard, random_hadamard, quarot_hadamard };

struct rotation_options {
  rotation_family family = rotation_family::spinquant;
  // spinquant
  bool r1 = true, r2 = true, r3 = false, r4 = false;
  bool online_r1 = true;  ///< R1 on the layers behind norms and their inputs; else on the residual stream, where nothing remains to be done
  bool random_r1 = false, random_r2 = false, random_r3 = false, random_r4 = false;
  std::int64_t rotation_size = 0;  ///< of R1 and R4: blocks of so many values; 0: all at once
  bool trained = false;            ///< R1 and R2 were trained; they are part of the weights
  // inplace and transform
  hadamard_type type = hadamard_type::hadamard;
  std::int64_t block_size = 0;  ///< 0: all at once (inplace), 32 (transform)
  bool fused = true;            ///< inplace: into the residual stream and between layers; else every layer and its input
  std::uint32_t seed = 42;      ///< of random signs
};

/// The matrices of a model, by place. Null: nothing is done there.
struct rotation_places {
  std::shared_ptr<const model::row_rotation> residual;    ///< the residual stream (and with it embeddings, head and all norms)
  std::shared_ptr<const model::row_rotation> values;      ///< between v and o, head by head
  model::block_rotations online;                          ///< inputs of layers, and queries and keys
  std::map<std::string, std::vector<std::int8_t>> signs;  ///< random signs that were drawn, by key ("r1"; the order of the matrix for inplace)
  std::vector<std::string> notes;                         ///< what differs from what was asked for, for people
  bool weights_in_own_type[4] = {};  ///< peer arithmetic: inputs of attention, o, MLP, down are rotated in the type of the weights
};

/// Where random signs come from: the key of rotation_places::signs and their number. Places come in the reference's order.
using sign_source = std::function<result<std::vector<std::int8_t>>(const std::string& key, std::size_t n)>;
/// Signs drawn one after another from a generator.
sign_source drawn_signs(std::uint32_t seed);

/// Chooses the matrices. `online_only`: leave out those that are part of the weights (of a finished checkpoint). `peer`: roots are rounded as the
/// reference rounds them. error_kind::unsupported, with the reason, for models and sizes that cannot be rotated; error_kind::usage for sizes that do
/// not divide the model's.
result<rotation_places> place_rotations(const model::model_spec& spec, const rotation_options& options, const sign_source& signs,
                                        bool online_only = false, bool peer = false);

/// A checkpoint with rotated weights. Computed in double and rounded once: weights of a block's linear layers to float, everything else, which is
/// kept, to the type in which it is stored. In peer arithmetic everything is rounded to that type after each step, as the reference does.
class rotated_source final : public model::weight_source {
 public:
  struct arithmetic {
    std::function<ar::real(const std::string& name)> stored_type;  ///< of the base's tensors; empty: float
    bool peer = false;
  };
  /// `base` must outlive it.
  rotated_source(const model::weight_source& base, rotation_places places, arithmetic how);

  const rotation_places& places() const { return places_; }
  /// Other matrices of the same orders, after training.
  void replace_matrices(const rotation_places& places) {
    places_.residual = places.residual;
    places_.values = places.values;
  }
  const model::model_spec& spec() const override { return spec_; }
  result<void> read(const std::string& name, std::span<float> out) const override;
  bool has(const std::string& name) const override;
  void done_with_block(std::int64_t layer) const override { base_.done_with_block(layer); }
  std::vector<std::uint64_t> shape(const std::string& name) const override;
  result<void> read_part(const std::string& name, std::uint64_t elements, std::uint64_t first, std::span<float> out) const override;
  std::string location() const override { return base_.location(); }
  bool changed(const std::string& name) const override;
  std::shared_ptr<const model::block_rotations> rotations(std::int64_t layer) const override;

 private:
  /// One factor of a tensor.
  struct step {
    enum class side { scale, in, out } where = side::in;  // scale: every column by its weight of a norm
    const model::row_rotation* by = nullptr;
    std::string norm;
    bool own_type = false;
  };
  struct recipe {
    std::string source;  // what is read from the base
    bool ones = false;   // a norm whose weight went into the layers behind it
    bool bias = false;
    bool kept = true;  // rounded to the stored type
    std::uint64_t cols = 0;
    std::vector<step> steps;
  };
  recipe recipe_of(const std::string& name) const;
  result<void> apply(const recipe& r, std::span<float> values) const;
  result<void> apply_as_peer(const recipe& r, std::span<float> values) const;
  ar::real type_of(const recipe& r) const { return how_.stored_type ? how_.stored_type(r.source) : ar::real::f32; }
  result<std::vector<float>> gamma(const std::string& norm) const;

  const model::weight_source& base_;
  rotation_places places_;
  arithmetic how_;
  model::model_spec spec_;
  bool tied_ = false;  // the base's head is its embedding
  std::shared_ptr<const model::block_rotations> online_;
  std::map<std::string, int, std::less<>> linear_index_;
};

}  // namespace auto_round::transform
