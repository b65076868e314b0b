"""Frames of extxyz: those of the common shape are read here, in less than half of ASE's time and to the same Atoms.

The common shape: words KEY=VALUE or KEY="VALUE" in the second line, among them Properties, which begins with species
and pos, and as many words as it announces in the line of each atom. Anything else is ASE's, errors too.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import ase
import ase.data
import ase.io
import numpy as np
from ase.io.extxyz import key_val_str_to_dict, set_calc_and_arrays

from pathtune.errors import InputError

WORD = re.compile(r"""([A-Za-z_][A-Za-z0-9_-]*)=(?:"[^"\\]+"|[^\s"'{}\[\]\\=]+)(?:\s+|$)""")
FIRST = "species:S:1:pos:R:3"
NOT_PLAIN = {"pos", "species", "positions", "numbers", "symbols", "Z", "initial_charges", "move_mask"}  # columns
TRUE = ("T", "True")


class Column(NamedTuple):
    """A property of the atoms, behind their species."""

    name: str  # ASE's
    kind: str  # R, I or L
    first: int
    n: int


def read_frame(text: str) -> ase.Atoms:
    """The Atoms of the text of one frame. Raises what ASE raises, which is anything."""
    try:
        found = _common(text)
    except (ValueError, OverflowError, KeyError):  # a word that is no number or no element
        found = None
    return read_by_ase(text)[0] if found is None else found


def read_by_ase(text: str) -> list[ase.Atoms]:
    """All frames of a text, as ASE reads them."""
    return ase.io.read(io.StringIO(text), ":", format="extxyz")  # type: ignore


def cut(text: str, where: str) -> Iterator[str]:
    """The texts of the frames of a file, as far as ASE reads it; what begins no frame is the last text.

    Raises InputError, which names `where`, for a frame that announces more atoms than there are lines, or more columns
    than its first atom has words: ASE would make room for them.
    """
    lines = text.split("\n")
    if not lines[-1]:
        del lines[-1]
    start, frame = 0, 0
    while start < len(lines) and lines[start].strip():
        try:
            n_atoms = int(lines[start])
        except ValueError:  # ASE says what it is
            yield "\n".join(lines[start:])
            return
        end = start + 2 + n_atoms
        if n_atoms < 0 or end > len(lines):
            n_lines = max(0, len(lines) - start - 2)
            raise InputError(
                f"{where}, frame {frame}: line {start + 1} announces {n_atoms} atoms, but {n_lines} lines follow"
            )
        n_columns = _announced_columns(lines[start + 1]) if n_atoms else 0
        if n_columns and n_columns > len(lines[start + 2].split()):
            raise InputError(
                f"{where}, frame {frame}: Properties announces {n_columns} columns, but line {start + 3} has "
                f"{len(lines[start + 2].split())}"
            )
        while end < len(lines) and lines[end].lstrip().startswith("VEC"):  # ASE's lattice lines
            end += 1
        yield "\n".join(lines[start:end]) + "\n"
        start = end
        frame += 1


def _announced_columns(comment: str) -> int:
    """How many columns an extxyz comment line says that the atoms have; 0 where it does not say."""
    found = re.findall(r"""Properties["']?\s*=\s*["'{\[(]?([^"'\s}\])]*)""", comment, re.IGNORECASE)
    announced = [[int(n) for n in text.split(":")[2::3] if re.fullmatch("[0-9]{1,18}", n)] for text in found]
    return max(map(sum, announced), default=0)  # where it is said twice, ASE takes the last; none may be absurd


def _common(text: str) -> ase.Atoms | None:
    """The Atoms of a frame of the common shape, else None. ValueError, OverflowError, KeyError as read_frame."""
    count, comment, *lines = text.rstrip("\n").split("\n")
    info = _info(comment.strip())
    columns = _columns(str(info.pop("Properties"))) if "Properties" in info else None
    rows = [line.split() for line in lines]
    if columns is None or not rows or len(rows) != int(count):
        return None
    width = columns[-1].first + columns[-1].n
    if any(len(row) != width for row in rows):
        return None
    table = list(zip(*rows, strict=True))
    numbers = [ase.data.atomic_numbers[symbol.capitalize()] for symbol in table[0]]
    arrays = {c.name: _values(table[c.first : c.first + c.n], c.kind) for c in columns}
    lattice = info.pop("Lattice", None)
    pbc = info.pop("pbc", None if lattice is None else True)
    cell = None if lattice is None else lattice.T
    atoms = ase.Atoms(numbers, positions=arrays.pop("positions"), cell=cell, pbc=pbc, info=info)
    set_calc_and_arrays(atoms, arrays)
    return atoms


def _info(comment: str) -> dict[str, Any]:
    """Keys and values of the second line; nothing where it is not of the common shape."""
    found: dict[str, Any] = {}
    end = 0
    while end < len(comment):
        word = WORD.match(comment, end)
        if word is None:
            return {}
        value = _understood(word[0])[word[1]]
        found[word[1]] = value.copy() if isinstance(value, (np.ndarray, list, dict)) else value
        end = word.end()
    return found


@functools.lru_cache(1024)  # lattice, Properties and pbc are mostly those of the frame before
def _understood(word: str) -> dict[str, Any]:
    return key_val_str_to_dict(word)


@functools.lru_cache(64)
def _columns(properties: str) -> list[Column] | None:
    """The properties from pos on; None where they are not of the common shape."""
    fields = properties.split(":")
    if fields[:6] != FIRST.split(":") or len(fields) % 3:
        return None
    found = [Column("positions", "R", 1, 3)]
    for name, kind, n in zip(fields[6::3], fields[7::3], fields[8::3]):
        if name in NOT_PLAIN or kind not in ("R", "I", "L") or not re.fullmatch("[1-9][0-9]?", n):
            return None
        found.append(Column("charges" if name == "charge" else name, kind, found[-1].first + found[-1].n, int(n)))
    named = [c.name if c.n == 1 else f"{c.name}{k}" for c in found for k in range(c.n)]
    return found if len(set(named)) == len(named) else None


def _values(columns: Sequence[Sequence[str]], kind: str) -> np.ndarray:
    """[n_atoms], or [n_atoms, n] of several columns."""
    if kind == "R":
        found = np.array([[float(word) for word in column] for column in columns])
    elif kind == "I":
        found = np.array([[int(word) for word in column] for column in columns], dtype=np.int32)
    else:
        found = np.array([[word in TRUE for word in column] for column in columns])
    return found[0] if len(found) == 1 else found.T
