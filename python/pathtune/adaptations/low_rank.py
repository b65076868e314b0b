"""Equivariant low rank: W' = W + alpha / rank^(3/2) A B of each path, A [mul_in, rank], B [rank, mul_out].

Low rank: Hu et al., LoRA (ICLR 2022, arXiv:2106.09685); path by path, so that it keeps the symmetry: ELoRA (ICML 2025)
and mace-torch 0.3.16, whose factors give these weights: it scales by alpha / rank, and the path weights of e3nn by
1 / sqrt(rank). A starts normal, of unit variance, B zero: step 0 is the base.

Form `elora`: each path has its own A and B, and a species linear has factors for each element of the training data; of
the embedding, whose only input is the species, the matrix is [n_elements, mul_out]. Form `mace`: path linears and the
embedding only, and the paths of one layer to one output irrep share their B, as mace-torch has it. With a wider scope
the [n_paths, mul] matrix that a contraction has for each element, and the radial matrices, have factors too.

A rank above the dimensions of a path is taken as it is, as in mace-torch; one above those of every path is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from pathtune.adaptations.averaging import rate_for
from pathtune.adaptations.base import Adaptation
from pathtune.adaptations.by_path import Block, ByPath, check_shape
from pathtune.adaptations.stored import Stored
from pathtune.errors import InputError
from pathtune.options import check_at_most, check_fields, check_positive, option

if TYPE_CHECKING:
    from pathtune.model import Potential

MOST_RANK = 4096  # above the dimensions of any path: more is memory and nothing else
RATE = 4e-3  # per root of a step (docs/decisions/0011-arms.md)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowRankOptions:
    """What a user may ask of low rank."""

    rank: int = option(4, "low rank: columns of A; one above the dimensions of a path is taken as it is")
    alpha: float | None = option(None, "low rank: the product counts alpha / rank^(3/2) (the rank)")
    lora_form: str = option(
        "elora",
        "low rank: own factors for each path and species (elora), or path linears only, sharing B by output (mace)",
        choices=("elora", "mace"),
    )
    lora_scope: tuple[str, ...] = option(
        ("linear",), "low rank: kinds of layers to adapt", choices=("linear", "contraction", "radial")
    )
    lora_targets: tuple[str, ...] = option(("*",), "low rank: glob patterns of the layers to adapt")

    def __post_init__(self):
        check_fields(self)
        check_positive(self, "rank")
        check_at_most(self, rank=MOST_RANK)
        if self.alpha is not None:
            check_positive(self, "alpha")

    @property
    def scale(self) -> float:
        """What multiplies A B."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank**1.5


class LowRank(ByPath):
    """A low-rank product on each path of the linears."""

    kind: ClassVar[str] = "lora"
    options: ClassVar[type | None] = LowRankOptions
    section: ClassVar[str] = "lora"
    parts: ClassVar[tuple[str, ...]] = ("a", "b")

    def __init__(self, blocks: Sequence[Block], a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], scale: float):
        """`a` [.., n_rows, rank] and `b` [.., rank, mul_out] of each block."""
        super().__init__(blocks, {"a": a, "b": b})
        self.scale = scale

    @classmethod
    def build(cls, base: Potential, elements: Sequence[int], options: LowRankOptions, seed: int) -> Adaptation:
        """New factors for the elements; InputError for targets that match no layer, and for a rank that no path has."""
        generator = torch.Generator().manual_seed(seed)
        blocks = cls.blocks_of(base, elements, options.lora_targets, options.lora_scope)
        is_shared = options.lora_form == "mace"
        if is_shared:
            blocks = [block for block in blocks if block.path.species_axis is None or len(block.shape) == 2]
        _check_rank(options.rank, blocks)
        a, b = [], []
        shared: dict[tuple[str, str, int], torch.nn.Parameter] = {}
        for block in blocks:
            *lead, n_rows, mul_out = block.shape
            dtype = base.backbone.parameters[block.layer.parameter].dtype
            a.append(torch.randn(*lead, n_rows, options.rank, dtype=torch.float64, generator=generator).to(dtype))
            zero = torch.nn.Parameter(torch.zeros(*lead, options.rank, mul_out, dtype=dtype))
            b.append(shared.setdefault(_output(block), zero) if is_shared else zero)
        return cls(blocks, a, b, options.scale).to(base.device)

    def delta(self, i: int, weights: torch.Tensor) -> torch.Tensor:
        """The scaled product of block i."""
        return self.scale * (self.values("a")[i] @ self.values("b")[i])

    def learning_rate(self, n_steps: int) -> float:
        """It grows with the root of the run's length: 0.06 for 240 steps, 0.2 for 2,500."""
        return rate_for(n_steps, RATE)

    def scaled(self, weight: float) -> Adaptation:
        """The same factors, their product counted `weight` times."""
        return LowRank(self.blocks, self.values("a"), self.values("b"), weight * self.scale)

    @classmethod
    def is_by_species(cls, block: Block, part: str) -> bool:
        """B of the embedding is shared by the elements."""
        return part == "a" or len(block.shape) == 3

    def tensors(self, atomic_numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """As ByPath, a shared B with the first of its paths only, and the scale."""
        found, seen = super().tensors(atomic_numbers), set()
        for block, b in zip(self.blocks, self.values("b")):
            if id(b) in seen:
                del found[f"{block.name}.b"]
            seen.add(id(b))
        return {**found, "scale": torch.tensor([self.scale], dtype=torch.float64)}

    @classmethod
    def twin(cls, block: Block, part: str, before: Sequence[Block]) -> int | None:
        """B may be that of an earlier path of the layer to the same output."""
        mine = (i for i, other in enumerate(before) if part == "b" and _output(other) == _output(block))
        return next(mine, None)

    @classmethod
    def from_tensors(cls, base: Potential, stored: Stored) -> Adaptation:
        """The factors of a file; InputError, naming it, for those that do not fit `base`."""
        blocks, values = cls.read(base, stored)
        scale = float(stored.values("scale", 1))
        ratio = (len(base.atomic_numbers) / stored.n_species) ** 0.5
        for i, (block, a, b) in enumerate(zip(blocks, values["a"], values["b"])):
            *lead, n_rows, mul_out = block.shape
            check_shape(stored, block, "a", a, (*lead, n_rows, a.shape[-1]))
            check_shape(stored, block, "b", b, (*lead, a.shape[-1], mul_out))
            if ratio != 1.0 and block.layer.kind == "species linear":
                values["b"][i] = b * ratio  # e3nn's path weight holds 1/sqrt(n_species)
        return cls(blocks, values["a"], values["b"], scale).to(base.device)


def _output(block: Block) -> tuple[str, str, int]:
    """Layer, output irrep and its multiplicity of a path."""
    return block.layer.name, block.path.text.rpartition("->")[2].strip(), block.shape[-1]


def _check_rank(rank: int, blocks: Sequence[Block]) -> None:
    largest = max((min(block.shape[-2:]) for block in blocks), default=rank)
    if rank > largest:
        raise InputError(f"rank is {rank}, expected at most {largest}, the most that a path of the model has")
