"""Turns an instruction into a function of the run and the lanes that execute it.

`lanes` is a slice or an array of lane numbers. A value that is the same in all lanes may have length 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from arithmetic import COMPARE, LOGIC, MEANINGS, ROUND_TO_INTEGER
from memory import BASES
from program import DTYPES, Instruction, Kernel, PtxError

Read = Callable[[Any, Any], np.ndarray]
Step = Callable[[Any, Any], None]
I64 = np.dtype("i8")
SPECIAL = {f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"} | {"%laneid"}


def _immediate(text: str, dtype: np.dtype) -> np.ndarray:
    if match := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})", text):
        return np.array([int(match[1], 16)], "u4").view("f4").astype(dtype)
    if match := re.fullmatch(r"0[dD]([0-9a-fA-F]{16})", text):
        return np.array([int(match[1], 16)], "u8").view("f8").astype(dtype)
    try:
        value = int(text.rstrip("U"), 0)
    except ValueError:
        raise PtxError(f"operand not supported: {text}") from None
    return np.array([value & ((1 << 8 * dtype.itemsize) - 1)], f"u{dtype.itemsize}").view(dtype)


def reader(kernel: Kernel, text: str, dtype: np.dtype) -> Read:
    """The operand `text` seen as `dtype`."""
    declared = kernel.registers.get(text)
    if declared is not None:
        if (declared == "?") != (dtype == "?"):
            raise PtxError(f"{text} is no operand of this type")
        if declared.itemsize == dtype.itemsize:
            return lambda run, lanes: run.registers[text][lanes].view(dtype)
        resized = np.dtype(f"u{dtype.itemsize}")
        return lambda run, lanes: run.registers[text][lanes].astype(resized).view(dtype)
    if text in SPECIAL:
        return lambda run, lanes: run.special[text][lanes].astype(dtype)
    if text in kernel.arrays:
        value = np.array([kernel.arrays[text][1]], dtype)
    elif any(text == name for name, _ in kernel.parameters):
        value = np.array([_parameter_offset(kernel, text)], dtype)
    elif text == "WARP_SZ":
        value = np.array([32], dtype)
    else:
        value = _immediate(text, dtype)
    return lambda run, lanes: value


def _parameter_offset(kernel: Kernel, name: str) -> int:
    offset = 0
    for other, size in kernel.parameters:
        if other == name:
            break
        offset += -(-size // 16) * 16
    return offset


def writer(kernel: Kernel, text: str, dtype: np.dtype) -> Callable[[Any, Any, np.ndarray], None]:
    """Stores values of `dtype` in the register `text`, extended as PTX does."""
    if text == "_":
        return lambda run, lanes, value: None
    if text not in kernel.registers:
        raise PtxError(f"no register: {text}")
    declared = kernel.registers[text]
    bits = np.dtype("?") if declared == "?" else np.dtype(f"u{declared.itemsize}")
    if (declared == "?") != (dtype == "?"):
        raise PtxError(f"{text} cannot hold this type")
    if declared.itemsize == dtype.itemsize:

        def write(run, lanes, value):
            run.registers[text][lanes] = np.asarray(value, dtype).view(bits)

    else:  # a signed value keeps its sign
        widened = np.dtype(f"i{declared.itemsize}") if dtype.kind == "i" else bits

        def write(run, lanes, value):
            value = np.asarray(value, dtype)
            value = value if dtype.kind in "iu" else value.view(f"u{dtype.itemsize}")
            run.registers[text][lanes] = value.astype(widened).view(bits)

    return write


def _parts(text: str) -> list[str]:
    """The elements of a vector operand, or the operand itself."""
    return [part.strip() for part in text.strip("{} ").split(",")]


def address(kernel: Kernel, text: str) -> Read:
    match = re.fullmatch(r"\[\s*([%$\w.]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
    if not match:
        raise PtxError(f"address not supported: {text}")
    name, offset = match[1], int(match[2] or 0)
    # 32-bit registers hold addresses of shared memory
    dtype = kernel.registers.get(name, I64)
    read = reader(kernel, name, np.dtype(f"u{dtype.itemsize}"))
    return lambda run, lanes: read(run, lanes).astype(I64) + offset


def _space(op: list[str]) -> str | None:
    return next((part for part in op if part in BASES), None)


def _count(op: list[str]) -> int:
    return next((int(part[1:]) for part in op if re.fullmatch(r"v[248]", part)), 1)


def _target(run, op_space: str | None, lanes, at: np.ndarray, n_bytes: int):
    """The space, the lanes' rows in it and their addresses there, where each reaches n_bytes."""
    if op_space is None:  # a generic address says itself where it points
        base = int(at[0]) >> 60 << 60
        if (at >> 60 << 60 != base).any():
            raise PtxError("generic addresses of different spaces in one instruction")
        op_space = next((name for name, begin in BASES.items() if begin == base), "global")
        at = at - BASES[op_space] if op_space != "global" else at
    rows = {"shared": run.block, "local": run.lane_number}.get(op_space, run.zeros)
    if op_space in ("global", "shared"):
        warp = run.warp[lanes]
        run.traffic.add(op_space, warp, run.lane[lanes], np.broadcast_to(at, warp.shape), n_bytes)
    return run.spaces[op_space], rows[lanes], at


def _load(kernel: Kernel, instruction: Instruction) -> Step:
    op, (to, where) = instruction.op, instruction.args
    dtype, space, n = DTYPES[op[-1]], _space(op), _count(op)
    at = address(kernel, where)
    writes = [writer(kernel, part, dtype) for part in _parts(to)]

    def step(run, lanes):
        memory, rows, place = _target(run, space, lanes, at(run, lanes), n * dtype.itemsize)
        for write, value in zip(writes, memory.load(rows, place, dtype, n)):
            write(run, lanes, value)

    return step


def _store(kernel: Kernel, instruction: Instruction) -> Step:
    op, (where, values) = instruction.op, instruction.args
    dtype, space = DTYPES[op[-1]], _space(op)
    at = address(kernel, where)
    reads = [reader(kernel, part, dtype) for part in _parts(values)]

    def step(run, lanes):
        memory, rows, place = _target(run, space, lanes, at(run, lanes), len(reads) * dtype.itemsize)
        memory.store(rows, place, [read(run, lanes) for read in reads])

    return step


COMBINE = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
           "xor": np.bitwise_xor}  # fmt: skip


def _atomic(kernel: Kernel, instruction: Instruction) -> Step:
    op, args = instruction.op, instruction.args
    to, where, *values = ["_", *args] if op[0] == "red" else args
    dtype, space = DTYPES[op[-1]], _space(op)
    what = next((part for part in op if part in (*COMBINE, "exch", "cas")), None)
    if what is None or _count(op) != 1:
        raise PtxError("instruction not supported")
    at, reads = address(kernel, where), [reader(kernel, value, dtype) for value in values]
    if what in COMBINE and to not in kernel.read:  # nobody asks for the old value

        def step(run, lanes):
            memory, rows, place = _target(run, space, lanes, at(run, lanes), dtype.itemsize)
            memory.update(rows, place, COMBINE[what], reads[0](run, lanes))

        return step
    write = writer(kernel, to, dtype)

    def one_by_one(run, lanes):
        lanes = run.numbers(lanes)
        memory, rows, place = _target(run, space, lanes, at(run, lanes), dtype.itemsize)
        operands = [np.broadcast_to(read(run, lanes), lanes.shape) for read in reads]
        for i, place_i in enumerate(np.broadcast_to(place, lanes.shape)):
            mine, given = (rows[i : i + 1], place_i[None]), [operand[i : i + 1] for operand in operands]
            (old,) = memory.load(*mine, dtype, 1)
            new = given[0] if what == "exch" else COMBINE[what](old, given[0]) if what != "cas" else None
            new = np.where(old == given[0], given[1], old) if what == "cas" else new
            memory.store(*mine, [new])
            write(run, lanes[i : i + 1], old)

    return one_by_one


def _move(kernel: Kernel, instruction: Instruction) -> Step:
    dtype, (to, value) = DTYPES[instruction.op[-1]], instruction.args
    if not (to.startswith("{") or value.startswith("{")):
        read, write = reader(kernel, value, dtype), writer(kernel, to, dtype)
        return lambda run, lanes: write(run, lanes, read(run, lanes))
    pieces, parts = _parts(to if to.startswith("{") else value), len(_parts(to if to.startswith("{") else value))
    whole, part = np.dtype(f"u{dtype.itemsize}"), np.dtype(f"u{dtype.itemsize // parts}")
    shifts = [whole.type(8 * part.itemsize * i) for i in range(parts)]
    if to.startswith("{"):
        read, writes = reader(kernel, value, whole), [writer(kernel, piece, part) for piece in pieces]

        def unpack(run, lanes):
            value = read(run, lanes)
            for write, shift in zip(writes, shifts):
                write(run, lanes, (value >> shift).astype(part))

        return unpack
    reads, write = [reader(kernel, piece, part) for piece in pieces], writer(kernel, to, whole)

    def pack(run, lanes):
        value = whole.type(0)
        for read, shift in zip(reads, shifts):
            value = value | read(run, lanes).astype(whole) << shift
        write(run, lanes, value)

    return pack


def _convert_address(kernel: Kernel, instruction: Instruction) -> Step:  # cvta
    op, (to, value) = instruction.op, instruction.args
    base = BASES[_space(op)] * (-1 if "to" in op else 1)
    read, write = reader(kernel, value, I64), writer(kernel, to, I64)
    return lambda run, lanes: write(run, lanes, read(run, lanes) + base)


def _compute(kernel: Kernel, instruction: Instruction) -> Step:
    op, (to, *values) = instruction.op, instruction.args
    result, dtypes, function = MEANINGS[op[0]](op, op[-1])
    if len(dtypes) != len(values):
        raise PtxError("instruction not supported with these operands")
    reads = [reader(kernel, value, dtype) for value, dtype in zip(values, dtypes)]
    first, _, second = to.partition("|")
    write = writer(kernel, first, result)
    if second:
        raise PtxError("a second result is not supported")
    if len(reads) == 2:
        a, b = reads
        return lambda run, lanes: write(run, lanes, function(a(run, lanes), b(run, lanes)))
    return lambda run, lanes: write(run, lanes, function(*[read(run, lanes) for read in reads]))


def _nothing(kernel: Kernel, instruction: Instruction) -> Step:
    return lambda run, lanes: None


_SPECIAL_STEPS = {"ld": _load, "ldu": _load, "st": _store, "atom": _atomic, "red": _atomic, "mov": _move,
                  "cvta": _convert_address, "membar": _nothing, "fence": _nothing}  # fmt: skip


# what may follow the name of an instruction: anything else changes its meaning in a way not known here
_ACCESS = {
    *BASES,
    "volatile",
    "weak",
    "relaxed",
    "gpu",
    "cta",
    "sys",
    "nc",
    "ca",
    "cg",
    "cs",
    "cv",
    "lu",
    "wb",
    "wt",
    "L1",
    "L2",
    "no_allocate",
    "evict_first",
    "evict_last",
    "64B",
    "128B",
    "256B",
    "v2",
    "v4",
    "v8",
}
_MODIFIERS = {
    _load: _ACCESS, _store: _ACCESS, _atomic: _ACCESS | set(COMBINE) | {"exch", "cas"}, _move: set(),
    _convert_address: {"to", *BASES}, _nothing: {"gl", "cta", "gpu", "sys", "sc", "acq_rel", "level"},
    _compute: {*COMPARE, *LOGIC, *ROUND_TO_INTEGER, "rn", "rz", "rm", "rp", "ftz", "sat", "approx", "full", "lo", "hi",
               "wide", "l", "r", "wrap", "clamp", "NaN"},
}  # fmt: skip


def decode(kernel: Kernel, instruction: Instruction) -> Step:
    """Raises PtxError for what is not known."""
    op = instruction.op
    make = _SPECIAL_STEPS.get(op[0]) or (_compute if op[0] in MEANINGS else None)
    if make is None:
        raise PtxError("instruction not supported")
    if unknown := set(op[1:]) - _MODIFIERS[make] - set(DTYPES):
        raise PtxError(f"modifier not supported: {', '.join(sorted(unknown))}")
    if make not in (_nothing, _convert_address) and op[-1] not in DTYPES:
        raise PtxError("type not supported")
    return make(kernel, instruction)
