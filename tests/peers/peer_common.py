"""What the recording and comparing scripts share: reading text, loading a model in float32, writing files with a header."""
import argparse
import json
import os
import pathlib
import subprocess

REPO = pathlib.Path(__file__).resolve().parents[2]
DATA = REPO / "tests" / "data"
TINY_STORIES = REPO / "examples" / "data" / "tiny-stories"

EXPORTS = {  # name: (options of quantize, client)
    "auto_round": ("--scheme W4A16 --format auto_round", "auto-round"),
    "auto_round_w2_asym": ("--scheme W2A16 --group_size 32 --asym --format auto_round", "auto-round"),
    "auto_round_w2g32": ("--scheme W2A16 --group_size 32 --format auto_round", "auto-round"),
    "auto_round_w3": ("--scheme W3A16 --format auto_round", "auto-round"),
    "auto_round_w8": ("--scheme W8A16 --format auto_round", "auto-round"),
    "auto_round:gptqmodel": ("--scheme W4A16 --asym --format auto_round:gptqmodel", "auto-round"),
    "auto_gptq": ("--scheme W4A16 --format auto_gptq", "auto-round"),
    "auto_gptq_w3": ("--scheme W3A16 --format auto_gptq", "auto-round"),
    "auto_gptq_w8": ("--scheme W8A16 --format auto_gptq", "auto-round"),
    "gptqmodel": ("--scheme W4A16 --format auto_gptq", "GPTQModel"),
    "gptqmodel_w3": ("--scheme W3A16 --format auto_gptq", "GPTQModel"),
    "gptqmodel_w8": ("--scheme W8A16 --format auto_gptq", "GPTQModel"),
    "gptqmodel_mixed": ("--scheme W4A16 --format auto_gptq --layer_config {down_proj:{bits:8},v_proj:{bits:16}}", "GPTQModel"),
    "gptqmodel_awq": ("--scheme W4A16 --format auto_awq", "GPTQModel"),
    "gptqmodel_awq_asym": ("--scheme W4A16 --asym --format auto_awq", "GPTQModel"),
    "gptqmodel_auto_round": ("--scheme W4A16 --asym --format auto_round:gptqmodel", "GPTQModel"),
    "auto_awq": ("--scheme W4A16 --format auto_awq", "mlx-lm"),
    "auto_awq_asym": ("--scheme W4A16 --asym --format auto_awq", "mlx-lm"),
    "mlx": ("--scheme W4A16 --format mlx", "mlx-lm"),
    "mlx_w3_asym": ("--scheme W3A16 --asym --format mlx", "mlx-lm"),
    "mlx_w6": ("--scheme W6A16 --format mlx", "mlx-lm"),
    "llm_compressor": ("--scheme W4A16 --format llm_compressor", "dequantized"),
    "llm_compressor_asym": ("--scheme W4A16 --asym --format llm_compressor", "dequantized"),
    "llm_compressor_int8": ("--scheme INT8 --format llm_compressor", "dequantized"),
    "llm_compressor_mxfp4": ("--scheme MXFP4 --format llm_compressor", "dequantized"),
    "llm_compressor_mxfp8": ("--scheme MXFP8 --format llm_compressor", "dequantized"),
    "llm_compressor_nvfp4": ("--scheme NVFP4 --format llm_compressor --dataset CALIB", "dequantized"),
    "llm_compressor_fp8_static": ("--scheme FP8_STATIC --format llm_compressor --dataset CALIB --static_kv_dtype fp8", "dequantized"),
    "llm_compressor_fp8_block": ("--scheme FP8_BLOCK --format llm_compressor", "dequantized"),
    "llm_compressor_fpw8a16": ("--scheme FPW8A16 --format llm_compressor", "dequantized"),
    "fp8": ("--scheme FP8_BLOCK --format fp8", "dequantized"),
    "auto_round_mxfp4": ("--scheme MXFP4 --format auto_round", "auto-round, inputs"),
    "auto_round_mxfp8": ("--scheme MXFP8 --format auto_round", "auto-round, inputs"),
    "auto_round_nvfp4": ("--scheme NVFP4 --format auto_round --dataset CALIB", "auto-round, inputs"),
    "auto_round_nvfp4_e5m3": ("--scheme NVFP4_E5M3 --format auto_round", "auto-round, inputs"),
    "auto_round_mxint4": ("--scheme MXINT4 --format auto_round", "auto-round, inputs"),
    "auto_round_fp8_static": ("--scheme FP8_STATIC --format auto_round --dataset CALIB", "auto-round, inputs"),
    "fake": ("--scheme W4A16 --format fake", "transformers"),
    "gguf:q4_0": ("--format gguf:q4_0", "llama.cpp"),
    "gguf:q8_0": ("--format gguf:q8_0", "llama.cpp"),
    "gguf:q4_k_s": ("--format gguf:q4_k_s", "llama.cpp"),
    "gguf:mxfp4": ("--format gguf:mxfp4", "llama.cpp"),
    "gguf:nvfp4": ("--format gguf:nvfp4", "llama.cpp"),
}


def export_arguments(description, formats, seqlen, max_tokens, tolerance):
    """The parser of a script that exports a model in `formats` and compares clients' perplexities with our own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(REPO / "build/release/bin/auto-round"), help="program and first arguments")
    parser.add_argument("--model", type=pathlib.Path, default=TINY_STORIES)
    parser.add_argument("--text", type=pathlib.Path, help="default: eval.jsonl of the model, else of tiny-stories")
    parser.add_argument("--seqlen", type=int, default=seqlen)
    parser.add_argument("--max_tokens", type=int, default=max_tokens)
    parser.add_argument("--group_size", help="of the integer schemes; auto-round cannot load a short last group, so it must divide the model's rows")
    parser.add_argument("--format", nargs="+", choices=formats, default=list(formats), metavar="NAME", help=", ".join(formats))
    parser.add_argument("--tolerance", type=float, default=tolerance, help="of perplexity, relative")
    return parser


def run_ours(binary, *arguments):
    """Runs our program and returns its stdout; what it says to people passes through only when it fails."""
    command = [*binary.split(), *(str(a) for a in arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def text_to_score(args):
    return args.text or next(p for p in (args.model / "eval.jsonl", TINY_STORIES / "eval.jsonl") if p.exists())


def versions(*names):
    """Package versions for the header of a recorded file, so that a reader can make it again."""
    from importlib.metadata import version
    return {name: version(name) for name in names}


def texts(path):
    """The documents of a .jsonl file (key "text"), or the whole of any other file as one document."""
    path = pathlib.Path(path)
    if path.suffix != ".jsonl":
        return [path.read_text(encoding="utf-8")]
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


class Tokens:
    """tokenizer.json of a model folder with the ids of its bos and eos (tokenizer_config.json first, then config.json)."""

    def __init__(self, model_dir):
        from tokenizers import Tokenizer
        model_dir = pathlib.Path(model_dir)
        self.tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        named, config = {}, json.loads((model_dir / "config.json").read_text())
        if (model_dir / "tokenizer_config.json").exists():
            named = json.loads((model_dir / "tokenizer_config.json").read_text())
        self.bos, self.eos = (self._id(named.get(f"{k}_token"), config.get(f"{k}_token_id")) for k in ("bos", "eos"))

    def _id(self, token, fallback):
        if isinstance(token, dict):
            token = token["content"]
        found = self.tokenizer.token_to_id(token) if token else None
        if found is None:
            found = fallback[0] if isinstance(fallback, list) else fallback
        return found

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def record(self, text):
        """bos + text + eos, as far as the model has them."""
        return [t for t in (self.bos, *self.encode(text), self.eos) if t is not None]

    def stream(self, path, limit):
        """The token stream that `auto-round eval --ppl` scores: each line of a .jsonl as a record, or a whole text file."""
        documents = texts(path)
        if pathlib.Path(path).suffix != ".jsonl":
            return self.encode(documents[0])[:limit]
        ids = []
        for document in documents:
            ids += self.record(document)
            if len(ids) >= limit:
                break
        return ids[:limit]


def load_float32(model_dir, **kwargs):
    """The model with transformers' plain attention and every weight as float32."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(str(model_dir), dtype=torch.float32, attn_implementation="eager", **kwargs)
    return model.eval() if getattr(model, "is_quantized", False) else model.float().eval()


def load_dequantized(model_dir):
    """A checkpoint of compressed-tensors or block FP8, its weights unpacked by the client and computed with in float32; inputs are not quantized."""
    from transformers import CompressedTensorsConfig, FineGrainedFP8Config
    method = json.loads(pathlib.Path(model_dir, "config.json").read_text())["quantization_config"]["quant_method"]
    unpack = FineGrainedFP8Config(dequantize=True) if method == "fp8" else CompressedTensorsConfig(dequantize=True)
    return load_float32(model_dir, quantization_config=unpack).float()


def save(path, tensors, info):
    """Writes tensors with `info` as JSON in the header (`__metadata__`.info)."""
    from safetensors.torch import save_file
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, str(path), {"info": json.dumps(info)})
    os.chmod(path, 0o644)  # safetensors 0.8 makes files that only the owner can read
    print(path, path.stat().st_size, "bytes")


def as_auto_round(model_dir):
    """Arguments with which transformers gives a GPTQ checkpoint to auto-round's loader."""
    config = json.loads(pathlib.Path(model_dir, "config.json").read_text())
    if config.get("quantization_config", {}).get("quant_method") != "gptq":
        return {}
    from transformers import AutoRoundConfig
    return {"quantization_config": AutoRoundConfig()}


def load_quantized(model_dir):
    """A checkpoint in auto_round (or float) form as auto-round's own inference code unpacks it, computed in float32.

    That code makes the whole model float16, also the frequencies of the rotary embedding. Here only its unpacking is used,
    with the scales made float32 first, so that every weight is exactly scale * (code - zero_point); the weights go into a
    float32 model, and the other tensors are taken as stored.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM
    config = AutoConfig.from_pretrained(str(model_dir))
    if not getattr(config, "quantization_config", None):
        return load_float32(model_dir)
    packed = load_float32(model_dir, **as_auto_round(model_dir))
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    weights = {k: v for f in pathlib.Path(model_dir).glob("*.safetensors") for k, v in load_file(f).items()}
    for name, layer in packed.named_modules():
        if type(layer).__name__ == "QuantLinear":
            layer.scales = layer.scales.float()
            bias, layer.bias = layer.bias, None
            with torch.no_grad():
                weights[f"{name}.weight"] = layer(torch.eye(layer.infeatures)).T
            if bias is not None:
                weights[f"{name}.bias"] = bias
    for name, parameter in model.named_parameters():  # a tied lm_head is no parameter of its own here
        parameter.data.copy_(weights[name])
    return model.eval()


def gptqmodel_score(path, ids, seqlen, reference):
    """By GPTQModel's own loader and its plain torch layers, which take 16-bit floats only."""
    import torch
    from gptqmodel import BACKEND, GPTQModel
    loaded = GPTQModel.load(str(path), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16)
    return score(loaded.model, ids, seqlen, reference)


def windows(ids, seqlen):
    """Non-overlapping windows of seqlen tokens; the remainder is dropped."""
    return [ids[i:i + seqlen] for i in range(0, len(ids) - seqlen + 1, seqlen)]


def log_probabilities(model, window):
    """Of the model's predictions for every token of the window but the first: [seqlen - 1, vocabulary], float32."""
    import torch
    with torch.no_grad():
        return model(torch.tensor([window])).logits[0, :-1].float().log_softmax(-1)


def score(model, ids, seqlen, reference=None):
    """The numbers of `auto-round eval`: ppl, nll (mean, nats), tokens, and against a reference model kl (mean, nats) and top1."""
    import math
    import torch
    nll = kl = top1 = 0.0
    count = 0
    for window in windows(ids, seqlen):
        logp = log_probabilities(model, window)
        nll -= logp.gather(1, torch.tensor(window[1:])[:, None]).double().sum().item()
        count += len(window) - 1
        if reference is not None:
            exact = log_probabilities(reference, window)
            kl += (exact.double().exp() * (exact.double() - logp.double())).sum().item()
            top1 += (exact.argmax(-1) == logp.argmax(-1)).sum().item()
    result = {"ppl": math.exp(nll / count), "nll": nll / count, "tokens": count}
    if reference is not None:
        result |= {"kl": kl / count, "top1": top1 / count}
    return result


def checkpoint_in(folder):
    """What a run wrote: the folder with config.json, or the .gguf file; OUT itself (ours) or one level below (the peer's)."""
    folder = pathlib.Path(folder)
    for pattern in ("config.json", "*/config.json"):
        if found := sorted(folder.glob(pattern)):
            return found[0].parent
    if found := sorted(folder.glob("**/*.gguf")):
        return found[0]
    raise SystemExit(f"no checkpoint in {folder}")


def mlx_score(path, ids, seqlen, reference=None):
    """score() by mlx-lm, which computes in the type that the checkpoint's other weights have."""
    import math
    import mlx.core as mx
    import numpy
    import torch
    from mlx_lm.utils import load_model
    model = load_model(pathlib.Path(path))[0]
    nll = kl = top1 = 0.0
    count = 0
    for window in windows(ids, seqlen):
        logits = model(mx.array([window])).astype(mx.float32)[0, :-1]
        logp = torch.from_numpy(numpy.array(logits)).double().log_softmax(-1)
        nll -= logp.gather(1, torch.tensor(window[1:])[:, None]).sum().item()
        count += seqlen - 1
        if reference is not None:
            exact = log_probabilities(reference, window).double()
            kl += (exact.exp() * (exact - logp)).sum().item()
            top1 += (exact.argmax(-1) == logp.argmax(-1)).sum().item()
    result = {"ppl": math.exp(nll / count), "nll": nll / count, "tokens": count}
    if reference is not None:
        result |= {"kl": kl / count, "top1": top1 / count}
    return result


def gguf_score(path, ids, seqlen, reference=None, documents=(), tokens=None, threads=1):
    """score() by llama.cpp, and how many of the documents its own tokenizer splits otherwise than `tokens`."""
    import llama_cpp
    import math
    import numpy
    import torch
    model = llama_cpp.Llama(str(path), n_ctx=seqlen, n_batch=seqlen, logits_all=True, n_threads=threads, n_threads_batch=threads, verbose=False)
    different = sum(model.tokenize(d.encode(), add_bos=False, special=True) != tokens.encode(d) for d in documents)
    nll = kl = top1 = 0.0
    count = 0
    for window in windows(ids, seqlen):
        model.reset()
        model.eval(window)
        logp = torch.from_numpy(numpy.array(model.scores[:seqlen - 1])).double().log_softmax(-1)
        nll -= logp.gather(1, torch.tensor(window[1:])[:, None]).sum().item()
        count += seqlen - 1
        if reference is not None:
            exact = log_probabilities(reference, window).double()
            kl += (exact.exp() * (exact - logp)).sum().item()
            top1 += (exact.argmax(-1) == logp.argmax(-1)).sum().item()
    model.close()
    result = {"ppl": math.exp(nll / count), "nll": nll / count, "tokens": count, "texts_tokenized_otherwise": different}
    if reference is not None:
        result |= {"kl": kl / count, "top1": top1 / count}
    return result
