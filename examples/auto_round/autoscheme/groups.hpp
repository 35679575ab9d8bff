// Which layers must get the same scheme: those that the user names together, and the experts of a block.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "error.hpp"

namespace auto_round::autoscheme {

using name_list = std::vector<std::string>;

/// Lists that share a name become one, transitively. Names keep the order of their first appearance, lists that of their first name.
std::vector<name_list> merge(const std::vector<name_list>& lists);

/// The groups that `patterns` mean among `layers` (full names), in auto-round's order. A list of full names is one group. Of any other list, each
/// block makes a group: its layers whose name a pattern finds, as a regular expression or else as a part of it, and full names as they are, in every
/// block. `blocks` are the names of the decoder blocks ("model.layers.0").
std::vector<name_list> shared_groups(std::span<const std::string> layers, std::span<const std::string> blocks, const std::vector<name_list>& patterns);

/// Entries of `patterns` that find none of `layers`.
name_list without_layers(std::span<const std::string> layers, const std::vector<name_list>& patterns);

/// "a.mlp.experts.3.up_proj" -> "a.mlp.experts.3"; names with ".moe." lose their last part; empty for layers that belong to no expert.
std::string expert_of(const std::string& layer);

/// For each block with more than one layer of experts all of them, sorted by name: engines run them in one kernel.
std::vector<name_list> expert_groups(std::span<const std::string> layers, std::span<const std::string> blocks);

/// Experts that no token reached have no loss; each of their layers gets the mean loss of the experts that were reached, in the same block.
/// `loss` belongs to `layers`. Losses that are not finite are left alone and not counted.
void fill_inactive_experts(std::span<const std::string> layers, std::span<double> loss, std::span<const std::string> blocks);

}  // namespace auto_round::autoscheme
