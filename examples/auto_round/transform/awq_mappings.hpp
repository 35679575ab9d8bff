// Which layers AWQ smooths against which: from the names of a model's modules to mappings, each a layer that writes activations (a norm, or a linear
// layer's rows) and the layers that read them. Knows names and shapes, no weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "error.hpp"

namespace auto_round::transform {

/// A module that has a weight.
struct module_info {
  std::string name;                  ///< without ".weight"
  bool linear = false;               ///< a linear layer; others (norms, routers that are no layers of their own, embeddings) are not quantized
  std::vector<std::uint64_t> shape;  ///< of the weight
};

/// A smooth layer and its balance layers as patterns (Python's syntax, searched for in the names).
struct mapping_rule {
  std::string smooth;
  std::vector<std::string> balance;
};

struct awq_mapping {
  std::string smooth;                ///< whose output is divided
  std::vector<std::string> balance;  ///< whose columns are multiplied, and which the search quantizes
  std::vector<std::string> others;   ///< whose columns are multiplied too: they read the same activations, but are not searched
  std::string parent;                ///< the module whose output the search compares: the common ancestor of `balance`, or its only member
  std::uint64_t rows = 0;            ///< how many of the last rows of the smooth layer are divided; a norm: its size
  std::uint64_t tied = 1;            ///< so many heads of the columns that follow each other share their factors (the queries of a key-value head)
  std::uint64_t head = 0;            ///< columns of a head, where tied is above 1
};

/// What is known about the model besides its modules.
struct mapping_facts {
  std::string model_class{};              ///< "LlamaForCausalLM"
  std::vector<std::string> layer_types{};  ///< "full_attention", "linear_attention"; empty if config.json has none
  std::string activation{};               ///< of the MLP, "silu"; empty: unknown
  std::uint64_t heads = 0, kv_heads = 0;  ///< 0: unknown
};

/// strict: a mapping whose factors would change the float model is completed (routers, experts) or dropped, and layers are smoothed that the
/// reference skips (rows of fused layers, values shared by several queries). peer: what auto-round 0.16.1 takes, right or not.
enum class mapping_policy { strict, peer };

struct mapping_options {
  mapping_policy policy = mapping_policy::strict;
  bool skip_moe = true;             ///< do not search routed experts; ignored with rules of the user's own
  std::vector<mapping_rule> rules{};  ///< instead of the model's
};

struct mapping_list {
  std::vector<awq_mapping> mappings;  ///< block after block
  std::vector<std::string> warnings;
};

/// `modules` in model order. error_kind::unsupported if nothing can be smoothed, error_kind::usage for a broken pattern.
result<mapping_list> resolve_mappings(const std::vector<module_info>& modules, const mapping_facts& facts, const mapping_options& options);

}  // namespace auto_round::transform
