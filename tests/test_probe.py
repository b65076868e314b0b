"""What a step of an arm costs in a comparison."""

import pytest

from pathtune import SparseDelta
from pathtune.comparing.probe import StepClock, mean_step


def test_a_sparse_step_is_the_mean_over_its_run_before_while_and_after_candidates_are_dropped():
    batch = {1: 1.0, 2: 2.0, 3: 0.5}  # what the structures of a step take
    before = {k: 3.0 * t for k, t in batch.items()}
    after = {k: 1.0 * t for k, t in batch.items()}
    dropping = {k: 2.0 * t + 0.5 for k, t in batch.items()}
    # 1,000 steps: 116.7 with all candidates, 583.3 in which every fourth drops some, 300 after
    found = mean_step(before, dropping, after, SparseDelta(active_share=0.03), 1000)
    assert found == pytest.approx((116.667 * 3 + 583.333 * (2 + 0.5 / 4) + 300 * 1) / 1000, rel=1e-5)
    # a run of 60 steps drops some at every step
    short = mean_step(before, dropping, after, SparseDelta(active_share=0.03), 60)
    assert short == pytest.approx((7 * 3 + 35 * 2.5 + 18 * 1) / 60)
    assert mean_step({0: 4.0}, {}, {0: 2.0}, SparseDelta(active_share=0.03), 60) == 3.0  # all diverged at once


def test_steps_that_follow_a_validation_are_left_out_where_there_are_others():
    ticks = iter([0.0, 1.0, 2.0, 13.0, 14.0])  # the first of the second epoch took 11
    clock = StepClock(lambda: next(ticks), is_cuda=False)
    for epoch, step in ((0, 1), (0, 2), (1, 1), (1, 2)):
        clock.step(epoch, step, 2, 0.0)
    assert clock.times == {1: 1.0, 3: 1.0}
