// From scores to a scheme for each layer: what can be reached, what is left for the choice, and the choice itself.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "autoscheme/accounting.hpp"
#include "autoscheme/groups.hpp"
#include "autoscheme/knapsack.hpp"
#include "error.hpp"

namespace auto_round::autoscheme {

/// What is chosen from, and how bits are counted.
struct request {
  std::vector<layer> layers;    ///< in module order
  std::vector<option> options;  ///< without duplicates
  /// [option][layer]; 0 for layers that are fixed, for embeddings and for options that leave the layer in 16 bits.
  std::vector<std::vector<double>> scores;
  std::vector<name_list> shared_layers;  ///< as the user wrote them
  std::vector<std::string> blocks;       ///< names of the decoder blocks
  std::string head_name;                 ///< the layer that is the model's output head
  bool tie_word_embeddings = false;
  bool moe = false;  ///< experts of a block get one scheme
  accounting count{};
  bool reference = false;  ///< schemes that do not fit a layer's shape are replaced behind the choice, outside the budget, as in auto-round 0.16.1
};

struct selection {
  std::vector<ar::scheme_fields> schemes;  ///< of each layer
  std::vector<std::size_t> choice;         ///< index of each layer's option; number of options for fixed layers
  std::uint64_t bits = 0, weights = 0;     ///< of all layers
  double loss = 0;                         ///< sum of the scores
  std::uint64_t states = 0;                ///< work of the knapsack

  double avg_bits() const { return static_cast<double>(bits) / static_cast<double>(weights); }
};

/// Everything that does not depend on the target. Costs are computed once, so that each selection takes milliseconds.
class selector {
 public:
  /// error_kind::internal for scores of the wrong shape, error_kind::input for scores that are not finite.
  static result<selector> make(request what);

  const request& what() const { return what_; }
  double least_avg_bits() const { return *std::min_element(averages_.begin(), averages_.end()); }
  double most_avg_bits() const { return *std::max_element(averages_.begin(), averages_.end()); }
  /// Average bits of all layers if each took that option.
  const std::vector<double>& averages() const { return averages_; }

  /// The layers' schemes with the smallest loss among those with at most `avg_bits` bits a weight on average. Targets within 0.001 of an end of the
  /// range mean that end. Embeddings and the head follow auto-round's rules. error_kind::usage for a target that cannot be reached; the message
  /// lists what each option takes.
  result<selection> select(double avg_bits) const;

  /// The optima for every target, all layers free to take any option but embeddings, which take the cheapest; bits of all layers.
  frontier optima(std::size_t most) const;

 private:
  explicit selector(request what) : what_(std::move(what)) {}
  void make_items();
  std::uint64_t cost(std::size_t layer, std::size_t option) const { return costs_[option][layer]; }
  std::size_t embedding_option(double avg_bits, std::uint64_t budget, std::span<const std::size_t> rank) const;
  std::vector<std::size_t> head_options(double avg_bits, std::uint64_t budget, std::span<const std::size_t> rank, std::size_t head) const;
  ar::scheme_fields scheme_of(std::size_t layer, std::size_t option) const;

  request what_;
  std::vector<double> averages_;
  std::vector<std::vector<std::uint64_t>> costs_;  // [option][layer]; fixed layers cost what they cost under any
  std::vector<std::vector<std::size_t>> members_;  // layers of each item, in the order of the choice
  std::vector<item> items_;
  std::uint64_t weights_ = 0;
};

}  // namespace auto_round::autoscheme
