#!/usr/bin/env python3
"""How good are the policies of auto-round: quantizes one model by schemes x policies x seeds and prints a table.

Usage: benchmarks/quality.py --model DIR --calib FILE.jsonl --eval FILE.jsonl [--scheme NAME ...] [--policy NAME ...] [--seeds 42 43 44]
           [--nsamples 16] [--seqlen 256] [--iters 200] [--eval_tokens 4096] [--binary build/release/bin/auto-round] [--results FILE.json]
Schemes and policies: see SCHEMES and POLICIES. A run that is in --results already is not repeated. KL is the mean divergence to the float model in nats,
over --eval_tokens tokens in windows of --seqlen, by this program's own eval; cpu are user and system seconds of the quantization alone, memory its peak.
A policy without a seed in it (rounding, gram) runs once for each seed all the same: the seed orders the calibration text.
"""
import argparse
import json
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile

REPO = pathlib.Path(__file__).resolve().parents[1]
SCHEMES = {
    "W4G64": "--scheme W4A16 --group_size 64", "W3G64": "--scheme W3A16 --group_size 64", "W2G64": "--scheme W2A16 --group_size 64",
    "W2G32": "--scheme W2A16G32", "W4G64A": "--scheme W4A16 --group_size 64 --asym", "W3G64A": "--scheme W3A16 --group_size 64 --asym",
    "W2G64A": "--scheme W2A16 --group_size 64 --asym", "W2G32A": "--scheme W2A16G32 --asym", "MXFP4": "--scheme MXFP4", "NVFP4": "--scheme NVFP4",
    "MXFP4W": "--scheme MXFP4 --act_bits 16", "NVFP4W": "--scheme NVFP4 --act_bits 16",  # weights alone
    "Q2_K_S": "--format gguf:q2_k_s", "Q4_K_S": "--format gguf:q4_k_s",
}
DATA = "--dataset {calib} --nsamples {nsamples} --seqlen {seqlen} --seed {seed}"
TUNE = DATA + " --iters {iters}"
POLICIES = {
    "rtn": "--iters 0 --disable_opt_rtn",
    "search": "--iters 0 --enable_opt_rtn",                    # scales for the weights alone
    "opt_rtn": "--iters 0 --enable_opt_rtn " + DATA,           # weighted by importance
    "opt_rtn_compat": "--iters 0 --enable_opt_rtn --compat " + DATA,
    "auto": TUNE,
    "gram": TUNE + " --tuning gram",                            # with coordinate descent
    "gram_plain": TUNE + " --tuning gram --descent_sweeps 0",   # SignRound alone
    "hybrid": TUNE + " --tuning hybrid",
    "block": TUNE + " --tuning block",                         # the original's policies
    "block_closed": TUNE + " --tuning block --clamp_gradient closed",
    "block_last": TUNE + " --tuning block --not_use_best_mse",
    "block_f32": TUNE + " --tuning block --scale_gradient f32",
    "block_all": TUNE + " --tuning block --clamp_gradient closed --not_use_best_mse --scale_gradient f32",
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", type=pathlib.Path, required=True)
parser.add_argument("--calib", type=pathlib.Path, required=True)
parser.add_argument("--eval", type=pathlib.Path, required=True)
parser.add_argument("--scheme", nargs="+", choices=SCHEMES, default=["W4G64", "W3G64", "W2G64", "W2G32", "MXFP4", "NVFP4", "Q2_K_S", "Q4_K_S"])
parser.add_argument("--policy", nargs="+", choices=POLICIES, default=["rtn", "opt_rtn", "auto"])
parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
parser.add_argument("--nsamples", type=int, default=16)
parser.add_argument("--seqlen", type=int, default=256)
parser.add_argument("--iters", type=int, default=200)
parser.add_argument("--eval_tokens", type=int, default=4096)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--binary", type=pathlib.Path, default=REPO / "build/release/bin/auto-round")
parser.add_argument("--results", type=pathlib.Path)
args = parser.parse_args()


def children():
    u = resource.getrusage(resource.RUSAGE_CHILDREN)
    return u.ru_utime + u.ru_stime


def run(scheme, policy, seed, folder):
    """One quantization and its evaluation."""
    values = {"calib": args.calib, "nsamples": args.nsamples, "seqlen": args.seqlen, "seed": seed, "iters": args.iters}
    command = [str(args.binary), "--model", str(args.model), "--output_dir", str(folder / "out"), "--json", "--quiet", "--threads", str(args.threads)]
    options = SCHEMES[scheme] + " " + POLICIES[policy].format(**values)
    if "--format" not in options:
        options += " --format fake"
    before = children()
    done = subprocess.run(command + options.split(), capture_output=True, text=True)
    if done.returncode != 0:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "failed"}
    cpu = children() - before
    facts = json.loads(done.stdout)
    scored = subprocess.run([str(args.binary), "eval", "--model", str(folder / "out"), "--ref", str(args.model), "--ppl", str(args.eval), "--seqlen",
                             str(args.seqlen), "--max_tokens", str(args.eval_tokens), "--json"], capture_output=True, text=True, check=True)
    score = json.loads(scored.stdout)
    return {"kl": score["kl"], "ppl": score["ppl"], "top1": score["top1"], "cpu": cpu, "wall": facts["seconds"], "memory": facts["peak_memory_bytes"],
            "tuning": facts["tuning"], "bits": facts["formats"][0]["bits_per_quantized_weight"]}


results = json.loads(args.results.read_text()) if args.results and args.results.exists() else {}
settings = f"{args.nsamples}x{args.seqlen} its{args.iters} eval{args.eval_tokens}"
cpu_name = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8") if line.startswith("model name")), "unknown")
print(f"{args.model.name}, {settings}, {cpu_name}, {args.threads} threads")
print("| scheme | policy | KL (seeds) | perplexity | CPU s | wall s | memory MB |\n| --- | --- | --- | --- | --- | --- | --- |")
for scheme in args.scheme:
    for policy in args.policy:
        rows = []
        for seed in args.seeds if "seed" in POLICIES[policy] else args.seeds[:1]:
            key = f"{args.model.name} {settings} {scheme} {policy} {seed}"
            if key not in results:
                folder = pathlib.Path(tempfile.mkdtemp(prefix="ar-quality-"))
                try:
                    results[key] = run(scheme, policy, seed, folder)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
                if args.results:
                    args.results.write_text(json.dumps(results, indent=1) + "\n")
            rows.append(results[key])
        failed = [r["error"] for r in rows if "error" in r]
        if failed:
            print(f"| {scheme} | {policy} | {failed[0]} | | | | |", flush=True)
            continue
        mean = lambda name: statistics.mean(r[name] for r in rows)  # noqa: E731
        kl = f"{mean('kl'):.4g}" + (f" ({min(r['kl'] for r in rows):.4g} to {max(r['kl'] for r in rows):.4g})" if len(rows) > 1 else "")
        print(f"| {scheme} | {policy} | {kl} | {mean('ppl'):.3f} | {mean('cpu'):.0f} | {mean('wall'):.0f} | {mean('memory') / 1e6:.0f} |", flush=True)
sys.exit(0)
