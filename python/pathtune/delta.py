"""The sparse delta: W' = W + S(D, d), S(D, d) = sign(D) relu(|D| - d), d = sigmoid(s) (METHOD, section 2).

Source: Cho et al., ICLR 2026 (arXiv:2606.18691); soft thresholding by Kusupati et al., ICML 2020
(arXiv:2002.03231). In the dense mode, plain torch, autograd forms the gradient of all of W' and takes it at
the candidates; in the sparse mode the layer's operator computes it there only. Nothing is dropped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch

from pathtune.errors import InputError
from pathtune.layers import Layer
from pathtune.ops import DeltaTarget, SparseWeights, group_candidates, sparse_weights
from pathtune.options import check_choices, option

THRESHOLD_DECAY = {"L": 0.01, "H": 0.3}  # the paper's configurations: low and high sparsity

# Cost model of a layer's weight gradient, for bench/bench_sampled_gradient.py to confirm: a dense product costs 1, a
# sampled one 0.1 (to transpose the operands) + 1.4 times the share of the touchable entries that are active. The two
# are equal near 0.65 for thousands of rows and 0.43 for 64, where calls cost as much as products.
CROSSOVER = 0.4


def pays_sparse(n_candidates: int, n_touchable: int) -> bool:
    """Whether the gradient at the candidates is cheaper sampled than read off the dense one."""
    return n_candidates < CROSSOVER * n_touchable


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseDelta:
    """How a sparse delta is laid out, started and thresholded."""

    schedule: str = option("H", "threshold decay of the paper: L (0.01) or H (0.3)", choices=("L", "H"))
    threshold_decay: float | None = option(None, "threshold decay as a number, instead of a schedule")
    threshold: str = option("per_layer", "how many thresholds", choices=("per_layer", "per_path"))
    targets: tuple[str, ...] = option(("*",), "glob patterns of the layers to adapt")
    initial_std: float = option(0.01, "D ~ N(0, std^2) at the start")
    initial_threshold: float = option(1e-3, "d at the start")
    delta_decay: float = option(1e-8, "weight decay of D")

    def __post_init__(self):
        check_choices(self)
        if self.threshold_decay is not None and self.threshold_decay < 0:
            raise InputError(f"threshold_decay is {self.threshold_decay}, expected at least 0")
        if not 0 < self.initial_threshold < 1:
            raise InputError(f"initial_threshold is {self.initial_threshold}, expected a number in (0, 1)")
        if self.initial_std < 0:
            raise InputError(f"initial_std is {self.initial_std}, expected at least 0")

    @property
    def decay(self) -> float:
        """The threshold decay in force."""
        return THRESHOLD_DECAY[self.schedule] if self.threshold_decay is None else self.threshold_decay


def soft_threshold(values: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """S(D, d) = sign(D) relu(|D| - d); its derivatives are dS/dD = 1 and dS/dd = -sign(D) where |D| > d."""
    return values.sign() * (values.abs() - threshold).relu()


class DeltaParameter(torch.nn.Module):
    """The trainable delta of one layer's weights, at candidate entries."""

    indices: torch.Tensor  # [n_candidates] int64, ascending, into the layer's flat weights
    segment: torch.Tensor  # [n_candidates] int64, which threshold an entry obeys

    def __init__(
        self,
        layer: Layer,
        indices: torch.Tensor,
        config: SparseDelta,
        like: torch.Tensor,
        is_sparse: bool = False,
    ):
        """`is_sparse`: the layer's operator takes SparseWeights (a linear or species linear only)."""
        super().__init__()
        self.layer = layer
        shapes = layer.linear_shapes() if is_sparse else None
        per_path = config.threshold == "per_path"
        n_thresholds = len(layer.paths) if per_path else 1
        score = math.log(config.initial_threshold / (1 - config.initial_threshold))
        values = torch.randn(indices.numel(), dtype=like.dtype) * config.initial_std
        self.values = torch.nn.Parameter(values.to(like.device))
        self.threshold_score = torch.nn.Parameter(like.new_full((n_thresholds,), score))
        segment = layer.path_of_entries(indices) if per_path else torch.zeros_like(indices)
        self.register_buffer("indices", indices.to(like.device), persistent=True)
        self.register_buffer("segment", segment.to(like.device), persistent=False)
        candidates = None if shapes is None else group_candidates(indices, shapes)
        self.target = DeltaTarget(self.indices, self.segment if n_thresholds > 1 else None, candidates)

    def delta(self) -> torch.Tensor:
        """S(D, d) [n_candidates]."""
        threshold = torch.sigmoid(self.threshold_score)
        return soft_threshold(self.values, threshold[self.segment] if threshold.numel() > 1 else threshold)

    def effective(self, base: torch.Tensor) -> torch.Tensor:
        """W' = W + S(D, d), of the shape of `base` (the layer's flat weights)."""
        # Indices are unique, so that adding is exact and its backward a plain gather.
        return base.index_add(0, self.indices, self.delta())

    @property
    def is_sparse(self) -> bool:
        """Whether the gradient is computed at the candidates only."""
        return self.target.candidates is not None

    @property
    def threshold(self) -> torch.Tensor:
        """Thresholds d [1] or [n_paths]."""
        return torch.sigmoid(self.threshold_score.detach())

    def n_active(self) -> int:
        """Number of entries with |D| > d."""
        with torch.no_grad():
            return int((self.delta() != 0).sum())


class FixedDelta(torch.nn.Module):
    """A delta that is no longer trained: values of S(D, d) as an adapter file holds them."""

    indices: torch.Tensor  # [n_active] int64, ascending
    values: torch.Tensor  # [n_active]
    threshold: torch.Tensor  # [1] or [n_paths], for the record

    def __init__(self, layer: Layer, indices: torch.Tensor, values: torch.Tensor, threshold: torch.Tensor):
        super().__init__()
        self.layer = layer
        self.register_buffer("indices", indices)
        self.register_buffer("values", values)
        self.register_buffer("threshold", threshold)

    def delta(self) -> torch.Tensor:
        """S(D, d) [n_active]."""
        return self.values

    def effective(self, base: torch.Tensor) -> torch.Tensor:
        """W' = W + S(D, d), of the shape of `base`."""
        return base.index_add(0, self.indices, self.values)

    def n_active(self) -> int:
        """Number of entries that differ from zero."""
        return int((self.values != 0).sum())


def effective_weights(
    deltas: Sequence[DeltaParameter | FixedDelta], parameters: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor | SparseWeights]:
    """W' of every layer by parameter name as the backbone's forward takes it; `parameters` hold the W."""
    trained = [d for d in deltas if isinstance(d, DeltaParameter)]
    weights = sparse_weights(
        [d.target for d in trained], [d.values for d in trained], [d.threshold_score for d in trained],
        [parameters[d.layer.parameter] for d in trained],
    )  # fmt: skip
    result = {d.layer.parameter: w for d, w in zip(trained, weights)}
    fixed = [d for d in deltas if isinstance(d, FixedDelta)]
    return {**result, **{d.layer.parameter: d.effective(parameters[d.layer.parameter]) for d in fixed}}
