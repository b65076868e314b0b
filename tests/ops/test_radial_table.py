"""radial_table on the CPU: its laws, and what is the same on every device."""

import dataclasses

import pytest
import torch

from laws.radial_table import RadialTableLaws, derivatives, make
from pathtune.ops import radial_table


class TestOnCpu(RadialTableLaws):
    tolerances = {torch.float64: 1e-12, torch.float32: 1e-5}  # noqa: RUF012


def test_repeats_bitwise_and_threads_do_not_matter():
    inputs = make(1024, 400, torch.float32)
    before, runs = torch.get_num_threads(), []
    try:
        for n in (1, 3, 3):
            torch.set_num_threads(n)
            runs.append(derivatives(radial_table, *inputs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))


@pytest.mark.parametrize(("change", "error", "words"), [
    (lambda r, t, s: (r.float(), t, s), TypeError, "float64"),
    (lambda r, t, s: (r, t, s[1:]), ValueError, "number of slots is 39, expected 40"),
    (lambda r, t, s: (r.unsqueeze(1), t, s), ValueError, "number of dimensions of r is 2, expected 1"),
    (lambda r, t, s: (r, t, s + 1), ValueError, "slots span 1 to 2, expected 0 to 1"),
    (lambda r, t, s: (r, dataclasses.replace(t, coefficients=t.coefficients[:, 1:]), s), ValueError,
     "number of terms is 7, expected 8"),
])  # fmt: skip
def test_wrong_arguments_are_named(change, error, words):
    r, table, slot = make(5)
    slot[0], slot[1] = 0, 1
    with pytest.raises(error, match=words):
        radial_table(*change(r.detach(), table, slot))
