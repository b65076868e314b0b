"""Frozen radial networks as tables.

Where nothing of it is trained, what a radial network makes of an edge is a function of its length for each pair of
species. It is sampled once, in float64, at the Chebyshev points of segments of equal width, and each segment gets
the polynomial of degree seven through its points; both ends are among them, so that the function stays
continuous. Segments are halved until the polynomials agree with the network to TOLERANCE. The edges' lengths then
need no network, and no derivative of one (ops/radial_table.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from pathtune.backbones._geometry import Edges, pairs_of_species, shortest_edge
from pathtune.data import Batch
from pathtune.ops import RadialTable, radial_table
from pathtune.ops.radial_table import N_TERMS
from pathtune.watching import Watch

SHORTEST_A = 0.3  # an edge below it is left to the network
N_SEGMENTS = (32, 64, 128, 256, 512)  # tried in turn
TOLERANCE = 2e-8  # of the rms over columns, relative to that of the segment or, where larger, of the median segment
MOST_BYTES = 256 * 2**20  # of all tables of a model
ANY_PAIR = (-1, -1)  # where species do not matter


@dataclasses.dataclass(frozen=True)
class RadialFunction:
    """A radial function of the model, in float64. Zero at `end` and beyond."""

    values: Callable[[torch.Tensor, int, int], torch.Tensor]  # r [n], species of both atoms -> [n, n_columns]
    end: Callable[[int, int], float]  # A
    kink: float | None = None  # A, where only the first derivatives are continuous: a knot is put there


class RadialTables:
    """The tables of a model's radial functions, made for a pair of species when it is first met.

    `make` gives the functions by name, from a copy of the radial modules in float64; `watched` are the parameters
    that they depend on, by name: when one of them has been written to, the tables are made again, and where one is
    trained or replaced the network is to be asked.
    """

    def __init__(
        self,
        make: Callable[[], Mapping[str, RadialFunction]],
        watched: Mapping[str, torch.Tensor],
        n_species: int,
        by_species: bool,
        dtype: torch.dtype,
    ):
        self.is_off = False  # for good: a function that no polynomial follows, or tables beyond MOST_BYTES
        self.by_species, self.n_species, self.dtype = by_species, n_species, dtype
        self._make, self.watched = make, watched
        self._watch = Watch()
        self._forget(torch.device("cpu"))

    def _forget(self, device: torch.device) -> None:
        self._device = device  # of the tables; they are made on the CPU
        self._functions: Mapping[str, RadialFunction] | None = None
        self._known: set[tuple[int, int]] = set()
        self._tables: dict[str, RadialTable] = {}
        self._slot_of = torch.full((self.n_species**2,), -1, dtype=torch.int64, device=device)
        self.shortest_a = 0.0  # below it, an edge is left to the network

    def kept(self) -> list[Any]:
        """The tables of now, which others replace when pairs are added."""
        return [*self._tables.values(), self._slot_of]

    def made_for(self, pairs: Sequence[tuple[int, int]], device: torch.device) -> dict[str, RadialTable] | None:
        """The tables by name, with these pairs of species among them; None where they are off."""
        if self._watch.has_changed(list(self.watched.values())) or device != self._device:
            self._forget(device)
        missing = [pair for pair in pairs if pair not in self._known]
        if missing and not self.is_off:
            self._add(missing)
        return None if self.is_off else self._tables

    def at(
        self, lengths: torch.Tensor, edges: Edges, batch: Batch, parameters: Mapping[str, Any]
    ) -> Callable[[str], torch.Tensor] | None:
        """The functions by name, [n_rows, n_columns], at `lengths` [n_rows]; None where the network is to be asked.

        `parameters`: by name, those that the call computes with.
        """
        if any(parameters[name] is not p or p.requires_grad or p.is_meta for name, p in self.watched.items()):
            return None
        if lengths.dtype != self.dtype or not lengths.numel():
            return None
        key, pairs = None, [ANY_PAIR]
        if self.by_species:
            key, pairs = pairs_of_species(batch, edges.index, self.n_species)
        tables = self.made_for(pairs, lengths.device)
        if tables is None or shortest_edge(batch, lengths) < self.shortest_a:
            return None
        slot = None if key is None else self._slots(batch, key)
        return lambda name: radial_table(lengths, tables[name], slot)

    def _slots(self, batch: Batch, key: torch.Tensor) -> torch.Tensor:
        """The table [n_rows] of each row of the batch; tables that are added do not change it."""
        slot_of = self._slot_of
        return batch.made("slots", lambda: slot_of[key], (slot_of, key))

    @torch.no_grad()
    def _add(self, pairs: Sequence[tuple[int, int]]) -> None:
        self._functions = self._functions or self._make()
        n_bytes = sum(table.coefficients.numel() for table in self._tables.values()) * self.dtype.itemsize
        fits: dict[str, list[RadialTable]] = {name: [] for name in self._functions}
        for pair in pairs:
            for name, function in self._functions.items():
                fit = _fit(function, pair, self.dtype)
                n_bytes += 0 if fit is None else fit.coefficients.numel() * self.dtype.itemsize
                if fit is None or n_bytes > MOST_BYTES:
                    self._forget(self._device)
                    self.is_off = True
                    return
                self.shortest_a = max(self.shortest_a, float(fit.begin))
                fits[name].append(fit.to(self._device))
            if self.by_species:
                self._slot_of[pair[0] * self.n_species + pair[1]] = len(self._known)
            self._known.add(pair)
        for name, new in fits.items():
            old = [self._tables[name]] if name in self._tables else []
            self._tables[name] = _joined([*old, *new])


def _joined(tables: Sequence[RadialTable]) -> RadialTable:
    n_segments = torch.cat([t.n_segments for t in tables])
    return RadialTable(
        coefficients=torch.cat([t.coefficients for t in tables]),
        first=n_segments.cumsum(0) - n_segments,
        n_segments=n_segments,
        begin=torch.cat([t.begin for t in tables]),
        width=torch.cat([t.width for t in tables]),
    )


def _fit(function: RadialFunction, pair: tuple[int, int], dtype: torch.dtype) -> RadialTable | None:
    """The table of one pair with as few segments as do; None where the most do not."""
    degree = N_TERMS - 1
    points = -torch.cos(math.pi * torch.arange(N_TERMS, dtype=torch.float64) / degree)
    between = torch.tensor([-0.95, -0.5, 0.1, 0.6], dtype=torch.float64)  # where the polynomials are judged
    terms = torch.arange(N_TERMS)
    to_coefficients = torch.linalg.inv(points.unsqueeze(1) ** terms)
    to_between = between.unsqueeze(1) ** terms
    end = function.end(*pair)
    for n_asked in N_SEGMENTS:
        width = (end - SHORTEST_A) / n_asked
        if function.kink is not None:
            width = (end - function.kink) / math.ceil((end - function.kink) / width)
        n = math.floor((end - SHORTEST_A) / width * (1 + 1e-9))
        begin = end - n * width
        at = torch.cat([points, between])
        r = begin + width * (torch.arange(n).unsqueeze(1) + (at + 1) / 2)
        values = function.values(r.flatten(), *pair).reshape(n, at.numel(), -1)
        coefficients = torch.einsum("kj,njc->nkc", to_coefficients, values[:, :N_TERMS])
        error = (torch.einsum("jk,nkc->njc", to_between, coefficients) - values[:, N_TERMS:]).pow(2).mean(2).sqrt()
        size = values.pow(2).mean((1, 2)).sqrt()  # [n], of a segment
        if bool((error <= TOLERANCE * size.clamp(min=float(size.median())).unsqueeze(1)).all()):
            one = torch.ones(1, dtype=torch.float64)
            return RadialTable(
                coefficients.to(dtype), torch.zeros(1, dtype=torch.int64), torch.tensor([n]), begin * one, width * one
            )
    return None


def weights_of_layers(
    tables: RadialTables | None,
    lengths: torch.Tensor,
    edges: Edges,
    batch: Batch,
    parameters: Mapping[str, Any],
) -> Callable[[Any], torch.Tensor] | None:
    """The weights [n_rows, n_conv_weights] of a layer's convolution by the layer; None without tables, and as `at`."""
    tabled = None if tables is None else tables.at(lengths, edges, batch, parameters)
    return None if tabled is None else lambda layer: tabled(f"w{layer.index}")
