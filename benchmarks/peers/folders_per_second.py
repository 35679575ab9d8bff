#!/usr/bin/env python3
"""Tokens per second of `auto-round generate` on the formats of folders, beside Q4_0 of the same model by the same program.

    benchmarks/peers/folders_per_second.py [--program build/release/bin/auto-round] [--rounds 3] [--tokens 48] MODEL WORK

Exports MODEL to each format into WORK by plain rounding (what is there already stays). The formats take turns, a round each: a prompt at once, then tokens one by
one. Medians over the rounds by wall clock, and of the ratios of each round; OMP_NUM_THREADS sets the threads.
"""
import argparse
import json
import pathlib
import statistics
import subprocess

EXPORTS = {
    "gguf q4_0": "--format gguf:q4_0",
    "gguf q4_k_s": "--format gguf:q4_k_s",
    "auto_round W4": "--scheme W4A16G64",
    "auto_awq W4 asym": "--scheme W4A16G64 --asym --format auto_awq",
    "mlx W4": "--scheme W4A16G64 --format mlx",
    "auto_round W2": "--scheme W2A16G64",
    "auto_round W3": "--scheme W3A16G64",
    "llm_compressor W5": "--scheme W5A16G64 --format llm_compressor",
    "llm_compressor W6": "--scheme W6A16G64 --format llm_compressor",
    "auto_round W8": "--scheme W8A16G64",
    "llm_compressor MXFP4": "--scheme MXFP4 --format llm_compressor",
    "llm_compressor MXFP8": "--scheme MXFP8 --format llm_compressor",
    "llm_compressor NVFP4": "--scheme NVFP4 --format llm_compressor --dataset builtin --nsamples 4 --seqlen 64",
    "llm_compressor FPW8A16": "--scheme FPW8A16 --format llm_compressor",
    "float": None,
}
REPO = pathlib.Path(__file__).resolve().parents[2]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--program", default=str(REPO / "build/release/bin/auto-round"))
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--tokens", type=int, default=48)
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("work", type=pathlib.Path)
args = parser.parse_args()

paths = {}
for name, options in EXPORTS.items():
    if options is None:
        paths[name] = args.model
        continue
    folder = args.work / name.replace(" ", "-")
    if not folder.exists():
        subprocess.run([args.program, "quantize", "--model", args.model, "--output_dir", folder, "--iters", "0", "--disable_opt_rtn", "--quiet", *options.split()], check=True)
    paths[name] = next(folder.glob("*.gguf"), folder)

prompt = (REPO / "README.md").read_text(encoding="utf-8")[:1200]
generated, read = {name: [] for name in paths}, {name: [] for name in paths}
for _ in range(args.rounds):
    for name, path in paths.items():
        run = subprocess.run([args.program, "generate", path, "--prompt", prompt, "--max_tokens", str(args.tokens + 1), "--ignore_eos", "--json"], check=True, capture_output=True, text=True)
        result = json.loads(run.stdout)
        generated[name].append(args.tokens / result["generation_seconds"])
        read[name].append(result["prompt_tokens"] / result["prompt_seconds"])


def medians(numbers, name):
    """The median, and that of the ratios to Q4_0."""
    ratio = statistics.median(a / b for a, b in zip(numbers[name], numbers["gguf q4_0"]))
    return f"{statistics.median(numbers[name]):10.1f} {ratio:6.2f}"


print(f"{'format':24} {'generation':>10} {'ratio':>6} {'prompt':>10} {'ratio':>6}")
for name in paths:
    print(f"{name:24} {medians(generated, name)} {medians(read, name)}")
