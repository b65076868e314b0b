"""Reads PTX, the text that nvcc emits for a GPU: kernels as lists of instructions."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

# the type of a PTX operand as a numpy dtype
DTYPES = {"u8": "u1", "s8": "i1", "b8": "u1", "u16": "u2", "s16": "i2", "b16": "u2", "u32": "u4", "s32": "i4",
          "b32": "u4", "u64": "u8", "s64": "i8", "b64": "u8", "f32": "f4", "f64": "f8", "pred": "?"}  # fmt: skip
DTYPES = {name: np.dtype(dtype) for name, dtype in DTYPES.items()}

_LABEL = re.compile(r"\s*(\$\w+)\s*:")
_ARRAY = re.compile(r"\.align\s+(\d+)\s+\.(\w+)\s+([\w$]+)\s*(?:\[(\d*)\])?\s*$")
_PARAMETER = re.compile(r"\.param\b(.*?)([\w$]+)\s*(?:\[(\d+)\])?\s*$", re.DOTALL)


class PtxError(Exception):
    """What a GPU would do wrong or undefined, or what the interpreter does not know."""


@dataclasses.dataclass
class Instruction:
    """`@guard op args`; `op` is split at its dots."""

    text: str
    guard: str | None
    negated: bool
    op: list[str]
    args: list[str]


class Kernel:
    """One `.entry`."""

    def __init__(self, name: str, parameters: str, body: str, shared: dict[str, str]):
        self.name = name
        self.parameters = [_parameter(p) for p in parameters.split(",") if p.strip()]  # name, bytes
        self.code: list[Instruction] = []
        self.labels: dict[str, int] = {}
        self.registers: dict[str, np.dtype] = {}
        self.arrays: dict[str, tuple[str, int]] = {}  # name: space, offset in it
        self.bytes = {"shared": 0, "local": 0}
        outside = [shared[word] for word in dict.fromkeys(re.findall(r"[\w$]+", body)) if word in shared]
        for statement in [declaration for declaration in outside if not _is_dynamic(declaration)] + body.split(";"):
            self._statement(statement)
        self.code.append(Instruction("ret", None, False, ["ret"], []))
        # dynamic shared memory follows the static one
        self.bytes["shared"] = -(-self.bytes["shared"] // 16) * 16
        self.arrays |= {d: ("shared", self.bytes["shared"]) for d, text in shared.items() if _is_dynamic(text)}
        self.read = _registers_read(self.code)
        self.targets = set(self.labels.values())

    def _statement(self, text: str) -> None:
        text = text.lstrip(" \t\n{}")  # blocks only scope names, which nvcc keeps apart
        while match := _LABEL.match(text):
            self.labels[match[1]] = len(self.code)
            text = text[match.end() :].lstrip(" \t\n{}")
        text = " ".join(text.split())
        if not text or text.startswith((".loc", ".pragma", ".file")):
            return
        if text.startswith(".reg"):
            self._declare_registers(text)
        elif text.startswith((".shared", ".local")):
            self._declare_array(text)
        elif text.startswith("."):
            raise PtxError(f"{self.name}: declaration not supported: {text}")
        else:
            self.code.append(_instruction(text))

    def _declare_registers(self, text: str) -> None:
        _, kind, names = text.split(maxsplit=2)
        if kind[1:] not in DTYPES:
            raise PtxError(f"{self.name}: registers of type {kind} are not supported")
        for name in names.split(","):
            match = re.fullmatch(r"\s*(%\w+)<(\d+)>\s*", name)
            for each in [f"{match[1]}{i}" for i in range(int(match[2]))] if match else [name.strip()]:
                dtype = DTYPES[kind[1:]]
                if self.registers.setdefault(each, dtype) != dtype:
                    raise PtxError(f"{self.name}: {each} is declared twice, with two types")

    def _declare_array(self, text: str) -> None:
        match = _ARRAY.search(text)
        if not match:
            raise PtxError(f"{self.name}: declaration not supported: {text}")
        space = text.split()[0][1:]
        align, size = int(match[1]), DTYPES[match[2]].itemsize * int(match[4] or 1)
        offset = -(-self.bytes[space] // align) * align
        self.arrays[match[3]] = (space, offset)
        self.bytes[space] = offset + size


def _parameter(text: str) -> tuple[str, int]:
    match = _PARAMETER.search(text)
    if not match:
        raise PtxError(f"parameter not supported: {text}")
    types = [word[1:] for word in match[1].split() if word[1:] in DTYPES]
    return match[2], DTYPES[types[-1]].itemsize * int(match[3] or 1)


def _instruction(text: str) -> Instruction:
    match = re.match(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*)", text)
    if not match:
        raise PtxError(f"statement not supported: {text}")
    args, depth, begin, rest = [], 0, 0, match[4]
    for i, character in enumerate(rest):
        depth += (character in "{[(") - (character in ")]}")
        if character == "," and depth == 0:
            args.append(rest[begin:i].strip())
            begin = i + 1
    if rest:
        args.append(rest[begin:].strip())
    return Instruction(text, match[2], match[1] == "!", match[3].replace("::", ".").split("."), args)


def _registers_read(code: list[Instruction]) -> set[str]:
    """Registers whose value is used anywhere; an atomic's old value often is not."""
    used: set[str] = set()
    for instruction in code:
        writes_first = instruction.op[0] not in ("st", "red")
        for arg in instruction.args[int(writes_first) :]:
            used.update(re.findall(r"%\w+", arg))
        if instruction.guard:
            used.add(instruction.guard)
    return used


def parse(text: str) -> dict[str, Kernel]:
    """The kernels of a PTX file by name, each parsed when it is asked for."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    # declared outside of the kernels: dynamic shared memory, and static that several kernels use
    declaration = re.compile(r"^(?:\.extern\s+)?(\.shared\s[^;]*?([\w$]+)\s*(?:\[\d*\])?)\s*;", re.MULTILINE)
    shared = {name: text for text, name in declaration.findall(text)}
    entry = re.compile(r"\.entry\s+([\w$]+)\s*\((.*?)\)([^{]*?)\n\{\n(.*?)\n\}", re.DOTALL)
    return _Lazy({m[1]: (m[2], m[4]) for m in entry.finditer(text)}, shared)


def _is_dynamic(declaration: str) -> bool:
    return declaration.endswith("[]")


class _Lazy(dict):
    def __init__(self, sources: dict[str, tuple[str, str]], shared: dict[str, str]):
        super().__init__(sources)
        self.shared = shared

    def __getitem__(self, name: str) -> Kernel:
        value = super().__getitem__(name)
        if not isinstance(value, Kernel):
            value = self[name] = Kernel(name, *value, self.shared)
        return value
