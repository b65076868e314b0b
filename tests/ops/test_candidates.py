"""Candidates are grouped in C++ as the reference groups them."""

import pytest
import torch

from pathtune import reference
from pathtune.ops import group_candidates

FIELDS = ("blocks", "runs", "u_tiles", "v_tiles", "v_row", "place")
SHAPES = {
    "path linear": [(128, 1, 128), (64, 1, 64), (32, 1, 32)],
    "species linear": [(32, 15, 32)] * 4,
    "widths beside a multiple of a tile": [(17, 3, 5), (1, 1, 1), (5, 2, 33), (16, 4, 16)],
}


@pytest.mark.parametrize("share", [0.0, 0.003, 0.03, 0.5, 1.0])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_candidates_of_any_layer_are_grouped_as_the_reference_groups_them(shapes, share):
    n = sum(mul_in * n_species * mul_out for mul_in, n_species, mul_out in shapes)
    indices = torch.randperm(n)[: round(share * n)].sort().values
    found = group_candidates(indices, shapes)
    for name, expected in zip(FIELDS, reference.group_candidates(indices, shapes)):
        mine = getattr(found, name)
        assert (mine.dtype, mine.shape) == (expected.dtype, expected.shape), name
        assert torch.equal(mine, expected), name
    assert (found.weight_numel, found.indices.equal(indices)) == (n, True)


def test_a_layer_without_paths_has_no_candidates():
    found = group_candidates(torch.empty(0, dtype=torch.int64), [])
    assert (found.blocks.shape, found.runs.shape, found.weight_numel) == ((0, 10), (0, 2), 0)
