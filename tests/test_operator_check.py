"""That the check of operators' ratios finds a slow kernel and forgives a disturbed measurement."""

import json
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def check(needs_mace):
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        import operator_check

        return operator_check
    finally:
        sys.path.remove(str(ROOT / "bench"))


class Clock:
    """Time that passes only where an arm says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def arm(self, *seconds):
        """A function that takes these seconds in turn, and then the last for good."""
        left = list(seconds)

        def function():
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return function


def case_of(check, clock, ours, stock=(1.0, 2.0)):
    return check.Case("op", "shape", ["one", "two"], [clock.arm(t) for t in stock], [clock.arm(t) for t in ours])


def test_a_ratio_is_that_of_the_least_times_of_each_pass(check):
    clock = Clock()
    assert check.ratios(case_of(check, clock, (0.5, 0.1)), clock=clock) == pytest.approx([2.0, 20.0])


def test_neither_the_warm_up_nor_a_disturbance_counts(check):
    clock = Clock()
    case = check.Case("op", "shape", ["one"], [clock.arm(0.1, 1.0)], [clock.arm(*[0.1] * 5, 50.0, 0.5)])
    assert check.ratios(case, clock=clock) == pytest.approx([2.0])


@pytest.mark.parametrize(("slower", "n_found"), [(1.0, 0), (1.45, 0), (1.55, 1)])
def test_a_kernel_that_is_half_as_slow_again_is_found_by_name(slower, n_found, check):
    clock = Clock()
    case = case_of(check, clock, (0.5, 0.1 * slower))
    found = check.fallen(case, {"op: shape: one": 2.0, "op: shape: two": 20.0}, lambda c: check.ratios(c, clock=clock))
    assert len(found) == n_found
    assert all(line.startswith("op: shape: two: the ratio is 12.90, expected 13.33 at least") for line in found)


def test_one_good_measurement_of_four_is_enough_and_five_are_not_made(check):
    case = check.Case("op", "shape", ["one"], [], [])
    for tries, n_found in (([1.0, 1.0, 1.0, 2.0], 0), ([1.0, 1.0, 1.0, 1.0, 2.0], 1)):
        left = iter(tries)
        assert len(check.fallen(case, {"op: shape: one": 2.0}, lambda c, left=left: [next(left)])) == n_found


def test_a_case_that_was_never_committed_is_found(check):
    case = check.Case("op", "shape", ["new"], [], [])
    assert check.fallen(case, {}, lambda c: [5.0]) == [
        "op: shape: new: the ratio is 5.00, expected inf at least, two thirds of what is committed"
    ]


def test_every_operator_of_the_package_that_has_a_kernel_is_among_the_committed(check):
    operators = {name.partition(":")[0] for name in json.loads(check.FILE.read_text())["ratios"]}
    kernels = {p.parent.name for p in (ROOT / "csrc").glob("*/cuda.hpp")}
    assert kernels <= operators
