"""Which weights a sparse delta may change at first: drawn at random, all, or named by the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pathtune.adaptations.sparse.options import SparseDelta
from pathtune.errors import InputError
from pathtune.layers import Layer


def random_part(reachable: Mapping[str, torch.Tensor], n: int, seed: int) -> dict[str, torch.Tensor]:
    """`n` of all the entries, drawn evenly: ascending indices by layer name."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [r.numel() for r in reachable.values()]
    is_drawn = torch.zeros(sum(sizes), dtype=torch.bool)
    is_drawn[torch.randperm(sum(sizes), generator=generator)[:n]] = True
    return {name: r[mask] for (name, r), mask in zip(reachable.items(), is_drawn.split(sizes))}


def first_candidates(
    reachable: Mapping[str, torch.Tensor], config: SparseDelta, seed: int
) -> Mapping[str, torch.Tensor]:
    """A random part of the reachable weights, or all of them: for good, or until `fit` has scored them.

    Raises InputError for a share of less than one weight.
    """
    n = sum(r.numel() for r in reachable.values())
    share = config.final_share
    if share is not None and round(share * n) < 1:
        raise InputError(f"active_share is {share}, which is less than one of {n} reachable weights")
    if config.first_share == 1 or config.score != "random":
        return reachable
    return random_part(reachable, round(config.first_share * n), seed)


def fixed_candidates(
    layers: Sequence[Layer], candidates: Mapping[str, Sequence[int] | torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Ascending indices by layer name; InputError for an unknown layer and for indices repeated or outside of it."""
    by_name = {layer.name: layer for layer in layers}
    result = {}
    for name, indices in candidates.items():
        if name not in by_name:
            known = ", ".join(by_name)
            raise InputError(f"candidates: {name!r} is no layer to adapt, expected some of {known}")
        flat = torch.as_tensor(indices, dtype=torch.int64).flatten()
        unique = flat.unique()
        if unique.numel() < flat.numel():
            raise InputError(f"candidates: {name} has repeated indices, expected each once")
        numel = by_name[name].numel
        if unique.numel() and (int(unique[0]) < 0 or int(unique[-1]) >= numel):
            span = f"{int(unique[0])} to {int(unique[-1])}"
            raise InputError(f"candidates: indices of {name} span {span}, expected 0 to {numel - 1}")
        result[name] = unique
    return result
