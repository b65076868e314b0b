"""Labels in a wrong unit, of a wrong sign, or under a wrong name, found by comparing them with what the model predicts.

A pretrained model predicts new data with an error, but to the right scale. One factor is fitted between label and
prediction; where the two correlate and the factor is that of a known mistake, the mistake is named.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import ase.data
import numpy as np
from ase.units import Bohr

from pathtune.data import Frames, Graph, Label, Source, Structure, batches, composition, elements_of, label_of, outputs
from pathtune.data.sample import spaced
from pathtune.data.units import conversion
from pathtune.errors import InputError
from pathtune.model import Potential

N_FRAMES = 50  # of the training data are compared
LEAST_CORRELATION = 0.5  # by three standard errors: below, the model knows too little of the data to judge them
N_ERRORS = 3.0
NEAR = math.log(2.5)  # of a factor, in the logarithm; real sets lie from 0.50 to 1.86 (bench/conventions.py)
AMBIGUOUS = math.log(1.25)  # conventions that far apart are both named
TWICE = " once too often"
ESCAPE = "--no-check-units (check_units=False)"
STRETCHED = (0.7, 1.45)  # nearest distances over the sums of covalent radii: outside, positions are tried in bohr

# Units that labels are found in, by the unit that they should have.
UNITS = {
    "eV": ("kcal/mol", "kJ/mol", "hartree", "Ry", "meV"),
    "eV/A": ("kcal/mol/A", "kJ/mol/A", "kJ/mol/nm", "hartree/bohr", "hartree/A", "Ry/bohr", "meV/A"),
    "eV/A^3": ("GPa", "kbar", "bar", "hartree/bohr^3", "Ry/bohr^3"),
}
EACH_ATOM, A_VIRIAL = "divided by the number of atoms", "a virial, minus stress times volume"
PER_ATOM = {EACH_ATOM: 1.0}
VIRIAL = {"multiplied by the volume (a virial)": 1.0, A_VIRIAL: -1.0}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One label against the predictions: label = factor * prediction, by least squares."""

    label: Label
    factor: float
    correlation: float
    n_values: int  # that count as independent: atoms, or frames
    looks_like: tuple[str, ...]  # the mistakes that would explain the factor, the nearest first; none: no mistake

    @property
    def unit(self) -> str:
        """What --units takes, where the nearest explanation is a unit; else empty."""
        nearest = self.looks_like[0] if self.looks_like else ""
        if nearest == EACH_ATOM:
            return f"{self.label.name}={self.label.unit}/atom"
        return f"{self.label.name}={nearest.removeprefix('in ')}" if nearest.startswith("in ") else ""

    def __str__(self) -> str:
        """One sentence, where there is a mistake."""
        are, they = ("are", "they were") if self.label.per == "atom" else ("is", "it was")
        found = f"{self.factor:.3g} times what the model predicts (correlation {self.correlation:.2f})"
        advice = f"as if {they} {' or '.join(self.looks_like)}, expected {self.label.unit} with ASE's sign"
        return f"the {self.label.name} {are} {found}, {advice}"


def check_conventions(model: Potential, source: Source) -> None:
    """Raise InputError where labels of `source` look wrong by a known factor or sign, or positions look like bohr.

    At most N_FRAMES evenly spaced frames are predicted by `model`, which should be one that has not been trained on
    such labels.
    """
    scale = scale_of_positions(model, source)
    if scale is not None:
        unit = "in bohr" if scale < 1 else "in A, taken for bohr and converted"
        remedy = "give --units length=bohr" if scale < 1 else "correct the positions"
        raise InputError(
            f"{_file(source)}: the forces agree with the model's only where positions and cell are multiplied by "
            f"{scale:.4f}, as if they were {unit}, expected A; {remedy}, or go on with {ESCAPE}"
        )
    wrong = [c for c in compare_labels(model, source) if c.looks_like]
    if wrong:
        units = [c.unit for c in wrong if c.unit]
        remedies = [f"--units {' '.join(units)}"] if units else []
        remedies += ["its key by --virials-key"] if any(c.looks_like[0] == A_VIRIAL for c in wrong) else []
        remedy = f"give {' and '.join(remedies)}" if remedies else "correct the labels"
        raise InputError(f"{_file(source)}: {'; '.join(map(str, wrong))}; {remedy}, or go on with {ESCAPE}")


def compare_labels(model: Potential, source: Source, n_frames: int = N_FRAMES) -> list[Comparison]:
    """Each label of known units against the model's predictions, on `n_frames` evenly spaced frames at most."""
    result = []
    for label in outputs():
        if label.unit not in UNITS or label.name not in model.backbone.outputs:
            continue
        frames = [source.read(i) for i in spaced(source, label.name, n_frames)]
        frames = [s for s in frames if len(s) > 1]
        if frames:
            result.append(_compared(label, frames, _predictions(model, label, frames)))
    return result


def scale_of_positions(model: Potential, source: Source) -> float | None:
    """What positions and cells must be multiplied by for the forces to agree with the model's; None: nothing.

    Tried where nearest distances are unusual: bohr, and a conversion from it that was one too many.
    """
    if "forces" not in model.backbone.outputs:
        return None
    indices = [i for i in spaced(source, "forces", N_FRAMES) if len(source.read(i)) > 1]
    if not indices:
        return None
    ratio = np.median([_nearest(source.read(i), source.graph(i, model.backbone.r_max)) for i in indices])
    scale = Bohr if ratio > STRETCHED[1] else 1 / Bohr if ratio < STRETCHED[0] else None
    if scale is None:
        return None
    frames = [source.read(i) for i in indices]
    scaled = [dataclasses.replace(s, positions=scale * s.positions, cell=scale * s.cell) for s in frames]
    label = label_of("forces")
    before, after = (_compared(label, some, _predictions(model, label, some)) for some in (frames, scaled))
    is_explained = 1 - after.correlation**2 < 0.5 * (1 - before.correlation**2)
    return scale if is_explained and abs(after.correlation) >= least_correlation(after.n_values) else None


def _nearest(structure: Structure, graph: Graph) -> float:
    """Median over atoms of the distance to the nearest neighbour over the sum of covalent radii; inf without any."""
    sender, receiver = structure.positions[graph.sender], structure.positions[graph.receiver]
    distance = np.linalg.norm(receiver - sender + graph.unit_shifts @ structure.cell, axis=1)
    radius = ase.data.covalent_radii[structure.atomic_numbers]
    nearest = np.full(len(structure), math.inf)
    np.minimum.at(nearest, graph.receiver, distance / (radius[graph.sender] + radius[graph.receiver]))
    return float(np.median(nearest))


def least_correlation(n_values: int) -> float:
    """The correlation of `n_values` pairs that is above LEAST_CORRELATION by three standard errors.

    By Fisher's z, atanh(r), whose standard error is 1 / sqrt(n - 3) (Biometrika 10, 507, 1915). Infinite
    for three and fewer: no correlation is enough.
    """
    if n_values <= 3:
        return math.inf
    return math.tanh(math.atanh(LEAST_CORRELATION) + N_ERRORS / math.sqrt(n_values - 3))


def factor_of(label: np.ndarray, prediction: np.ndarray) -> tuple[float, float]:
    """<label . prediction> / <prediction . prediction>, and the correlation of the two, both not centred."""
    product, own = float((label * prediction).sum()), float((prediction**2).sum())
    norm = math.sqrt(own * float((label**2).sum()))
    return (product / own, product / norm) if norm > 0 else (0.0, 0.0)


def _file(source: Source) -> str:
    return source.read(0).where.rsplit(", frame", 1)[0]


def _predictions(model: Potential, label: Label, frames: Sequence[Structure]) -> list[np.ndarray]:
    """[n_rows, *shape] of each frame."""
    found = [model(batch, outputs=(label.name,)).of(label.name) for batch in batches(model, Frames(frames, 0), 1)]
    return [part.detach().double().cpu().numpy().reshape(-1, *label.shape) for part in found]


def _compared(label: Label, frames: Sequence[Structure], predictions: Sequence[np.ndarray]) -> Comparison:
    """`predictions` [n_rows, *shape] of each frame."""
    given = [s.labels[label.name].reshape(p.shape) for s, p in zip(frames, predictions)]
    y, x = (_without_constants(label, frames, values) for values in (given, predictions))
    n_values = _n_independent(label, frames)
    factor, correlation = factor_of(np.concatenate(y), np.concatenate(x))
    names: tuple[str, ...] = ()
    is_right = correlation >= least_correlation(n_values) and abs(math.log(factor)) < NEAR
    if not is_right:
        names = _named(y, x, n_values, _mistakes(label))
        if label.is_extensive or label.needs_volume:  # a constant of the frame too many, or missing
            scale = [len(s) if label.is_extensive else 1 / abs(np.linalg.det(s.cell)) for s in frames]
            y = _without_constants(label, frames, [v * f for v, f in zip(given, scale)])
            names += _named(y, x, n_values, PER_ATOM if label.is_extensive else VIRIAL)
    return Comparison(label, factor, correlation, n_values, names)


def _without_constants(label: Label, frames: Sequence[Structure], values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Flat values of each frame, less what two right conventions may differ by.

    Energies per atom, less their least squares fit by the share of each element (the E0 refit); other labels of a
    graph, less their mean; labels of an atom as they are.
    """
    if label.per == "atom":
        return [v.ravel() for v in values]
    rows = np.array([v.ravel() for v in values])
    basis = np.ones((len(rows), 1))
    if label.is_extensive:
        rows = rows / np.array([len(s) for s in frames])[:, None]
        basis = _shares(frames)
    rows = rows - basis @ np.linalg.lstsq(basis, rows, rcond=None)[0]
    return list(rows)


def _shares(frames: Sequence[Structure]) -> np.ndarray:
    counts = composition(frames, elements_of(frames))
    return counts / counts.sum(axis=1, keepdims=True)


def _n_independent(label: Label, frames: Sequence[Structure]) -> int:
    if label.per == "atom":
        return sum(len(s) for s in frames)
    return len(frames) - (int(np.linalg.matrix_rank(_shares(frames))) if label.is_extensive else 1)


def _mistakes(label: Label) -> dict[str, float]:
    """What a right label is multiplied by, by the words for the mistake."""
    result = {"of the opposite sign": -1.0}
    for unit in UNITS[label.unit]:
        factor = 1 / conversion(unit, label.unit, False, label.name)[0]
        for words, value in ((f"in {unit}", factor), (f"converted from {unit}{TWICE}", 1 / factor)):
            result[words] = value
            result[f"of the opposite sign and {words}"] = -value
    return {words: value for words, value in result.items() if value > 0 or not label.is_extensive}


def _named(
    y: Sequence[np.ndarray], x: Sequence[np.ndarray], n_values: int, mistakes: Mapping[str, float]
) -> tuple[str, ...]:
    """The mistakes that explain labels `y` of predictions `x`, both by frame; the nearest first.

    A factor counts where the correlation is high enough, and where the fifth of the frames with the largest
    predictions may be left out: a wrong unit is the same for all, a model's failure is not.
    """
    factor, correlation = factor_of(np.concatenate(y), np.concatenate(x))
    if abs(correlation) < least_correlation(n_values):
        return ()
    kept = np.argsort([np.mean(v**2) for v in x], kind="stable")[: math.ceil(0.8 * len(x))]
    most, _ = factor_of(np.concatenate([y[k] for k in kept]), np.concatenate([x[k] for k in kept]))
    near = {
        words: abs(math.log(factor / wrong))
        for words, wrong in mistakes.items()
        if factor / wrong > 0 and most / wrong > 0 and abs(math.log(most / wrong)) < 1.5 * NEAR
    }
    best = min(near.values(), default=math.inf)
    found = [words for words in near if near[words] < min(NEAR, best + AMBIGUOUS)]
    return tuple(sorted(found, key=lambda words: (words.endswith(TWICE), near[words])))
