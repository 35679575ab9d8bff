// The tuning kernels of the library for this CPU.
#pragma once

#include "ar/detail/tune_types.hpp"

namespace auto_round::tune {

/// Chosen once per process; the results do not depend on the choice.
const ar::tune_kernels& kernels();

}  // namespace auto_round::tune
