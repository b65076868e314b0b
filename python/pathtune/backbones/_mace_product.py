"""MACE's product of one layer: the symmetric contraction of the messages, a linear, and the skip connection."""

from __future__ import annotations

from typing import Any

import torch

from pathtune.backbones._e3nn import PathLinear
from pathtune.backbones._geometry import one_group
from pathtune.data import Batch
from pathtune.ops import SpeciesGroups, SpeciesRows, symmetric_contraction
from pathtune.tables.contraction import ContractionTable, contraction_coefficients, contraction_table
from pathtune.watching import Watch

MOST_FROZEN = 16  # sets of species whose contraction coefficients are kept


class Product:
    """An EquivariantProductBasisBlock; an agnostic one has the same weights for all species."""

    def __init__(self, i: int, block: Any):
        self.name = f"products.{i}"
        self.contraction, self._weights = _contraction(block, self.name)
        self.linear = PathLinear(block.linear)
        self.mul = int(block.symmetric_contractions.contractions[0].num_features)
        self.is_agnostic = bool(getattr(block, "use_agnostic_product", False))
        self.by_species = () if self.is_agnostic else tuple(self._weights)  # names of what SpeciesRows may replace
        self._uses_skip = bool(block.use_sc)
        self._frozen: dict[tuple[int, ...], torch.Tensor] = {}  # coefficients by the species present
        self._watch = Watch()  # of the weights that they are made of

    def __call__(
        self, parameters: Any, message: torch.Tensor, skip: torch.Tensor | None, batch: Batch, groups: SpeciesGroups
    ) -> torch.Tensor:
        """Features [n_nodes, dim_out] of messages [n_nodes, dim_in], both in layout ir_mul."""
        groups = one_group(batch) if self.is_agnostic else groups
        n_nodes, n_ell = message.shape[0], self.contraction.n_ell
        a = message.reshape(n_nodes, n_ell, message.shape[1] // n_ell)
        coefficients = self._coefficients(parameters, groups)
        b = symmetric_contraction(a, coefficients, groups, self.contraction).flatten(1)
        out = self.linear(b, parameters[f"{self.name}.linear.weight"])
        return out + skip if skip is not None and self._uses_skip else out

    def kept(self) -> list[torch.Tensor]:
        """Coefficients of frozen weights."""
        return list(self._frozen.values())

    def _coefficients(self, parameters: Any, groups: SpeciesGroups) -> torch.Tensor:
        """Of the contraction; kept from call to call while the weights are frozen."""
        weights = [parameters[name] for name in self._weights]
        if any(isinstance(w, SpeciesRows) for w in weights):
            mine = [_of_species(w, groups.present) for w in weights]
            return contraction_coefficients(mine, groups.of_present.present, self.contraction)
        if any(w.requires_grad for w in weights):
            return contraction_coefficients(weights, groups.present, self.contraction)
        if self._watch.has_changed(weights):
            self._frozen.clear()
        present = groups.species
        if present not in self._frozen:
            if len(self._frozen) == MOST_FROZEN:  # the oldest gives way
                self._frozen.pop(next(iter(self._frozen)))
            self._frozen[present] = contraction_coefficients(weights, groups.present, self.contraction)
        return self._frozen[present]


def _of_species(weights: torch.Tensor | SpeciesRows, species: torch.Tensor) -> torch.Tensor:
    """The weights [len(species), n_params, mul] of these species."""
    if isinstance(weights, SpeciesRows):
        return weights.by_species().index_select(0, weights.places[species])
    return weights.index_select(0, species)


def _contraction(block: Any, name: str) -> tuple[ContractionTable, list[str]]:
    """The table of a product block, and the names of its weights in the table's order."""
    outputs, names = [], []
    for j, contraction in enumerate(block.symmetric_contractions.contractions):
        nu, prefix = contraction.correlation, f"{name}.symmetric_contractions.contractions.{j}"
        us = [contraction.U_tensors(degree) for degree in range(1, nu + 1)]
        outputs.append([u if u.ndim == degree + 2 else u.unsqueeze(0) for degree, u in enumerate(us, start=1)])
        # mace keeps the highest degree in weights_max and the others in falling order
        names += [f"{prefix}.weights.{nu - 1 - degree}" for degree in range(1, nu)] + [f"{prefix}.weights_max"]
    return contraction_table(outputs), names
