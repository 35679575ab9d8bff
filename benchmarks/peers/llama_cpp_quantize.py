#!/usr/bin/env python3
"""Quantizes one model with llama.cpp and with ours, both with the same importance matrix, and prints KL, perplexity and bytes side by side.

Usage (with the venv of tests/peers/setup.sh):
    build/peers-venv/bin/python benchmarks/peers/llama_cpp_quantize.py --model DIR --calib FILE.jsonl --eval FILE.jsonl [--type q2_k_s q4_k_s]
        [--nsamples 16] [--seqlen 512] [--iters 200] [--seed 42] [--eval_tokens 4096] [--threads 1] [--binary build/release/bin/auto-round]

llama.cpp: llama_model_quantize of llama-cpp-python on a GGUF file of floats, with the importance matrix that ours collects from the calibration
text (gguf-py reads it). Ours: the search with that matrix (`opt_rtn`) and tuning (`auto`). Where rows hold no super-blocks the two choose other types
in their place; --same_types runs ours also with llama.cpp's choice for each layer (names of LLaMA), so that both have the same bytes.
One evaluator, our `eval`: KL is the mean divergence to the float model in nats. bytes: of the tensors' data. cpu: user and system seconds.
"""
import argparse
import ctypes
import json
import pathlib
import resource
import subprocess
import sys
import tempfile

import gguf
import llama_cpp
import numpy
import safetensors

REPO = pathlib.Path(__file__).resolve().parents[2]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", type=pathlib.Path, required=True)
parser.add_argument("--calib", type=pathlib.Path, required=True)
parser.add_argument("--eval", type=pathlib.Path, required=True)
parser.add_argument("--type", nargs="+", default=["q2_k_s", "q4_k_s"])
parser.add_argument("--nsamples", type=int, default=16)
parser.add_argument("--seqlen", type=int, default=512)
parser.add_argument("--iters", type=int, default=200)
parser.add_argument("--seed", type=int, default=42)
parser.add_argument("--eval_tokens", type=int, default=4096)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--same_types", action="store_true", help="also ours with the types that llama.cpp chose")
parser.add_argument("--skip_tuning", action="store_true", help="only the two searches")
parser.add_argument("--binary", type=pathlib.Path, default=REPO / "build/release/bin/auto-round")
args = parser.parse_args()
DATA = ["--dataset", args.calib, "--nsamples", args.nsamples, "--seqlen", args.seqlen, "--seed", args.seed]


def ours(folder, *options):
    """Runs our quantizer; its GGUF file and CPU seconds."""
    command = [args.binary, "quantize", "--model", args.model, "--output_dir", folder, "--threads", args.threads, "--quiet", *options]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(c) for c in command], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return next(folder.glob("*.gguf")), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def float_gguf(folder):
    """The model as a GGUF file of floats: ours with every linear layer left out, and embedding and head, which it rounds to Q8_0, as they were."""
    source, _ = ours(folder, "--format", "gguf:q8_0", "--iters", 0, "--disable_opt_rtn", "--ignore_layers", "proj")
    reader, to = gguf.GGUFReader(source), folder / "float.gguf"
    names = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight"}
    writer = gguf.GGUFWriter(to, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    with safetensors.safe_open(args.model / "model.safetensors", "pt") as floats:
        for t in reader.tensors:
            if t.name in names:
                writer.add_tensor(t.name, floats.get_tensor(names[t.name]).float().numpy())
            else:
                writer.add_tensor(t.name, t.data, raw_dtype=t.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to


def importance(path):
    """Mean squares of what each tensor multiplies, by tensor."""
    sums, counts = {}, {}
    for t in gguf.GGUFReader(path).tensors:
        name, kind = t.name.rsplit(".", 1)
        (sums if kind == "in_sum2" else counts)[name] = numpy.array(t.data, dtype=numpy.float32).reshape(-1)
    return {name: numpy.ascontiguousarray(s / counts[name][0]) for name, s in sums.items()}


def llama(source, to, ftype, matrix):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + ftype.upper())
    params.nthread = args.threads
    data = llama_cpp.llama_model_imatrix_data
    items = (data * (len(matrix) + 1))()
    for item, (name, values) in zip(items, matrix.items()):
        item.name, item.size = name.encode(), values.size
        item.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    params.imatrix = items
    before = resource.getrusage(resource.RUSAGE_SELF)
    if llama_cpp.llama_model_quantize(str(source).encode(), str(to).encode(), params) != 0:
        sys.exit("llama_model_quantize failed")
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def types_of(path, to):
    """The types of a GGUF file's layers as a --layer_config for ours."""
    parts = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    rules = {}
    for t in gguf.GGUFReader(path).tensors:
        name = t.name.split(".")
        if name[0] == "blk" and name[2] in parts:
            kind = t.tensor_type.name
            rules[f"model.layers.{name[1]}.{parts[name[2]]}"] = "GGUF:" + kind + ("_S" if kind in ("Q2_K", "Q3_K", "Q4_K", "Q5_K") else "")
    to.write_text(json.dumps(rules))
    return to


def score(path):
    done = subprocess.run([str(c) for c in [args.binary, "eval", "--model", path, "--ref", args.model, "--ppl", args.eval, "--seqlen", args.seqlen,
                                            "--max_tokens", args.eval_tokens, "--json"]], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def report(kind, who, path, cpu):
    s = score(path)
    data = sum(int(t.n_bytes) for t in gguf.GGUFReader(path).tensors)
    print(f"| {kind} | {who} | {s['kl']:.4g} | {s['ppl']:.3f} | {data} | {cpu:.0f} |", flush=True)


log = llama_cpp.llama_log_callback(lambda level, text, user: sys.stderr.write(text.decode()) if level == 4 else None)
llama_cpp.llama_log_set(log, ctypes.c_void_p())
cpu_name = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8") if line.startswith("model name")), "unknown")
print(f"{args.model.name}, {args.nsamples}x{args.seqlen}, llama-cpp-python {llama_cpp.__version__}, {cpu_name}, {args.threads} threads")
print("| type | program | KL | perplexity | bytes | CPU s |\n| --- | --- | --- | --- | --- | --- |", flush=True)
with tempfile.TemporaryDirectory(prefix="ar-llama-") as name:
    folder = pathlib.Path(name)
    floats = float_gguf(folder / "float")
    for kind in args.type:
        path, cpu = ours(folder / f"{kind}-search", "--format", f"gguf:{kind}", "--iters", 0, "--enable_opt_rtn", *DATA, "--save_imatrix", folder / f"{kind}.gguf")
        peer = folder / f"{kind}-llama.gguf"
        report(kind, "llama.cpp with importance", peer, llama(floats, peer, kind, importance(folder / f"{kind}.gguf")))
        report(kind, "ours, opt_rtn", path, cpu)
        if not args.skip_tuning:
            report(kind, "ours, auto", *ours(folder / f"{kind}-auto", "--format", f"gguf:{kind}", "--iters", args.iters, *DATA))
        if args.same_types:
            same = ["--format", f"gguf:{kind}", "--layer_config", types_of(peer, folder / f"{kind}.json"), *DATA]
            report(kind, "ours, opt_rtn, its types", *ours(folder / f"{kind}-search-same", *same, "--iters", 0, "--enable_opt_rtn"))
            if not args.skip_tuning:
                report(kind, "ours, auto, its types", *ours(folder / f"{kind}-auto-same", *same, "--iters", args.iters))
