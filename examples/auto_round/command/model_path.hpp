// Where a model lies: the path that was given, or the local cache of Hugging Face's hub for a name such as "org/name". Nothing is downloaded.
#pragma once

#include <string>

#include "error.hpp"

namespace auto_round::command {

/// Takes slashes off the end: what belongs to the folder "out/" lies beside it, as "out.journal".
void take_slashes_off(std::string& folder);

/// Takes slashes off the end of `model`. If there is no such folder or file and it may be the name of a model on the hub, it becomes the folder of the
/// revision "main" in the local cache (HF_HUB_CACHE, HF_HOME, or ~/.cache/huggingface); error_kind::input says how to download what is not there.
result<void> find_local_model(std::string& model);

}  // namespace auto_round::command
