"""The spin layer as an adaptation: a term of the energy that reads magnetic moments."""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from ase.data import chemical_symbols

from pathtune.adaptations.base import Adaptation, Loss
from pathtune.adaptations.spin.energy import N_POWERS, N_PRODUCTS, SpinEnergy, SpinShape
from pathtune.adaptations.spin.graph import spin_graph
from pathtune.adaptations.spin.linear import Consistency, LinearProblem
from pathtune.adaptations.spin.options import FIT, MOST_BASIS, MOST_HIDDEN, SpinLayer
from pathtune.adaptations.stored import Stored
from pathtune.data import Batch, Comparison, EnergyTerm
from pathtune.errors import InputError

if TYPE_CHECKING:
    from pathtune.model import Potential


HEADER = ("elements", "cutoff", "magforces_scale", "magforces_perpendicular")  # of its tensors in a file
MOST_FRAMES = 2000  # that the start reads


class _Seen(NamedTuple):
    """What the start keeps of one structure."""

    features: torch.Tensor  # [n_nodes, dim]
    edges: Any
    batch: Batch
    residual: torch.Tensor  # [1] eV, its energy minus that without terms of the energy
    pulls: torch.Tensor  # [n_nodes, 3] eV/A, its forces likewise


class Spin(Adaptation):
    """Landau terms and exchange of the moments of some elements."""

    kind: ClassVar[str] = "spin"
    options: ClassVar[type | None] = SpinLayer
    section: ClassVar[str] = "spin"
    inputs: ClassVar[tuple[str, ...]] = ("magmom",)
    rate: float = 0.01
    scale: torch.Tensor  # [1] float64

    def __init__(self, energy: SpinEnergy, is_perpendicular: bool = False, scale: float | None = 1.0):
        """`scale`: by what the magforces of files are multiplied to be -dE/dm; None: found before training."""
        super().__init__()
        self.energy = energy
        self.is_perpendicular = is_perpendicular
        self.finds_scale = scale is None
        self.register_buffer("scale", torch.tensor([scale or 1.0], dtype=torch.float64))
        self.consistency: Consistency | None = None

    @classmethod
    def build(cls, base: Potential, elements: Sequence[int], options: SpinLayer, seed: int) -> Adaptation:
        """A layer that is zero at every moment. Raises InputError for elements and a cutoff that the model lacks."""
        scale = None if options.magforces_scale == FIT else float(options.magforces_scale)
        cutoff = options.spin_cutoff or base.backbone.r_max
        if cutoff > base.backbone.r_max:
            raise InputError(f"spin_cutoff is {cutoff:g} A, expected at most the model's {base.backbone.r_max:g} A")
        shape = SpinShape(
            options.atomic_numbers,
            cutoff,
            base.backbone.n_invariants,
            options.spin_basis,
            options.spin_hidden,
            options.spin_order == "many-body",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            energy = _energy(base, shape)
        return cls(energy, options.magforces_part == "perpendicular", scale).to(base.device)

    def energy_term(self) -> EnergyTerm | None:
        """Of the moments in the batch."""
        return self.energy

    def comparisons(self) -> dict[str, Comparison]:
        """Magforces are -dE/dm over the scale, and compared in their perpendicular part alone where that is asked."""
        scale = float(self.scale)
        if scale == 1.0 and not self.is_perpendicular:
            return {}
        return {"magforces": Comparison(scale, "magmom" if self.is_perpendicular else "")}

    def begin(self, model: Potential, frames: Iterable[Batch], loss: Loss) -> bool:
        """Units of features and moments, then E0, Landau and exchange constants from one least-squares solve.

        Of 2,000 frames, from all over the training data. Warns where magforces are not -dE/dm of the energies, and
        where moments are given that do not count. A layer that was trained already keeps what it has: training goes on
        from there.
        """
        if self.is_started:
            return False
        seen = [_seen(model, batch) for batch in itertools.islice(frames, MOST_FRAMES)]
        graphs = [spin_graph(s.batch, s.edges, self.energy.element_of) for s in seen]
        self._warn_of_others([s.batch for s in seen], model)
        features = torch.cat([s.features[g.atoms] for s, g in zip(seen, graphs)])
        if not len(features):
            names = " ".join(chemical_symbols[z] for z in self.energy.shape.elements)
            raise InputError(f"spin is {names}, expected elements of the training data")
        moments = torch.cat([s.batch.labels["magmom"].value[g.atoms] for s, g in zip(seen, graphs)])
        self.energy.set_units(features, moments, torch.cat([g.element for g in graphs]))
        if self.energy.shape.is_many_body:
            squares = torch.stack([self.energy.density_squares(s.edges, s.batch) for s in seen])
            unit = squares.mean(dim=0).sqrt()
            self.energy.density_unit.copy_(torch.where(unit > 0, unit, 1.0))
        species = sorted({int(k) for s in seen for k in s.batch.species.unique()})
        problem = LinearProblem(self.energy, species, self.is_perpendicular)
        for s in seen:
            problem.add(s.edges, s.batch, s.residual, s.pulls)
        self._judge(problem)
        self.energy.energy_unit.fill_(problem.energy_unit())
        constants, shift = problem.solve(float(self.scale))
        self._set_constants(constants)
        e0 = model.e0.clone()
        e0[species] += shift.to(e0)
        model.set_e0(e0)
        return True

    @property
    def is_started(self) -> bool:
        """Whether it adds to the energy of some moment."""
        outer = ("site_constants", "pair_constants", "site_out", "pair_out", "density_out")
        return any(bool(p.any()) for name, p in self.energy.named_parameters() if name in outer)

    def summary(self) -> dict[str, Any]:
        """The scale of the magforces, and what the energies say of it."""
        found = self.consistency
        known = dataclasses.asdict(found) if found is not None and found.is_known else None
        return {"magforces_scale": float(self.scale), "magforces_check": known}

    def state(self) -> dict[str, Any]:
        """The parameters, and the units that they are in."""
        buffers = {name: value.clone() for name, value in self.named_buffers() if name != "energy.species"}
        return {**super().state(), "buffers": buffers}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """The reverse of `state`."""
        super().restore(state)
        buffers = dict(self.named_buffers())
        for name, value in state["buffers"].items():
            buffers[name].copy_(value)

    def tensors(self, atomic_numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Everything by its name in the layer, elements as atomic numbers: independent of the model's species."""
        shape = self.energy.shape
        return {
            "elements": torch.tensor(shape.elements, dtype=torch.int32),
            "cutoff": torch.tensor([shape.cutoff], dtype=torch.float64),
            "magforces_scale": self.scale.detach().cpu().clone(),
            "magforces_perpendicular": torch.tensor([int(self.is_perpendicular)], dtype=torch.int32),
            **{name: value.detach().cpu().contiguous() for name, value in self.energy.state_dict().items()},
        }

    @classmethod
    def from_tensors(cls, base: Potential, stored: Stored) -> Adaptation:
        """A layer of a file. Raises InputError for tensors that are missing, or not of the shapes that fit `base`."""
        found, where = dict(stored.tensors), f"{stored.where}: the spin layer"
        for name in (*HEADER, "pair_constants", "pair_in"):
            if name not in found:
                raise InputError(f"{where} lacks {name!r}, expected a whole one")
        elements, is_perpendicular = stored.elements("elements"), stored.flag("magforces_perpendicular")
        cutoff, scale = (float(stored.values(name, 1)) for name in ("cutoff", "magforces_scale"))
        for name, value, largest in (("cutoff", cutoff, base.backbone.r_max + 1e-5), ("scale", scale, math.inf)):
            if not 0 < value <= largest:
                raise InputError(f"{where} has {name} {value}, expected one above 0 and up to {largest:.4g}")
        for name in set(found) - set(HEADER):
            stored.real(name)
        found = {name: tensor for name, tensor in found.items() if name not in HEADER}
        n_basis, n_hidden = (found[name].shape[-1] for name in ("pair_constants", "pair_in"))
        if not (0 < n_basis <= MOST_BASIS and 0 < n_hidden <= MOST_HIDDEN):
            raise InputError(
                f"{where} has {n_basis} radial functions and {n_hidden} hidden values, expected 1 to {MOST_BASIS} and "
                f"1 to {MOST_HIDDEN}"
            )
        n_features, is_many_body = base.backbone.n_invariants, "density_out" in found
        shape = SpinShape(elements, cutoff, n_features, n_basis, n_hidden, is_many_body)
        energy = _energy(base, shape, stored.where)
        expected = energy.state_dict()
        for name in sorted({*expected, *found}):
            mine, theirs = expected.get(name), found.get(name)
            if mine is None or theirs is None or mine.shape != theirs.shape:
                has, wants = (None if t is None else tuple(t.shape) for t in (theirs, mine))
                raise InputError(f"{stored.where}: {name} of the spin layer has shape {has}, expected {wants}")
        energy.load_state_dict(found)
        return cls(energy, is_perpendicular, scale).to(base.device)

    def _judge(self, problem: LinearProblem) -> None:
        """Compare E with T, take the factor where that is asked, and warn where it is not 1."""
        found = self.consistency = problem.consistency()
        if found is not None and found.is_known and self.finds_scale:
            self.scale.fill_(found.factor)
        elif found is not None and found.is_off and abs(found.factor / float(self.scale) - 1) > 0.1:
            warnings.warn(
                f"pathtune: magforces are not -dE/dm of the energies: times {found.factor:.3f} (+- {found.error:.3f}) "
                f"they would be, and magforces_scale is {float(self.scale):g}; '{FIT}' takes the factor",
                stacklevel=2,
            )

    def _warn_of_others(self, batches: Sequence[Batch], model: Potential) -> None:
        others = set()
        for batch in batches:
            moves = batch.labels["magmom"].value.abs().amax(dim=1) > 0
            others |= {int(s) for s in batch.species[moves & (self.energy.species[batch.species] < 0)].unique()}
        if others:
            names = " ".join(sorted(chemical_symbols[model.atomic_numbers[s]] for s in others))
            warnings.warn(f"pathtune: moments of {names} are ignored, which spin does not name", stacklevel=2)

    @torch.no_grad()
    def _set_constants(self, constants: torch.Tensor) -> None:
        energy, n_site = self.energy, self.energy.site_constants.numel()
        constants = constants / float(energy.energy_unit)
        energy.site_constants.copy_(constants[:n_site].reshape(-1, N_POWERS))
        exchange = constants[n_site:].reshape(-1, energy.shape.n_basis)
        energy.pair_constants.copy_(torch.nn.functional.pad(exchange.unsqueeze(1), (0, 0, 0, N_PRODUCTS - 1)))


def _energy(base: Potential, shape: SpinShape, where: str = "spin") -> SpinEnergy:
    """A new layer of this shape for the species of `base`; InputError for an element that it lacks."""
    missing = [chemical_symbols[z] for z in shape.elements if z not in base.atomic_numbers]
    if missing:
        raise InputError(f"{where}: has {missing[0]}, expected elements that the model knows")
    index = [shape.elements.index(z) if z in shape.elements else -1 for z in base.atomic_numbers]
    return SpinEnergy(shape, torch.tensor(index), base.backbone.dtype)


def _seen(model: Potential, batch: Batch) -> _Seen:
    prediction, (features, edges, same) = model.final_features(batch, ("energy", "forces"))
    labels = batch.labels
    residual = labels["energy"].value - prediction.energy.detach()
    return _Seen(features, edges, same, residual, labels["forces"].value - prediction.forces.detach())
