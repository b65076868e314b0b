"""The product of a gate with features, in layout ir_mul: what backbones of the NequIP kind share."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def gated(
    scalars: torch.Tensor,  # [n_nodes, n_scalars] activated
    gates: torch.Tensor,  # [n_nodes, n_gates] activated, one for each channel of the features
    features: torch.Tensor,  # [n_nodes, dim]
    blocks: Sequence[tuple[int, int, int]],  # of the features, as tables.irreps.blocks gives them
) -> torch.Tensor:  # [n_nodes, n_scalars + dim]
    """The scalars, then each block of vectors and tensors times its gates."""
    parts, begin = [scalars], 0
    for offset, mul, n_components in blocks:
        block = features[:, offset : offset + n_components * mul].unflatten(1, (n_components, mul))
        parts.append((block * gates[:, begin : begin + mul].unsqueeze(1)).flatten(1))
        begin += mul
    return torch.cat(parts, dim=1)
