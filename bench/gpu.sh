#!/usr/bin/env bash
# Everything that a GPU is needed for, in under 10 minutes on one: the GPU tests, then bench/gpu.py.
# Needs pathtune built with CUDA (PATHTUNE_CUDA=ON pip install ".[mace,test]") and a torch build with CUDA.
set -euo pipefail
cd "$(dirname "$0")/.."
python -c 'from pathtune.ops import cuda_status; reason = cuda_status(); raise SystemExit(reason or 0)'
python -m pytest -n 0 -m gpu tests/gpu
timeout 480 python bench/gpu.py "$@"
