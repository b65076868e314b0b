"""The demo's own data are what their provenance says."""

import hashlib
import json
import pathlib

import numpy as np
import pytest

from pathtune import read_structures

ROOT = pathlib.Path(__file__).parent.parent
FOLDER, SHIPPED = ROOT / "demo" / "data", ROOT / "python" / "pathtune" / "demo"
PROVENANCE = json.loads((FOLDER / "provenance.json").read_text())
N_FRAMES = {"glycine_train": 50, "glycine_valid": 20, "glycine_test": 100}


def test_every_file_has_the_recorded_checksum():
    for name, entry in PROVENANCE["files"].items():
        file = (SHIPPED if name.startswith("glycine") else FOLDER) / name
        assert hashlib.sha256(file.read_bytes()).hexdigest() == entry["sha256"], name


@pytest.mark.parametrize("name", N_FRAMES)
def test_the_domain_sets_are_labelled_glycine_without_net_force(name):
    structures = read_structures(SHIPPED / f"{name}.extxyz.xz")
    assert len(structures) == N_FRAMES[name]
    for s in structures:
        assert sorted(s.atomic_numbers.tolist()) == [1] * 5 + [6] * 2 + [7] + [8] * 2
        assert np.abs(s.forces.sum(axis=0)).max() < 1e-3
        assert s.energy_ev is not None
