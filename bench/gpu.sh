#!/usr/bin/env bash
# Everything that a GPU is needed for, in under 10 minutes on one: the GPU tests, then bench/gpu.py, whether the tests
# pass or not. Needs pathtune built with CUDA and a torch build with CUDA: PATHTUNE_CUDA=ON pip install ".[mace,test]",
# or, on a machine without a registry, what packaging/gpu_wheels.sh has collected. No data folder is needed.
#     bench/gpu.sh [arguments of bench/gpu.py]
#     bench/gpu.sh --sanitize    # the tests of kernels alone, under compute-sanitizer: slow, and no times are taken
set -euo pipefail
cd "$(dirname "$0")/.."
python -c 'from pathtune.ops import cuda_status; reason = cuda_status(); raise SystemExit(reason or 0)'
if test "${1:-}" = --sanitize; then
  for tool in memcheck racecheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 1 python -m pytest -n 0 -m gpu tests/gpu -k "equal"
  done
  exit
fi
status=0
python -m pytest -n 0 -m gpu tests/gpu || status=$?
timeout 480 python bench/gpu.py "$@" || status=$?
exit "$status"
