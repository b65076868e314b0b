"""species_linear as einsum."""

from __future__ import annotations

import torch

from pathtune.tables.species_linear import SpeciesLinearTable


def species_linear(
    x: torch.Tensor,  # [n_nodes, dim_in]
    weights: torch.Tensor,  # [weight_numel]
    species: torch.Tensor,  # [n_nodes]
    table: SpeciesLinearTable,
) -> torch.Tensor:  # [n_nodes, dim_out]
    """y[n, out_p, k, v] = sum_p c_p sum_u x[n, in_p, k, u] weights_p[u, species[n], v]."""
    y = x.new_zeros(x.shape[0], table.dim_out)
    for row, coefficient in zip(table.paths.tolist(), table.coefficients.tolist()):
        i, o, w, k, mul_in, mul_out = row
        x_p = x[:, i : i + k * mul_in].reshape(-1, k, mul_in)
        w_p = weights[w : w + mul_in * table.n_species * mul_out].reshape(mul_in, table.n_species, mul_out)
        y_p = coefficient * torch.einsum("nku,unv->nkv", x_p, w_p[:, species])
        y = y + torch.nn.functional.pad(y_p.flatten(1), (o, table.dim_out - o - k * mul_out))
    return y
