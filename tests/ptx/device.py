"""The kernels that nvcc makes of csrc, in PTX, and launches of the emulation carried out with them.

The emulation finds out what a call of an operator launches; here each launch runs in the interpreter instead, on the
same addresses: those of the tensors whose `data_ptr` was asked for.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import pathlib
import re
from collections import Counter

import torch
from build import ROOT, run
from interpreter import Launch, Run
from memory import HostMemory
from program import Kernel, PtxError, parse

FLAGS = ["-std=c++17", "-arch=compute_90", "--expt-relaxed-constexpr"]


def compile_ptx(nvcc: str, source: pathlib.Path, folder: pathlib.Path) -> str:
    """What nvcc makes of a file of kernels; kept in a file named after the preprocessed text."""
    flags = [*FLAGS, f"-I{source.parents[1]}"]  # csrc, or a copy
    text = " ".join(FLAGS) + run([nvcc, *flags, "-E", "-Xcompiler", "-P", str(source)])
    target = folder / f"{source.parent.name}_{source.stem}_{hashlib.sha256(text.encode()).hexdigest()[:16]}.ptx"
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}.tmp")
        run([nvcc, *flags, "-ptx", str(source), "-o", str(partial)])
        partial.rename(target)
    return target.read_text()


def compile_all(nvcc: str, folder: pathlib.Path) -> dict[str, Kernel]:
    """All kernels of csrc, by the name the host's compiler gives them."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted((ROOT / "csrc").glob("*/cuda*.cu"))
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        files = [parse(text) for text in pool.map(lambda source: compile_ptx(nvcc, source, folder), sources)]
    kernels: dict[str, Kernel] = {}
    for file in files:
        for name in file:
            if kernels.setdefault(host_name(name), file[name]) is not file[name]:
                raise PtxError(f"two kernels of csrc have the name {name}")
    return kernels


def host_name(symbol: str) -> str:
    """nvcc's symbol as g++ has it, which names an unnamed namespace in its own way."""
    begin = 0
    while match := re.compile(r"(\d+)_GLOBAL__N_(?!1)").search(symbol, begin):
        end = match.end(1) + int(match[1])
        symbol = symbol[: match.start()] + "12_GLOBAL__N_1" + symbol[end:]
        begin = match.start() + 1
    return symbol


def symbols(module: str) -> dict[int, list[str]]:
    """Names of the functions of a shared object by their offset in it."""
    listing = run(["nm", module])
    found: dict[int, list[str]] = {}
    for offset, kind, name in re.findall(r"^([0-9a-f]+) (\w) (\S+)$", listing, flags=re.MULTILINE):
        if kind in "tTwW":
            found.setdefault(int(offset, 16), []).append(name)
    return found


def plain_name(symbol: str) -> str:
    """Of a mangled function: no namespaces, no template arguments."""
    names, at = [], re.match(r"_ZN?", symbol).end()
    while match := re.compile(r"\d+").match(symbol, at):
        at = match.end() + int(match[0])
        names.append(symbol[match.end() : at])
    return names[-1]


class Device:
    """Launches in the interpreter; `launched` has the names of the kernels."""

    def __init__(self, kernels: dict[str, Kernel], module: str):
        self.kernels, self.symbols = kernels, symbols(module)
        self.launched: set[str] = set()
        self.issued = 0  # instructions of warps, of all launches
        self.traffic: dict[str, Counter[str]] = {}  # by kernel, the counts of traffic.py
        self.reads_unwritten = False  # as in Launch
        self.tensors: list[torch.Tensor] = []  # alive, so that no other takes an address

    def launch(self, offset: int, grid, block, shared_bytes: int, arguments: list[bytes]) -> None:
        """Takes the place of the emulation's launch."""
        names = self.symbols.get(offset, [])
        name = next((name for name in names if name in self.kernels), None)
        if name is None:
            raise PtxError(f"no PTX of the kernel {names}")
        self.launched.add(plain_name(name))
        memory = HostMemory([(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) for t in self.tensors])
        launch = Launch(grid, block, shared_bytes, arguments, self.reads_unwritten)
        run = Run(self.kernels[name], launch, memory)
        run.execute()
        self.issued += run.issued
        self.traffic.setdefault(plain_name(name), Counter()).update(vars(run.traffic))

    def forget(self) -> None:
        self.launched.clear()
        self.issued = 0
        self.traffic.clear()
        self.reads_unwritten = False
        self.tensors.clear()
