"""Laws of the pull to the base: what it adds to the loss, what it is worth, and that it leaves nothing behind."""

import ase.io
import pytest
import torch

from models import crystal, labelled, molecule, tiny_mace
from pathtune import FitConfig, InputError, SparseDelta, adapt, fit, load
from pathtune.adaptations import pull as module
from pathtune.adaptations.pull import PullOptions, changed_weights, fisher_diagonal
from pathtune.data import Request, from_atoms
from pathtune.training.folder import RunFolder
from stopping import killed_at

pytestmark = pytest.mark.usefixtures("needs_mace")
ARMS = [("full",), ("readout",), ("lora",), ("modulation",), ("sparse",), ("sparse", "lora")]
arms = pytest.mark.parametrize("kinds", ARMS, ids="+".join)


@pytest.fixture(scope="module")
def base():
    return load(tiny_mace())


def structures(seed, n=4):
    return [from_atoms(atoms) for atoms in labelled([molecule(seed + i, n=4) for i in range(n)], seed)]


def pulled(base, kinds, **options):
    return adapt(base, [*kinds, "pull"], (1, 6, 8), {"pull": PullOptions(**options)} if options else {})


def distance(model):
    own = model.base.parameters
    return sum(float((w - own[name]).detach().square().sum()) for name, w in changed_weights(model).items())


@arms
def test_the_penalty_is_half_the_strength_times_the_squared_distance_from_the_base(base, kinds):
    model = pulled(base, kinds, pull_strength=0.3)
    pull = model.adaptation.parts()[-1]
    assert pull.penalty(model).item() == 0.0
    with torch.no_grad():
        for p in model.trainable():
            p += 0.1
    found = pull.penalty(model)
    merged = model.backbone.with_weights(dict(model.effective_weights()), model.e0, 0)
    pairs = zip(merged.parameters(), base.backbone.stock.parameters())
    moved = sum(float((a - b).detach().square().sum()) for a, b in pairs)
    assert found.item() == pytest.approx(0.15 * moved, rel=1e-10)
    gradients = torch.autograd.grad(found, model.trainable())
    assert all(g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize("kinds", [("full",), ("sparse", "lora")], ids="+".join)
def test_a_stronger_pull_ends_nearer_to_the_base(base, kinds):
    found = []
    for strength in (0.0, 0.1, 10.0):
        model = pulled(base, kinds, pull_strength=strength)
        fit(model, structures(0), structures(0), FitConfig(epochs=3, batch_size=2))
        found.append(distance(model))
    assert found[0] > found[1] > found[2] > 0


def test_without_strength_the_run_is_that_without_a_pull(base):
    runs = []
    for kinds in (["sparse"], ["sparse", "pull"], ["pull", "sparse"]):
        model = adapt(base, kinds, (1, 6, 8), {"delta": SparseDelta(), "pull": PullOptions(pull_strength=0.0)})
        fit(model, structures(0), structures(50), FitConfig(epochs=2, batch_size=2, lr=0.05))
        runs.append([p.detach().clone() for p in model.trainable()])
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


def test_the_fisher_diagonal_is_that_of_the_weighted_outputs(base):
    """Of energy per atom and forces: all derivatives one by one, against the mean of many draws of signs."""
    model = pulled(base, ["full"], pull="ewc")
    batch = base.collate(structures(3, n=1))
    weights = {name: p.detach().clone().requires_grad_() for name, p in base.backbone.parameters.items()}
    out = base.predict(weights, batch, Request(training=True)).outputs
    exact = dict.fromkeys(weights, 0.0)
    numbers = [(1.0, out["energy"] / batch.n_atoms)] + [(100.0 / 12, f) for f in out["forces"].flatten()]
    for weight, value in numbers:
        found = torch.autograd.grad(value.sum(), list(weights.values()), retain_graph=True, allow_unused=True,
                                    materialize_grads=True)  # fmt: skip
        for name, g in zip(weights, found):
            exact[name] = exact[name] + weight * g.square()
    drawn = fisher_diagonal(model, [batch] * 80, seed=0)
    assert drawn.keys() == exact.keys()
    a, b = (torch.cat([f[name].flatten() for name in weights]) for f in (exact, drawn))
    assert float(b.sum() / a.sum()) == pytest.approx(1.0, abs=0.2)
    assert float(torch.corrcoef(torch.stack([a.sqrt(), b.sqrt()]))[0, 1]) > 0.97
    (from_energy,) = torch.autograd.grad((out["energy"] / batch.n_atoms).sum(), [weights["readouts.0.linear.weight"]])
    assert (b >= 0).all()
    assert (drawn["readouts.0.linear.weight"] >= from_energy.square() - 1e-12).all()


def test_ewc_pulls_weights_that_matter_more(base):
    model = pulled(base, ["full"], pull="ewc", pull_strength=2.0)
    pull = model.adaptation.parts()[-1]
    pull.begin(model, [base.collate(structures(i, n=1)) for i in range(3)], None)
    with torch.no_grad():
        for p in model.trainable():
            p += 0.1
    expected = sum(0.01 * float(f.sum()) for f in pull.fisher.values())
    assert pull.penalty(model).item() == pytest.approx(expected, rel=1e-9)


def test_ewc_remembers_the_structures_that_are_named_and_needs_no_labels(base, tmp_path):
    ase.io.write(tmp_path / "old.xyz", [molecule(7, n=4), crystal(1), molecule(8, n=1)], format="extxyz")
    model = pulled(base, ["lora"], pull="ewc", pull_data=str(tmp_path / "old.xyz"))
    history = fit(model, structures(0), structures(50), FitConfig(epochs=2, batch_size=2))
    other = pulled(base, ["lora"], pull="ewc")
    fit(other, structures(0), structures(50), FitConfig(epochs=2, batch_size=2))
    assert history.epochs[-1]["active"] > 0
    mine, theirs = (m.adaptation.parts()[-1].fisher for m in (model, other))
    assert mine.keys() == theirs.keys()
    assert not any(torch.equal(f, theirs[name]) for name, f in mine.items())


def test_a_killed_run_with_ewc_resumes_bitwise_and_does_not_compute_the_fisher_information_again(
    base, tmp_path, monkeypatch
):
    config = FitConfig(epochs=2, batch_size=2, checkpoint_minutes=1e-9)
    expected = pulled(base, ["lora"], pull="ewc")
    fit(expected, structures(0), structures(50), config)
    folder = RunFolder(tmp_path / "run")
    folder.folder.mkdir()
    with killed_at(3):
        fit(pulled(base, ["lora"], pull="ewc"), structures(0), structures(50), config, folder=folder)
    monkeypatch.setattr(module, "fisher_diagonal", None)
    resumed = pulled(base, ["lora"], pull="ewc")
    fit(resumed, structures(0), structures(50), config, folder=folder)
    assert all(torch.equal(a, b) for a, b in zip(expected.trainable(), resumed.trainable(), strict=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pull": "hard"}, "pull is 'hard', expected one of l2sp, ewc"),
        ({"pull_strength": -1.0}, "pull_strength is -1.0, expected a number of at least 0"),
        ({"pull_data": "a.xyz"}, "pull_data is 'a.xyz' beside pull 'l2sp', expected it with ewc only"),
    ],
)
def test_wrong_options_of_a_pull_are_named(options, said):
    with pytest.raises(InputError, match=said):
        PullOptions(**options)


def test_a_pull_alone_has_nothing_to_train_and_a_missing_set_is_named(base):
    with pytest.raises(InputError, match="the model has nothing to train"):
        fit(pulled(base, []), structures(0), structures(50))
    with pytest.raises(InputError, match=r"absent.xyz"):
        pulled(base, ["lora"], pull="ewc", pull_data="absent.xyz")
