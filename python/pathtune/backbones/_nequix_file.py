"""Files of nequix (.nqx): a line of JSON, the config, then arrays in NumPy's .npy format one after the other.

Nothing in it is executed: the line is JSON, and an array is read only when its header says the shape and type that
the config asks for.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pathtune.backbones._nequix_shapes import NequixConfig, array_shapes, config_of
from pathtune.errors import InputError

MOST_LINE = 2**20  # bytes of a config


@dataclasses.dataclass(frozen=True)
class NequixFile:
    """The content of a file."""

    line: bytes  # the config as it was written
    content: dict[str, Any]
    config: NequixConfig
    atom_energies: torch.Tensor  # [n_species] float32 eV
    weights: dict[str, torch.Tensor]  # flat where several arrays make one parameter; float32
    tail: bytes  # after the weights, not read by nequix: nothing, a newline, or the config once more, as single numbers


def read_nqx(content: bytes, where: str) -> NequixFile:
    """A file from its bytes. Raises InputError for anything but a whole file of a model that is covered."""
    line, newline, rest = content.partition(b"\n")
    if not newline or len(line) > MOST_LINE or not line.startswith(b"{"):
        raise InputError(f"{where}: is not a nequix model, expected a line of JSON and then arrays (.nqx)")
    try:
        parsed = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: is not a nequix model: its first line is not JSON ({error})") from error
    if rest.startswith((b"PK", b"\x80")):
        raise InputError(f"{where}: is a pickle of nequix's torch side (.pt), expected the .nqx file of the same model")
    config = config_of(parsed, where)
    stream = io.BytesIO(rest)
    n_species = len(config.atomic_numbers)
    atom_energies = _array(stream, (n_species,), "atom_energies", where)
    weights = {}
    for name, shapes in array_shapes(config):
        arrays = [_array(stream, shape, name, where) for shape in shapes]
        is_matrix = ".radial_mlp." in name  # others are flat, block after block, as e3nn has them
        weights[name] = arrays[0] if is_matrix else torch.cat([array.flatten() for array in arrays])
    tail = stream.read()
    _check_tail(tail, where)
    return NequixFile(line, parsed, config, atom_energies, weights, tail)


def _array(stream: io.BytesIO, shape: Sequence[int], name: str, where: str) -> torch.Tensor:
    """The next array, float32."""
    expected = f"expected {name} of shape {list(shape)} in float32"
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"version {version} of the .npy format")
        found, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except (ValueError, EOFError) as error:
        raise InputError(f"{where}: ends or is damaged at byte {stream.tell()} after its config, {expected}") from error
    if tuple(found) != tuple(shape) or dtype != np.dtype("<f4") or is_fortran:
        order = ", columns first" if is_fortran else ""
        raise InputError(f"{where}: holds an array {list(found)} of {dtype}{order}, {expected}")
    n = math.prod(shape)
    payload = stream.read(4 * n)
    if len(payload) < 4 * n:
        raise InputError(f"{where}: ends within an array, {expected}: the file is cut off")
    array = torch.from_numpy(np.frombuffer(payload, "<f4").astype(np.float32).reshape(tuple(shape)))
    if not bool(array.isfinite().all()):
        raise InputError(f"{where}: {name} holds a value that is not finite, expected numbers")
    return array


def _check_tail(tail: bytes, where: str) -> None:
    """Raise InputError for weights that follow those which the config asks for."""
    stream = io.BytesIO(tail.lstrip())
    while stream.tell() < len(stream.getbuffer()):
        begin = stream.tell()
        try:
            np.lib.format.read_magic(stream)
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            is_number = shape == () and len(stream.read(dtype.itemsize)) == dtype.itemsize and not dtype.hasobject
        except (ValueError, EOFError):
            is_number = False
        if not is_number:
            n = len(tail) - begin
            raise InputError(f"{where}: {n} bytes follow the last array that the config asks for, expected the end")


def write_nqx(file: NequixFile) -> bytes:
    """The bytes of a file: those that it was read from, where nothing has changed."""
    stream = io.BytesIO()
    stream.write(file.line + b"\n")
    _write_array(stream, file.atom_energies)
    for name, shapes in array_shapes(file.config):
        flat, begin = file.weights[name].flatten(), 0
        for shape in shapes:
            _write_array(stream, flat[begin : begin + math.prod(shape)].reshape(shape))
            begin += math.prod(shape)
    return stream.getvalue() + file.tail


def _write_array(stream: io.BytesIO, array: torch.Tensor) -> None:
    rows = np.ascontiguousarray(array.detach().cpu().numpy(), dtype="<f4")
    np.lib.format.write_array(stream, rows, version=(1, 0), allow_pickle=False)


def changed(file: NequixFile, atom_energies: torch.Tensor, weights: dict[str, torch.Tensor]) -> NequixFile:
    """The file of the same model with other numbers; the energies in the config, which nequix's torch side reads,
    follow."""
    energies = atom_energies.detach().cpu().float()
    line, content = file.line, file.content
    if not torch.equal(energies, file.atom_energies):
        numbers = {str(z): float(e) for z, e in zip(file.config.atomic_numbers, energies)}
        content = {**content, "atom_energies": numbers}
        line = json.dumps(content).encode()
    return dataclasses.replace(file, line=line, content=content, atom_energies=energies, weights=weights)
