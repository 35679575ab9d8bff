#!/usr/bin/env python3
"""Compares our tokenizer with the `tokenizers` package on 100,000 generated lines.

Usage: tokenizer_100k.py --tokenizer DIR [--binary build/release/bin/auto-round] [--count 100000] [--seed 1]
DIR holds tokenizer.json. The binary is run as COMMAND below: it reads one JSON string a line and prints one JSON array of
token ids a line, special tokens of the post-processor added. Exit status 1 and the first differences if any line differs.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

import peer_common as common
from lines import lines

COMMAND = "{binary} tokenize --model {model} --file {lines}"

parser = argparse.ArgumentParser()
parser.add_argument("--tokenizer", type=pathlib.Path, required=True)
parser.add_argument("--binary", default=str(common.REPO / "build/release/bin/auto-round"))
parser.add_argument("--command", default=COMMAND, help="default: %(default)s")
parser.add_argument("--count", type=int, default=100_000)
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()

tokenizer = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))
added = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
texts = lines(args.seed, args.count, added[:50])
print(f"seed {args.seed}, {args.count} lines")

with tempfile.TemporaryDirectory() as tmp:
    file = pathlib.Path(tmp, "lines.jsonl")
    file.write_text("".join(json.dumps(t, ensure_ascii=False) + "\n" for t in texts), encoding="utf-8")
    command = [part.format(binary=args.binary, model=args.tokenizer, lines=file) for part in args.command.split()]
    ours = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()

if len(ours) != len(texts):
    sys.exit(f"{len(texts)} lines in, {len(ours)} out")
different = 0
for i, (text, line) in enumerate(zip(texts, ours)):
    expected, got = tokenizer.encode(text).ids, json.loads(line)
    if got != expected:
        different += 1
        if different <= 10:
            print(f"line {i} {text!r}\n  peer {expected}\n  ours {got}")
print(f"{len(texts) - different} of {len(texts)} lines equal")
sys.exit(different != 0)
