"""Laws of the sparse delta (docs/theory.md)."""

import pytest
import torch

from pathtune.adaptations.sparse.delta import DeltaParameter
from pathtune.adaptations.sparse.options import SparseDelta
from pathtune.errors import InputError
from pathtune.layers import Layer, Path
from pathtune.reference import soft_threshold

LAYER = Layer("layer", "path linear", (Path("0e -> 0e", 0, (4, 5)), Path("1o -> 1o", 20, (3, 2))), 26)


def make(**options):
    base = torch.randn(26, dtype=torch.float64)
    delta = DeltaParameter(LAYER, torch.arange(26), SparseDelta(delta_start="paper", **options), base)
    with torch.no_grad():
        delta.values.normal_(0, 0.01)
        delta.threshold_score.fill_(torch.logit(torch.tensor(0.008)).item())
    return base, delta


def test_inactive_entry_contributes_nothing_and_receives_no_gradient():
    base, delta = make()
    effective = delta.effective(base)
    (gradient,) = torch.autograd.grad((effective * torch.randn_like(base)).sum(), delta.values)
    inactive = delta.values.abs() <= delta.threshold
    assert inactive.any()
    assert not inactive.all()
    assert torch.equal(effective[inactive], base[inactive])
    assert (gradient[inactive] == 0).all()
    assert (gradient[~inactive] != 0).all()


@pytest.mark.parametrize("threshold", ["per_layer", "per_path"])
def test_gradients_are_those_of_the_method(threshold):
    base, delta = make(threshold=threshold)
    cotangent = torch.randn_like(base)
    d_values, d_score = torch.autograd.grad((delta.effective(base) * cotangent).sum(),
                                            (delta.values, delta.threshold_score))  # fmt: skip
    active = delta.values.abs() > delta.threshold[delta.segment if threshold == "per_path" else 0]
    assert torch.allclose(d_values, cotangent * active)
    by_threshold = torch.zeros_like(delta.threshold_score)
    segment = delta.segment if threshold == "per_path" else torch.zeros(26, dtype=torch.int64)
    by_threshold.index_add_(0, segment, -(delta.values.sign() * cotangent * active).detach())
    chain = delta.threshold * (1 - delta.threshold)  # d = sigmoid(s)
    assert torch.allclose(d_score, by_threshold * chain)


def test_all_active_without_threshold_is_the_plain_sum():
    values = torch.randn(7, dtype=torch.float64)
    assert torch.equal(soft_threshold(values, torch.zeros(1, dtype=torch.float64)), values)


def test_gradcheck_away_from_the_kink():
    _, delta = make()
    values = delta.values.detach().requires_grad_()
    function = lambda v, d: soft_threshold(v, d)  # noqa: E731
    assert torch.autograd.gradcheck(function, (values, torch.tensor([0.0033], dtype=torch.float64)), eps=1e-7)


def test_initial_values_are_those_of_the_method():
    delta = DeltaParameter(Layer("big", "path linear", (Path("", 0, (200, 200)),), 40000), torch.arange(40000),
                           SparseDelta(delta_start="paper"), torch.zeros(40000, dtype=torch.float64))  # fmt: skip
    assert delta.values.std().item() == pytest.approx(0.01, rel=0.02)
    assert delta.threshold.item() == pytest.approx(1e-3, rel=1e-6)


def test_reachable_entries_are_those_of_the_species_present():
    layer = Layer("skip", "species linear", (Path("0e x 0e -> 0e", 0, (2, 3, 4), 1), Path("x", 24, (2, 2))), 28)
    mask = torch.zeros(28, dtype=torch.bool)
    mask[layer.reachable([0, 2])] = True
    assert not mask[:24].reshape(2, 3, 4)[:, 1].any()
    assert mask[:24].reshape(2, 3, 4)[:, [0, 2]].all()
    assert mask[24:].all()


@pytest.mark.parametrize("options", [
    {"schedule": "M"}, {"threshold": "per_weight"}, {"threshold_decay": -1.0}, {"initial_threshold": 1.5},
    {"initial_std": -0.1},
])  # fmt: skip
def test_wrong_options_are_named(options):
    with pytest.raises(InputError, match=next(iter(options))):
        SparseDelta(**options)


@pytest.mark.usefixtures("needs_mace")
@pytest.mark.parametrize("mode", ["uvu", "uvw", "uuu"])
def test_a_delta_on_an_e3nn_tensor_product_with_internal_weights(mode):
    from e3nn import o3

    from pathtune.backbones._e3nn import layer_of

    product = o3.TensorProduct("3x0e+3x1o", "3x0e+3x1o", "3x0e+3x1o", [(0, 1, 1, mode, True), (1, 1, 0, mode, True)],
                               internal_weights=True).double()  # fmt: skip
    layer = layer_of("tp", product)
    assert layer.kind == "tensor product"
    assert [path.text for path in layer.paths] == ["0e x 1o -> 1o", "1o x 1o -> 0e"]
    config = SparseDelta(delta_start="paper", initial_std=1.0)
    delta = DeltaParameter(layer, layer.reachable([]), config, product.weight)
    x, y = torch.randn(2, 5, product.irreps_in1.dim, dtype=torch.float64)
    out = product(x, y, weight=delta.effective(product.weight.detach()))
    merged = o3.TensorProduct("3x0e+3x1o", "3x0e+3x1o", "3x0e+3x1o", [(0, 1, 1, mode, True), (1, 1, 0, mode, True)],
                              internal_weights=True).double()  # fmt: skip
    with torch.no_grad():
        merged.weight.copy_(delta.effective(product.weight))
    assert torch.allclose(out, merged(x, y), rtol=0, atol=1e-12)
    assert not torch.allclose(out, product(x, y))
    out.pow(2).sum().backward()
    assert (delta.values.grad != 0).any()


def test_reference_steps_follow_schedule_free_adamw_written_out():
    """Three steps against the update of the paper's optimizer, written by hand (Defazio et al. 2024)."""
    import schedulefree

    torch.manual_seed(3)
    base, delta = make()
    target = torch.randn_like(base)
    groups = [{"params": [delta.values], "weight_decay": 1e-8}, {"params": [delta.threshold_score],
                                                                   "weight_decay": 0.3}]  # fmt: skip
    optimizer = schedulefree.AdamWScheduleFree(groups, lr=0.01)
    optimizer.train()
    y = [p.detach().clone() for p in (delta.values, delta.threshold_score)]
    z, v, weight_sum = [t.clone() for t in y], [torch.zeros_like(t) for t in y], 0.0
    for k in range(3):
        optimizer.zero_grad()
        (delta.effective(base) - target).pow(2).sum().backward()
        gradients = [delta.values.grad.clone(), delta.threshold_score.grad.clone()]
        optimizer.step()
        weight_sum += 0.01**2
        c = 0.01**2 / weight_sum
        for i, decay in enumerate((1e-8, 0.3)):
            v[i] = 0.999 * v[i] + 0.001 * gradients[i] ** 2
            g = gradients[i] / ((v[i] / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8) + decay * y[i]
            y[i] = (1 - c) * y[i] + c * z[i] + 0.01 * (0.9 * (1 - c) - 1) * g
            z[i] = z[i] - 0.01 * g
    assert torch.allclose(delta.values, y[0], rtol=0, atol=1e-12)
    assert torch.allclose(delta.threshold_score, y[1], rtol=0, atol=1e-12)
