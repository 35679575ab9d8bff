#!/usr/bin/env python3
"""Records the gradients of one LLaMA decoder block by torch's autograd, for the test of our backward pass.

Usage: record_backward.py [--out tests/data/backward]
llama_block.safetensors (hidden 32, 4 heads, 2 key-value heads, intermediate 48; 2 sequences of 12 tokens, causal, plain rotary
embeddings with base 10000, positions from 0, rms eps 1e-5), linear weights [out_features x in_features]:
    input, upstream, output.{f32,f64}   [2 x 12 x 32]; the loss is sum(output * upstream)
    weight.NAME, grad.f32.NAME, grad.f64.NAME, NAME in input_layernorm, self_attn.{q,k,v,o}_proj,
                                        post_attention_layernorm, mlp.{gate,up,down}_proj; grad.*.input
f32 is transformers' LlamaDecoderLayer. transformers casts to float32 inside its norm and softmax, so f64 comes from the
formulas below, which the script first checks against transformers.
"""
import argparse
import pathlib

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

import peer_common as common

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path, default=common.DATA / "backward")
args = parser.parse_args()
torch.set_num_threads(1)
torch.manual_seed(7)

BATCH, TOKENS, HIDDEN, HEADS, KV_HEADS, INNER, EPS, THETA = 2, 12, 32, 4, 2, 48, 1e-5, 10000.0
WIDTH = HIDDEN // HEADS
config = LlamaConfig(hidden_size=HIDDEN, intermediate_size=INNER, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
                     num_hidden_layers=1, vocab_size=64, max_position_embeddings=64, rms_norm_eps=EPS,
                     rope_parameters={"rope_type": "default", "rope_theta": THETA}, attn_implementation="eager")


def block(w, x):
    """The decoder block in the dtype of x."""
    def norm(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * weight

    def heads(x, n):  # [batch, n, tokens, WIDTH]
        return x.view(BATCH, TOKENS, n, WIDTH).transpose(1, 2)

    def rotate(x):
        frequency = THETA ** (-torch.arange(0, WIDTH, 2, dtype=torch.float64) / WIDTH)
        angle = (torch.arange(TOKENS, dtype=torch.float64)[:, None] * frequency).to(x.dtype)
        first, second = x.chunk(2, -1)
        return torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()), -1)

    h = norm(x, w["input_layernorm"])
    q = rotate(heads(h @ w["self_attn.q_proj"].T, HEADS))
    k = rotate(heads(h @ w["self_attn.k_proj"].T, KV_HEADS)).repeat_interleave(HEADS // KV_HEADS, 1)
    v = heads(h @ w["self_attn.v_proj"].T, KV_HEADS).repeat_interleave(HEADS // KV_HEADS, 1)
    scores = q @ k.transpose(2, 3) / WIDTH**0.5
    scores = scores.masked_fill(torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1), float("-inf"))
    attended = (scores.softmax(-1) @ v).transpose(1, 2).reshape(BATCH, TOKENS, HIDDEN)
    x = x + attended @ w["self_attn.o_proj"].T
    h = norm(x, w["post_attention_layernorm"])
    return x + (torch.nn.functional.silu(h @ w["mlp.gate_proj"].T) * (h @ w["mlp.up_proj"].T)) @ w["mlp.down_proj"].T


layer = LlamaDecoderLayer(config, 0)
for name, p in layer.named_parameters():
    if "norm" in name:
        p.data.uniform_(0.5, 1.5)
    else:
        p.data.normal_(0, 2.0 if "q_proj" in name or "k_proj" in name else 1.0).div_(p.shape[1] ** 0.5)
x32 = torch.randn(BATCH, TOKENS, HIDDEN, requires_grad=True)
upstream = torch.randn(BATCH, TOKENS, HIDDEN)
mask = torch.full((TOKENS, TOKENS), float("-inf")).triu(1)[None, None].expand(BATCH, 1, -1, -1)
y32 = layer(x32, attention_mask=mask, position_embeddings=LlamaRotaryEmbedding(config)(x32, torch.arange(TOKENS)[None]))
y32 = y32[0] if isinstance(y32, tuple) else y32
(y32 * upstream).sum().backward()

out = {"input": x32, "upstream": upstream, "output.f32": y32, "grad.f32.input": x32.grad}
w64 = {}
for name, p in layer.named_parameters():
    name = name.removesuffix(".weight")
    out[f"weight.{name}"], out[f"grad.f32.{name}"] = p, p.grad
    w64[name] = p.detach().double().requires_grad_()
x64 = x32.detach().double().requires_grad_()
y64 = block(w64, x64)
(y64 * upstream.double()).sum().backward()
out |= {"output.f64": y64, "grad.f64.input": x64.grad} | {f"grad.f64.{name}": p.grad for name, p in w64.items()}

worst = 0.0
for name, value in out.items():
    if ".f32" in name:
        exact = out[name.replace(".f32", ".f64")]
        worst = max(worst, ((value - exact).abs().max() / exact.abs().max()).item())
print(f"largest difference between transformers in float32 and the formulas in float64, relative to the largest entry: {worst:.1e}")
assert worst < 1e-5
info = {"made_by": "tests/peers/record_backward.py", **common.versions("torch", "transformers"), "difference_f32_f64": worst}
common.save(args.out / "llama_block.safetensors", out, info)
