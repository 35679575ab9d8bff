#!/usr/bin/env bash
# Quick start on Debian 12: installs what is missing, builds the application, quantizes the embedded model in four ways, reloads what it saved
# and prints one table.
set -eu
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}  # waiting threads give their core to others: much faster on a shared machine
./cmake/install-debian-packages.sh
cmake --preset release -DAR_BUILD_TESTS=OFF -B build/quickstart >/dev/null
cmake --build build/quickstart -j "$(nproc)"

auto_round=build/quickstart/bin/auto-round
model=examples/data/tiny-stories
out=${1:-build/quickstart/out}
rm -rf "$out"
mkdir -p "$out"
for scheme in W4A16 W2A16G32; do
  for method in rtn signround; do
    case $method in
      rtn) options="--iters 0 --disable_opt_rtn" ;;
      signround) options="--iters 200 --nsamples 128 --seqlen 256 --batch_size 8 --dataset $model/calib.jsonl" ;;
    esac
    # shellcheck disable=SC2086
    $auto_round quantize --model $model --scheme $scheme $options --format auto_round --output_dir "$out/$scheme-$method" --json > "$out/$scheme-$method.json"
  done
done
$auto_round report --ref $model --ppl $model/eval.jsonl --seqlen 256 --max_tokens 20000 --prompt "Once upon a time there was a" --max_new_tokens 40 \
  --runs "$out/W4A16-rtn.json,$out/W4A16-signround.json,$out/W2A16G32-rtn.json,$out/W2A16G32-signround.json"
