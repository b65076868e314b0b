"""That a profile of a step names our operators, also those that nodes of autograd call by themselves."""

import pytest

from models import named_molecules
from pathtune import SparseDelta, load, sparsify
from pathtune.benchmark.step import shares, training_step

pytestmark = pytest.mark.usefixtures("needs_mace")


def test_a_profile_finds_every_operator_of_a_sparse_step():
    model = sparsify(load("demo", dtype="float32"), SparseDelta(initial_share=0.1), [1, 6, 7, 8], seed=0)
    step = training_step(model, model.collate(named_molecules("CH4", "NH3")))
    step()
    found = shares(step)
    expected = ("edge_conv", "symmetric_contraction", "sparse_linear", "delta_gradients", "soft_threshold", "radial",
                "edge_geometry")  # fmt: skip
    assert all(found[name] > 0 for name in expected), found
    assert sum(found.values()) == pytest.approx(1, abs=0.01)
