"""Gates in layout ir_mul: what backbones of the NequIP kind share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pathtune.tables.irreps import blocks, layout_permutation


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


def silu_factor(activation: Any) -> float | None:
    """c of an e3nn Activation that is c times SiLU on all its input, None of any other."""
    act = activation.acts[0] if len(activation.acts) == 1 else None
    if getattr(act, "f", None) is not torch.nn.functional.silu:
        return None
    return 1.0 if act._is_id else float(act.cst)  # type: ignore


class Gate:
    """e3nn's Gate in layout ir_mul: activated scalars, then each block of vectors and tensors times its gates."""

    def __init__(self, gate: Any):
        self.scalars, self.gates = gate.act_scalars, gate.act_gates
        self.blocks = blocks(gate.irreps_gated)
        # e3nn's own sorting, applied to the numbers of the columns
        columns = torch.arange(gate.irreps_in.dim, dtype=torch.float32).unsqueeze(0)
        place = layout_permutation(gate.irreps_in).argsort()
        scalars, gates, gated = (place[part[0].long()] for part in gate.sc(columns))
        self.scalars_at, self.gates_at = _range_or_index(scalars), _range_or_index(gates)
        self.gated_at = _range_or_index(gated[layout_permutation(gate.irreps_gated)])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        scalars = self.scalars(x[:, self.scalars_at])
        if not self.blocks:
            return scalars
        return gated(scalars, self.gates(x[:, self.gates_at]), x[:, self.gated_at], self.blocks)


def _range_or_index(columns: torch.Tensor) -> slice | torch.Tensor:
    n, begin = columns.numel(), int(columns[0]) if columns.numel() else 0
    return slice(begin, begin + n) if torch.equal(columns, torch.arange(begin, begin + n)) else columns
