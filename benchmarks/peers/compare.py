#!/usr/bin/env python3
"""Runs the Python auto-round 0.16.1 and ours on the same model, data, settings and threads, and prints them side by side.

Usage (with the venv of tests/peers/setup.sh):
    build/peers-venv/bin/python benchmarks/peers/compare.py [--only peer|peer_eager|ours] [--case NAME ...] [--again]
        [--binary build/release/bin/auto-round] [--tiny-stories DIR] [--smollm2 DIR] [--text DIR] [--threads 2] [--results FILE]
Cases: see CASES. SmolLM2 cases are skipped when --smollm2 (tests/peers/fetch_smollm2.sh) is absent.

cpu: user + system seconds of the command and all its children; wall; rss: largest resident set of one of its processes.
ppl, kl: by one evaluator for both, transformers in float32 on the weights as auto-round's inference code unpacks them; kl is
the mean KL divergence to the float model over the scored tokens, in nats. Our own `eval` is printed beside it.
load: the machine's load average while it ran; on a busy machine wall time says nothing and CPU time is somewhat too high.
The peer runs twice: as it comes (torch.compile with an empty cache) and with --disable_torch_compile ("eager").
Results are kept in results/<cpu>.json, so the peer needs to run once a machine; --again measures anew.
"""
import argparse
import ctypes
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "peers"))
import peer_common as common  # noqa: E402
from make_calib import join  # noqa: E402

TINY = {"model": "tiny_stories", "nsamples": 128, "seqlen": 256, "batch_size": 8, "eval_tokens": 20000,
        "before": "<|begin|>", "between": "<|end|><|begin|>"}
SMOL = {"model": "smollm2", "nsamples": 16, "seqlen": 256, "batch_size": 8, "eval_tokens": 5120, "before": "", "between": "\n\n"}
W4, W2, W4G64, W2G64 = "--scheme W4A16", "--scheme W2A16G32", "--scheme W4A16 --group_size 64", "--scheme W2A16 --group_size 64"
TUNE, OPT_RTN, RTN = "--iters {}", "--iters 0 --enable_opt_rtn", "--iters 0 --disable_opt_rtn"
CASES = {
    "tiny_w4_rtn": TINY | {"options": f"{W4} {RTN}"},
    "tiny_w4_optrtn": TINY | {"options": f"{W4} {OPT_RTN}"},
    "tiny_w4": TINY | {"options": f"{W4} {TUNE.format(200)}"},
    "tiny_w2g32_rtn": TINY | {"options": f"{W2} {RTN}"},
    "tiny_w2g32_optrtn": TINY | {"options": f"{W2} {OPT_RTN}"},
    "tiny_w2g32": TINY | {"options": f"{W2} {TUNE.format(200)}"},
    # The iterations of auto-round-best; there is no text for its 512 samples of 2048 tokens.
    "tiny_w4_best": TINY | {"options": f"{W4} {TUNE.format(1000)}"},
    "tiny_w2g32_best": TINY | {"options": f"{W2} {TUNE.format(1000)}"},
    "smollm2_w4g64_rtn": SMOL | {"options": f"{W4G64} {RTN}"},
    "smollm2_w4g64_optrtn": SMOL | {"options": f"{W4G64} {OPT_RTN}"},
    "smollm2_w4g64": SMOL | {"options": f"{W4G64} {TUNE.format(20)}"},
    "smollm2_w2g64": SMOL | {"options": f"{W2G64} {TUNE.format(20)}"},
    # Settings at which the peer would take hours: both tune the first two blocks, and KL is that of the model with these blocks in place of its own.
    "smollm2_w4g64_2blocks": SMOL | {"options": f"{W4G64} {TUNE.format(200)}", "nsamples": 64, "seqlen": 512, "lines": 6, "blocks": 2},
    "smollm2_w2g64_2blocks": SMOL | {"options": f"{W2G64} {TUNE.format(200)}", "nsamples": 64, "seqlen": 512, "lines": 6, "blocks": 2},
}
SIDES = {"peer": ["peer", "peer_eager"], "peer_eager": ["peer_eager"], "ours": ["ours"], "all": ["peer", "peer_eager", "ours"]}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--only", choices=SIDES, default="all")
parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
parser.add_argument("--keep", type=pathlib.Path, help="keep the quantized models in DIR/<case>/<who>, at most 150 MB each")
parser.add_argument("--rescore", action="store_true", help="only compute perplexity and KL again, of the models in --keep DIR")
parser.add_argument("--again", action="store_true", help="measure even if a result with the same settings is kept")
parser.add_argument("--binary", type=pathlib.Path, default=common.REPO / "build/release/bin/auto-round")
parser.add_argument("--ours-options", default="", help="more options for our binary, for an experiment; kept apart by name")
parser.add_argument("--tiny-stories", type=pathlib.Path, default=common.TINY_STORIES)
parser.add_argument("--smollm2", type=pathlib.Path, default=common.REPO / "build/smollm2-135m")
parser.add_argument("--text", type=pathlib.Path, help="folder with calib.jsonl and eval.jsonl for SmolLM2 (benchmarks/fetch_text.py); default: the stories")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--score", help=argparse.SUPPRESS)  # a folder, or "float": print the score of one model of the first --case and stop
parser.add_argument("--results", type=pathlib.Path, help="default: benchmarks/peers/results/<cpu>.json")
args = parser.parse_args()
MODELS = {"tiny_stories": args.tiny_stories.resolve(), "smollm2": args.smollm2.resolve()}


def machine():
    fields = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    flags = fields.get("flags", "").split()
    return {"cpu": fields.get("model name", os.uname().machine), "family": fields.get("cpu family"), "model": fields.get("model"),
            "cores": os.cpu_count(), "simd": [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]}


def measure(command, log, env):
    """Runs a command; CPU seconds of the whole tree, also of processes that outlive their parent."""
    PR_SET_CHILD_SUBREAPER = 36
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    begin = time.perf_counter()
    with open(log, "w") as out:
        process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=subprocess.STDOUT, env=env)
        cpu, rss, wall, status = 0.0, 0, 0.0, None
        while True:
            try:
                pid, code, usage = os.wait4(-1, 0)
            except ChildProcessError:
                break
            cpu += usage.ru_utime + usage.ru_stime
            rss = max(rss, usage.ru_maxrss)
            if pid == process.pid:
                wall, status = time.perf_counter() - begin, os.waitstatus_to_exitcode(code)
                process.returncode = status
    if status != 0:
        sys.exit(f"{' '.join(str(c) for c in command)}\nended with {status}; see {log}")
    return {"cpu_s": round(cpu, 2), "wall_s": round(wall, 2), "peak_rss_mb": round(rss / 1024, 1)}


def text_of(case, name):
    return (args.text if args.text and case["model"] == "smollm2" else args.tiny_stories) / name


def calibration(case):
    records = common.texts(text_of(case, "calib.jsonl"))
    return records if args.text and case["model"] == "smollm2" else join(records, case.get("lines", 3), case["before"], case["between"])


def neutral_score(case, folder):
    """In a process of its own: the peak memory of a child counts that of its parent at the fork, so this one must stay small."""
    name = next(n for n, c in CASES.items() if c is case)
    command = [sys.executable, __file__, *sys.argv[1:], "--case", name, "--score", str(folder)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def print_score(case, folder):
    import torch
    torch.set_num_threads(1)  # of the evaluator; what is measured has --threads
    model = MODELS[case["model"]]
    ids = common.Tokens(model).stream(text_of(case, "eval.jsonl"), case["eval_tokens"])
    if folder == "float":
        print(json.dumps(common.score(common.load_float32(model), ids, case["seqlen"])))
        return
    quantized, reference = common.load_quantized(folder), common.load_float32(model)
    if "blocks" in case:
        whole = common.load_float32(model)
        for i in range(case["blocks"]):
            whole.model.layers[i] = quantized.model.layers[i]
        quantized = whole
    print(json.dumps(common.score(quantized, ids, case["seqlen"], reference)))


def first_blocks(model, blocks, folder):
    """The model without the blocks behind the first ones."""
    from safetensors.torch import load_file, save_file
    folder.mkdir()
    for f in model.iterdir():
        if f.suffix == ".json" and f.name != "config.json":
            shutil.copy(f, folder)
    config = json.loads((model / "config.json").read_text())
    config["num_hidden_layers"] = blocks
    (folder / "config.json").write_text(json.dumps(config))
    kept = {}
    for name, tensor in load_file(model / "model.safetensors").items():
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        if layer is None or int(layer[1]) < blocks:
            kept[name] = tensor
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


def run_side(side, case, work):
    model, out = MODELS[case["model"]], work / "out"
    if "blocks" in case:  # in a process of its own, which takes its memory along
        program = f"import sys; sys.argv[1:] = []; import compare, pathlib; compare.first_blocks(pathlib.Path({str(model)!r}), {case['blocks']}, pathlib.Path({str(work / 'model')!r}))"
        subprocess.run([sys.executable, "-c", program], cwd=HERE, check=True)
        model = work / "model"
    (work / "calib.jsonl").write_text("".join(json.dumps({"text": r}) + "\n" for r in calibration(case)))
    options = ["--model", model, *case["options"].split(), "--nsamples", case["nsamples"], "--seqlen", case["seqlen"],
               "--batch_size", case["batch_size"], "--dataset", work / "calib.jsonl", "--format", "auto_round", "--output_dir", out]
    # Threads that wait must not spin, or CPU time would count the waiting whenever the machine is shared.
    env = dict(os.environ, OMP_NUM_THREADS=str(args.threads), OMP_WAIT_POLICY="PASSIVE", HF_HUB_OFFLINE="1", HF_HOME=str(work / "hf"),
               TORCHINDUCTOR_CACHE_DIR=str(work / "inductor"), TRANSFORMERS_VERBOSITY="error")
    if side == "ours":
        command = [args.binary, "quantize", *options, *args.ours_options.split()]
    else:
        program = "import sys; from auto_round.__main__ import run; sys.exit(run())"
        command = [sys.executable, "-c", program, *options, "--device_map", "cpu"]
        command += ["--disable_torch_compile"] if side == "peer_eager" else []
    log = work / "log"
    before = os.getloadavg()[0]
    result = measure(command, log, env)
    result["load"] = [round(before, 1), round(os.getloadavg()[0], 1)]
    text = log.read_text(errors="replace")
    if side != "ours":
        result["amp"] = "float32 (the peer found no bf16)" if "amp is set to FALSE" in text else "bf16 (the peer's own choice)"
        if seconds := re.findall(r"tuning time ([\d.]+)", text):
            result["tuning_wall_s"] = round(float(seconds[-1]), 2)
    folder = common.checkpoint_in(out)
    result["model_bytes"] = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    result |= neutral_score(case, folder)
    if side == "ours" and "blocks" not in case:
        command = [args.binary, "eval", "--model", folder, "--ref", model, "--ppl", text_of(case, "eval.jsonl"), "--seqlen", case["seqlen"],
                   "--max_tokens", case["eval_tokens"], "--json"]
        done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True, env=env, check=True)
        result["own_eval"] = json.loads(done.stdout)
    return result


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def main():
    if args.score:
        return print_score(CASES[args.case[0]], args.score)
    here = machine()
    slug = re.sub(r"[^a-z0-9]+", "-", f"{here['cpu']} {here['family']} {here['model']}".lower()).strip("-")
    path = args.results or HERE / "results" / f"{slug}.json"
    kept = json.loads(path.read_text()) if path.exists() else {"machine": here, "cases": {}}

    for name in args.case:
        case = CASES[name]
        if not (MODELS[case["model"]] / "config.json").exists():
            print(f"{name}: no model at {MODELS[case['model']]}, skipped", file=sys.stderr)
            continue
        settings = case | {"threads": args.threads, "weights": digest(MODELS[case["model"]] / "model.safetensors"),
                           "calib": digest(text_of(case, "calib.jsonl")), "eval": digest(text_of(case, "eval.jsonl"))}
        entry = kept["cases"].setdefault(name, {})
        if entry.get("settings") != settings:
            entry.clear()
            entry["settings"] = settings
        if "float" not in entry:
            entry["float"] = neutral_score(case, "float")
        for side in SIDES[args.only]:
            key = f"ours {args.ours_options}".strip() if side == "ours" else side
            if args.rescore:
                if key in entry:
                    entry[key] |= neutral_score(case, common.checkpoint_in(args.keep / name / side))
                    path.write_text(json.dumps(kept, indent=1) + "\n")
                continue
            if key in entry and not args.again and side != "ours":
                continue
            if side == "ours" and not args.binary.exists():
                print(f"{args.binary} is not there; build it first", file=sys.stderr)
                continue
            print(f"{name}: {key} ...", file=sys.stderr, flush=True)
            work = pathlib.Path(tempfile.mkdtemp(prefix="ar-compare-"))
            entry[key] = run_side(side, case, work) | {"versions": common.versions("torch", "transformers", "auto-round")}
            if args.keep:
                shutil.rmtree(args.keep / name / side, ignore_errors=True)
                shutil.copytree(work / "out", args.keep / name / side)
            shutil.rmtree(work)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(kept, indent=1) + "\n")
    report(kept)


def report(kept):
    print(f"{kept['machine']['cpu']} (family {kept['machine']['family']} model {kept['machine']['model']}, {' '.join(kept['machine']['simd'])})")
    print(f"{'case':22} {'who':18} {'cpu s':>8} {'wall s':>8} {'RSS MB':>8} {'ppl':>9} {'KL':>10} {'top-1':>7}  own ppl / KL")
    for name, entry in kept["cases"].items():
        print(f"{name:22} {'float':18} {'':8} {'':8} {'':8} {entry['float']['ppl']:9.4f}")
        for who, r in entry.items():
            if who in ("settings", "float"):
                continue
            own = r.get("own_eval", {})
            own = f"  {own['ppl']:.4f} / {own['kl']:.3e}" if own else ""
            print(f"{'':22} {who:18} {r['cpu_s']:8.1f} {r['wall_s']:8.1f} {r['peak_rss_mb']:8.0f} {r['ppl']:9.4f} {r['kl']:10.3e} {r['top1']:7.4f}{own}")


if __name__ == "__main__":
    main()
