#!/usr/bin/env python3
"""Records token ids by the `tokenizers` package for the test of our byte-level BPE tokenizer.

Usage: record_tokenizer.py [--tiny-stories DIR] [--smollm2 DIR] [--out tests/data/tokenizer]
lines.jsonl: 2,000 texts, one JSON string a line. One folder a tokenizer: tokenizer.json, and ids.jsonl with one JSON array a
line: encode(text, add_special_tokens=True). versions.json says what made them.
The tokenizers besides tiny_stories and smollm2 are trained here on invented text, one for each pre-tokenizer and option that
real checkpoints use. Training is not repeatable to the last merge, so the folder is written and checked in as a whole.
"""
import argparse
import json
import pathlib
import random
import shutil

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

import peer_common as common
from lines import lines

parser = argparse.ArgumentParser()
parser.add_argument("--tiny-stories", type=pathlib.Path, default=common.TINY_STORIES)
parser.add_argument("--smollm2", type=pathlib.Path, required=True)
parser.add_argument("--out", type=pathlib.Path, default=common.DATA / "tokenizer")
args = parser.parse_args()

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + TAIL
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def cased(suffix, digits):
    return (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{suffix}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{suffix}|{digits}"
            rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|" + TAIL)


DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|""" + TAIL]


def split(*patterns, behavior="isolated", invert=False):
    stages = [pre_tokenizers.Split(Regex(p), behavior, invert) for p in patterns]
    return pre_tokenizers.Sequence([*stages, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def template(single, tokens):
    def make(tokenizer):
        return processors.TemplateProcessing(single=single, pair=f"{single} $B:1", special_tokens=[(t, tokenizer.token_to_id(t)) for t in tokens])
    return make


def byte_level(_):
    return processors.ByteLevel(trim_offsets=False)


def after_byte_level(processor):
    return lambda tokenizer: processors.Sequence([byte_level(tokenizer), processor(tokenizer)])


def special(*names):
    return [AddedToken(n, special=True, normalized=False) for n in names]


def plain(*names, **flags):
    return [AddedToken(n, special=False, normalized=False, **flags) for n in names]


CHATML = special("<|endoftext|>", "<|im_start|>", "<|im_end|>")
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
TOKENIZERS = {  # name: pre-tokenizer, normalizer, added tokens, post-processor, ignore_merges
    "gpt2": (GPT2, None, special("<|endoftext|>"), byte_level, False),
    "gpt2_prefix_space": (pre_tokenizers.ByteLevel(add_prefix_space=True), None, special("<s>", "</s>"), template("<s> $A </s>", ["<s>", "</s>"]), False),
    "llama_bpe": (split(LLAMA3), None, special("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
                  after_byte_level(template("<|begin_of_text|> $A", ["<|begin_of_text|>"])), True),
    "qwen2": (split(QWEN2), normalizers.NFC(), CHATML + plain("<tool_call>", "</tool_call>"), byte_level, False),
    "qwen35": (split(QWEN35), normalizers.NFC(), CHATML + plain("<think>"), byte_level, False),
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2]), None, CHATML, None, False),
    "gpt_4o": (split(cased(CONTRACTIONS + "?", r"\p{N}{1,3}"), behavior="removed", invert=True), None, special("<|endoftext|>", "<|endofprompt|>"),
               byte_level, False),
    "tekken": (split(cased("", r"\p{N}")), None, special("<s>", "</s>", "[INST]", "[/INST]"), template("<s> $A", ["<s>"]), True),
    "deepseek_v3": (split(*DEEPSEEK), normalizers.Sequence([]), special("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>"),
                    template("<｜begin▁of▁sentence｜> $A", ["<｜begin▁of▁sentence｜>"]), False),
    "added_tokens": (split(QWEN2), normalizers.NFC(),
                     [AddedToken("<l>", special=True, normalized=False, lstrip=True), AddedToken("<r>", special=True, normalized=False, rstrip=True),
                      AddedToken("<lr>", special=True, normalized=False, lstrip=True, rstrip=True),
                      AddedToken("<w>", special=True, normalized=False, single_word=True), AddedToken("word", special=True, normalized=False, single_word=True),
                      AddedToken("<é>", special=False, normalized=True), AddedToken("<e\u0301\u0301>", special=False, normalized=True, lstrip=True),
                      AddedToken("<e\u0301>", special=False, normalized=False),
                      *plain("<tool", "<tool_call>", "  ", "    ", "\n\n", "don't"), *plain("<ws>", lstrip=True, single_word=True),
                      *special("<|im_start|>")],
                     after_byte_level(template("<|im_start|> $A <r>", ["<|im_start|>", "<r>"])), False),
}


def train(name, spec):
    pre_tokenizer, normalizer, added, processor, ignore_merges = spec
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    corpus = lines(4711, 3000) + common.texts(args.tiny_stories / "calib.jsonl")[:60]
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens(added)
    if processor:
        tokenizer.post_processor = processor(tokenizer)
    data = json.loads(tokenizer.to_str())
    if ignore_merges:  # whole words that no chain of merges reaches show whether the flag is obeyed
        data["model"]["ignore_merges"] = True
        r = random.Random(name)
        data["model"]["merges"] = [m for m in data["model"]["merges"] if r.random() < 0.8]
    return data


def write(name, data):
    folder = args.out / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoded = tokenizer.encode_batch(TEXTS, add_special_tokens=True)
    (folder / "ids.jsonl").write_text("".join(json.dumps(e.ids, separators=(",", ":")) + "\n" for e in encoded))
    print(name, tokenizer.get_vocab_size(), "tokens;", sum(len(e.ids) for e in encoded), "ids")


shutil.rmtree(args.out, ignore_errors=True)
args.out.mkdir(parents=True)
names = list(dict.fromkeys(["<|begin|>", "<|end|>", *(t.content for spec in TOKENIZERS.values() for t in spec[2])]))
TEXTS = lines(20261123, 2000, names)
(args.out / "lines.jsonl").write_text("".join(json.dumps(t, ensure_ascii=False) + "\n" for t in TEXTS), encoding="utf-8")

write("tiny_stories", json.loads((args.tiny_stories / "tokenizer.json").read_text(encoding="utf-8")))
smollm2 = json.loads((args.smollm2 / "tokenizer.json").read_text(encoding="utf-8"))
smollm2["model"]["merges"] = [" ".join(m) for m in smollm2["model"]["merges"]]  # the form of files before tokenizers 0.20,
for key in ("ignore_merges", "byte_fallback"):                                  # which also lack these keys
    smollm2["model"].pop(key)
write("smollm2", smollm2)
for name, spec in TOKENIZERS.items():
    write(name, train(name, spec))
(args.out / "versions.json").write_text(json.dumps({"made_by": "tests/peers/record_tokenizer.py", **common.versions("tokenizers")}) + "\n")
print(sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file()), "bytes in all")
