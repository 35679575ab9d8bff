// From options to how AWQ runs.
#include "command/awq_request.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace auto_round::command {

void awq_request::declare(option_set& o) {
  o.group("AWQ (--algorithm awq)");
  o.choice("awq_duo_scaling,duo_scaling", "true,false,both", duo_scaling_, "factors from activations and weights (true), activations alone (false), or whatever is better (both) (true)");
  o.integer("awq_n_grid,n_grid", n_grid_, "candidates for each mapping (20)");
  o.integer("awq_seqlen", seqlen_, "tokens of a sample that are looked at; 0: all (512)");
  o.integer("awq_smooth_batch_size", smooth_batch_size_, "samples of a pass of the search (--batch_size)");
  o.integer("awq_search_tokens", search_tokens_, "tokens that attention and MLP see for each candidate, from all over the set; 0: all (8192; all by --awq_policy peer)");
  o.flag("awq_apply_clip", apply_clip_, true, "clip weights where a smaller range serves the output better");
  o.flag("awq_clip_as_init", clip_as_init_, true, "with --awq_apply_clip: do not clip; tuning starts from the smaller ranges");
  o.integer("awq_clip_n_grid", clip_n_grid_, "steps of 1 / N between ranges (20)");
  o.real("awq_clip_max_shrink", clip_max_shrink_, "the smallest range is 1 less this (0.5)");
  o.integer("awq_clip_n_sample_token", clip_n_sample_token_, "tokens that the search for ranges looks at (512)");
  o.text("awq_clip_style", "NAME", clip_style_, "auto_round: layers behind smoothed ones, ranges as the type has them; autoawq: all layers but q and k, both ways alike (auto_round)");
  o.integer("awq_smooth_iters", smooth_iters_, "rounds over the mappings of a block (1)");
  o.flag("awq_no_smooth", apply_smooth_, false, "only clip");
  o.flag("awq_no_skip_moe", skip_moe_, false, "search routed experts too");
  o.flag("awq_leave_out_padding", padding_, true, "tokens that do not count for the loss do not count here either");
  o.flag("awq_float_inputs", float_inputs_, true, "compare candidates on float inputs even where the scheme quantizes activations, as the original does (default with --awq_policy peer)");
  o.text("awq_policy", "NAME", policy_, "strict: complete the layers that read the same activations; peer: the original's sets and roundings (strict; peer by --compat)");
}

result<std::optional<transform::awq_options>> awq_request::resolve(const std::vector<std::string>& algorithms, bool search, bool alg_ext, bool compat) const {
  if (std::find(algorithms.begin(), algorithms.end(), "awq") == algorithms.end()) {
    const bool any = !duo_scaling_.empty() || !policy_.empty() || !clip_style_.empty() || n_grid_ || seqlen_ || search_tokens_ || smooth_batch_size_ || clip_n_grid_ ||
                     clip_n_sample_token_ || smooth_iters_ || clip_max_shrink_ || apply_clip_ || clip_as_init_ || apply_smooth_ || skip_moe_ || padding_ || float_inputs_;
    if (any) return fail(error_kind::usage, "options of AWQ have no meaning without it; add --algorithm awq or --algorithm awq,auto_round");
    return std::optional<transform::awq_options>();
  }
  transform::awq_options o;
  if (duo_scaling_ == "false") o.duo_scaling = ar::awq::duo_scaling::off;
  else if (duo_scaling_ == "both") o.duo_scaling = ar::awq::duo_scaling::both;
  else if (!duo_scaling_.empty() && duo_scaling_ != "true") return fail(error_kind::usage, fmt::format("--awq_duo_scaling \"{}\": true, false or both", duo_scaling_));
  if (policy_ == "peer" || (policy_.empty() && compat)) o.mapping.policy = transform::mapping_policy::peer;
  else if (!policy_.empty() && policy_ != "strict") return fail(error_kind::usage, fmt::format("--awq_policy \"{}\": strict or peer", policy_));
  if (clip_style_ == "autoawq") o.classic_clip = true;
  else if (!clip_style_.empty() && clip_style_ != "auto_round") return fail(error_kind::usage, fmt::format("--awq_clip_style \"{}\": auto_round or autoawq", clip_style_));
  const auto small = [](const char* name, const std::optional<std::int64_t>& value, std::int64_t least, int& to) -> result<void> {
    if (!value) return {};
    if (*value < least || *value > 100000) return fail(error_kind::usage, fmt::format("--{} must be from {} to 100000, not {}", name, least, *value));
    to = static_cast<int>(*value);
    return {};
  };
  if (auto r = small("awq_n_grid", n_grid_, 1, o.n_grid); !r) return forward_error(r);
  if (auto r = small("awq_clip_n_grid", clip_n_grid_, 1, o.clip_n_grid); !r) return forward_error(r);
  if (auto r = small("awq_smooth_iters", smooth_iters_, 1, o.smooth_iters); !r) return forward_error(r);
  o.seqlen = seqlen_.value_or(o.seqlen);
  o.search_tokens = search_tokens_.value_or(o.search_tokens);
  o.smooth_batch_size = smooth_batch_size_.value_or(0);
  o.clip_n_sample_token = clip_n_sample_token_.value_or(o.clip_n_sample_token);
  o.clip_max_shrink = clip_max_shrink_.value_or(o.clip_max_shrink);
  o.apply_clip = apply_clip_.value_or(false);
  o.clip_as_init = clip_as_init_.value_or(false);
  o.apply_smooth = apply_smooth_.value_or(true);
  o.mapping.skip_moe = skip_moe_.value_or(true);
  o.leave_out_padding = padding_.value_or(false);
  o.quantize_inputs = !float_inputs_.value_or(false);
  if (alg_ext) o.search = transform::search_quantizer::init_scale;
  else if (search) o.search = transform::search_quantizer::opt_rtn;
  if (o.smooth_batch_size < 0) return fail(error_kind::usage, "--awq_smooth_batch_size must not be negative");
  if (o.clip_n_sample_token < 1) return fail(error_kind::usage, "--awq_clip_n_sample_token must be at least 1");
  if (!(o.clip_max_shrink > 0 && o.clip_max_shrink < 1)) return fail(error_kind::usage, "--awq_clip_max_shrink must be between 0 and 1");
  if (o.clip_as_init && !o.apply_clip) return fail(error_kind::usage, "--awq_clip_as_init needs --awq_apply_clip");
  return o;
}

}  // namespace auto_round::command
