"""Edges of molecules by all distances are those of the search by cells, in the same order."""

import numpy as np
import pytest
from ase import Atoms

from models import crystal
from pathtune import InputError
from pathtune.data import find_graph, from_atoms, neighbours
from pathtune.ops.neighbours import edges_of_molecule, edges_of_pairs

FIELDS = ("sender", "receiver", "unit_shifts", "pair")


def boxed(rng, n_atoms, room):
    """Atoms in a skewed cell, of which `room` tells about how much is left free."""
    cell = np.diag(rng.uniform(4, 9, 3)) * room + rng.uniform(-2, 2, (3, 3)) * rng.integers(0, 2)
    positions = rng.uniform(0, 5, (n_atoms, 3)) + rng.uniform(-20, 20, 3)
    return Atoms(f"H{n_atoms}", positions, cell=cell, pbc=rng.integers(0, 2, 3).astype(bool))


@pytest.mark.parametrize("room", [1.0, 1.6, 3.0])
def test_all_distances_give_the_edges_of_the_search_by_cells_reference(monkeypatch, room):
    rng = np.random.default_rng()
    n_molecules = 0
    for _ in range(100):
        atoms, r_max = boxed(rng, rng.integers(1, 12), room), rng.uniform(1, 5)
        structure = from_atoms(atoms)
        n_molecules += edges_of_molecule(structure.positions, structure.cell, structure.pbc, r_max) is not None
        found = {}
        for few in (neighbours.FEW, 0):
            monkeypatch.setattr(neighbours, "FEW", few)
            try:
                found[few] = find_graph(structure, r_max)
            except InputError as error:
                found[few] = str(error)
            monkeypatch.undo()
        a, b = found.values()
        if isinstance(a, str) or isinstance(b, str):
            assert a == b
            continue
        for name in FIELDS:
            assert np.array_equal(getattr(a, name), getattr(b, name)), (name, atoms, r_max)
    assert n_molecules  # or nothing was compared


def test_images_within_reach_are_never_left_out_reference():
    """A molecule of 2 A in a box of 6 A meets its image within 4.5 A, but not within 3.9 A."""
    positions, pbc = np.array([[0.0, 0, 0], [2.0, 0, 0]]), np.array([True, False, False])
    cell = np.diag([6.0, 0.0, 0.0])
    assert edges_of_molecule(positions, cell, pbc, 3.9) is None  # a cell without its other vectors says nothing
    cell = np.diag([6.0, 1.0, 1.0])
    assert len(edges_of_molecule(positions, cell, pbc, 3.9)[0][0]) == 2
    assert edges_of_molecule(positions, cell, pbc, 4.5) is None
    assert edges_of_molecule(positions, cell, np.ones(3, dtype=bool), 3.9) is None
    assert len(edges_of_molecule(positions, cell, np.zeros(3, dtype=bool), 4.5)[0][0]) == 2


def test_the_order_of_pairs_does_not_matter_reference():
    structure = from_atoms(crystal())
    i, j, shift = neighbours._half(structure, 4.0)
    order = np.random.default_rng().permutation(len(i))
    flips = order % 2 == 0
    shuffled = (np.where(flips, j, i)[order], np.where(flips, i, j)[order],
                np.where(flips[:, None], -shift.astype(int), shift)[order])  # fmt: skip
    for a, b in zip(edges_of_pairs(i, j, shift, len(structure)), edges_of_pairs(*shuffled, len(structure))):
        assert np.array_equal(a, b)
