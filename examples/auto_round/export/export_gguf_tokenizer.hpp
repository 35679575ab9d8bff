// The tokenizer.* keys of GGUF metadata, from tokenizer.json (byte-level BPE) or tokenizer.model (SentencePiece).
#pragma once

#include <cstddef>

#include "error.hpp"
#include "io/gguf.hpp"

namespace auto_round::exporting {

struct gguf_sources;

/// Keys in writing order: model, pre, tokens, types, merges or scores, special ids, add flags, chat template. `vocab_size` is config.json's:
/// ids without a token become "[PADi]". error_kind::unsupported for a tokenizer that llama.cpp has no name for.
result<io::gguf_metadata> gguf_tokenizer_keys(const gguf_sources& sources, std::size_t vocab_size);

}  // namespace auto_round::exporting
