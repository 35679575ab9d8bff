#!/usr/bin/env python3
"""How near the model-free mode comes to the bandwidth of the disk: rounds a synthetic checkpoint shaped as LLaMA 3.1 8B (16 GB in four files).

Usage: benchmarks/model_free.py DIR [--scheme W4A16] [--blocks 32] [--threads 2] [--binary build/release/bin/auto-round] [--cold]
DIR must have room for the checkpoint (kept there for the next call) and the output. Prints a ratio: the time of a program that reads the same files and
writes as many bytes as the output has, in one thread, with fsync, over the time of ours, which also hashes what it writes and syncs it. --cold empties
the page cache before each (needs root); without it the machine's memory decides what is read from the disk.
"""
import argparse
import json
import os
import pathlib
import random
import resource
import shutil
import struct
import subprocess
import sys
import time

REPO = pathlib.Path(__file__).resolve().parents[1]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("dir", type=pathlib.Path)
parser.add_argument("--scheme", default="W4A16")
parser.add_argument("--blocks", type=int, default=32)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--binary", type=pathlib.Path, default=REPO / "build/release/bin/auto-round")
parser.add_argument("--cold", action="store_true")
args = parser.parse_args()
HIDDEN, MLP, KV, VOCAB, SHARD = 4096, 14336, 1024, 128256, 5_000_000_000


def tensors():
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for b in range(args.blocks):
        p = f"model.layers.{b}."
        for name, shape in (("self_attn.q_proj", (HIDDEN, HIDDEN)), ("self_attn.k_proj", (KV, HIDDEN)), ("self_attn.v_proj", (KV, HIDDEN)),
                            ("self_attn.o_proj", (HIDDEN, HIDDEN)), ("mlp.gate_proj", (MLP, HIDDEN)), ("mlp.up_proj", (MLP, HIDDEN)),
                            ("mlp.down_proj", (HIDDEN, MLP)), ("input_layernorm", (HIDDEN,)), ("post_attention_layernorm", (HIDDEN,))):
            yield f"{p}{name}.weight", shape
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCAB, HIDDEN)


def size(shape):
    n = 2
    for s in shape:
        n *= s
    return n


def make(folder):
    folder.mkdir(parents=True)
    shards, used = [[]], 0
    for name, shape in tensors():
        if used + size(shape) > SHARD:
            shards.append([])
            used = 0
        shards[-1].append((name, shape))
        used += size(shape)
    # bfloat16 of a bell-shaped distribution, a block of 32 MiB that every tensor begins somewhere else in.
    rng = random.Random(1)
    values = [struct.pack("<f", rng.gauss(0, 0.02))[2:] for _ in range(1 << 16)]
    block = b"".join(rng.choices(values, k=1 << 24))
    index = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        header, at = {}, 0
        for name, shape in shard:
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size(shape)]}
            at += size(shape)
            index[name] = file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / file, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for name, shape in shard:
                left, start = size(shape), rng.randrange(1 << 23) * 2
                while left > 0:
                    piece = block[start:start + left]
                    out.write(piece)
                    left -= len(piece)
                    start = 0
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": sum(size(s) for _, s in tensors())}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": MLP, "num_hidden_layers": args.blocks,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": VOCAB, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "hidden_act": "silu"}))
    os.sync()


def cold():
    os.sync()
    if args.cold:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def copy(files, to, bytes_out):
    """Reads the files, writes so many bytes as evenly as it reads, and syncs them."""
    total = sum(f.stat().st_size for f in files)
    done = written = 0
    begin = time.perf_counter()
    with open(to, "wb", buffering=0) as out:
        for f in files:
            with open(f, "rb", buffering=0) as source:
                while piece := source.read(8 << 20):
                    done += len(piece)
                    more = bytes_out * done // total - written
                    written += out.write(piece[:more])
        os.fsync(out.fileno())
    seconds = time.perf_counter() - begin
    to.unlink()
    return seconds


source, out = args.dir / f"synthetic-{args.blocks}", args.dir / "out"
if not source.exists():
    print("making the checkpoint ...", flush=True)
    if (maker := os.fork()) == 0:  # which takes its memory along: the peak of a child counts that of its parent at the fork
        make(source)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(maker, 0)[1]) != 0:
        sys.exit("the checkpoint could not be made")
shutil.rmtree(out, ignore_errors=True)
files = sorted(source.glob("*.safetensors"))
bytes_in = sum(f.stat().st_size for f in files)
cold()
before = resource.getrusage(resource.RUSAGE_CHILDREN)
begin = time.perf_counter()
done = subprocess.run([str(args.binary), "quantize", "--model", str(source), "--output_dir", str(out), "--model_free", "--scheme", args.scheme, "--threads", str(args.threads),
                       "--json", "--quiet"], stdout=subprocess.PIPE, text=True)
ours = time.perf_counter() - begin
after = resource.getrusage(resource.RUSAGE_CHILDREN)
if done.returncode != 0:
    sys.exit(done.returncode)
facts = json.loads(done.stdout)
bytes_out = sum(f.stat().st_size for f in out.glob("*.safetensors"))
shutil.rmtree(out)
cold()
plain = copy(files, args.dir / "copied", bytes_out)
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
name = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8") if line.startswith("model name")), "unknown")
print(f"{args.scheme}, {args.blocks} blocks, {name}, {args.threads} threads, page cache {'emptied' if args.cold else 'as it was'}")
print(f"read {bytes_in / 1e9:.2f} GB, write {bytes_out / 1e9:.2f} GB")
print(f"ours  {ours:7.1f} s {(bytes_in + bytes_out) / ours / 1e6:7.0f} MB/s, {cpu:.1f} CPU s, peak {facts['peak_memory_bytes'] / 1e6:.0f} MB")
print(f"plain {plain:7.1f} s {(bytes_in + bytes_out) / plain / 1e6:7.0f} MB/s")
print(f"ratio {plain / ours:7.2f}")
