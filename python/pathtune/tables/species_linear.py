"""Paths of a species linear become the flat table that its kernels read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch

from pathtune.tables.irreps import blocks, dim


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeciesLinearTable:
    """Paths of a species linear, as csrc/species_linear/species_linear.hpp wants them."""

    paths: torch.Tensor  # [n_paths, 6] int64: in_offset, out_offset, weight_offset, 2l+1, mul_in, mul_out
    coefficients: torch.Tensor  # [n_paths] float64
    dim_in: int
    dim_out: int
    n_species: int
    weight_numel: int

    def for_species(self, n: int) -> SpeciesLinearTable:
        """The same paths of a layer with the weights of `n` species; made once."""
        if n not in self._others:
            paths = self.paths.clone()
            paths[:, 2] = paths[:, 2] // self.n_species * n
            numel = self.weight_numel // self.n_species * n
            self._others[n] = dataclasses.replace(self, paths=paths, n_species=n, weight_numel=numel)
        return self._others[n]

    @functools.cached_property
    def _others(self) -> dict[int, SpeciesLinearTable]:
        return {}


def species_linear_table(
    irreps_in: Sequence,
    irreps_out: Sequence,
    n_species: int,
    instructions: Sequence[tuple[int, int, float]],
) -> SpeciesLinearTable:
    """Table of the paths `(i_in, i_out, coefficient)`, weights `[mul_in, n_species, mul_out]` each in turn.

    Raises ValueError when a path connects two irreps of different l.
    """
    blocks_in = blocks(irreps_in)
    blocks_out = blocks(irreps_out)
    rows = []
    coefficients = []
    weight_offset = 0
    for i_in, i_out, coefficient in instructions:
        in_offset, mul_in, n_components = blocks_in[i_in]
        out_offset, mul_out, n_components_out = blocks_out[i_out]
        if n_components != n_components_out:
            raise ValueError(f"path {i_in} -> {i_out} has {n_components} components in, {n_components_out} out")
        rows.append((in_offset, out_offset, weight_offset, n_components, mul_in, mul_out))
        coefficients.append(coefficient)
        weight_offset += mul_in * n_species * mul_out
    return SpeciesLinearTable(
        paths=torch.tensor(rows, dtype=torch.int64).reshape(-1, 6),
        coefficients=torch.tensor(coefficients, dtype=torch.float64),
        dim_in=dim(irreps_in),
        dim_out=dim(irreps_out),
        n_species=n_species,
        weight_numel=weight_offset,
    )
