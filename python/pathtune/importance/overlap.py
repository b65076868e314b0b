"""How far two tuned models of one base change the same weights."""

from __future__ import annotations

from typing import Any

import torch

from pathtune.importance.parts import Change, parts_of
from pathtune.model import Potential


def overlap(first: Potential, second: Potential, first_shares: tuple[float, float] = (1.0, 1.0)) -> dict[str, Any]:
    """Jaccard index |A and B| / |A or B| of the changed weights, beside what it could be.

    `chance`: expected if each changed as many weights of each layer, drawn among those that it can reach. `ceiling`:
    the largest that there can be: of two sets of n_1 and n_2 weights min(n_1, n_2) / max(n_1, n_2); where each was
    chosen among its own random share c of the weights (`first_shares`; SparseDelta.first_share), the two of different
    seeds, only min(c_2 n_1, c_1 n_2) can be common. `cosine`: of the angle between the changes. Raises InputError for
    models of different bases.
    """
    Potential(first.base, first.head).use(second.adaptation)  # checks that the bases are the same
    changes = [Change.of(first), Change.of(second)]
    species = [m.species_of(m.elements or m.atomic_numbers) for m in (first, second)]
    names = {name for change in changes for name in change.base}
    counts = [0, 0]
    common, expected = 0, 0.0
    products = torch.zeros(3, dtype=torch.float64)
    for name in names:
        masks, deltas, reachable = [], [], []
        for change, indices in zip(changes, species):
            like = first.base.parameters[name]
            delta = change.delta(name) if name in change.base else torch.zeros_like(like)
            deltas.append(delta.flatten().double())
            masks.append(deltas[-1] != 0)
            mine = parts_of(first.base, {name}, indices)
            reachable.append(torch.zeros(like.numel(), dtype=torch.bool, device=like.device))
            for part in mine:
                reachable[-1][part.indices.to(like.device)[part.is_reachable.to(like.device)]] = True
        n = [int(mask.sum()) for mask in masks]
        counts = [a + b for a, b in zip(counts, n)]
        common += int((masks[0] & masks[1]).sum())
        both = int((reachable[0] & reachable[1]).sum())
        sizes = [max(int(r.sum()), 1) for r in reachable]
        expected += both * (n[0] / sizes[0]) * (n[1] / sizes[1])
        products += torch.stack([deltas[0] @ deltas[0], deltas[1] @ deltas[1], deltas[0] @ deltas[1]]).cpu()
    most = min(first_shares[1] * counts[0], first_shares[0] * counts[1], *counts)
    aa, bb, ab = products.tolist()
    return {
        "changed": counts,
        "both": common,
        "jaccard": _jaccard(counts, common),
        "chance": _jaccard(counts, expected),
        "ceiling": _jaccard(counts, most),
        "cosine": ab / (aa * bb) ** 0.5 if aa and bb else None,
    }


def _jaccard(counts: list[int], common: float) -> float:
    union = sum(counts) - common
    return common / union if union else 0.0
