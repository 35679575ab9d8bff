#!/usr/bin/env python3
"""Makes natural English text for measurements, calib.jsonl and eval.jsonl, out of the 105 Wikipedia articles in the PyPI package gensim (27 MB).

Usage: benchmarks/fetch_text.py OUT_DIR     needs: pip install mwparserfromhell
Articles of even position are for calibration, of odd position for evaluation. A record is a run of whole paragraphs of one article, of at least
--characters characters, which keeps it longer than 512 tokens. The text is under CC BY-SA and is not part of this project.
"""
import argparse
import bz2
import html
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

import mwparserfromhell

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=pathlib.Path)
parser.add_argument("--characters", type=int, default=3500)
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)

with tempfile.TemporaryDirectory() as folder:
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder, "gensim==4.3.3"], check=True)
    wheel = zipfile.ZipFile(next(pathlib.Path(folder).glob("*.whl")))
    name = next(n for n in wheel.namelist() if "enwiki-latest-pages-articles1" in n)
    dump = bz2.decompress(wheel.read(name)).decode()

articles = [html.unescape(t) for t in re.findall(r"<text[^>]*>(.*?)</text>", dump, re.S)]
articles = [t for t in articles if not t.lstrip().upper().startswith("#REDIRECT")]


def paragraphs(wikitext):
    """Plain paragraphs: without tables, lists, headings, references and file captions."""
    wikitext = re.sub(r"<ref[^>/]*/>|<ref.*?</ref>|<!--.*?-->|\{\|.*?\|\}", "", wikitext, flags=re.S)
    for line in mwparserfromhell.parse(wikitext).strip_code().splitlines():
        line = line.strip()
        if len(line) > 200 and not re.match(r"[*#:;|!=]|thumb|left|right|(Category|File|Image):", line):
            yield line


for part, name in enumerate(["calib.jsonl", "eval.jsonl"]):
    records = []
    for article in articles[part::2]:
        run = []
        for paragraph in paragraphs(article):
            run.append(paragraph)
            if sum(map(len, run)) >= args.characters:
                records.append("\n\n".join(run))
                run = []
    (args.out / name).write_text("".join(json.dumps({"text": r}) + "\n" for r in records), encoding="utf-8")
    print(f"{name}: {len(records)} records, {sum(map(len, records))} characters")
