"""The sparse deltas of all layers as one node of autograd: (D, s) -> S(D, d), d = sigmoid(s).

In a backward pass every layer's operator depends on this node, so that the engine runs it last. The operators
(ops/sparse_linear.py) therefore compute no gradient of S themselves: each leaves its product (x, g) here, and
this node hands all products of all layers to one call of the kernel. A product is left only where the engine has
said that it will run this node in the same pass, and under that pass's number: what a failed pass
left behind is never mixed into another one.

A pass that is itself to be differentiated (create_graph=True) leaves nothing: there the operators return
differentiable gradients of S, and the node is a few lines of torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pathtune import reference
from pathtune.ops._autograd import needed_gradients, pass_number
from pathtune.ops._check import KERNEL_DTYPES, check_size
from pathtune.ops._kernels import uses_cuda
from pathtune.ops.candidates import Candidates
from pathtune.ops.sampled_gradient import DeltaCotangent, delta_gradients
from pathtune.ops.soft_threshold import ThresholdedLayer, soft_threshold
from pathtune.ops.sparse_linear import SparseWeights


class DeltaTarget:
    """Where one layer's delta goes: its candidates, and its own W', rewritten in place when S(D, d) has changed.

    A graph whose backward is still to come keeps its W': autograd counts the writes and refuses a backward
    through a W' that was rewritten since, so that a stale one is an error and never a wrong gradient.
    """

    def __init__(
        self,
        indices: torch.Tensor,  # [n_candidates] int64, ascending, into the layer's flat weights
        segment: torch.Tensor | None = None,  # [n_candidates] int64, which threshold an entry obeys; None: one
        candidates: Candidates | None = None,  # `indices` grouped; None: the operator takes W' as a plain tensor
    ):
        self.indices = indices
        self.segment = segment
        self.candidates = candidates
        self._base: torch.Tensor | None = None
        self._base_version = -1
        self._effective: torch.Tensor | None = None

    def effective(self, base: torch.Tensor) -> torch.Tensor | None:  # [weight_numel]
        """W' as last written, W where that has changed since; None without grouped candidates."""
        if self.candidates is None:
            return None
        if self._effective is None or self._base is not base or self._base_version != base._version:
            self._base = base
            self._base_version = base._version
            with torch.inference_mode(False):
                self._effective = base.detach().clone()
        return self._effective


def sparse_weights(
    targets: Sequence[DeltaTarget],
    values: Sequence[torch.Tensor],  # of each layer D [n_candidates]
    scores: Sequence[torch.Tensor | None],  # s [n_thresholds]; None: no threshold, S = D, every candidate active
    bases: Sequence[torch.Tensor],  # W, frozen, of any shape where the candidates are not grouped
) -> list[torch.Tensor | SparseWeights]:
    """W' = W + S(D, sigmoid(s)) of every layer, as its operator takes it; differentiable in D and s.

    Layers whose candidates are grouped get SparseWeights, the others a plain tensor of the shape of W. Raises
    TypeError on dtype or device, ValueError on sizes that disagree.
    """
    for name, given in (("values", values), ("scores", scores), ("bases", bases)):
        check_size("sparse_weights", f"number of {name}", len(given), len(targets))
    effective = [target.effective(base) for target, base in zip(targets, bases)]
    if all((v.device.type == "cpu" or uses_cuda(v)) and v.dtype in KERNEL_DTYPES for v in values):
        given = [score for score in scores if score is not None]
        count = iter(range(len(given)))
        score_at = [None if score is None else next(count) for score in scores]
        deltas = _Deltas.apply(targets, bases, effective, score_at, *values, *given) if targets else ()
    elif any(w is not None for w in effective):
        found = sorted({f"{v.dtype} on {v.device}" for v in values})
        expected = "float32 or float64 on the CPU or CUDA"
        raise TypeError(f"sparse_weights: a layer with grouped candidates is among {found}, expected {expected}")
    else:
        deltas = [
            v if s is None else reference.soft_threshold(v, torch.sigmoid(s), t.segment)
            for v, s, t in zip(values, scores, targets)
        ]
    weights: list[torch.Tensor | SparseWeights] = []
    for target, base, w, delta in zip(targets, bases, effective, deltas):
        if w is not None and target.candidates is not None:
            weights.append(SparseWeights(w, delta, target.candidates))
        else:  # indices are unique, so that adding is exact and its backward a plain gather
            weights.append(base.flatten().index_add(0, target.indices, delta).view_as(base))
    return weights


class _Deltas(torch.autograd.Function):
    """(D of every layer, s of those with a threshold) -> S of every layer; also writes W'.

    `score_at` says where among the s a layer's own is.
    """

    @staticmethod
    def forward(ctx, targets, bases, effective, score_at, *tensors):
        values = tensors[: len(targets)]
        scores = tensors[len(targets) :]
        sizes = [score.numel() for score in scores]
        # together, because the thresholds are small and many
        thresholds = torch.sigmoid(torch.cat(scores)) if scores else values[0].new_empty(0)
        parts = thresholds.split(sizes)
        layers = [
            ThresholdedLayer(
                values=v,
                threshold=None if j is None else parts[j],
                segment=target.segment,
                indices=target.indices,
                base=base.detach().flatten(),
                effective=w,
            )
            for v, j, target, base, w in zip(values, score_at, targets, bases, effective)
        ]
        deltas, _ = soft_threshold(layers)
        ctx.save_for_backward(thresholds, *scores, *deltas)
        ctx.set_materialize_grads(False)
        ctx.targets = targets
        ctx.score_at = score_at
        ctx.sizes = sizes
        ctx.products = {}
        return tuple(deltas)

    @staticmethod
    def backward(ctx, *cotangents):
        thresholds, *saved = ctx.saved_tensors
        scores = saved[: len(ctx.sizes)]
        deltas = saved[len(ctx.sizes) :]
        products = ctx.products.pop(pass_number(), {})
        results = _differentiable if torch.is_grad_enabled() else _by_kernel
        needs = needed_gradients(ctx)[4:]

        def is_needed(i: int) -> bool:
            j = ctx.score_at[i]
            return needs[i] or (j is not None and needs[len(deltas) + j])

        reached = [i for i, cotangent in enumerate(cotangents) if cotangent is not None or i in products]
        layers = [i for i in reached if is_needed(i)]
        return (None,) * 4 + results(ctx, layers, products, thresholds, scores, deltas, cotangents)


def _by_kernel(ctx, layers, products, thresholds, scores, deltas, cotangents) -> tuple[torch.Tensor | None, ...]:
    slopes = (thresholds * (1 - thresholds)).split(ctx.sizes)  # of d = sigmoid(s)
    result: list[torch.Tensor | None] = [None] * (len(deltas) + len(scores))
    given = []
    for i in layers:
        target = ctx.targets[i]
        j = ctx.score_at[i]
        left = products.get(i, ())
        cotangent = DeltaCotangent(
            delta=deltas[i],
            n_thresholds=0 if j is None else ctx.sizes[j],
            segment=target.segment,
            other=cotangents[i],
            terms=[(x, g, groups) for x, g, groups, _ in left],
            candidates=target.candidates,
            table=left[0][3] if left else None,
        )
        given.append(cotangent)
    for i, grad_values, grad_thresholds in zip(layers, *delta_gradients(given)):
        result[i] = grad_values
        j = ctx.score_at[i]
        if j is not None:
            result[len(deltas) + j] = grad_thresholds * slopes[j]
    return tuple(result)


def _differentiable(ctx, layers, products, thresholds, scores, deltas, cotangents) -> tuple[torch.Tensor | None, ...]:
    """The same in torch, for a pass that is to be differentiated itself, where nobody leaves products."""
    result: list[torch.Tensor | None] = [None] * (len(deltas) + len(scores))
    for i in layers:
        target = ctx.targets[i]
        j = ctx.score_at[i]
        delta = deltas[i].detach()
        result[i] = cotangents[i]
        if j is not None:
            result[i] = cotangents[i] * (delta != 0)
            segment = torch.zeros_like(target.indices) if target.segment is None else target.segment
            d = torch.sigmoid(scores[j])
            by_threshold = torch.zeros_like(d).index_add(0, segment, -delta.sign() * cotangents[i])
            result[len(deltas) + j] = by_threshold * d * (1 - d)
    return tuple(result)
