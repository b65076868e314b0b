"""Atoms that carry moments, the pairs of them, and radial functions of their distance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from pathtune.data import Batch

FIRST = 0.3  # centre of the first radial function, of the cutoff


@dataclasses.dataclass(frozen=True)
class SpinGraph:
    """Atoms of a batch whose moments count, and the rows of its edges between two of them."""

    atoms: torch.Tensor  # [n_spin] nodes
    element: torch.Tensor  # [n_spin] which of the layer's elements
    rows: torch.Tensor  # [n_pairs] rows of the edges
    sender: torch.Tensor  # [n_pairs] among `atoms`
    receiver: torch.Tensor  # [n_pairs]
    pair: torch.Tensor  # [n_pairs] which unordered pair of elements
    share: float  # of a pair's energy that a row holds: 1 where an edge and its reverse share one, else 1/2

    @property
    def directed(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Every ordered pair: centre, neighbour, row among the pairs, sign of the vector to the neighbour; [n] each."""
        order = torch.arange(self.rows.numel(), device=self.rows.device)
        plus = torch.ones(order.numel(), device=order.device)
        if self.share < 1:
            return self.receiver, self.sender, order, -plus
        centre, neighbour = torch.cat([self.sender, self.receiver]), torch.cat([self.receiver, self.sender])
        return centre, neighbour, torch.cat([order, order]), torch.cat([plus, -plus])


def spin_graph(batch: Batch, edges: Any, elements: Sequence[int]) -> SpinGraph:
    """The graph of a batch, made once for it, on the host. `elements`: by species the layer's index of it, or -1."""
    key = ("spin", tuple(elements), edges.index.by_pair)
    return batch.made_on_host(key, lambda host: _spin_graph(host, edges.index_on_host(host), elements))


def _spin_graph(batch: Batch, index: Any, elements: Sequence[int]) -> SpinGraph:
    element = torch.tensor(elements)[batch.species]
    atoms = (element >= 0).nonzero().flatten()
    place = torch.full_like(element, -1)
    place[atoms] = torch.arange(atoms.numel())
    sender, receiver = place[index.row_sender], place[index.row_receiver]
    rows = ((sender >= 0) & (receiver >= 0)).nonzero().flatten()
    sender, receiver, element = sender[rows], receiver[rows], element[atoms]
    low, high = torch.minimum(element[sender], element[receiver]), torch.maximum(element[sender], element[receiver])
    return SpinGraph(
        atoms, element, rows, sender, receiver, high * (high + 1) // 2 + low, 1.0 if index.by_pair else 0.5
    )


def n_pairs(n_elements: int) -> int:
    """Unordered pairs of elements, in the order (0, 0), (0, 1), (1, 1), (0, 2) and so on."""
    return n_elements * (n_elements + 1) // 2


def radial(lengths: torch.Tensor, cutoff: float, n: int) -> torch.Tensor:
    """Radial functions [n_lengths, n]: Gaussians times an envelope that ends with two zero derivatives at `cutoff`.

    The centres stand evenly between 0.3 of the cutoff and the cutoff, the widths are their distance; the envelope is
    1 - 28 x^6 + 48 x^7 - 21 x^8 with x = r / cutoff (Gasteiger et al., ICLR 2020, equation 8, p = 6).
    """
    x = lengths / cutoff
    inside = x.clamp(max=1.0)
    envelope = 1 - inside**6 * (28 - inside * (48 - 21 * inside))
    centres = torch.linspace(FIRST, 1.0, n, dtype=lengths.dtype, device=lengths.device)
    width = (1.0 - FIRST) / max(n - 1, 1)
    return envelope.unsqueeze(1) * torch.exp(-0.5 * ((x.unsqueeze(1) - centres) / width) ** 2)
