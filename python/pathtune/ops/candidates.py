"""The candidate entries of a layer's weights, grouped once as csrc/sampled_gradient/sampled_gradient.hpp wants them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from pathtune.ops import _core


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates:
    """Candidate entries of a layer's flat weights, grouped by path, species and row of W."""

    indices: torch.Tensor  # [n_candidates] int64, ascending
    blocks: torch.Tensor  # [n_blocks, 10] int64, the fields of SampledBlock
    runs: torch.Tensor  # [n_runs, 2] int32: transposed row of x, one past the last candidate
    u_tiles: torch.Tensor  # [n_u_tiles] int32: first channel
    v_tiles: torch.Tensor  # [n_v_tiles] int32
    v_row: torch.Tensor  # [n_candidates] int32: transposed row of g
    place: torch.Tensor  # [n_candidates] int32: of the grouped candidate among `indices`
    weight_numel: int  # of the layer


def group_candidates(indices: torch.Tensor, shapes: Sequence[tuple[int, int, int]]) -> Candidates:
    """Group the flat `indices` of a layer whose paths have weights (mul_in, n_species, mul_out) in turn.

    A path linear has n_species = 1. Raises ValueError unless the indices ascend and lie in the layer.
    """
    weight_numel = sum(mul_in * n_species * mul_out for mul_in, n_species, mul_out in shapes)
    indices = indices.detach().to("cpu", torch.int64).contiguous()
    if indices.numel() and (int(indices[0]) < 0 or int(indices[-1]) >= weight_numel):
        span = f"{int(indices[0])} to {int(indices[-1])}"
        raise ValueError(f"candidates span {span}, expected 0 to {weight_numel - 1}")
    if bool((indices[1:] <= indices[:-1]).any()):
        raise ValueError("candidates must ascend without repeats")
    names = ("blocks", "runs", "u_tiles", "v_tiles", "v_row", "place")
    found = zip(names, _core.group_candidates(indices.numpy(), list(shapes)))
    grouped = {name: torch.from_numpy(array) for name, array in found}
    return Candidates(indices=indices, weight_numel=weight_numel, **grouped)
