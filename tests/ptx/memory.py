"""What a kernel's loads and stores reach, every access checked."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
from program import PtxError

# where a space lies among generic addresses; a host address is far below
BASES = {"global": 0, "shared": 1 << 60, "local": 1 << 61, "param": 1 << 62}


class _Space:
    """Bytes that `places` finds for an address of each lane."""

    name: str
    allows_unwritten = False

    def places(self, rows: np.ndarray, address: np.ndarray, n_bytes: int) -> Iterator[tuple]:
        """For each piece of memory: its bytes, their flags "written" or None, the lanes that reach it, the offsets."""
        raise NotImplementedError

    def _items(self, rows, address, dtype: np.dtype, n: int):
        """As `places`, but typed and aligned: n neighbours from each place."""
        n_bytes = n * dtype.itemsize
        if (address % n_bytes).any():
            raise PtxError(f"misaligned access of {n_bytes} bytes to {self.name} memory")
        for data, written, lanes, offset in self.places(rows, address, n_bytes):
            flags = None if written is None else written.view(f"u{dtype.itemsize}")
            yield data.view(dtype), flags, lanes, offset // dtype.itemsize

    def load(self, rows: np.ndarray, address: np.ndarray, dtype: np.dtype, n: int) -> list[np.ndarray]:
        results = None
        for data, flags, lanes, items in self._items(rows, address, dtype, n):
            if flags is not None and not self.allows_unwritten:
                whole = np.iinfo(flags.dtype).max
                if any((flags[items + j] != whole).any() for j in range(n)):
                    raise PtxError(f"reads {self.name} memory that nobody wrote")
            values = [data[items + j] for j in range(n)]
            if lanes is None:
                return values
            results = results or [np.empty(address.shape, dtype) for _ in range(n)]
            for result, value in zip(results, values):
                result[lanes] = value
        return results

    def store(self, rows: np.ndarray, address: np.ndarray, values: list[np.ndarray]) -> None:
        dtype = values[0].dtype
        for data, flags, lanes, items in self._items(rows, address, dtype, len(values)):
            for j, value in enumerate(values):
                data[items + j] = value if lanes is None or value.size == 1 else value[lanes]
                if flags is not None:
                    flags[items + j] = np.iinfo(flags.dtype).max

    def update(self, rows: np.ndarray, address: np.ndarray, combine: np.ufunc, value: np.ndarray) -> None:
        """memory = combine(memory, value), one lane after the other."""
        self.load(rows, address, value.dtype, 1)  # for its checks
        for data, _, lanes, items in self._items(rows, address, value.dtype, 1):
            combine.at(data, items, value if lanes is None or value.size == 1 else value[lanes])


class Rows(_Space):
    """`n_rows` pieces of `size` bytes: a row of shared memory for a block, of local memory for a thread.

    What nobody wrote is NaN; to read it is an error unless `allows_unwritten`.
    """

    def __init__(self, name: str, n_rows: int, size: int, allows_unwritten: bool = False):
        self.allows_unwritten = allows_unwritten
        self.name, self.size, self.stride = name, size, -(-size // 16) * 16
        self.data = np.full(n_rows * self.stride, 0xFF, np.uint8)
        self.written = np.zeros(self.data.shape, np.uint8)

    def places(self, rows, address, n_bytes):
        outside = (address < 0) | (address + n_bytes > self.size)
        if outside.any():
            raise PtxError(
                f"{self.name} memory: {n_bytes} bytes at {address[outside][0]} are out of bounds, it has {self.size}"
            )
        yield self.data, self.written, None, rows * self.stride + address


class Parameters(_Space):
    """The arguments of a launch, one after the other."""

    name = "param"

    def __init__(self, sizes: list[int], arguments: list[bytes]):
        if sizes != [len(a) for a in arguments]:
            raise PtxError(f"arguments of {[len(a) for a in arguments]} bytes for parameters of {sizes}")
        joined = b"".join(a.ljust(-(-len(a) // 16) * 16, b"\xff") for a in arguments)
        self.data = np.frombuffer(joined, np.uint8)

    def places(self, rows, address, n_bytes):
        if ((address < 0) | (address + n_bytes > self.data.size)).any():
            raise PtxError(f"parameters: {n_bytes} bytes out of bounds")
        yield self.data, None, None, address


class HostMemory(_Space):
    """The bytes of tensors in this process's memory, at their own addresses."""

    name = "global"

    def __init__(self, extents: list[tuple[int, int]]):
        """`extents`: first address and number of bytes of each tensor; views of one another become one."""
        merged: list[list[int]] = []
        for begin, end in sorted((begin, begin + n) for begin, n in extents if n):
            if merged and begin < merged[-1][1]:
                merged[-1][1] = max(end, merged[-1][1])
            else:
                merged.append([begin, end])
        self.begins, self.ends = np.array(merged, np.int64).reshape(-1, 2).T.copy()
        self.starts = self.begins // 16 * 16  # so that typed views begin on their own alignment
        sizes = -(-(self.ends - self.starts) // 16) * 16
        self.pieces = [
            np.ctypeslib.as_array((ctypes.c_uint8 * int(size)).from_address(int(start)))
            for start, size in zip(self.starts, sizes)
        ]

    def places(self, rows, address, n_bytes):
        piece = np.searchsorted(self.begins, address, "right") - 1
        inside = piece >= 0
        if self.ends.size:
            inside &= address + n_bytes <= self.ends[piece]
        if not inside.all():
            where = self._near(int(address[~inside][0]))
            raise PtxError(f"global memory: {n_bytes} bytes at {where} are out of bounds")
        if (piece == piece[0]).all():
            yield self.pieces[piece[0]], None, None, address - self.starts[piece[0]]
            return
        for i in np.unique(piece):
            lanes = piece == i
            yield self.pieces[i], None, lanes, address[lanes] - self.starts[i]

    def _near(self, address: int) -> str:
        i = int(np.searchsorted(self.begins, address, "right")) - 1
        if i < 0 or address - self.ends[i] > 1 << 20:
            return f"{address:#x}"
        return f"{address - self.begins[i]} of a tensor of {self.ends[i] - self.begins[i]}"
