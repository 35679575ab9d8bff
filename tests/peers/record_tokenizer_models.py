#!/usr/bin/env python3
"""Records what the `tokenizers` package makes of the models Unigram, WordPiece and WordLevel and of the parts that come with them.

Usage: record_tokenizer_models.py [--out tests/data/tokenizer_models] [--full DIR]
Folders as record_tokenizer_parts.py writes them: tokenizer.json, and cases.jsonl with {"text", "ids", "decoded", "decoded_all"} a line. --full writes
tokenizers with SentencePiece's own maps (nmt_nfkc, nmt_nfkc_cf; 300 KB each) for tokenizer_100k.py instead. Needs the package sentencepiece, which
compiles the maps.
"""
import argparse
import base64
import io
import json
import pathlib
import shutil
import tempfile

import sentencepiece
from tokenizers import Tokenizer, models, trainers

import peer_common as common
from lines import lines

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path, default=common.DATA / "tokenizer_models")
parser.add_argument("--full", type=pathlib.Path)
parser.add_argument("--count", type=int, default=50, help="generated texts for each folder")
args = parser.parse_args()


def field(message, wanted):
    """The first field of that number and of kind "bytes" in a protobuf message."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 2:
            size = varint()
            if key >> 3 == wanted:
                return message[at:at + size]
            at += size
        elif key & 7 == 0:
            varint()
        else:
            at += 4 if key & 7 == 5 else 8
    return b""


def charsmap(**rule):
    model = io.BytesIO()
    text = [f"word{i} is number {i * i} of these" for i in range(200)]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(text), model_writer=model, vocab_size=60, minloglevel=2, **rule)
    return base64.b64encode(field(field(model.getvalue(), 3), 2)).decode()


# Entries whose prefixes are entries, graphemes of 2 to 7 bytes, characters that vanish, and some that grow.
RULES = ["41\t61", "41 301\tE1", "65 301\tE9", "FB01\t66 69", "2460\t31", "337F\t682A 5F0F 4F1A 793E", "200B\t", "AD\t", "FF21\t61", "1100 1161\tAC00", "E9 323\t65",
         "D A\t20", "9\t20", "A0\t20", "3000\t20", "1F600\t3A 29", "5D0 5B0\t5D0", "62 302 323\t62", "130\t69 307"]


def small_map():
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.write("".join(r + "\n" for r in RULES))
        rules.flush()
        return charsmap(normalization_rule_tsv=rules.name)


def normalizers(*steps):
    return {"type": "Sequence", "normalizers": list(steps)}


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def metaspace(scheme="always"):  # "first" means the first of the original text to the package: what a normalizer drops there counts, for us it does not
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}


def precompiled(text):
    return {"type": "Precompiled", "precompiled_charsmap": text}


def bert(**changes):
    return {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True, **changes}


BERT_CUT = {"type": "BertPreTokenizer"}
WORD_PIECE = {"type": "WordPiece", "prefix": "##", "cleanup": True}
SPM_DECODER = {"type": "Sequence", "decoders": [replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                                                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
if args.full:
    parts = {rule: dict(model="Unigram", normalizer=normalizers(precompiled(charsmap(normalization_rule_name=rule)), replace(" {2,}", " ", "Regex")),
                        pre=metaspace(), decoder=metaspace(), vocabulary=12000) for rule in ["nmt_nfkc", "nmt_nfkc_cf", "nfkc"]}
    parts["bert"] = dict(model="WordPiece", normalizer=bert(), pre=BERT_CUT, decoder=WORD_PIECE, vocabulary=12000)
    parts["bytes"] = dict(model="Unigram", normalizer=normalizers({"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")), decoder=SPM_DECODER, bytes=True, vocabulary=12000)
    parts["albert"] = dict(model="Unigram", normalizer=normalizers(replace("``", '"'), {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, {"type": "Nmt"}),
                           pre=metaspace(), decoder=metaspace(), vocabulary=12000)
else:
    parts = {
        "unigram": dict(model="Unigram", pre=metaspace(), decoder=metaspace()),
        "unigram_bytes": dict(model="Unigram", normalizer=normalizers({"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")), decoder=SPM_DECODER, bytes=True),
        "unigram_map": dict(model="Unigram", normalizer=normalizers(precompiled(small_map()), replace(" {2,}", " ", "Regex")), pre=metaspace(), decoder=metaspace()),
        "unigram_nmt": dict(model="Unigram", normalizer=normalizers({"type": "Nmt"}, {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}),
                            pre=metaspace(), decoder=metaspace()),
        "word_piece": dict(model="WordPiece", normalizer=bert(), pre=BERT_CUT, decoder=WORD_PIECE, wrap=True),
        "word_piece_cased": dict(model="WordPiece", normalizer=bert(lowercase=False, handle_chinese_chars=False), pre=BERT_CUT, decoder={**WORD_PIECE, "cleanup": False}),
        "word_level": dict(model="WordLevel", normalizer={"type": "Lowercase"}, pre={"type": "Whitespace"}),
    }

TELLING = ["", " ", "  a  b ", "ﬁn Ａ① ㍿ \u200b\u00ad\u3000x", "Á é e\u0301 é\u0323 A\u0301\u0323 b\u0302\u0323 İ\r\n각 \u1100\u1161", "<unk> <unk>x <unk><unk>", "qqqqq щщщ 漢字 漢",
           "don't do not , he 's . we 've", "[UNK] ##ing [CLS]", "\x00\x01\x7f\x8f\t\n\ufffd\u2581▁a", "x" * 120, "word" * 30, "א\u05b0 😀!"]
out_folder = args.full or args.out
shutil.rmtree(out_folder, ignore_errors=True)
texts = TELLING + lines(20261126, args.count, ["<unk>", "[UNK]"])
# Rare characters would fill a small vocabulary; without them there are unknown ones too.
training = lines(7, 2000, []) if args.full else ["".join(c for c in line if c < "\u0180") for line in lines(7, 2000, [])]
for name, part in parts.items():
    size = part.get("vocabulary", 350)
    if part["model"] == "Unigram":
        model, trainer = models.Unigram(), trainers.UnigramTrainer(vocab_size=size, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    elif part["model"] == "WordPiece":
        model, trainer = models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[UNK]", "[CLS]", "[SEP]"], limit_alphabet=120,
                                                                                         show_progress=False)
    else:
        model, trainer = models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(vocab_size=size, special_tokens=["<unk>"], show_progress=False)
    whole = json.loads(Tokenizer(model).to_str())
    whole.update(normalizer=part.get("normalizer"), pre_tokenizer=part.get("pre"), decoder=part.get("decoder"))
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    tokenizer.train_from_iterator(training, trainer)
    whole = json.loads(tokenizer.to_str())
    if part["model"] == "Unigram":
        vocabulary = whole["model"]["vocab"]
        if part.get("bytes"):
            whole["model"]["byte_fallback"] = True
            # One byte is missing: characters that need it are unknown.
            vocabulary += [[f"<0x{byte:02X}>", -20.0] for byte in range(256) if byte != 0xE6]
        whole["model"]["vocab"] = [[token, float(f"{score:.6g}")] for token, score in vocabulary]
    if part.get("wrap"):
        ids = {t: whole["model"]["vocab"][t] for t in ("[CLS]", "[SEP]")}
        whole["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", ids["[SEP]"]], "cls": ["[CLS]", ids["[CLS]"]]}
    folder = out_folder / name
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with open(folder / "cases.jsonl", "w", encoding="utf-8") as out:
        for text in texts:
            ids = tokenizer.encode(text).ids
            case = dict(text=text, ids=ids, decoded=tokenizer.decode(ids), decoded_all=tokenizer.decode(ids, skip_special_tokens=False))
            out.write(json.dumps(case, ensure_ascii=False, separators=(",", ":")) + "\n")
print(f"{len(parts)} folders, {len(texts)} texts each, {sum(f.stat().st_size for f in out_folder.rglob('*') if f.is_file())} bytes")
