#!/usr/bin/env python3
"""Records logits of tiny random models, one or two for each architecture.

Usage: record_architectures.py [--out tests/data/architectures] [case ...]
Each case is a model folder (config.json, model.safetensors in bfloat16, named as checkpoints on the Hub are) with expected.safetensors beside them:
    ids [n], logits [n x 64] in float32.
Sequences are longer than the windows of the models that have some.
"""
import argparse
import json
import os
import pathlib
import tempfile

import torch
from safetensors.torch import load_file, save_file

import peer_common as common

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path, default=common.DATA / "architectures")
parser.add_argument("cases", nargs="*")
args = parser.parse_args()
torch.set_num_threads(1)

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, "tie_word_embeddings": False, "torch_dtype": "float32"}
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 12, "sliding_window": 6, "tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh"}
LATENT = {"num_key_value_heads": 4, "kv_lora_rank": 32, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 16, "moe_intermediate_size": 16,
          "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 2}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1, "mscale": 0.8, "mscale_all_dim": 0.6}
CASES = {
    "mistral": ("MistralForCausalLM", "mistral", {"sliding_window": 6, "rope_theta": 10000.0}),
    "qwen2": ("Qwen2ForCausalLM", "qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("Qwen3ForCausalLM", "qwen3", {"head_dim": 10}),
    "phi3": ("Phi3ForCausalLM", "phi3", {"sliding_window": 7, "partial_rotary_factor": 0.5, "original_max_position_embeddings": 16,
             "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 5.0]}}),
    "gemma2": ("Gemma2ForCausalLM", "gemma2", GEMMA | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0}),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text", GEMMA | {"sliding_window_pattern": 2, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
               "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    "opt": ("OPTForCausalLM", "opt", {"ffn_dim": 64, "word_embed_proj_dim": 32, "tie_word_embeddings": True, "activation_function": "relu"}),
    "gpt_neox": ("GPTNeoXForCausalLM", "gpt_neox", {"rotary_pct": 0.5, "rotary_emb_base": 10000, "use_parallel_residual": True, "hidden_act": "gelu"}),
    "mixtral": ("MixtralForCausalLM", "mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "qwen3_moe", {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True,
                  "mlp_only_layers": [0], "decoder_sparse_step": 1}),
    "deepseek_v2": ("DeepseekV2ForCausalLM", "deepseek_v2", LATENT | {"q_lora_rank": None, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2,
                    "routed_scaling_factor": 1.5}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", "deepseek_v3", LATENT | {"q_lora_rank": 32, "n_group": 4, "topk_group": 2, "norm_topk_prob": True, "scoring_func": "sigmoid",
                    "topk_method": "noaux_tc", "routed_scaling_factor": 2.5, "rope_scaling": YARN, "rope_interleave": True}),
}
TOKENS = 24


def write_weights(config, seed, folder):
    """Random weights, large enough that attention is far from uniform and that a wrong detail shows in the logits."""
    import transformers
    torch.manual_seed(seed)
    cls = getattr(transformers, config["architectures"][0])
    model = cls(cls.config_class.from_dict(dict(config))).eval()
    for name, p in model.named_parameters():
        if "norm" in name:
            p.data.uniform_(-0.4, 0.4) if "gemma" in config["model_type"] or name.endswith("bias") else p.data.uniform_(0.5, 1.5)
        elif name.endswith("bias"):
            p.data.normal_(0, 0.5)
        else:
            p.data.normal_(0, 1.5 if "q_proj" in name or "k_proj" in name or "gate.weight" in name else 1.0).div_(p.shape[-1] ** 0.5)
    for name, b in model.named_buffers():
        if "e_score_correction_bias" in name:
            b.data.normal_(0, 0.3)
    with tempfile.TemporaryDirectory() as d:
        model.save_pretrained(d)
        state = load_file(os.path.join(d, "model.safetensors"))
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in state.items()}, str(folder / "model.safetensors"), {"format": "pt"})
    os.chmod(folder / "model.safetensors", 0o644)
    return sorted(state)


@torch.no_grad()
def run(folder, ids):
    return common.load_float32(folder)(torch.tensor([ids])).logits[0]


for seed, (name, (cls, model_type, changes)) in enumerate(CASES.items()):
    if args.cases and name not in args.cases:
        continue
    folder = args.out / name
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": [cls], "model_type": model_type} | SIZES | changes
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    names = write_weights(config, seed, folder)
    ids = torch.randint(2, config["vocab_size"], (TOKENS,), generator=torch.Generator().manual_seed(seed)).tolist()
    logits = run(folder, ids)
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: logits {logits.std():.2f}, {size} bytes, e.g. {names[1]} {names[-3]}")
    common.save(folder / "expected.safetensors", {"ids": torch.tensor(ids), "logits": logits},
                {"made_by": "tests/peers/record_architectures.py", **common.versions("torch", "transformers")})
