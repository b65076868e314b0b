#!/usr/bin/env bash
# For a machine that has Python, torch with CUDA and a GPU, but no registry: packaging/gpu_wheels.sh OUT [PYTHON] [NAME ...]
# collects in OUT the wheel of pathtune with its CUDA kernels and the wheels of all that it needs for MACE models and the
# tests, but those of torch, of what torch itself needs, and of the packages that are named since the other machine has
# them (numpy and scipy are half of the size). Then copy OUT and this checkout there, and
#     pip install --no-index --find-links OUT "pathtune[mace,test]" && bench/gpu.sh
# PYTHON (default: python3) must be of the version that the other machine has. Needs nvcc (CUDACXX, or on the PATH);
# PATHTUNE_CUDA=OFF tries the rest of the recipe without one.
set -euo pipefail
out="$(mkdir -p "$1" && cd "$1" && pwd)"
python="${2:-python3}"
cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip)
PATHTUNE_CUDA="${PATHTUNE_CUDA:-ON}" "${pip[@]}" wheel -q --no-deps -w "$out" .
wheel="$(ls -t "$out"/pathtune-*.whl | head -1)"
"${pip[@]}" wheel -q -c constraints.txt -w "$work/all" "$wheel[mace,test]"
"${pip[@]}" wheel -q -c constraints.txt -w "$work/there" torch "${@:3}" # and what comes with it, which is left out
for file in "$work"/all/*.whl; do
  test -e "$work/there/$(basename "$file")" || cp "$file" "$out/"
done
du -ch "$out"/*.whl | tail -1
