#!/bin/bash
# Installs the programs that `ar` is compared with: torch (CPU), transformers, auto-round, GPTQModel, llama.cpp, mlx-lm, gguf, tokenizers.
# Usage: tests/peers/setup.sh [VENV_DIR]     default build/peers-venv; 2.2 GB of disk, about 10 minutes on two cores
# Needs python3 (>= 3.11) with venv, a C++ compiler, cmake and binutils. Doing it twice does no harm.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:-$here/../../build/peers-venv}

[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
venv=$(cd "$venv" && pwd)
export MAKEFLAGS=${MAKEFLAGS:--j2} CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-2}
export CMAKE_ARGS=${CMAKE_ARGS:--DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF}
# llama-cpp-python is built here for this CPU; everything else comes as a wheel.
"$venv/bin/pip" install --disable-pip-version-check --progress-bar off --no-deps --no-binary llama_cpp_python -r "$here/requirements.txt"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
python3 "$here/stub_cuda.py" "$site"
BUILD_CUDA_EXT=0 "$venv/bin/pip" install --disable-pip-version-check --progress-bar off --no-deps --no-build-isolation gptqmodel==7.7.0
cd / && OMP_NUM_THREADS=1 "$venv/bin/python" - <<'PY'
import auto_round, gguf, llama_cpp, mlx_lm, tokenizers, torch, transformers
print("torch", torch.__version__, "transformers", transformers.__version__, "tokenizers", tokenizers.__version__,
      "auto-round", auto_round.__version__, "llama-cpp-python", llama_cpp.__version__, "mlx-lm", mlx_lm.__version__)
PY
touch "$venv/complete"  # run.sh looks at it
