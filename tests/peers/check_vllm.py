#!/usr/bin/env python3
"""Quantizes a model with our program, loads each result with vLLM on the CPU, and compares perplexities.

Usage (with the venv of setup_vllm.sh): check_vllm.py [--binary build/release/bin/auto-round] [--model DIR] [--text FILE.jsonl]
        [--seqlen 128] [--max_tokens 4096] [--format NAME ...] [--tolerance 0.01]
vLLM computes in bfloat16 with its own kernels; inputs are quantized where the checkpoint says so, by it and by our eval. Windows are those of
`auto-round eval --ppl`. A format that this vLLM has no CPU kernel for is reported with what it said, and does not count as failed: it was asked to load
a checkpoint for other hardware. Exit status 1 if a perplexity disagrees by more than the tolerance.
"""
import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

import peer_common as common

CALIBRATION = f"{common.TINY_STORIES / 'calib.jsonl'} --nsamples 16 --seqlen 256"
SHARED = ("auto_round", "auto_round_w8", "auto_gptq", "auto_gptq_w8", "auto_awq", "auto_awq_asym", "llm_compressor", "llm_compressor_asym", "llm_compressor_int8", "llm_compressor_mxfp4",
          "llm_compressor_mxfp8", "llm_compressor_nvfp4", "llm_compressor_fp8_static", "llm_compressor_fp8_block", "llm_compressor_fpw8a16", "fp8", "auto_round_mxfp4", "fake")
FORMATS = {  # name: options of quantize; none: the float model
    "float": None,
    **{name: common.EXPORTS[name][0].replace("CALIB", CALIBRATION) for name in SHARED},
    "auto_round_asym": "--scheme W4A16 --asym --format auto_round --disable_model_free",
    "llm_compressor_w8": "--scheme W8A16 --format llm_compressor",
}


def windows(ids, seqlen):
    return [ids[i:i + seqlen] for i in range(0, len(ids), seqlen) if len(ids[i:i + seqlen]) > 1]


def score_here(path, ids, seqlen):
    """In this process: the perplexity by vLLM, as JSON on the last line."""
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
    from vllm import LLM, SamplingParams
    model = LLM(model=path, dtype="bfloat16", enforce_eager=True, max_model_len=seqlen + 8, max_num_seqs=4, disable_log_stats=True)
    asked = [{"prompt_token_ids": w} for w in windows(ids, seqlen)]
    loss, n = 0.0, 0
    for answer in model.generate(asked, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0), use_tqdm=False):
        for token, known in zip(answer.prompt_token_ids[1:], answer.prompt_logprobs[1:]):
            loss, n = loss - known[token].logprob, n + 1
    print(json.dumps({"ppl": math.exp(loss / n), "tokens": n}))


def by_vllm(path, ids, seqlen):
    done = subprocess.run([sys.executable, __file__, "--score", str(path), "--seqlen", str(seqlen)], input=json.dumps(ids), capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1]), None
    said = [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line or "not supported" in line]
    return None, (said or ["it ended with %d" % done.returncode])[-1].split("ERROR")[-1].strip()[:200]


def main():
    parser = common.export_arguments(__doc__, FORMATS, seqlen=128, max_tokens=4096, tolerance=0.01)
    parser.add_argument("--score", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.score:
        return score_here(args.score, json.load(sys.stdin), args.seqlen)
    text = common.text_to_score(args)
    ids = common.Tokens(args.model).stream(text, args.max_tokens)
    failed = 0
    print(f"{'format':26} {'vLLM ppl':>10} {'own ppl':>10}", flush=True)
    for name in args.format:
        with tempfile.TemporaryDirectory(prefix="ar-vllm-") as tmp:
            path, options = args.model, FORMATS[name]
            if options:
                path = pathlib.Path(tmp, "out")
                group = ["--group_size", args.group_size] if args.group_size and "A16" in options else []
                common.run_ours(args.binary, "quantize", "--model", args.model, *options.split(), *group, "--iters", 0, "--disable_opt_rtn", "--output_dir", path)
            ours = json.loads(common.run_ours(args.binary, "eval", "--model", path, "--ppl", text, "--seqlen", args.seqlen, "--max_tokens", args.max_tokens, "--json"))
            theirs, said = by_vllm(path, ids, args.seqlen)
        if theirs is None:
            print(f"{name:26} {'-':>10} {ours['ppl']:10.5f}  not run: {said}", flush=True)
            continue
        wrong = [] if ours["tokens"] == theirs["tokens"] else [f"scored {ours['tokens']} tokens, not {theirs['tokens']}"]
        if abs(ours["ppl"] / theirs["ppl"] - 1) > args.tolerance:
            wrong.append(f"differs by {abs(ours['ppl'] / theirs['ppl'] - 1):.1%}")
        failed += bool(wrong)
        print(f"{name:26} {theirs['ppl']:10.5f} {ours['ppl']:10.5f}  {'; '.join(wrong) or 'ok'}", flush=True)
    print(f"{failed} disagree")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
