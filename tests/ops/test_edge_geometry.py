"""edge_geometry on the CPU: its laws, and what is the same on every device."""

import pytest
import torch

from laws.edge_geometry import EdgeGeometryLaws, derivatives, make
from pathtune.ops import edge_geometry


class TestOnCpu(EdgeGeometryLaws):
    tolerances = {torch.float64: 1e-12, torch.float32: 2e-5}  # noqa: RUF012


def test_repeats_bitwise_and_threads_do_not_matter():
    inputs = make(3, 5000, torch.float32)
    before, runs = torch.get_num_threads(), []
    try:
        for n in (1, 3, 3):
            torch.set_num_threads(n)
            runs.append(derivatives(edge_geometry, *inputs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))


@pytest.mark.parametrize(("change", "error", "words"), [
    (lambda v, c, g, s: (v, c, g, s.float()), TypeError, "sign is torch.float32"),
    (lambda v, c, g, s: (v[1:], c, g, s), ValueError, "number of vectors is 6, expected 7"),
    (lambda v, c, g, s: (v, c, g, s[1:]), ValueError, "number of signs is 12, expected 13"),
    (lambda v, c, g, s: (v, [1.0] * 5, g, s), ValueError, "c has 5 numbers, expected 1 to 4"),
])  # fmt: skip
def test_wrong_arguments_are_named(change, error, words):
    with pytest.raises(error, match=words):
        edge_geometry(*change(*make(2)))
