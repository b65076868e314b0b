"""Named shapes that the benchmarks share: those of published models, with random values."""

from __future__ import annotations

import dataclasses

import torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvCase:
    """One interaction block's convolution."""

    irreps_in1: str  # of x
    irreps_in2: str  # of y
    paths: tuple[tuple[int, int, str], ...]  # (i_in1, i_in2, irrep out); mul is that of i_in1
    n_nodes: int = 64
    n_neighbours: int = 78


def _mace(*paths: tuple[int, int, int]) -> tuple[tuple[int, int, str], ...]:
    return tuple((l1, l2, f"{l3}{'eo'[l3 % 2]}") for l1, l2, l3 in paths)


def _all_paths(ls_in1: int, ls_in2: int, lmax: int) -> tuple[tuple[int, int, str], ...]:
    """Every allowed path of even irreps 0e, 1e, ... as in SevenNet-0, sorted by output."""
    paths = [
        (l1, l2, l3)
        for l1 in range(ls_in1)
        for l2 in range(ls_in2)
        for l3 in range(abs(l1 - l2), min(l1 + l2, lmax) + 1)
    ]
    return tuple((l1, l2, f"{l3}e") for l1, l2, l3 in sorted(paths, key=lambda path: path[2]))


_MACE_Y = "1x0e+1x1o+1x2e+1x3o"
CONV_CASES = {
    "mp-0b3-medium, layer 1": ConvCase(
        irreps_in1="128x0e", irreps_in2=_MACE_Y, paths=_mace((0, 0, 0), (0, 1, 1), (0, 2, 2), (0, 3, 3))
    ),
    "mp-0b3-medium, layer 2": ConvCase(
        irreps_in1="128x0e+128x1o",
        irreps_in2=_MACE_Y,
        paths=_mace((0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 2, 1), (0, 2, 2), (1, 1, 2), (1, 3, 2),
                    (0, 3, 3), (1, 2, 3)),
    ),
    "sevennet-0": ConvCase(
        irreps_in1="128x0e+64x1e+32x2e", irreps_in2="1x0e+1x1e+1x2e", paths=_all_paths(3, 3, 2)
    ),
}  # fmt: skip


def neighbour_graph(n_nodes: int, n_neighbours: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(sender, receiver, weight_row) of a crystal-like graph: each node's neighbours are nodes at +-shift.

    Both directions of an edge exist and share a weight row. Edges are sorted by receiver.
    """
    shifts = torch.arange(n_neighbours // 2) + 1
    node = torch.arange(n_nodes)
    out = (node[:, None] + shifts).flatten() % n_nodes  # undirected edge r joins r // n_shifts and out[r]
    first = node.repeat_interleave(shifts.numel())
    sender, receiver = torch.cat([first, out]), torch.cat([out, first])
    row = torch.arange(out.numel()).repeat(2)
    order = torch.argsort(receiver, stable=True)
    return sender[order], receiver[order], row[order]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContractionCase:
    """One symmetric contraction of a model, and a batch for it."""

    lmax: int  # of A: n_ell = (lmax + 1)^2
    irreps_out: str
    correlation: int
    mul: int
    n_species: int = 89  # of the model
    n_present: int = 3
    n_nodes: int = 64


CONTRACTIONS = {
    "mp-0b3-medium-layer-1": ContractionCase(lmax=3, irreps_out="128x0e+128x1o", correlation=3, mul=128),
    "mp-0b3-medium-layer-2": ContractionCase(lmax=3, irreps_out="128x0e", correlation=3, mul=128),
}
