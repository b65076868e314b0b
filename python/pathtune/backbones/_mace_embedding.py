"""MACE's first features: of the species and, where the model embeds them, of charge, spin and the like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pathtune.backbones._e3nn import PathLinear
from pathtune.data import Batch
from pathtune.layers import Weights
from pathtune.ops import SpeciesRows

EMBEDDING = "node_embedding.linear.weight"


class Embedding:
    """The one-hot species times a linear, plus the stock model's joint_embedding of other inputs."""

    def __init__(self, stock: Any, parameters: Mapping[str, torch.nn.Parameter]):
        self._n_species = len(stock.atomic_numbers)
        self._weight = stock.node_embedding.linear.instructions[0].path_weight
        self._joint = getattr(stock, "joint_embedding", None)
        self._specs = getattr(stock, "embedding_specs", None) or {}
        self._names = [name for name in parameters if name.startswith("joint_embedding.")]
        readout = getattr(stock, "embedding_readout", None)
        self._readout = None if readout is None else PathLinear(readout.linear)

    def __call__(
        self, parameters: Weights, batch: Batch, head: int | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features [n_nodes, mul], and what these alone give to the energy of each atom [n_nodes], if anything."""
        rows: Any = parameters[EMBEDDING]
        if isinstance(rows, SpeciesRows):
            table, species = rows.values.view(len(rows.species), -1), rows.places[batch.species]
        else:
            table, species = rows.reshape(self._n_species, -1), batch.species
        x = torch.nn.functional.embedding(species, table) * self._weight
        if self._joint is None:
            return x, None
        replaced: dict[str, Any] = {name.partition(".")[2]: parameters[name] for name in self._names}
        features = {name: batch.labels[name].value.to(x.dtype) for name in self._specs}
        x = x + torch.func.functional_call(self._joint, replaced, (batch.node_graph, features))
        if self._readout is None:
            return x, None
        weight: Any = parameters["embedding_readout.linear.weight"]
        return x, column(self._readout(x, weight), head)


def column(y: torch.Tensor, head: int | torch.Tensor) -> torch.Tensor:  # [n_nodes]
    """The column of one head for all atoms, or of each atom's own [n_nodes]."""
    if y.shape[1] == 1:
        return y.squeeze(1)
    return y[:, head] if isinstance(head, int) else y.gather(1, head.unsqueeze(1)).squeeze(1)
