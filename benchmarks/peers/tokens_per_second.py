#!/usr/bin/env python3
"""Tokens per second of `auto-round generate` beside llama-cpp-python, on the same GGUF files, CPU and number of threads.

    pip install llama-cpp-python==0.3.36 numpy
    benchmarks/peers/tokens_per_second.py --program build/release/bin/auto-round --threads 1 2 MODEL.gguf...

Two numbers of each program: tokens of a prompt that is processed at once, and tokens generated one by one behind it (greedy). The programs take turns, a
round each; medians over the rounds, by wall clock and by CPU time of the process (on a busy machine only the latter means much, and only for one thread:
waiting threads spin). A ratio above 1: ours is faster. tokenizer.json has to lie beside the GGUF file, as in our exports.

    benchmarks/peers/tokens_per_second.py --make_model DIR --tokenizer SMOLLM2

writes a LLaMA of 192 million random weights whose rows are whole K blocks, unlike those of SmolLM2-135M; the text that it makes up takes as long as any other.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

import numpy


def make_model(folder, tokenizer):
    hidden, inner, heads, kv, layers = 1024, 2816, 16, 8, 12
    vocab = len({**json.load(open(f"{tokenizer}/tokenizer.json"))["model"]["vocab"]})
    os.makedirs(folder, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner,
              "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv, "rope_theta": 10000.0, "max_position_embeddings": 4096,
              "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
    json.dump(config, open(f"{folder}/config.json", "w"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{tokenizer}/{name}", folder)
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    width = hidden // heads * kv
    for i in range(layers):
        b = f"model.layers.{i}."
        shapes.update({b + "self_attn.q_proj.weight": (hidden, hidden), b + "self_attn.k_proj.weight": (width, hidden), b + "self_attn.v_proj.weight": (width, hidden),
                       b + "self_attn.o_proj.weight": (hidden, hidden), b + "mlp.gate_proj.weight": (inner, hidden), b + "mlp.up_proj.weight": (inner, hidden),
                       b + "mlp.down_proj.weight": (hidden, inner), b + "input_layernorm.weight": (hidden,), b + "post_attention_layernorm.weight": (hidden,)})
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(numpy.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    rng = numpy.random.default_rng(7)
    with open(f"{folder}/model.safetensors", "wb") as f:
        text = json.dumps(header).encode()
        f.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            w = numpy.ones(shape, numpy.float32) if len(shape) == 1 else rng.standard_normal(shape, numpy.float32) * 0.02
            f.write((w.view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes())


class Peer:
    """The C interface of llama.cpp through llama-cpp-python: what lies above it copies and sorts all logits."""

    def __init__(self, path, threads, context):
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.quiet, None)
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            sys.exit(f"{path}: llama.cpp does not load it")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, context, context
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def step(self, ids):
        array = (llama_cpp.llama_token * len(ids))(*ids)
        if llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(ids))) != 0:
            sys.exit("llama_decode failed")
        return int(numpy.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, -1), (self.vocab,)).argmax())

    def run(self, prompt_tokens, tokens):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        ids = [int(i) for i in numpy.random.default_rng(1).integers(self.vocab // 8, self.vocab // 2, prompt_tokens)]
        clocks = [(time.perf_counter(), time.process_time())]
        token = self.step(ids)
        clocks.append((time.perf_counter(), time.process_time()))
        for _ in range(tokens):
            token = self.step([token])
        clocks.append((time.perf_counter(), time.process_time()))
        seconds = [[b - a for a, b in zip(clocks[i], clocks[i + 1])] for i in (0, 1)]
        return {"prompt": [prompt_tokens / s for s in seconds[0]], "generation": [tokens / s for s in seconds[1]]}


def ours(program, path, threads, prompt, tokens):
    # --ignore_eos: as many tokens in every round.
    out = subprocess.run([program, "generate", "--model", path, "--prompt", prompt, "--max_tokens", str(tokens + 1), "--ignore_eos", "--json"],
                         env={**os.environ, "OMP_NUM_THREADS": str(threads)}, check=True, capture_output=True, text=True).stdout
    r = json.loads(out)
    n, made = r["prompt_tokens"], len(r["ids"]) - 1
    return r, {"prompt": [n / r["prompt_seconds"], n / r["prompt_cpu_seconds"]], "generation": [made / r["generation_seconds"], made / r["generation_cpu_seconds"]]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--make_model", metavar="DIR")
    parser.add_argument("--tokenizer", metavar="DIR")
    parser.add_argument("--program", default="build/release/bin/auto-round")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", default=" ".join(["The old clock on the tower struck twelve, and nobody in the village looked up from the bread and the soup."] * 11))
    parser.add_argument("--json", help="write all rounds to this file")
    a = parser.parse_args()
    if a.make_model:
        return make_model(a.make_model, a.tokenizer)
    global llama_cpp
    import llama_cpp
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    print(f"{cpu}, llama-cpp-python {llama_cpp.__version__}, {llama_cpp.llama_print_system_info().decode().strip()}")
    print(f"{'model':32} threads {'':12} {'ours':>8} {'peer':>8} {'ratio':>6}   tokens per second, medians of {a.rounds}")
    kept = []
    for path in a.models:
        for threads in a.threads:
            first, _ = ours(a.program, path, threads, a.prompt, 1)
            peer = Peer(path, threads, 2048)
            rounds = []
            for _ in range(a.rounds):
                report, mine = ours(a.program, path, threads, a.prompt, a.tokens)
                rounds.append((mine, peer.run(first["prompt_tokens"], a.tokens)))
            name = os.path.basename(path)
            for part in ("prompt", "generation"):
                for clock, what in enumerate(("wall", "CPU")):
                    mine, other = (statistics.median(r[side][part][clock] for r in rounds) for side in (0, 1))
                    ratio = statistics.median(r[0][part][clock] / r[1][part][clock] for r in rounds)
                    print(f"{name:32} {threads:7} {part + ' ' + what:>15} {mine:8.1f} {other:8.1f} {ratio:6.2f}", flush=True)
            print(f"{name:32} {threads:7} {'weights':>15} {report['weight_bytes'] / 2**20:8.1f} MiB in memory, {os.path.getsize(path) / 2**20:.1f} MiB in the file", flush=True)
            kept.append({"model": name, "threads": threads, "rounds": rounds, "prompt_tokens": first["prompt_tokens"]})
    if a.json:
        with open(a.json, "w") as f:
            json.dump({"cpu": cpu, "llama_cpp_python": llama_cpp.__version__, "cases": kept}, f, indent=1)


if __name__ == "__main__":
    main()
