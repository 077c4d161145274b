#!/bin/sh
# The tests of a GPU and performance/stream.py, in one go of at most ten minutes:
#
#     performance/gpu.sh OUT              on a machine with one GPU
#     performance/gpu.sh OUT rehearsal    the same on small sizes without a GPU: does every step run?
#
# A rehearsal compares the CPU with itself and has three times as long.
# Run it from the repository root with the environment's `bin` in PATH. Each step has a limit of its own, so a step that
# hangs does not take the time of the others. The steps go from the most to the least important. OUT/summary.tsv says how
# each one ended (0: passed, 124: reached its limit); OUT/STEP.log has its output. The exit code
# is 1 if any step failed.
set -u
out=${1:?usage: performance/gpu.sh OUT [rehearsal]}
mode=${2:-gpu}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
: > "$out/summary.tsv"
failed=0

step() { # NAME SECONDS COMMAND...
    name=$1 limit=$(($2 * patience))
    shift 2
    began=$(date +%s)
    timeout --kill-after=5 "$limit" "$@" > "$out/$name.log" 2>&1
    code=$?
    printf '%s\t%s\t%s s of %s\n' "$name" "$code" $(($(date +%s) - began)) "$limit" | tee -a "$out/summary.tsv"
    [ "$code" -eq 0 ] || failed=1
}

if [ "$mode" = rehearsal ]; then
    gpus=0 shape="--layers 2 --hidden 512" patience=3
    export CUDA_VISIBLE_DEVICES='' REHEARSAL=1
else
    gpus=1 shape="--layers 32 --hidden 4096" patience=1
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv > "$out/device.csv" || exit 1
fi

step versions 30 python -c "from lensflow.storage.environment import machine, versions; print(versions(), machine())"
# Two halves, so that a slow vLLM costs no other test.
step tests 200 pytest -q -p no:cacheprovider tests/gpu -m gpu -k "not vllm and not benchmark"
step vllm 180 pytest -q -p no:cacheprovider tests/gpu -m gpu -k vllm  # scores, and swapped weights
# The shape of Llama-3-8B: memory and seconds of extraction and training.
# shellcheck disable=SC2086
step stream 150 python performance/stream.py $shape --gpus "$gpus" --folder "$work/stream"
exit "$failed"
