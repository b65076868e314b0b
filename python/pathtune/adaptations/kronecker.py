"""Full fine-tuning in the Kronecker basis: W' = W + U D V^T of each path, of which D [mul_in, mul_out] is trained.

    U: eigenvectors of sum_s G_s G_s^T      [mul_in, mul_in]        G_s = dL_s/dW [mul_in, mul_out], once,
    V: eigenvectors of sum_s G_s^T G_s      [mul_out, mul_out]      over structures s, before step 0

To either sum M a ridge RIDGE diag(M) is added, which chooses the directions that the structures leave open.

Adam divides each coordinate by the size of its gradients, which is right where coordinates are independent. Weights are
not: channels that carry the same move together. Along U and V they are as independent as two matrices can make them.

Source: U and V are those of Shampoo (Gupta et al., ICML 2018, arXiv:1802.09568); Adam in their coordinates is SOAP
(Vyas et al., ICLR 2025, arXiv:2409.11321), which finds them again during the run. D is path weights: no symmetry is
touched.

Of a species-indexed path each element of the data has its own U, D and V. A side of one channel, or of more than
MOST_SIDE (of a single row MOST_ALONE), is left as it is; so is what belongs to no path, such as biases.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pathtune.adaptations.base import Loss
from pathtune.adaptations.dense import Full
from pathtune.adaptations.gradients import weight_gradients
from pathtune.data import Batch
from pathtune.errors import InputError
from pathtune.layers import Layer, Path, Weights
from pathtune.processes import world

if TYPE_CHECKING:
    from pathtune.model import Potential

RIDGE = 1e-3  # of the moments' diagonal, by which directions that no structure tells apart are chosen
MOST_FRAMES = 64  # that the basis is found from
MOST_SIDE = 512  # channels, above which finding and applying a basis costs too much
MOST_ALONE = 128  # the same of a single row or column, whose basis has as many numbers for so few weights
RATE = 1.2e-3  # per root of a step (docs/decisions/0015-kronecker.md)


class Kronecker(Full):
    """Full fine-tuning, its steps taken in the Kronecker basis."""

    kind: ClassVar[str] = "kron"
    options: ClassVar[type | None] = None
    section: ClassVar[str] = ""
    rate_per_root: ClassVar[float] = RATE

    def __init__(self, backbone: Any, species: Sequence[int] | None = None):
        """As Full. Until `begin` the basis is that of the weights themselves."""
        self._trained: list[Layer] = []
        super().__init__(backbone, None, species)
        if not self._trained:
            self._arrange()

    @classmethod
    def build(cls, base: Potential, elements: Sequence[int], options: Any, seed: int) -> Kronecker:
        """For a copy of the weights that `base` has."""
        return cls(base.backbone.copy(), base.species_of(elements))

    def sees(self, species: Sequence[int]) -> None:
        """As Full; what was learnt stays, and the basis is found anew by the next `begin`."""
        if self._species.issuperset(species):
            return
        learnt = self._learnt() if self._trained else None
        super().sees(species)
        self._arrange()
        if learnt is not None:
            self._take(learnt)

    def trains(self, name: str) -> bool:
        """Every one."""
        return True

    def _arrange(self) -> None:
        """Blocks of equal size together, with D = 0 and the basis of the weights themselves."""
        names = self.backbone.parameters
        self._trained = [layer for layer in self.backbone.layers if names[layer.parameter].is_floating_point()]
        found: dict[tuple[int, int], list[torch.Tensor]] = {}
        start = 0
        for layer in self._trained:
            rows, whole = self._rows.get(layer.parameter), names[layer.parameter]
            whole.requires_grad_(False)
            for block in _blocks(layer, None if rows is None else len(rows.species)):
                found.setdefault((block.shape[1], block.shape[2]), []).append(block + start)
            start += self._own(layer).numel()
        for values in self._values:
            values.requires_grad_(False)
        device, dtype = next(iter(names.values())).device, self._own(self._trained[0]).dtype
        # Of each size, where its blocks stand in all trained weights, flat.
        self._blocks = [torch.cat(blocks).to(device) for blocks in found.values()]
        self._places = torch.cat([block.flatten() for block in self._blocks])
        self._d = torch.nn.ParameterList(torch.zeros(b.shape, dtype=dtype, device=device) for b in self._blocks)
        self._bases = [[_identity(b, axis, dtype) for axis in (1, 2)] for b in self._blocks]

    def _own(self, layer: Layer) -> torch.Tensor:
        """The weights that D is added to: of a layer, or of those of its species that are trained."""
        rows = self._rows.get(layer.parameter)
        return self.backbone.parameters[layer.parameter] if rows is None else rows.values

    def _changes(self) -> list[torch.Tensor]:
        """U D V^T of each layer, of the shape of `_own`."""
        parts = []
        for d, (u, v) in zip(self._d, self._bases):
            rotated = d if u is None else u @ d
            parts.append((rotated if v is None else rotated @ v.mT).flatten())
        flat = torch.cat(parts)
        # Every place occurs once, so that the backward is a plain gather.
        whole = torch.zeros_like(flat).index_copy(0, self._places, flat)
        own = [self._own(layer) for layer in self._trained]
        return [part.view_as(w) for part, w in zip(whole.split([w.numel() for w in own]), own)]

    @torch.no_grad()
    def _learnt(self) -> dict[str, torch.Tensor]:
        """W' - W of each parameter with paths, of its shape."""
        found = {}
        for layer, change in zip(self._trained, self._changes()):
            rows, whole = self._rows.get(layer.parameter), self.backbone.parameters[layer.parameter]
            if rows is not None:
                change = torch.zeros_like(whole).flatten().index_copy(0, rows.indices, change)
            found[layer.parameter] = change.view_as(whole)
        return found

    @torch.no_grad()
    def _take(self, learnt: Mapping[str, torch.Tensor]) -> None:
        """Set D so that W' - W is this."""
        flat = torch.cat([self._of_own(layer, learnt) for layer in self._trained])
        for d, block, (u, v) in zip(self._d, self._blocks, self._bases):
            change = flat[block] if u is None else u.mT @ flat[block]
            d.copy_(change if v is None else change @ v)

    def _of_own(self, layer: Layer, whole: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Of tensors by parameter name, of their shapes, what stands where `_own` does, flat."""
        rows, flat = self._rows.get(layer.parameter), whole[layer.parameter].flatten()
        return flat if rows is None else flat[rows.indices]

    def writes(self) -> frozenset[str]:
        """Names of the parameters that have paths."""
        return frozenset(layer.parameter for layer in self._trained)

    def weights(self, parameters: Mapping[str, Any], plain: frozenset[str] = frozenset()) -> Weights:
        """W' = W + U D V^T; of a layer of which some species are trained as SpeciesRows."""
        result: dict[str, Any] = {}
        for layer, change in zip(self._trained, self._changes()):
            name, rows, w = layer.parameter, self._rows.get(layer.parameter), self._own(layer) + change
            if rows is not None:
                rows = dataclasses.replace(rows, values=w)
            result[name] = w if rows is None else rows.plain() if name in plain else rows
        return result

    def begin(self, model: Potential, frames: Iterable[Batch], loss: Loss) -> bool:
        """Find U and V; what was learnt stays. Raises InputError where there is no structure, or a loss without finite
        gradients."""
        learnt = self._learnt()
        bases = world().first(lambda: self._found(model, frames, loss))  # the same ones in every process
        for old, new in zip(self._bases, bases):
            for side, basis in enumerate(new):
                old[side] = None if basis is None else basis.to(self._d[0])
        self._take(learnt)
        return True

    def _found(self, model: Potential, frames: Iterable[Batch], loss: Loss) -> list[list[torch.Tensor | None]]:
        moments = [[None if basis is None else basis.double() * 0 for basis in sides] for sides in self._bases]
        n_frames = 0
        for batch in itertools.islice(frames, MOST_FRAMES):
            found = weight_gradients(model, batch, loss)
            flat = torch.cat([self._of_own(layer, found) for layer in self._trained]).double()
            for (left, right), block in zip(moments, self._blocks):
                g = flat[block]
                if left is not None:
                    left += g @ g.mT
                if right is not None:
                    right += g.mT @ g
            n_frames += 1
        if not n_frames:
            raise InputError("kron: the training set has 0 structures, expected at least one")
        if not all(bool(torch.isfinite(m).all()) for sides in moments for m in sides if m is not None):
            raise InputError("kron: the loss of a training structure has gradients that are not finite")
        return [[None if m is None else _eigenvectors(m.cpu()) for m in sides] for sides in moments]

    def trainable(self) -> list[torch.nn.Parameter]:
        """D of each size of block, then the weights without paths in the order of the stock model."""
        return [*self._d, *(p for p in self.backbone.stock.parameters() if p.requires_grad)]

    def state(self) -> dict[str, Any]:
        """D and the weights, and the basis, which is the same all through a run."""
        return {**super().state(), "bases": [basis for sides in self._bases for basis in sides if basis is not None]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The reverse of `state`."""
        super().restore(state)
        bases = iter(state["bases"])
        self._bases = [[b if b is None else next(bases).to(b) for b in sides] for sides in self._bases]


def _eigenvectors(moments: torch.Tensor) -> torch.Tensor:  # [n_blocks, n, n]
    """Of each block M, ascending, of M + RIDGE diag(M): few structures leave directions without a gradient, which would
    else be chosen by rounding, another on every machine, and the run would follow.

    A coordinate without any gradient keeps itself, so that what no structure reaches stays apart: mixed with others it
    would have rounding for a gradient, of which Adam makes a step in float32.
    """
    result = torch.eye(moments.shape[-1], dtype=moments.dtype).expand_as(moments).clone()
    for basis, moment in zip(result, moments):
        seen = moment.diagonal().nonzero().flatten()
        if seen.numel():
            seen_moment = moment[seen[:, None], seen]
            basis[seen[:, None], seen] = torch.linalg.eigh(seen_moment + RIDGE * seen_moment.diagonal().diag())[1]
    return result


def _blocks(layer: Layer, n_species: int | None) -> list[torch.Tensor]:
    """Where in its flat weights the blocks [n_blocks, mul_in, mul_out] of each path stand.

    `n_species`: of the trained ones, where the weights are theirs alone; None: the weights are the layer's.
    """
    blocks, start = [], 0
    is_whole = n_species is None
    for path in layer.paths:
        if not (is_whole or path.is_reachable):
            continue
        shape = list(path.shape)
        if path.species_axis is not None and n_species is not None:
            shape[path.species_axis] = n_species
        n = int(torch.Size(shape).numel())
        places = torch.arange(n).view(shape) + (path.offset if is_whole else start)
        blocks.append(_matrices(places, path))
        start += n
    return blocks


def _matrices(places: torch.Tensor, path: Path) -> torch.Tensor:
    """[n_blocks, mul_in, mul_out]: the species first, what is left in front of mul_out together."""
    if path.species_axis is None:
        return places.reshape(1, -1, places.shape[-1])
    moved = places.movedim(path.species_axis, 0)
    return moved.reshape(moved.shape[0], -1, moved.shape[-1] if moved.dim() > 1 else 1)


def _identity(block: torch.Tensor, axis: int, dtype: torch.dtype) -> torch.Tensor | None:
    """The basis of the weights themselves of one side [n_blocks, n, n]; None for a side that has no other."""
    n_blocks, n = block.shape[0], block.shape[axis]
    is_alone = block.shape[3 - axis] == 1
    if not 1 < n <= (MOST_ALONE if is_alone else MOST_SIDE):
        return None
    return torch.eye(n, dtype=dtype, device=block.device).expand(n_blocks, n, n).clone()
