"""sampled_gradient on the CPU: its laws, and what is the same on every device."""

import dataclasses

import pytest
import torch

from laws.sampled_gradient import LAYERS, SampledGradientLaws, cotangent, inputs, kernel
from pathtune.ops import delta_gradients, group_by_species, group_candidates
from pathtune.ops._bilinear import index_of
from pathtune.ops.sampled_gradient import flattened
from pathtune.ops.species_linear import sizes_of

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-6}


class TestOnCpu(SampledGradientLaws):
    tolerances = TOLERANCES


def test_one_thread_agrees_with_two():
    x, g, candidates, species, table = inputs("wide", "several", 0.1)
    before = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(kernel(x, g, candidates, species, table))
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(*results, rtol=1e-13)


def test_opcheck():
    x, g, candidates, species, table = inputs("ragged tails", "several", 0.2)
    groups = group_by_species(species, table.n_species)
    rest = (list(index_of(candidates, groups, table)), list(sizes_of(x, groups, table)))
    arguments = (x.requires_grad_(), g.requires_grad_(), *rest)
    torch.library.opcheck(torch.ops.pathtune.sampled_gradient, arguments)


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([3, 2], "ascend"),
        ([2, 2], "ascend"),
        ([-1, 2], "-1 to 2, expected 0 to 39"),
        ([0, 40], "expected 0 to 39"),
    ],
)
def test_wrong_candidates_are_named(indices, words):
    with pytest.raises(ValueError, match=words):
        group_candidates(torch.tensor(indices), [(4, 1, 5), (2, 2, 5)])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x, g: (x.float(), g), TypeError, "float64"),
        (lambda x, g: (x[:, 1:], g), ValueError, "row length of x is 22, expected 23"),
        (lambda x, g: (x, g[:, 1:]), ValueError, "row length of g"),
        (lambda x, g: (x, g[1:]), ValueError, "number of rows of g is 12, expected 13"),
    ],
)
def test_wrong_arguments_are_named(change, error, words):
    x, g, candidates, species, table = inputs("ragged tails", "several", 0.2)
    with pytest.raises(error, match=words):
        kernel(*change(x, g), candidates, species, table)


def test_opcheck_of_all_layers():
    layers = [cotangent(*arguments)[0] for arguments in LAYERS[:4]]
    torch.library.opcheck(torch.ops.pathtune.delta_gradients, flattened(layers))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"other": torch.zeros(3, dtype=torch.float64)}, ValueError, "number of entries of other is 3"),
        ({"other": torch.zeros(3)}, TypeError, "other is torch.float32, but delta is torch.float64"),
        ({"segment": torch.zeros(3, dtype=torch.int64)}, ValueError, "number of segments is 3"),
        ({"candidates": None}, ValueError, "2 terms, but no candidates"),
        ({"delta": torch.zeros(3, dtype=torch.float64)}, ValueError, "number of candidates is"),
    ],
)
def test_wrong_layers_are_named(change, error, words):
    layer, *_ = cotangent("vectors", 0.2, 2, 1)
    with pytest.raises(error, match=words):
        delta_gradients([dataclasses.replace(layer, **change)])
