#!/usr/bin/env python3
"""Quantizes a model with our program, loads each result with the program it is meant for, and compares perplexities.

Usage (with the venv of setup.sh): check_exports.py [--binary build/release/bin/auto-round] [--model DIR] [--text FILE.jsonl]
        [--seqlen 256] [--max_tokens 10000] [--group_size N] [--format NAME ...] [--tolerance 0.005] [--threads 1]
Clients: transformers with auto-round's inference code (auto_round and auto_gptq formats), transformers with compressed-tensors or its own FP8 code,
which unpack the weights and then compute in float32 ("dequantized"), GPTQModel (auto_gptq, auto_awq, auto_round:gptqmodel; in float16), mlx-lm (auto_awq, mlx),
transformers (fake), llama.cpp (GGUF).
Perplexity is that of `auto-round eval --ppl`: every line as bos + text + eos, joined, cut to max_tokens, windows of seqlen
without overlap, the first token of a window not scored, exp(mean nll). It must agree with our own eval of the same files to
0.5 %. kl is the mean KL divergence to the float model (nats); where the client computes in float32 (auto_round, fake) it
must agree with our own as well, to 0.5 %: at these sizes perplexity alone would not notice a few wrong layers.
llama.cpp's tokenizer has to split every document as tokenizer.json does. Exit status 1 if anything disagrees.
"""
import json
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("AR_LOG_LEVEL", "ERROR")  # before auto-round is loaded
import peer_common as common

FORMATS = common.EXPORTS

parser = common.export_arguments(__doc__, FORMATS, seqlen=256, max_tokens=10000, tolerance=0.005)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--no-own-eval", action="store_true", help="only load the results with their clients")
args = parser.parse_args()
text = common.text_to_score(args)


def program(*arguments):
    return common.run_ours(args.binary, *arguments)


def by_client(client, path, ids, documents, tokens, reference):
    if client == "llama.cpp":
        return common.gguf_score(path, ids, args.seqlen, reference, documents, tokens, args.threads)
    if client == "mlx-lm":
        return common.mlx_score(path, ids, args.seqlen, reference)
    if client == "auto-round":
        as_served = common.score(common.load_float32(path, **common.as_auto_round(path)), ids, args.seqlen)  # in float16, as auto-round serves it
        exact = common.score(common.load_quantized(path), ids, args.seqlen, reference)
        return exact | {"ppl_as_served": as_served["ppl"]}
    if client == "GPTQModel":
        return common.gptqmodel_score(path, ids, args.seqlen, reference)
    if client == "dequantized":
        return common.score(common.load_dequantized(path), ids, args.seqlen, reference)
    return common.score(common.load_float32(path), ids, args.seqlen, reference)


def complaints(client, theirs, ours):
    out = []
    if theirs.get("texts_tokenized_otherwise"):
        out.append(f"llama.cpp tokenizes {theirs['texts_tokenized_otherwise']} documents otherwise")
    if ours is None:
        return out
    if ours["tokens"] != theirs["tokens"]:
        out.append(f"scored tokens {ours['tokens']}, not {theirs['tokens']}")
    for key in ("ppl", "ppl_as_served"):
        if key in theirs and abs(ours["ppl"] / theirs[key] - 1) > args.tolerance:
            out.append(f"{key} {ours['ppl']:.5f}, not {theirs[key]:.5f}")
    # Products of FP8 codes and bfloat16 scales are rounded to bfloat16 when a client unpacks them; inputs that lie between two codes may fall to either side
    # after other roundings before; 1e-8: float32 rounding.
    share = {"auto-round": 0.005, "transformers": 0.005, "dequantized": 0.03, "auto-round, inputs": 0.15}.get(client)
    if share is not None and abs(ours["kl"] - theirs["kl"]) > share * theirs["kl"] + 1e-8:
        out.append(f"kl {ours['kl']:.4e}, not {theirs['kl']:.4e}")
    return out


def main():
    import torch
    from auto_round.utils import logger
    logger.setLevel("ERROR")
    torch.set_num_threads(args.threads)
    tokens = common.Tokens(args.model)
    ids = tokens.stream(text, args.max_tokens)
    documents = common.texts(text)[:100]
    reference = common.load_float32(args.model)
    print(f"float: ppl {common.score(reference, ids, args.seqlen)['ppl']:.5f}, {len(ids)} tokens of {text}")
    print(f"{'format':18} {'client':12} {'client ppl':>11} {'own ppl':>11} {'client kl':>11} {'own kl':>11}")
    failed = 0
    for name in args.format:
        options, client = FORMATS[name]
        options = options.replace("CALIB", f"{common.TINY_STORIES / 'calib.jsonl'} --nsamples 16 --seqlen {args.seqlen}")
        if args.group_size and "--scheme" in options and "--group_size" not in options:
            options += f" --group_size {args.group_size}"
        with tempfile.TemporaryDirectory(prefix="ar-exports-") as tmp:
            try:
                out = pathlib.Path(tmp, "out")
                program("quantize", "--model", args.model, *options.split(), "--iters", 0, "--disable_opt_rtn", "--output_dir", out)
                path = common.checkpoint_in(out)
                theirs = by_client(client, path, ids, documents, tokens, reference)
                ours = None
                if not args.no_own_eval:
                    ours = json.loads(program("eval", "--model", path, "--ref", args.model, "--ppl", text, "--seqlen", args.seqlen,
                                              "--max_tokens", args.max_tokens, "--json",
                                              *(["--float_activations"] if client == "dequantized" else [])))
                wrong = complaints(client, theirs, ours)
                own = (f"{ours['ppl']:11.5f}", f"{ours['kl']:11.4e}") if ours else ("", "")
                print(f"{name:18} {client:12} {theirs['ppl']:11.5f} {own[0]:>11} {theirs['kl']:11.4e} {own[1]:>11}  {'; '.join(wrong) or 'ok'}", flush=True)
            except Exception as error:  # one format that fails must not hide the others
                wrong = [str(error)]
                print(f"{name:18} {client:12} {type(error).__name__}: {error}", flush=True)
            failed += bool(wrong)
    print(f"{len(args.format) - failed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
