// From options and names of algorithms to one rotation.
#include "command/rotation_request.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "io/json.hpp"
#include "transform/rotation_files.hpp"

namespace auto_round::command {
namespace {

constexpr std::array<std::string_view, 5> rotations = {"quarot", "spinquant", "hadamard", "random_hadamard", "quarot_hadamard"};

}  // namespace

bool rotation_request::is_rotation(const std::string& algorithm) { return std::find(rotations.begin(), rotations.end(), algorithm) != rotations.end(); }

void rotation_request::declare(option_set& o) {
  o.group("Rotation");
  o.text("rotation_config", "CONFIG", config_,
         "quarot, hadamard, random_hadamard, quarot_hadamard, or a JSON object with the fields of the original's configurations");
  o.text("rotation_type,rotation_hadamard_type", "TYPE", type_,
         "hadamard, random_hadamard or quarot_hadamard: rotate the residual stream, or with MX and NVFP4 types every layer");
  o.text("rotation_backend", "NAME", backend_, "inplace: the residual stream; transform: every layer; auto: by the data type (auto)");
  o.integer("rotation_block_size", block_size_, "rotate in blocks of so many values (the whole row; 32 by backend transform)");
  const auto boolean = [&](const std::string& name, std::optional<bool>& to, const char* help) {
    o.flag(name, to, true, help);
    o.flag("no_" + name, to, false, std::string("not: ") + help);
  };
  boolean("fuse_online_to_weight", fuse_,
          "backend inplace: into the residual stream and between layers (default), or else on every layer and its input");
  boolean("allow_online_rotation", allow_online_, "activations may be rotated while the model runs (default)");
  boolean("r1", r1_, "quarot: rotate what reads the residual stream (default)");
  boolean("r2", r2_, "quarot: rotate between v and o, head by head (default)");
  boolean("r3", r3_, "quarot: rotate queries and keys");
  boolean("r4", r4_, "quarot: rotate the input of down");
  boolean("online_r1_rotation", online_r1_, "quarot: R1 rotates activations too (default); without, it goes into embeddings, norms and all layers");
  boolean("random_r1", random_r1_, "R1 behind random signs");
  boolean("random_r2", random_r2_, "R2 behind random signs");
  boolean("random_r3", random_r3_, "R3 behind random signs");
  boolean("random_r4", random_r4_, "R4 behind random signs");
  o.integer("rotation_size", rotation_size_, "quarot: R1 and R4 in blocks of so many values (the whole row)");
  o.flag("rotation_matrices", matrices_, true, "store random matrices in full for each layer, as auto-round's loader needs them, not as signs");
  boolean("trainable_rotation", trainable_, "train R1 (offline) and R2 for the model quantized behind them; --algorithm spinquant does");
  o.integer("rotation_iters", iters_, "steps of training (100)");
  o.real("rotation_lr", lr_, "how far its first step turns, above 0 and at most 1 (0.2)");
  boolean("trainable_smooth", smooth_, "train factors of norms");
  boolean("fuse_rmsnorm", fuse_rmsnorm_, "offline R1: weights of norms go into the layers behind them (default)");
  boolean("untie_embeddings", untie_embeddings_, "offline R1: the head becomes a weight of its own (default)");
  boolean("layerwise", layerwise_, "rotate a block when it is quantized (always so in this program)");
  o.integer("kl_top_k", kl_top_k_, "the loss of training looks at so many of the float model's largest logits (1000)");
  o.real("smooth_lr", smooth_lr_, "learning rate of trainable_smooth");
  o.text("loss_type", "NAME", loss_type_, "loss of training: kl_top, kl_full or mse (kl_top)");
}

result<std::optional<transform::rotation_options>> rotation_request::resolve(const std::vector<std::string>& algorithms, bool blocks,
                                                                             std::int64_t seed) const {
  std::string name;
  for (const std::string& a : algorithms) {
    if (!is_rotation(a)) continue;
    if (!name.empty() && name != a) return fail(error_kind::usage, fmt::format("a model can be rotated in one way; {} and {} are two", name, a));
    name = a;
  }
  io::json request = name.empty() ? io::json() : io::json(name);
  if (!config_.empty()) {
    if (!name.empty()) return fail(error_kind::usage, fmt::format("--rotation_config and --algorithm {} say the same; write one of them", name));
    request = io::json(config_);
    if (config_.find('{') != config_.npos) {
      auto parsed = io::parse_json(config_, "--rotation_config");
      if (!parsed) return fail(error_kind::usage, "--rotation_config: " + parsed.error().message);
      request = std::move(*parsed);
    }
  }
  const bool any_hadamard = !type_.empty() || !backend_.empty() || block_size_ || fuse_ || allow_online_;
  const bool any_spinquant =
      r1_ || r2_ || r3_ || r4_ || online_r1_ || random_r1_ || random_r2_ || random_r3_ || random_r4_ || rotation_size_ || trainable_ || smooth_;
  if (request.is_null() && !type_.empty()) request = io::json(type_);
  if (request.is_null()) {
    if (any_hadamard || any_spinquant)
      return fail(error_kind::usage, "options of a rotation need one: --algorithm quarot, or --rotation_type hadamard");
    return std::optional<transform::rotation_options>();
  }
  // Options go on top of the configuration, in its own words.
  const bool spinquant = request.as_string() == "quarot" || request.as_string() == "spinquant" || request.at("algorithm").as_string() == "quarot" ||
                         request.at("algorithm").as_string() == "spinquant" || request.find("r1") != nullptr;
  if (spinquant && any_hadamard)
    return fail(error_kind::usage, "--rotation_type, --rotation_backend, --rotation_block_size and the like belong to hadamard, not to quarot");
  if (!spinquant && any_spinquant) return fail(error_kind::usage, "--r1 to --r4, --rotation_size and the like belong to quarot, not to hadamard");
  if (request.is_string()) {
    io::json object = io::json::object{};
    const std::string base = request.as_string();
    object.set("algorithm", spinquant ? base : "hadamard");
    if (!spinquant && base != "default" && base != "hadamard") object.set("hadamard_type", base);
    if (!spinquant && !is_rotation(base) && base != "default") object = request;  // unknown: parse_rotation says so
    if (base == "spinquant") object.set("trainable_rotation", true).set("online_r1_rotation", false);
    request = std::move(object);
  }
  const auto put = [&](const char* key, const auto& value) {
    if (value) request.set(key, *value);
  };
  if (request.is_object()) {
    if (!type_.empty()) request.set("hadamard_type", type_);
    if (!backend_.empty()) request.set("backend", backend_);
    put("block_size", block_size_), put("fuse_online_to_weight", fuse_), put("allow_online_rotation", allow_online_);
    put("r1", r1_), put("r2", r2_), put("r3", r3_), put("r4", r4_), put("online_r1_rotation", online_r1_), put("rotation_size", rotation_size_);
    put("random_r1", random_r1_), put("random_r2", random_r2_), put("random_r3", random_r3_), put("random_r4", random_r4_),
        put("trainable_rotation", trainable_);
  }
  auto o = transform::parse_rotation(request, blocks);
  if (!o) return forward_error(o);
  if (fuse_rmsnorm_ == false && !o->online_r1)
    return fail(error_kind::usage, "--no_fuse_rmsnorm: with the weights of norms left in place, offline R1 would change what the model computes");
  if (untie_embeddings_ == false && !o->online_r1) return fail(error_kind::usage, "--no_untie_embeddings: offline R1 needs a head of its own");
  if (smooth_ == true)
    return fail(error_kind::unsupported,
                "--trainable_smooth: the original's smooth values are never folded into the model it saves; they are not supported");
  o->seed = static_cast<std::uint32_t>(seed);
  return std::optional<transform::rotation_options>(*o);
}

result<void> rotation_request::resolve_training(transform::spinquant_options& o) const {
  o.iters = iters_.value_or(o.iters);
  o.lr = lr_.value_or(o.lr);
  o.top_k = kl_top_k_.value_or(o.top_k);
  if (loss_type_.empty() || loss_type_ == "kl_top")
    o.loss = transform::logit_loss::kl_top;
  else if (loss_type_ == "kl_full")
    o.loss = transform::logit_loss::kl_full;
  else if (loss_type_ == "mse")
    o.loss = transform::logit_loss::mse;
  else
    return fail(error_kind::usage, fmt::format("--loss_type \"{}\": kl_top, kl_full or mse", loss_type_));
  if (o.iters < 1 || o.top_k < 1 || !(o.lr > 0 && o.lr <= 1))
    return fail(error_kind::usage, "--rotation_iters and --kl_top_k must be positive, --rotation_lr above 0 and at most 1");
  return {};
}

}  // namespace auto_round::command
