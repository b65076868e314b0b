"""Runs a PTX kernel in numpy: no GPU, no driver.

Lanes run in step as far as they agree: of those that can go on, the ones furthest behind do. Checked are the bounds
and the alignment of every access, reads of shared or local memory that nobody wrote, warp collectives whose lanes
never come together, and shuffles that read a lane which takes no part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from instructions import Step, decode, reader, writer
from memory import HostMemory, Parameters, Rows
from program import Instruction, Kernel, PtxError
from traffic import Traffic

READY, AT_BARRIER, PARKED, DONE = range(4)
U32 = np.dtype("u4")
MAX_STEPS = 2_000_000  # a kernel of the tests needs thousands


@dataclasses.dataclass
class _Decoded:
    instruction: Instruction
    kind: str  # plain, or the control that ends a block of instructions
    step: Step | Callable
    leads: bool  # other lanes may wait here or arrive from elsewhere


@dataclasses.dataclass
class Launch:
    """Grid and block in x, y, z; dynamic shared memory in bytes; the bytes of each argument."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: list[bytes]
    reads_unwritten: bool = False  # shared memory that nobody wrote is NaN, instead of an error


class _Registers(dict):
    """Made when first used; what nobody wrote is NaN."""

    def __init__(self, dtypes: dict[str, np.dtype], n: int):
        super().__init__()
        self.dtypes, self.n = dtypes, n

    def __missing__(self, name: str) -> np.ndarray:
        dtype = self.dtypes[name]
        if dtype == "?":
            self[name] = np.zeros(self.n, "?")
        else:
            self[name] = np.full(self.n, np.iinfo(f"u{dtype.itemsize}").max, f"u{dtype.itemsize}")
        return self[name]


def _kind(op: list[str]) -> str:
    if op[0] == "bra":
        return "branch"
    if op[0] in ("ret", "exit"):
        return "return"
    if op[0] in ("bar", "barrier"):
        return "collective" if op[1] == "warp" else "barrier"
    if op[0] in ("shfl", "vote"):
        return "collective"
    return "plain"


def _decode(kernel: Kernel, i: int) -> _Decoded:
    instruction = kernel.code[i]
    kind = _kind(instruction.op)
    leads = kind != "plain" or i == 0 or _kind(kernel.code[i - 1].op) != "plain" or i in kernel.targets
    try:
        if kind == "branch":
            if instruction.args[0] not in kernel.labels:
                raise PtxError("branch to an unknown label")
            step = None
        elif kind == "barrier":
            step = _vote_of_block(kernel, instruction)
        elif kind == "collective":
            step = _collective(kernel, instruction)
        else:
            step = decode(kernel, instruction) if kind == "plain" else None
    except PtxError as error:
        raise PtxError(f"{kernel.name}: {instruction.text}: {error}") from None
    return _Decoded(instruction, kind, step, leads)


def _vote_of_block(kernel: Kernel, instruction: Instruction) -> tuple | None:
    """Of bar.red: reads the vote, writes the result."""
    op, args = instruction.op, instruction.args
    if "red" not in op:
        if args not in (["0"], []):
            raise PtxError("instruction not supported")
        return None
    if len(args) != 3 or args[1] != "0":
        raise PtxError("instruction not supported")
    read, negated = reader(kernel, args[2].lstrip("!"), np.dtype("?")), args[2].startswith("!")
    function = {"popc": lambda ayes, n: ayes, "or": lambda ayes, n: ayes > 0, "and": lambda ayes, n: ayes == n}
    write = writer(kernel, args[0], U32 if "popc" in op else np.dtype("?"))
    return lambda run, lanes: read(run, lanes) ^ negated, function[op[2]], write


def _collective(kernel: Kernel, instruction: Instruction) -> tuple:
    """Reads the mask; does the work, once all lanes of the mask are there."""
    op, args = instruction.op, instruction.args
    if op[0] in ("bar", "barrier"):
        return reader(kernel, args[0], U32), lambda run, lanes, mask: None
    if "sync" not in op:
        raise PtxError("instruction not supported")
    mask = reader(kernel, args[-1], U32)
    if op[0] == "vote":
        return mask, _vote(kernel, instruction)
    return mask, _shuffle(kernel, instruction)


def _vote(kernel: Kernel, instruction: Instruction) -> Callable:
    op, (to, value, _) = instruction.op, instruction.args
    read = reader(kernel, value.lstrip("!"), np.dtype("?"))
    if op[2] not in ("ballot", "any", "all"):
        raise PtxError("instruction not supported")

    def vote(run, lanes, mask):
        holds = read(run, lanes) ^ value.startswith("!")
        ballot, everyone = run.bits_of(lanes[holds]), run.bits_of(lanes)
        mine = ballot[run.warp[lanes]] & mask
        if op[2] == "ballot":
            run.registers[to][lanes] = mine
        else:
            run.registers[to][lanes] = mine != 0 if op[2] == "any" else mine == (everyone[run.warp[lanes]] & mask)

    return vote


def _shuffle(kernel: Kernel, instruction: Instruction) -> Callable:
    mode = instruction.op[2]
    to, _, ok_to = instruction.args[0].partition("|")
    value, distance, clamp = (reader(kernel, arg, U32) for arg in instruction.args[1:4])

    def shuffle(run, lanes, mask):
        lane = run.lane[lanes]
        b, c = (read(run, lanes).astype(np.int64) for read in (distance, clamp))
        b, segment, c = b & 31, c >> 8 & 31, c & 31
        last, first = lane & segment | c & ~segment, lane & segment
        source = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": first | b & ~segment}[mode]
        inside = source >= last if mode == "up" else source <= last
        source = np.where(inside, source, lane)
        present = run.bits_of(lanes)[run.warp[lanes]] & mask
        if (present >> source.astype(U32) & 1 == 0).any():
            raise PtxError("shuffle reads a lane that takes no part")
        values = np.zeros(run.n_lanes, U32)
        values[lanes] = value(run, lanes)
        run.registers[to][lanes] = values[lanes - lane + source]
        if ok_to:
            run.registers[ok_to][lanes] = inside

    return shuffle


class Run:
    """One launch. `lockstep`: all lanes of the grid as one unit (fast); else warps take turns in random order."""

    def __init__(self, kernel: Kernel, launch: Launch, memory: HostMemory, lockstep: bool = True, seed: int = 0):
        bx, by, bz = launch.block
        gx, gy, gz = launch.grid
        n_threads, n_blocks = bx * by * bz, gx * gy * gz
        self.kernel, self.n_lanes = kernel, n_threads * n_blocks
        self.lane_number = np.arange(self.n_lanes)
        self.block, self.thread = np.divmod(self.lane_number, n_threads)
        self.lane = self.thread % 32
        warps = -(-n_threads // 32)
        self.warp = self.block * warps + self.thread // 32
        self.n_warps = warps * n_blocks
        self.zeros = np.zeros(self.n_lanes, np.int64)
        index = {"tid": (self.thread, launch.block), "ctaid": (self.block, launch.grid)}
        self.special = {"%laneid": self.lane}
        for name, (linear, size) in index.items():
            values = [linear % size[0], linear // size[0] % size[1], linear // (size[0] * size[1])]
            for axis, value, extent in zip("xyz", values, size):
                self.special[f"%{name}.{axis}"] = value
                self.special[f"%n{name}.{axis}"] = np.full(self.n_lanes, extent)
        self.registers = _Registers(kernel.registers, self.n_lanes)
        self.spaces = {
            "global": memory,
            "shared": Rows("shared", n_blocks, kernel.bytes["shared"] + launch.shared_bytes, launch.reads_unwritten),
            "local": Rows("local", self.n_lanes, kernel.bytes["local"]),
            "param": Parameters([size for _, size in kernel.parameters], launch.arguments),
        }
        self.pc = np.zeros(self.n_lanes, np.int64)
        self.state = np.full(self.n_lanes, READY, np.int8)
        if lockstep:
            self.units = [slice(0, self.n_lanes)]
        else:
            ends = [*np.flatnonzero(np.diff(self.warp)) + 1, self.n_lanes]
            self.units = [slice(begin, end) for begin, end in zip([0, *ends], ends)]
        self.random = np.random.default_rng(seed)
        self.decoded: dict[int, _Decoded] = kernel.__dict__.setdefault("decoded", {})
        self.votes: list[tuple] = []  # of threads that wait at a bar.red
        self.steps = 0
        self.traffic = Traffic()
        self.issued = 0  # instructions, once for each warp some of whose lanes execute it

    def numbers(self, lanes) -> np.ndarray:
        return self.lane_number[lanes]

    def bits_of(self, lanes) -> np.ndarray:
        """For each warp the set of these lanes."""
        bits = np.zeros(self.n_warps, U32)
        np.bitwise_or.at(bits, self.warp[lanes], (1 << self.lane[lanes]).astype(U32))
        return bits

    def execute(self) -> int:
        """The number of instructions issued."""
        with np.errstate(all="ignore"):
            while (self.state != DONE).any():
                for unit in self.random.permutation(len(self.units)):
                    self._advance(self.units[unit])
                self._count_votes()
                self.state[self.state == AT_BARRIER] = READY  # nobody can go on before the barrier
        return self.steps

    def _count_votes(self) -> None:
        """Of the threads of each block that wait at a bar.red."""
        for instruction, _, function, write in {id(i): (i, *s) for i, s, _, _ in self.votes}.values():
            lanes = np.concatenate([lanes for i, _, lanes, _ in self.votes if i is instruction])
            votes = np.concatenate([votes for i, _, _, votes in self.votes if i is instruction])
            of_block = self.block[lanes]
            ayes, n = np.bincount(of_block, votes), np.bincount(of_block)
            write(self, lanes, function(ayes[of_block], n[of_block]))
        self.votes.clear()

    def _advance(self, unit: slice) -> None:
        """Until every lane has returned or waits at a barrier."""
        state, pc, begin = self.state[unit], self.pc[unit], unit.start
        steps_when_parked = -1
        while True:
            ready = np.flatnonzero(state == READY)
            if not ready.size:
                parked = np.flatnonzero(state == PARKED)
                if not parked.size:
                    return
                if self.steps == steps_when_parked:
                    instruction = self.kernel.code[pc[parked[0]]]
                    raise self._error(instruction, parked[:1] + begin, "waits for lanes of its mask that never come")
                steps_when_parked = self.steps
                state[parked] = READY
                continue
            behind = pc[ready]
            first = int(behind.min())
            lanes = ready[behind == first] + begin
            self._run_block(first, lanes, int((state != DONE).sum()) == lanes.size)

    def _run_block(self, i: int, lanes: np.ndarray, everyone: bool) -> None:
        """From instruction i to the next place where other lanes may come in."""
        compact = slice(int(lanes[0]), int(lanes[-1]) + 1) if lanes[-1] - lanes[0] + 1 == lanes.size else lanes
        n_warps = 1 + int(np.count_nonzero(np.diff(self.warp[compact])))  # lanes ascend
        while True:
            here = self.decoded.get(i)
            if here is None:
                here = self.decoded[i] = _decode(self.kernel, i)
            active = compact
            if guard := here.instruction.guard:
                holds = self.registers[guard][compact] ^ here.instruction.negated
                active = compact if holds.all() else lanes[holds]
            self.steps += 1
            self.issued += n_warps
            if here.kind == "plain":
                if isinstance(active, slice) or active.size:
                    self._step(here, active)
                i += 1
                following = self.decoded.get(i)
                if following is None:
                    following = self.decoded[i] = _decode(self.kernel, i)
                if following.leads:
                    self.pc[compact] = i
                    break
                continue
            self._control(here, i, compact, self.lane_number[active], everyone)
            break
        if self.steps > MAX_STEPS:
            raise PtxError(f"{self.kernel.name}: no end after {MAX_STEPS} instructions")

    def _step(self, here: _Decoded, lanes) -> None:
        try:
            here.step(self, lanes)
        except PtxError as error:
            raise self._error(here.instruction, lanes, str(error)) from None
        except Exception as error:
            error.add_note(f"{self.kernel.name}: {here.instruction.text}")
            raise

    def _control(self, here: _Decoded, i: int, lanes, active: np.ndarray, everyone: bool) -> None:
        self.pc[lanes] = i + 1
        if here.kind == "branch":
            self.pc[active] = self.kernel.labels[here.instruction.args[0]]
        elif here.kind == "return":
            self.state[active] = DONE
        elif here.kind == "barrier":
            self.state[active] = AT_BARRIER
            if here.step:
                self.votes.append((here.instruction, here.step, active, here.step[0](self, active)))
        elif active.size:
            self._meet(here, i, active, everyone)

    def _meet(self, here: _Decoded, i: int, active: np.ndarray, everyone: bool) -> None:
        """A warp collective of the warps whose lanes are all here; the others' lanes wait for the rest."""
        read_mask, work = here.step
        mask = np.broadcast_to(read_mask(self, active), active.shape)
        if (mask >> self.lane[active].astype(U32) & 1 == 0).any():
            raise self._error(here.instruction, active, "a lane is not in its own mask")
        if not (everyone and active.size == self.n_lanes):
            alive = self.bits_of(np.flatnonzero(self.state != DONE))[self.warp[active]]
            complete = mask & alive & ~self.bits_of(active)[self.warp[active]] == 0
            self.state[active[~complete]] = PARKED
            self.pc[active[~complete]] = i
            active, mask = active[complete], mask[complete]
            self.steps -= 0 if active.size else 1  # nothing has happened
        if active.size:
            self._step(dataclasses.replace(here, step=lambda run, lanes: work(run, lanes, mask)), active)

    def _error(self, instruction: Instruction, lanes, text: str) -> PtxError:
        first = int(self.numbers(lanes)[0])
        where = f"block {self.block[first]} thread {self.thread[first]}"
        return PtxError(f"{self.kernel.name}: {instruction.text}: {where}: {text}")
