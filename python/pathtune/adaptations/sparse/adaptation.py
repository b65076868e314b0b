"""The sparse delta as an adaptation: deltas on layers, narrowed while they are trained, a few kilobytes to store."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pathtune.adaptations.averaging import beta1_for, rate_for
from pathtune.adaptations.base import Adaptation, Loss
from pathtune.adaptations.sparse.candidates import first_candidates, fixed_candidates
from pathtune.adaptations.sparse.delta import Delta, DeltaParameter, FixedDelta
from pathtune.adaptations.sparse.narrowing import Narrowing, check_by_step
from pathtune.adaptations.sparse.options import SparseDelta
from pathtune.adaptations.sparse.scoring import MOST_FRAMES, choose_candidates
from pathtune.adaptations.state import check_like
from pathtune.adaptations.stored import Stored, from_canonical, to_canonical
from pathtune.data import Batch
from pathtune.errors import InputError
from pathtune.forms import check_form
from pathtune.layers import Layer, Weights, select_layers
from pathtune.ops import sparse_weights

if TYPE_CHECKING:
    from pathtune.model import Potential

PAPER_RATE = 0.01
RATE = 1.2e-3  # per root of a step, while all weights are candidates (docs/decisions/0010-optimiser.md)
MOST_RATE = 0.5
NARROWED_STEPS = 4.0  # 1 - beta1 of a delta that is narrowed to NARROW_SHARE is this over the number of steps
MOST_BETA1 = 0.98  # of such a delta, whose average has to follow what is dropped
NARROW_SHARE = 0.03
PARTS = ("indices", "values", "threshold")  # of every layer, in an adapter file


class SparseEntries(Adaptation):
    """Deltas S(D, d) on the weights of some layers, at a few entries each."""

    kind: ClassVar[str] = "sparse"

    def __init__(self, deltas: Sequence[Delta]):
        """`deltas`: one for each layer, in the order of the backbone's layers."""
        super().__init__()
        self._deltas = torch.nn.ModuleDict({d.layer.name.replace(".", "/"): d for d in deltas})

    @property
    def deltas(self) -> list[Any]:
        """The deltas, in the order of the backbone's layers."""
        return list(self._deltas.values())

    def layers(self) -> Sequence[Layer]:
        """Those with a delta."""
        return [d.layer for d in self.deltas]

    def weights(self, parameters: Mapping[str, Any], plain: frozenset[str] = frozenset()) -> Weights:
        """W' = W + S(D, d) of every layer, plain tensors."""
        return {d.layer.parameter: d.effective(parameters[d.layer.parameter]) for d in self.deltas}

    def tensors(self, atomic_numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Of every layer `NAME.indices` of the active entries, canonical and ascending, `.values`, `.threshold`."""
        tensors = {}
        for d in self.deltas:
            values = d.delta().detach().cpu()
            active = values.nonzero().flatten()
            canonical = to_canonical(d.layer, d.indices.cpu()[active], atomic_numbers)
            order = canonical.argsort()
            tensors[f"{d.layer.parameter}.indices"] = _compact(canonical[order])
            tensors[f"{d.layer.parameter}.values"] = values[active][order].contiguous()
            tensors[f"{d.layer.parameter}.threshold"] = d.threshold.detach().cpu().clone()
        return tensors

    @classmethod
    def from_tensors(cls, base: Potential, stored: Stored) -> Adaptation:
        """The active entries of a file. Raises InputError for a tensor that is missing, of no layer, or of another
        type or shape than it has to be, and for indices that do not ascend or lie outside of their layer."""
        scale = (len(base.atomic_numbers) / stored.n_species) ** 0.5
        layers = [layer for layer in base.backbone.layers if f"{layer.parameter}.indices" in stored.tensors]
        stored.check_names(f"{layer.parameter}.{part}" for layer in layers for part in PARTS)
        deltas = []
        for layer in layers:
            canonical = stored.indices(f"{layer.parameter}.indices", layer.numel)
            indices, order = from_canonical(layer, canonical, base.atomic_numbers, stored.where).sort()
            like = base.backbone.parameters[layer.parameter]
            values = stored.values(f"{layer.parameter}.values", canonical.numel())[order].to(like.dtype)
            if scale != 1.0 and layer.kind == "species linear":
                values = values * scale  # e3nn's path weight holds 1/sqrt(n_species)
            if not bool(torch.isfinite(values).all()):
                raise InputError(f"{stored.where}: {layer.parameter}.values are beyond the range of {like.dtype}")
            threshold = stored.values(f"{layer.parameter}.threshold", 1, len(layer.paths))
            deltas.append(FixedDelta(layer, indices, values, threshold))
        return SparseEntries(deltas).to(base.device)

    def scaled(self, weight: float) -> Adaptation:
        """The same entries, times `weight`."""
        return SparseEntries(
            [FixedDelta(d.layer, d.indices, weight * d.delta().detach(), d.threshold) for d in self.deltas]
        )

    def n_changed(self) -> int:
        """Active entries."""
        return sum(d.n_active() for d in self.deltas)


class Sparse(SparseEntries):
    """The deltas while they are trained."""

    options: ClassVar[type | None] = SparseDelta
    section: ClassVar[str] = "delta"

    def __init__(self, deltas: Sequence[DeltaParameter], config: SparseDelta, reachable: Mapping[str, torch.Tensor]):
        """`reachable`: by layer name, the ascending flat indices that the data can change."""
        super().__init__(deltas)
        self.config = config
        self.reachable = {d.layer.name: reachable[d.layer.name].to(d.values.device) for d in deltas}

    @classmethod
    def build(cls, base: Potential, elements: Sequence[int], options: SparseDelta, seed: int) -> Adaptation:
        """As `pathtune.sparsify`, which says what is raised."""
        return cls.at(base, elements, options, seed, None)

    @classmethod
    def at(
        cls,
        base: Potential,
        elements: Sequence[int],
        config: SparseDelta,
        seed: int,
        candidates: Mapping[str, Sequence[int] | torch.Tensor] | None,
    ) -> Adaptation:
        """A new delta whose candidates are those given by layer name, or chosen as `config` says."""
        layers = select_layers(base.backbone.layers, config.targets, config.scope)
        species = base.species_of(elements)
        reachable = {layer.name: layer.reachable(species, base.tuned_heads) for layer in layers}
        if candidates is None:
            chosen = first_candidates(reachable, config, seed)
        else:
            chosen = fixed_candidates(layers, candidates)
            chosen = {name: indices for name, indices in chosen.items() if indices.numel()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            deltas = [
                DeltaParameter(
                    layer,
                    chosen[layer.name],
                    config,
                    base.backbone.parameters[layer.parameter],
                    reachable[layer.name].numel(),
                    layer.name in base.backbone.sparse_layers,
                )
                for layer in layers
                if layer.name in chosen
            ]
        return cls(deltas, config, reachable)

    @classmethod
    def check(cls, options: SparseDelta, n_steps: int) -> None:
        """As check_by_step."""
        check_by_step(options, n_steps)

    def learning_rate(self, n_steps: int) -> float:
        """Of the final share, which the rate has grown to (docs/theory.md); of the paper's start a constant."""
        share = self.config.final_share
        if self.config.is_paper or share is None:
            return PAPER_RATE
        return min(MOST_RATE, rate_for(n_steps, RATE) / math.sqrt(share))

    def weights(self, parameters: Mapping[str, Any], plain: frozenset[str] = frozenset()) -> Weights:
        """W' of every layer as its operator takes it: SparseWeights where the gradient is taken at candidates only."""
        is_plain = [d.layer.parameter in plain or parameters[d.layer.parameter].requires_grad for d in self.deltas]
        by_operator = [d for d, plainly in zip(self.deltas, is_plain) if not plainly]
        weights = sparse_weights(
            [d.target for d in by_operator],
            [d.values for d in by_operator],
            [d.threshold_score for d in by_operator],
            [parameters[d.layer.parameter] for d in by_operator],
        )
        result: dict[str, Any] = {d.layer.parameter: w for d, w in zip(by_operator, weights)}
        for d, plainly in zip(self.deltas, is_plain):
            if plainly:
                result[d.layer.parameter] = d.effective(parameters[d.layer.parameter])
        return result

    def beta1(self, n_steps: int) -> float:
        """That of full fine-tuning where nothing is narrowed, nearly the same for any length where most weights are.

        Between 1 and NARROW_SHARE of the weights 1 - beta1 goes from the one to the other as a power of the share.
        """
        unnarrowed, share = beta1_for(n_steps), self.config.final_share
        if share is None:
            return unnarrowed
        narrowed = min(beta1_for(n_steps, NARROWED_STEPS), MOST_BETA1)
        part = min(1.0, math.log(share) / math.log(NARROW_SHARE))
        return 1 - (1 - narrowed) ** part * (1 - unnarrowed) ** (1 - part)

    def groups(self) -> list[dict[str, Any]]:
        """D, and thresholds where there are any, each with its own weight decay (docs/theory.md)."""
        groups = [{"params": [d.values for d in self.deltas], "weight_decay": self.config.delta_decay}]
        if self.config.has_thresholds:
            scores = [d.threshold_score for d in self.deltas]
            groups.append({"params": scores, "weight_decay": self.config.decay})
        return groups

    def begin(self, model: Potential, frames: Iterable[Batch], loss: Loss) -> bool:
        """The scoring pass of an identity start, where one is asked for (random candidates are drawn by `build`)."""
        if self.config.is_paper or self.config.score == "random" or self.config.first_share == 1:
            return False
        choose_candidates(self, model, itertools.islice(frames, MOST_FRAMES), loss)  # type: ignore
        return True

    def controller(self, optimizer: Any, groups: slice, n_steps: int) -> Narrowing:
        """Narrows the candidates."""
        return Narrowing(self, optimizer, groups, n_steps)  # type: ignore

    def state(self) -> dict[str, Any]:
        """The parameters, and the candidates that they belong to."""
        return {**super().state(), "indices": [d.indices for d in self.deltas]}

    def check_state(self, state: Mapping[str, Any], where: str) -> None:
        """As of every adaptation; candidates may be others, ascending ones of the reachable weights."""
        check_form(state, {"parameters": [torch.Tensor], "indices": [torch.Tensor]}, where, self.kind)
        like = {"parameters": self.trainable(), "indices": [d.indices for d in self.deltas]}
        found = state["indices"] if len(state["indices"]) == len(self.deltas) else []
        for i, (d, indices) in enumerate(zip(self.deltas, found)):
            if indices.dtype == torch.int64 and indices.dim() == 1:
                reachable = self.reachable[d.layer.name].to(indices.device)
                if not bool((indices.diff() > 0).all()) or not bool(torch.isin(indices, reachable).all()):
                    raise InputError(f"{where}: candidates of {d.layer.name} are not ascending and reachable")
                values = torch.empty(indices.shape, dtype=d.values.dtype, device="meta")
                like["parameters"] = [values if p is d.values else p for p in like["parameters"]]
                like["indices"][i] = indices
        check_like(dict(state), like, where, self.kind)

    def restore(self, state: Mapping[str, Any]) -> None:
        """The reverse of `state`."""
        for d, indices in zip(self.deltas, state["indices"], strict=True):
            if not torch.equal(d.indices, indices.to(d.indices.device)):
                d.set_candidates(indices, torch.zeros(indices.numel(), dtype=d.values.dtype))
        super().restore(state)


def _compact(indices: torch.Tensor) -> torch.Tensor:
    fits = not indices.numel() or int(indices.max()) < 2**31
    return indices.to(torch.int32 if fits else torch.int64).contiguous()
