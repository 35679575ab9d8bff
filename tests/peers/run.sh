#!/bin/bash
# Checks that what our program writes is read by the programs it is meant for, with the same perplexity as our own eval.
# Usage: tests/peers/run.sh [--smollm2] [arguments of check_exports.py]
# Installs the peers (setup.sh, 10 minutes) when PEERS_VENV (default build/peers-venv) is absent or older than what it needs; --smollm2 also fetches and checks that model.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$here/../..
venv=${PEERS_VENV:-$repo/build/peers-venv}
smollm2=
if [ "${1:-}" = --smollm2 ]; then smollm2=${SMOLLM2_DIR:-$repo/build/smollm2-135m}; shift; fi

[ "$venv/complete" -nt "$here/requirements.txt" ] && [ "$venv/complete" -nt "$here/setup.sh" ] || "$here/setup.sh" "$venv"
status=0
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
"$venv/bin/python" "$here/check_exports.py" "$@" || status=1
if [ -n "$smollm2" ]; then
  "$here/fetch_smollm2.sh" "$smollm2"
  "$venv/bin/python" "$here/check_exports.py" --model "$smollm2" --max_tokens 2048 --group_size 64 "$@" || status=1
fi
exit $status
