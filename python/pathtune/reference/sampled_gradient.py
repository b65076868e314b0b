"""sampled_gradient as the dense product, read at the candidates."""

from __future__ import annotations

import torch

from pathtune.tables.species_linear import SpeciesLinearTable


def sampled_gradient(
    x: torch.Tensor,  # [n_nodes, dim_in]
    g: torch.Tensor,  # [n_nodes, dim_out]
    indices: torch.Tensor,  # [n_candidates] into the flat weights
    species: torch.Tensor,  # [n_nodes]
    table: SpeciesLinearTable,
) -> torch.Tensor:  # [n_candidates]
    """out[q] = c_p sum_{n of species s_q} sum_k x[n, in_p, k, u_q] g[n, out_p, k, v_q]."""
    one_hot = torch.nn.functional.one_hot(species, table.n_species).to(x)
    parts = []
    for row, coefficient in zip(table.paths.tolist(), table.coefficients.tolist()):
        i, o, _, k, mul_in, mul_out = row
        x_p = x[:, i : i + k * mul_in].reshape(-1, k, mul_in)
        g_p = g[:, o : o + k * mul_out].reshape(-1, k, mul_out)
        parts.append(coefficient * torch.einsum("nku,ns,nkv->usv", x_p, one_hot, g_p).flatten())
    return torch.cat(parts)[indices]
