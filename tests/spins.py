"""Spin models and structures with moments for tests; imported after the fixture needs_mace."""

import dataclasses

import numpy as np
import torch

from models import crystal, labelled, molecule, tiny_mace
from pathtune import SpinLayer, adapt, load
from pathtune.data import from_atoms

NAMES = ("energy", "forces", "stress", "magforces")
LAYER = SpinLayer(spin=("C", "O"), spin_cutoff=3.0, spin_basis=4, spin_hidden=6)


def spin_of(model):
    """The spin layer that a model uses, trained or loaded."""
    spin = next(c for c in model.adaptation.parts() if c.kind == "spin")
    return getattr(spin, "inner", spin)


def spin_model(order="pair", kinds=("spin",), base=None, **options):
    """A tiny MACE whose spin layer has random coefficients in all of its parts."""
    layer = dataclasses.replace(LAYER, spin_order=order)
    model = adapt(base or load(tiny_mace()), kinds, (1, 6, 8), {"spin": layer, **options})
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in spin_of(model).parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=rng, dtype=p.dtype))
    return model


def with_moments(atoms, seed=0):
    """The atoms with random moments."""
    atoms.arrays["REF_magmom"] = np.random.default_rng(seed).normal(size=(len(atoms), 3))
    return atoms


def spin_crystal(seed=0, n=5):
    return with_moments(crystal(seed, n), seed)


def spin_frames(n=6, seed=0):
    """Labelled molecules with moments and magforces."""
    frames = [with_moments(molecule(seed + i, n=5), i) for i in range(n)]
    for i, atoms in enumerate(labelled(frames, seed)):
        atoms.arrays["REF_magforces"] = np.random.default_rng(100 + i).normal(size=(len(atoms), 3))
    return frames


def predict(model, *frames, names=NAMES, training=False):
    return model(model.collate([from_atoms(a) for a in frames]), outputs=names, training=training)
