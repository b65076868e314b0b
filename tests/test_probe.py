"""What a step of an arm costs in a comparison."""

import pytest

from pathtune import SparseDelta
from pathtune.comparing.probe import BY_STEP, N_STEPS_SPARSE, StepClock, mean_step


def test_a_sparse_step_is_the_mean_over_its_run_before_while_and_after_candidates_are_dropped():
    times = {k: 3.0 if k < BY_STEP / 6 else 2.5 if k <= BY_STEP else 1.0 for k in range(N_STEPS_SPARSE)}
    # 1,000 steps: 116.7 with all candidates, 583.3 in which every fourth drops some, 300 after
    found = mean_step(times, SparseDelta(active_share=0.03), 1000)
    assert found == pytest.approx((116.667 * 3 + 583.333 * (2 + 0.5 / 4) + 300 * 1) / 1000, rel=1e-5)
    # a run of 60 steps drops some at every step
    short = mean_step(times, SparseDelta(active_share=0.03), 60)
    assert short == pytest.approx((7 * 3 + 35 * 2.5 + 18 * 1) / 60)
    assert mean_step({0: 4.0, 1: 2.0}, SparseDelta(active_share=0.03), 60) == 3.0  # a probe that diverged early


def test_steps_that_follow_a_validation_are_left_out_where_there_are_others():
    ticks = iter([0.0, 1.0, 2.0, 13.0, 14.0])  # the first of the second epoch took 11
    clock = StepClock(lambda: next(ticks), is_cuda=False)
    for epoch, step in ((0, 1), (0, 2), (1, 1), (1, 2)):
        clock.step(epoch, step, 2, 0.0)
    assert clock.times == {1: 1.0, 3: 1.0}
