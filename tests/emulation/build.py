"""Builds the emulated CUDA kernels: csrc's .cu files as C++, with the emulator in CUDA's place.

    python tests/emulation/build.py [plain | asan | tsan]

prints the module's file. An object is compiled again when what it was made from has changed.
"""

from __future__ import annotations

import concurrent.futures
import fcntl
import functools
import hashlib
import importlib.util
import os
import pathlib
import subprocess
import sys
import sysconfig
import types

import pybind11

ROOT = pathlib.Path(__file__).parents[2]
HERE = pathlib.Path(__file__).parent
FLAGS = ["-std=c++20", "-g1", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra", "-Wno-unknown-pragmas",
         "-Wno-unused-parameter", "-Wno-missing-field-initializers"]  # fmt: skip
# optimisation and sanitizers of the kernels; what the scheduler, never sanitized itself, is told
VARIANTS = {
    "plain": (["-O2"], []),
    "asan": (["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"], ["-DEMULATOR_ASAN"]),
    "tsan": (["-O1", "-fsanitize=thread"], ["-DEMULATOR_TSAN"]),
}


def sources(csrc: pathlib.Path) -> list[pathlib.Path]:
    """The translation units of the module."""
    return [*sorted(csrc.rglob("*.cu")), csrc / "cuda_bindings.cpp", HERE / "module.cpp", HERE / "emulator.cpp"]


def compile_one(source: pathlib.Path, csrc: pathlib.Path, variant: str, folder: pathlib.Path) -> pathlib.Path:
    """An object file, named after its preprocessed text and the flags."""
    sanitize, annotate = VARIANTS[variant]
    own = ["-O2", *annotate] if source.name == "emulator.cpp" else [*sanitize, *annotate]
    flags = [*FLAGS, *own, "-DPATHTUNE_EMULATED=emulated", "-DPATHTUNE_N_ISAS=1", f"-fmacro-prefix-map={csrc}=csrc"]
    includes = [f"-I{csrc}", f"-I{HERE}", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    command = [os.environ.get("CXX", "g++"), *flags, *includes, "-x", "c++"]
    text = run([*command, "-E", "-P", str(source)])
    key = hashlib.sha256("\n".join([text, *map(str, flags)]).replace(str(csrc), "csrc").encode()).hexdigest()[:16]
    target = folder / f"{source.parent.name}_{source.stem}_{variant}_{key}.o"
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}.tmp")
        run([*command, "-c", str(source), "-o", str(partial)])
        partial.rename(target)
    return target


def run(command: list[str]) -> str:
    """Its standard output; RuntimeError with what it says when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def build(
    variant: str = "plain", folder: pathlib.Path = ROOT / "build" / "emulation", csrc: pathlib.Path = ROOT / "csrc"
) -> pathlib.Path:
    """The module's file; of several processes that want it one builds and the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build(variant, folder, csrc)


def _build(variant: str, folder: pathlib.Path, csrc: pathlib.Path) -> pathlib.Path:
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        objects = list(pool.map(lambda s: compile_one(s, csrc, variant, folder), sources(csrc)))
    key = hashlib.sha256("".join(o.name for o in objects).encode()).hexdigest()[:16]
    module = folder / f"{variant}_{key}" / "emulated.so"
    if not module.exists():
        module.parent.mkdir(exist_ok=True)
        command = [
            os.environ.get("CXX", "g++"),
            "-shared",
            *VARIANTS[variant][0],
            "-pthread",
            *map(str, objects),
            "-o",
            str(module),
        ]
        run(command)
    return module


@functools.cache
def load() -> types.ModuleType:
    """The module itself; PATHTUNE_EMULATED names one that is built already (sanitized, say)."""
    spec = importlib.util.spec_from_file_location("emulated", os.environ.get("PATHTUNE_EMULATED") or build())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    print(build(*sys.argv[1:2]))
