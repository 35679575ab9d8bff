#!/usr/bin/env python3
"""Records what the `tokenizers` package makes of every part of tokenizer.json that we read.

Usage: record_tokenizer_parts.py [--out tests/data/tokenizer_parts]
One folder a combination of normalizer, pre-tokenizer, model options, added tokens, post-processor and decoder: tokenizer.json, and
cases.jsonl with {"text", "ids" (special tokens added), "decoded" (without special tokens), "decoded_all"} a line.
Training is not repeatable to the last merge, so the folder is written and checked in as a whole.
"""
import argparse
import json
import pathlib
import random
import shutil

from tokenizers import Tokenizer, pre_tokenizers, trainers

import peer_common as common
from lines import lines

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path, default=common.DATA / "tokenizer_parts")
parser.add_argument("--count", type=int, default=60, help="generated texts for each folder")
args = parser.parse_args()

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]


def byte_level(prefix=False, regex=True):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def cutters(*stages):
    return {"type": "Sequence", "pretokenizers": list(stages)}


def normalizers(*steps):
    return {"type": "Sequence", "normalizers": list(steps)}


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def metaspace(scheme, cut=True):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}


PREPEND = {"type": "Prepend", "prepend": "▁"}
SPM_DECODER = {"type": "Sequence", "decoders": [replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                                                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}

parts = {}
for behavior in BEHAVIORS:
    parts[f"split_{behavior}"] = dict(pre=split(r"\s+|\p{P}", behavior))
    parts[f"split_{behavior}_inverted"] = dict(pre=split(" ", behavior, True, "String"))
    parts[f"punctuation_{behavior}"] = dict(pre={"type": "Punctuation", "behavior": behavior})
parts["llama3"] = dict(pre=cutters(split(LLAMA3), byte_level(regex=False)))
parts["cl100k"] = dict(pre=cutters(split(CL100K, "Removed", True), byte_level(regex=False)))
parts["digits_individual"] = dict(pre=cutters({"type": "Digits", "individual_digits": True}, byte_level()))
parts["digits"] = dict(pre=cutters({"type": "Digits", "individual_digits": False}, byte_level(prefix=True)))
parts["whitespace"] = dict(pre={"type": "Whitespace"})
parts["whitespace_split"] = dict(pre=cutters({"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Isolated"}, byte_level(True, False)))
parts["split_after_byte_level"] = dict(pre=cutters(byte_level(), split("Ġ", "MergedWithNext", kind="String")))
for scheme in ["always", "first", "never"]:
    parts[f"metaspace_{scheme}"] = dict(pre=metaspace(scheme), byte_fallback=True, decoder=metaspace(scheme))
parts["metaspace_whole"] = dict(pre=metaspace("first", False), byte_fallback=True, decoder=metaspace("first", False))
parts["spm"] = dict(normalizer=normalizers(PREPEND, replace(" ", "▁")), byte_fallback=True, decoder=SPM_DECODER)
parts["spm_unknown"] = dict(normalizer=normalizers(PREPEND, replace(" ", "▁")), unknown=True)
parts["spm_unknown_fused"] = dict(normalizer=replace(" ", "▁"), unknown=True, fuse=True)
parts["byte_fallback_with_gaps"] = dict(unknown=True, byte_fallback="gaps")
parts["gemma"] = dict(normalizer=replace(" ", "▁"), pre=split(" ", "MergedWithPrevious", kind="String"), byte_fallback=True)
for form in ["NFC", "NFD", "NFKC", "NFKD", "Lowercase"]:
    parts[form.lower()] = dict(normalizer={"type": form}, pre=byte_level())
parts["normalizer_sequence"] = dict(normalizer=normalizers({"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True},
                                                           replace(r"\s{2,}", " ", "Regex")), pre=byte_level())
parts["strip_right"] = dict(normalizer={"type": "Strip", "strip_left": False, "strip_right": True}, pre=byte_level())
parts["replace_regex"] = dict(normalizer=replace(r"\d|\w(?=\s)|\h", "#é", "Regex"), pre=byte_level())
parts["classes"] = dict(pre=cutters(split(r"[^\S\n]+|\w\W|\p{^L}\P{N}|[[:punct:]]+|[[:space:]]{,2}x|\H\h"), byte_level(regex=False)))
parts["properties"] = dict(pre=cutters(split(r"[\p{P}\p{S}]+|[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\p{Nd}|\p{Han}|\p{Hiragana}+"),
                                       byte_level(regex=False)))
parts["anchors"] = dict(pre=cutters(split(r"^\s*#|\s+$|(?m:a.b)|(?<=\d)\p{L}|(?<!x)y"), byte_level(regex=False)))

ADDED = [("<s>", {}), ("</s>", {}), ("<|im_start|>", {}), ("<x>", dict(lstrip=True)), ("<y>", dict(rstrip=True)), ("<z>", dict(lstrip=True, rstrip=True)),
         ("wörd", dict(single_word=True, normalized=True, special=False)), ("ab", dict(single_word=True, special=False)),
         ("the ", dict(normalized=True, special=False)), ("ĀB", dict(normalized=True, special=False)), ("  ", dict(special=False)),
         ("é", dict(normalized=True, special=False))]
# Code points that got their category with Unicode 15 and 16, white space that is none, marks that the package does not reorder.
TELLING = ["", " ", "  a  b ", "a\u180eb\u1680c\u2028", "\U00010d50\U00010d70 \U0001e4f5 \U0002ebf0x", "\U0001fae8\U0001fadf!", "߽ۚa ǅ ² ½ ⅷ x²", "<x> <y>  a <z> b",
           "wörd wörds ab cab ab", "the the ab", "It's THEY'LL 'ſ 'K", "12345 ١٢٣", "a\nb\r\n\n  c\t", "#é 1 x1 y xy\n # z \n", "e\u0301\u0323 ﬁ Å ㎏ İ Σ", "\u0000\ufffd\u200d"]

shutil.rmtree(args.out, ignore_errors=True)
texts = TELLING + lines(20261123, args.count, [t for t, _ in ADDED])
training = lines(7, 2000, [])
choose = random.Random(5)
for name, part in parts.items():
    bytes_inside = "ByteLevel" in json.dumps(part.get("pre"))
    decoder = part.get("decoder") or (byte_level() if bytes_inside else None)
    model = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=False,
                 byte_fallback=False, ignore_merges=False, vocab={}, merges=[])
    tokenizer = Tokenizer.from_str(json.dumps(dict(version="1.0", truncation=None, padding=None, added_tokens=[], normalizer=part.get("normalizer"),
                                                   pre_tokenizer=part.get("pre"), post_processor=None, decoder=decoder, model=model)))
    trainer = trainers.BpeTrainer(vocab_size=450 if bytes_inside else 400, limit_alphabet=200, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if bytes_inside else [])
    tokenizer.train_from_iterator(training, trainer)
    whole = json.loads(tokenizer.to_str())
    model = whole["model"]
    if part.get("unknown"):
        model["vocab"]["<unk>"] = len(model["vocab"])
        model["unk_token"], model["fuse_unk"] = "<unk>", part.get("fuse", False)
    if part.get("byte_fallback"):
        model["byte_fallback"] = True
        for byte in range(256):
            if part["byte_fallback"] is True or byte % 16 != 3:
                model["vocab"][f"<0x{byte:02X}>"] = len(model["vocab"])
    model["ignore_merges"] = choose.random() < 0.3
    if choose.random() < 0.5 and not any(" " in side for merge in model["merges"] for side in merge):
        model["merges"] = [" ".join(merge) for merge in model["merges"]]
    if choose.random() < 0.8:
        first = len(model["vocab"])
        flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
        whole["added_tokens"] = [dict(id=first + i, content=content, **{**flags, **other}) for i, (content, other) in enumerate(ADDED)]
        if choose.random() < 0.6:
            special = {t: {"id": t, "ids": [first + i], "tokens": [t]} for i, t in enumerate(["<s>", "</s>"])}
            a, b = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
            whole["post_processor"] = {"type": "TemplateProcessing", "pair": [a, b], "special_tokens": special,
                                       "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, a, {"SpecialToken": {"id": "</s>", "type_id": 0}}]}
    folder = args.out / name
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with open(folder / "cases.jsonl", "w", encoding="utf-8") as out:
        for text in texts:
            ids = tokenizer.encode(text).ids
            case = dict(text=text, ids=ids, decoded=tokenizer.decode(ids), decoded_all=tokenizer.decode(ids, skip_special_tokens=False))
            out.write(json.dumps(case, ensure_ascii=False, separators=(",", ":")) + "\n")
print(f"{len(parts)} folders, {len(texts)} texts each")
