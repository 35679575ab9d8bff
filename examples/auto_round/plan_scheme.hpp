// What resolving of schemes and of rules for single layers share.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ar/numeric/real.hpp"
#include "ar/scheme.hpp"
#include "error.hpp"

namespace auto_round::plan {

/// The number in the name of a data type ("int8", "mx_fp4", "fp8_e5m2"); nothing if it says none.
std::optional<int> bits_in_name(std::string_view type);

/// Text that lives as long as the program, for the views of resolved schemes, which must not refer to the user's.
std::string_view kept(std::string_view text);

/// Types that name their width ("mx_fp4", "fp8") decide over the bits and lose the number if they say nothing else; then error_kind::unsupported if
/// there is no quantizer for weights or activations.
result<ar::scheme_fields> with_known_types(ar::scheme_fields scheme);

/// A type of numbers by the names of --scale_dtype and --model_dtype: "fp16", "float16", "torch.float16" and the like of bf16 and fp32.
std::optional<ar::real> real_named(std::string_view name);

/// True if AR_ALLOW_W8_ASYM is set, or all formats can hold 8-bit asymmetric integers.
bool allows_asymmetric_bytes(const std::vector<std::string>& formats);

/// Up to `most` of `names`, nearest to `text` first, by edit distance without regard to case.
std::vector<std::string> nearest_names(std::string_view text, const std::vector<std::string>& names, std::size_t most = 3);

}  // namespace auto_round::plan
