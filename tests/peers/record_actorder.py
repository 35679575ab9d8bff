#!/usr/bin/env python3
"""Records layers of compressed-tensors whose columns lie in the order of their activations (actorder "group"): tests/data/actorder/layers.safetensors.

    pip install --no-deps --target OLD compressed-tensors==0.13.0 frozendict loguru
    PYTHONPATH=OLD python tests/peers/record_actorder.py

Version 0.20 of compressed-tensors refuses such layers; 0.13 writes and reads them. For each case, behind its name: the tensors as its compressors store
them, and "expected" [64 x 64] in float32, which they decompress. Scales are float32, so that nothing is rounded once more.
"""
import torch
from compressed_tensors.compressors.quantized_compressors.naive_quantized import FloatQuantizationCompressor, IntQuantizationCompressor
from compressed_tensors.compressors.quantized_compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationArgs
from safetensors.torch import save_file

import peer_common as common

ROWS, COLS = 64, 64
CASES = {  # compressor, bits, type, group size, symmetric, columns whose group is not set
    "int4": (PackedQuantizationCompressor, 4, "int", 16, True, 0),
    "int4_asym": (PackedQuantizationCompressor, 4, "int", 32, False, 0),
    "int8": (IntQuantizationCompressor, 8, "int", 32, True, 0),
    "fp8": (FloatQuantizationCompressor, 8, "float", 16, True, 0),
    "int4_unset": (PackedQuantizationCompressor, 4, "int", 16, True, 1),
}

torch.manual_seed(5)
out = {}
for name, (kind, bits, number, group, symmetric, unset) in CASES.items():
    args = QuantizationArgs(num_bits=bits, type=number, strategy="group", group_size=group, symmetric=symmetric, actorder="group")
    weight = torch.randn(ROWS, COLS) * torch.logspace(-1, 1, COLS)[torch.randperm(COLS)]
    order = torch.argsort(weight.square().sum(0), descending=True)
    g_idx = torch.empty(COLS, dtype=torch.int32)
    g_idx[order] = torch.arange(COLS, dtype=torch.int32) // group
    g_idx[:unset] = -1  # as a layer that nobody ordered has it throughout
    grouped = weight[:, order].unflatten(1, (COLS // group, group)) if not unset else weight.unflatten(1, (COLS // group, group))
    if symmetric:
        scale, zero = grouped.abs().amax(2) / (448.0 if number == "float" else 2 ** (bits - 1) - 0.5), None
    else:
        low, high = grouped.amin(2).clamp(max=0), grouped.amax(2).clamp(min=0)
        scale = (high - low) / (2**bits - 1)
        zero = (-2 ** (bits - 1) - low / scale).round().to(torch.int8)
    compressor = kind(config=None)
    stored = compressor.compress_weight(weight=weight, scale=scale, zero_point=zero, quantization_args=args, g_idx=g_idx)
    stored |= {"weight_scale": scale, "weight_g_idx": g_idx}
    expected = compressor.decompress_weight({**stored}, args)
    assert expected.dtype == torch.float32 and (expected - weight).abs().max() < 0.6 * weight.abs().max()
    if not unset:
        assert ((expected - weight).abs() <= (0.51 if number == "int" else 16) * scale[:, g_idx.long()]).all()
    for part, tensor in (stored | {"expected": expected}).items():
        out[f"{name}.{part}"] = tensor.contiguous()

path = common.DATA / "actorder" / "layers.safetensors"
path.parent.mkdir(exist_ok=True)
save_file(out, path, metadata=common.versions("compressed-tensors", "torch"))
print(path, path.stat().st_size)
