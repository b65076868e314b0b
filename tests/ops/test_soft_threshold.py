"""Laws of soft_threshold, on fresh random inputs."""

import pytest
import torch

from pathtune import reference
from pathtune.ops import ThresholdedLayer, soft_threshold

SIZES = [(0, 7), (1, 1), (40, 300), (9000, 20000)]  # candidates, weights; the last on two threads


def layer(size, thresholds="one", dtype=torch.float64, spread=0.5):
    n, n_weights = size
    base = torch.randn(n_weights, dtype=dtype)
    segment = torch.randint(0, 3, (n,)) if thresholds == "several" else None
    threshold = None if thresholds == "none" else torch.rand(3 if segment is not None else 1, dtype=dtype) * spread
    return ThresholdedLayer(
        values=torch.randn(n, dtype=dtype), threshold=threshold, segment=segment,
        indices=torch.randperm(n_weights)[:n].sort().values, base=base, effective=base.clone(),
    )  # fmt: skip


def expected(given):
    s = given.values if given.threshold is None else reference.soft_threshold(
        given.values, given.threshold, given.segment)  # fmt: skip
    return s, given.base.index_add(0, given.indices, s)


@pytest.mark.parametrize("thresholds", ["none", "one", "several"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_kernel_equals_reference_to_the_bit(size, thresholds, dtype, isa):
    given = layer(size, thresholds, dtype)
    delta, effective = expected(given)
    (found,), ((n_active, n_changed),) = soft_threshold([given])
    assert torch.equal(found, delta)
    assert torch.equal(given.effective, effective)
    assert n_active == (found.numel() if thresholds == "none" else int((delta != 0).sum()))
    assert n_changed == int((effective != given.base).sum())


def test_layers_of_one_call_do_not_mix(isa):
    layers = [layer(size, thresholds) for size in SIZES for thresholds in ("none", "several")]
    deltas, counts = soft_threshold(layers)
    for given, delta, (n_active, _) in zip(layers, deltas, counts):
        assert torch.equal(delta, expected(given)[0])
        assert torch.equal(given.effective, expected(given)[1])
        assert n_active == int((delta != 0).sum())
    assert soft_threshold([]) == ([], [])


def test_only_candidates_are_rewritten():
    given = layer((40, 300))
    given.effective.fill_(7.0)
    soft_threshold([given])
    untouched = torch.ones(300, dtype=torch.bool)
    untouched[given.indices] = False
    assert (given.effective[untouched] == 7.0).all()
    assert (given.effective[given.indices] != 7.0).all()


def test_a_second_call_changes_nothing_and_autograd_counts_only_changes():
    given = layer((40, 300))
    before = given.effective._version
    (_, n_changed), = soft_threshold([given])[1]
    assert n_changed > 0
    assert given.effective._version == before + 1
    (_, n_changed), = soft_threshold([given])[1]
    assert n_changed == 0
    assert given.effective._version == before + 1


def test_an_entry_at_its_threshold_is_inactive_and_nan_survives():
    values = torch.tensor([0.5, -0.5, 0.0, float("nan"), float("inf"), -float("inf")])
    (found,), ((n_active, _),) = soft_threshold([ThresholdedLayer(values=values, threshold=torch.tensor([0.5]))])
    assert found[:3].tolist() == [0, 0, 0]
    assert found[3].isnan()
    assert found[4:].tolist() == [float("inf"), -float("inf")]
    assert n_active == 3


def test_opcheck():
    given = layer((40, 300), "several")
    tensors = (given.values, given.threshold, given.segment, given.indices, given.base, given.effective)
    torch.library.opcheck(torch.ops.pathtune.soft_threshold, tensors)


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"base": torch.zeros(300)}, TypeError, "base is torch.float32, but values is torch.float64"),
    ({"segment": torch.zeros(3, dtype=torch.int64)}, ValueError, "number of segments is 3, expected 40"),
    ({"indices": torch.arange(3)}, ValueError, "number of indices is 3, expected 40"),
    ({"base": torch.zeros(3, dtype=torch.float64)}, ValueError, "number of effective weights is 300, expected 3"),
    ({"indices": None}, ValueError, "without indices"),
    ({"effective": torch.zeros(600, dtype=torch.float64)[::2]}, ValueError, "expected it contiguous"),
])  # fmt: skip
def test_wrong_arguments_are_named(change, error, words):
    given = layer((40, 300))
    with pytest.raises(error, match=words):
        soft_threshold([ThresholdedLayer(**{**vars(given), **change})])
