"""The sparse delta: W' = W + S(D, d), S(D, d) = sign(D) relu(|D| - d), d = sigmoid(s) (docs/theory.md).

Source: Cho et al., ICLR 2026 (arXiv:2606.18691); soft thresholding by Kusupati et al., ICML 2020
(arXiv:2002.03231). With a share to reach there is no threshold, S(D) = D: every candidate is active. In the dense mode,
plain torch, autograd forms the gradient of all of W' and takes it at the candidates; in the sparse mode the
layer's operator computes it there only.
"""

from __future__ import annotations

import math

import torch

from pathtune import reference
from pathtune.adaptations.sparse.options import SparseDelta
from pathtune.layers import Layer
from pathtune.ops import DeltaTarget, group_candidates

# Cost model of a layer's weight gradient (bench/bench_sampled_gradient.py and its JSON in bench/results): a dense
# product costs 1, a sampled one about 0.1 (to transpose the operands) + 1.3 times the share of the touchable entries
# that are active. Both cost the same at a share of one half or more from hundreds of rows on, and at a third to 0.4 for
# 64 rows, where calls cost as much as products.
CROSSOVER = 0.4


def pays_sparse(n_candidates: int, n_touchable: int) -> bool:
    """Whether the gradient at the candidates is cheaper sampled than read off the dense one."""
    return n_candidates < CROSSOVER * n_touchable


class Delta(torch.nn.Module):
    """The delta of one layer's weights, at some entries: W' = W + S."""

    layer: Layer
    indices: torch.Tensor  # [n_entries] int64, ascending, into the layer's flat weights

    def delta(self) -> torch.Tensor:
        """S [n_entries]."""
        raise NotImplementedError

    def effective(self, base: torch.Tensor) -> torch.Tensor:
        """W' = W + S, of the shape of `base`."""
        # Indices are unique, so that adding is exact and its backward a plain gather.
        return base.flatten().index_add(0, self.indices, self.delta()).view_as(base)

    @torch.no_grad()
    def n_active(self) -> int:
        """Number of entries that differ from zero."""
        return int((self.delta() != 0).sum())


class DeltaParameter(Delta):
    """The trainable delta of one layer's weights, at candidate entries."""

    segment: torch.Tensor  # [n_candidates] int64, which threshold an entry obeys; empty where one serves all

    def __init__(
        self,
        layer: Layer,
        indices: torch.Tensor,
        config: SparseDelta,
        like: torch.Tensor,
        n_reachable: int | None = None,
        is_covered: bool = False,
    ):
        """`n_reachable`: of the layer, by default as many as candidates; `is_covered`: the layer's operator
        takes SparseWeights, so that few candidates can be trained sparsely (a linear or species linear only).
        """
        super().__init__()
        self.layer = layer
        self.is_covered = is_covered
        self.n_reachable = indices.numel() if n_reachable is None else n_reachable
        values = torch.zeros(indices.numel(), dtype=like.dtype)
        if config.is_paper:
            values = torch.randn(indices.numel(), dtype=like.dtype) * config.initial_std
        if config.has_thresholds:
            n_thresholds = len(layer.paths) if config.threshold == "per_path" else 1
            score = math.log(config.initial_threshold / (1 - config.initial_threshold))
            self.threshold_score = torch.nn.Parameter(like.new_full((n_thresholds,), score))
        else:
            self.register_parameter("threshold_score", None)
        self.values = torch.nn.Parameter(values.to(like.device))
        self.register_buffer("indices", indices.to(like.device), persistent=True)
        self.register_buffer("segment", indices.new_zeros(0), persistent=False)
        self._regroup()

    def _regroup(self) -> None:
        """What follows from the set of candidates: mode, tables, segments."""
        pays = self.is_covered and pays_sparse(self.indices.numel(), self.n_reachable)
        shapes = self.layer.linear_shapes() if pays else None
        candidates = None if shapes is None else group_candidates(self.indices, shapes)
        segment = None
        if self.threshold_score is not None and self.threshold_score.numel() > 1:
            segment = self.layer.path_of_entries(self.indices)
            self.segment = segment
        self.target = DeltaTarget(self.indices, segment, candidates)

    @torch.no_grad()
    def set_candidates(self, indices: torch.Tensor, values: torch.Tensor) -> None:
        """Another set of candidates, ascending, with their D; the Parameter stays the same object, on its device."""
        self.indices = indices.to(self.values.device)
        self.values.data = values.to(self.values.device)
        self.values.grad = None
        self._regroup()

    def delta(self) -> torch.Tensor:
        """S(D, d) [n_candidates]."""
        if self.threshold_score is None:
            return self.values
        threshold = torch.sigmoid(self.threshold_score)
        return reference.soft_threshold(self.values, threshold, self.target.segment)

    @property
    def is_sparse(self) -> bool:
        """Whether the gradient is computed at the candidates only."""
        return self.target.candidates is not None

    @property
    def threshold(self) -> torch.Tensor:
        """Thresholds d [1] or [n_paths]; zero where there is none."""
        if self.threshold_score is None:
            return torch.zeros(1, dtype=self.values.dtype, device=self.values.device)
        return torch.sigmoid(self.threshold_score.detach())


class FixedDelta(Delta):
    """A delta that is no longer trained: values of S(D, d) as an adapter file holds them."""

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
