#!/usr/bin/env python3
"""Records logits of tiny random LLaMA models, one for each way a config.json can ask for rotary embeddings and for
each other switch of the architecture (grouped heads, tied weights, biases, a head size of its own).

Usage: record_rope.py [--out tests/data/rope]
Each case is a model folder (config.json, model.safetensors in float32) with expected.safetensors beside them:
    ids.{short,long} [n], logits.{short,long} [n x 64], inv_freq.{short,long} [head_dim / 2], attention_scaling.{short,long} [1]
"long" runs past the length where dynamic and longrope change their frequencies. Each sequence is run on a freshly
loaded model, because transformers' dynamic scaling remembers the longest sequence it has seen.
"""
import argparse
import copy
import json
import os
import pathlib

import torch
from safetensors.torch import save_file

import peer_common as common

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path, default=common.DATA / "rope")
args = parser.parse_args()
torch.set_num_threads(1)

BASE = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "max_position_embeddings": 16, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float32"}
SHORT, LONG = 12, 40
FACTORS = {"short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [1.0, 2.5, 5.0, 11.0]}  # head_dim / 2 entries


def new(**parameters):  # transformers >= 5 writes this
    return {"rope_parameters": {"rope_theta": 10000.0, **parameters}}


def old(theta=10000.0, **scaling):  # every checkpoint before that
    return {"rope_theta": theta, "rope_scaling": scaling or None}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
CASES = {
    "default": new(rope_type="default"),
    "default_legacy_theta": old(500000.0) | {"num_key_value_heads": 4, "tie_word_embeddings": True},
    "default_no_keys": {"num_key_value_heads": 1},
    "linear": new(rope_type="linear", factor=2.5),
    "linear_legacy": old(type="linear", factor=4.0) | {"tie_word_embeddings": True},
    "dynamic": new(rope_type="dynamic", factor=2.0),
    "dynamic_legacy": old(20000.0, type="dynamic", factor=4.0) | {"num_key_value_heads": 4},
    "yarn": new(rope_type="yarn", factor=4.0, original_max_position_embeddings=16) | {"max_position_embeddings": 64},
    "yarn_legacy": old(type="yarn", factor=2.0, original_max_position_embeddings=16, beta_fast=8.0, beta_slow=2.0) | {"max_position_embeddings": 32},
    "yarn_attention_factor": new(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, attention_factor=0.8, truncate=False)
    | {"max_position_embeddings": 64},
    "yarn_mscale": new(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, mscale=0.707, mscale_all_dim=1.2)
    | {"max_position_embeddings": 64},
    "yarn_no_original": old(type="yarn", factor=4.0) | {"max_position_embeddings": 64},
    "longrope": new(rope_type="longrope", original_max_position_embeddings=16, **FACTORS) | {"max_position_embeddings": 64},
    "longrope_legacy": old(type="longrope", factor=4.0, **FACTORS) | {"max_position_embeddings": 64, "original_max_position_embeddings": 16},
    "longrope_attention_factor": new(rope_type="longrope", original_max_position_embeddings=16, attention_factor=1.5, **FACTORS)
    | {"max_position_embeddings": 64},
    "llama3": new(rope_type="llama3", **LLAMA3) | {"max_position_embeddings": 512},
    "llama3_legacy": old(500000.0, rope_type="llama3", **LLAMA3) | {"max_position_embeddings": 512, "tie_word_embeddings": True},
    "proportional": new(rope_type="proportional", partial_rotary_factor=0.5),
    "proportional_factor": new(rope_type="proportional", partial_rotary_factor=0.75, factor=2.0),
    "attention_bias": new(rope_type="default") | {"attention_bias": True},
    "mlp_bias": old(10000.0) | {"mlp_bias": True, "attention_bias": True, "num_key_value_heads": 4},
    "head_dim": new(rope_type="default") | {"head_dim": 12},
    "head_dim_llama3": old(500000.0, rope_type="llama3", **LLAMA3) | {"head_dim": 16, "num_key_value_heads": 1, "max_position_embeddings": 512},
}
# Cases whose rotation must differ from plain rotary embeddings; the script stops if the logits would not show it.
PLAIN = {"default", "default_no_keys", "attention_bias", "mlp_bias", "head_dim"}


def weights(config, seed):
    """Random weights, large enough that attention is far from uniform and a wrong angle shows in the logits."""
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig.from_dict(copy.deepcopy(config)))
    for name, p in model.named_parameters():
        if "norm" in name:
            p.data.uniform_(0.5, 1.5)
        elif name.endswith("bias"):
            p.data.normal_(0, 0.5)
        else:
            p.data.normal_(0, 2.0 if "q_proj" in name or "k_proj" in name else 1.0).div_(p.shape[1] ** 0.5)
    state = model.state_dict()
    if config["tie_word_embeddings"]:
        state.pop("lm_head.weight", None)
    return {k: v.contiguous().clone() for k, v in state.items()}


@torch.no_grad()
def run(folder, ids, plain=False):
    model = common.load_float32(folder)
    rotary = model.model.rotary_emb
    if plain:
        rotary.rope_type, rotary.attention_scaling = "default", 1.0
        rotary.inv_freq, _ = rotary.compute_default_rope_parameters(model.config)
    logits = model(torch.tensor([ids])).logits[0]
    return logits, rotary.inv_freq, torch.tensor([float(rotary.attention_scaling)])


for seed, (name, changes) in enumerate(CASES.items()):
    folder = args.out / name
    folder.mkdir(parents=True, exist_ok=True)
    config = BASE | changes
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(weights(config, seed), str(folder / "model.safetensors"), {"format": "pt"})
    os.chmod(folder / "model.safetensors", 0o644)
    out = {}
    generator = torch.Generator().manual_seed(seed)
    for length, n in (("short", SHORT), ("long", LONG)):
        ids = torch.randint(2, config["vocab_size"], (n,), generator=generator).tolist()
        out[f"ids.{length}"] = torch.tensor(ids)
        out[f"logits.{length}"], out[f"inv_freq.{length}"], out[f"attention_scaling.{length}"] = run(folder, ids)
    difference = (run(folder, ids, plain=True)[0] - out["logits.long"]).abs().max().item()
    print(f"{name}: logits {out['logits.long'].std():.2f}, change if the scaling were ignored {difference:.3f}")
    assert (difference < 1e-4) if name in PLAIN or name == "default_legacy_theta" else (difference > 0.1), name
    common.save(folder / "expected.safetensors", out, {"made_by": "tests/peers/record_rope.py", **common.versions("torch", "transformers")})
