"""symmetric_contraction as einsum over U, without monomials."""

from __future__ import annotations

from collections.abc import Sequence

import torch

INDICES = "abcdefgh"


def symmetric_contraction(
    a: torch.Tensor,  # [n_nodes, n_ell, mul]
    weights: Sequence[torch.Tensor],  # of each (irrep, degree): [n_species, n_params, mul]
    species: torch.Tensor,  # [n_nodes]
    outputs: Sequence[Sequence[torch.Tensor]],  # [irrep][degree - 1]: U [2l+1, n_ell, .., n_ell, n_params]
) -> torch.Tensor:  # [n_nodes, n_out, mul]
    """out[n, o, u] = sum_degree U[o, i, .., j, k] weights[species[n], k, u] a[n, i, u] .. a[n, j, u]."""
    remaining = iter(weights)
    blocks = []
    for by_degree in outputs:
        block = 0
        for u in by_degree:
            letters = INDICES[: u.ndim - 2]
            term = torch.einsum(f"o{letters}k,nku->no{letters}u", u.to(a), next(remaining)[species])
            while letters:  # one factor at a time: the intermediate only shrinks
                *rest, i = letters
                letters = "".join(rest)
                term = torch.einsum(f"no{letters}{i}u,n{i}u->no{letters}u", term, a)
            block = block + term
        blocks.append(block)
    return torch.cat(blocks, dim=1)
