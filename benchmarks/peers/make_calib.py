#!/usr/bin/env python3
"""Joins short texts into longer ones, so that enough calibration records reach the sequence length.

Usage: make_calib.py IN.jsonl OUT.jsonl [--lines 3] [--before TEXT] [--between TEXT]
Every 3 lines of IN become one record: before + line + between + line + between + line; what is left over is dropped.
"""
import argparse
import json
import pathlib


def join(texts, lines=3, before="", between="\n\n"):
    return [before + between.join(texts[i:i + lines]) for i in range(0, len(texts) - lines + 1, lines)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("--lines", type=int, default=3)
    parser.add_argument("--before", default="")
    parser.add_argument("--between", default="\n\n")
    args = parser.parse_args()
    texts = [json.loads(line)["text"] for line in args.source.read_text(encoding="utf-8").splitlines()]
    records = join(texts, args.lines, args.before, args.between)
    args.target.write_text("".join(json.dumps({"text": r}) + "\n" for r in records), encoding="utf-8")
    print(len(records), "records")
