"""What the recording and comparing scripts share: reading text, loading a model in float32, writing files with a header."""
import json
import os
import pathlib

REPO = pathlib.Path(__file__).resolve().parents[2]
DATA = REPO / "tests" / "data"
TINY_STORIES = REPO / "examples" / "data" / "tiny-stories"


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
    return model.float().eval()


def save(path, tensors, info):
    """Writes tensors with `info` as JSON in the header (`__metadata__`.info)."""
    from safetensors.torch import save_file
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, str(path), {"info": json.dumps(info)})
    os.chmod(path, 0o644)  # safetensors 0.8 makes files that only the owner can read
    print(path, path.stat().st_size, "bytes")
