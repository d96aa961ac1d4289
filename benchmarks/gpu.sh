#!/usr/bin/env bash
# What needs a GPU, in at most 8 minutes: tests on it, then the speed table.
#   benchmarks/gpu.sh [FOLDER]      (default: benchmarks/results/gpu)
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results/gpu}
mkdir -p "$out"
status=0
timeout 220 python -m pytest -q tests/ops/test_triton.py tests/nn/test_cuda.py 2>&1 | tee "$out/tests.txt" || status=1
timeout 240 python -m benchmarks.speed gpu -o "$out/speed.json" || status=1
exit "$status"
