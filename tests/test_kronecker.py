"""Laws of full fine-tuning in the Kronecker basis: W' = W + U D V^T, in which nothing but Adam's coordinates differ."""

import itertools

import pytest
import torch

from models import labelled, molecule, nonlinear, tiny_mace
from pathtune import FitConfig, InputError, adapt, fit, load, merge
from pathtune.adaptations import Composition, Full
from pathtune.adaptations.kronecker import MOST_FRAMES, RATE, RIDGE
from pathtune.adaptations.pull import PullOptions
from pathtune.data import Request, as_source, batches, from_atoms
from pathtune.training.folder import RunFolder
from stopping import killed_at

pytestmark = pytest.mark.usefixtures("needs_mace")
CONFIG = FitConfig(epochs=3, batch_size=2, lr=1e-2)
KINDS = {"with species linears": dict, "with nonlinear blocks": nonlinear}
ELEMENTS = {"of all elements": (1, 6, 8), "of some": (1, 8)}


@pytest.fixture(scope="module", params=KINDS)
def base(request):
    return load(tiny_mace(**KINDS[request.param]()))


@pytest.fixture(params=ELEMENTS)
def elements(request):
    return ELEMENTS[request.param]


def structures(seed, elements, n=4):
    frames = [molecule(seed + i, n=4) for i in range(n)]
    for atoms in frames:
        if 6 not in elements:
            atoms.numbers[atoms.numbers == 6] = 8
    return [from_atoms(atoms) for atoms in labelled(frames, seed)]


def begun(base, elements, frames=None):
    """A model whose basis is found, and the adaptation."""
    model = adapt(base, ["kron"], elements)
    kron = model.adaptation.parts()[0]
    kron.begin(model, batches(model, as_source(frames or structures(0, elements)), 1), CONFIG.loss_of)
    return model, kron


def drawn(kron, scale=0.01, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for d in kron.trainable():
            d.add_(scale * torch.randn(d.shape, generator=generator, dtype=d.dtype))


def trained(model, elements, **more):
    fit(model, structures(0, elements), structures(50, elements), CONFIG, **more)
    return {name: p.detach() for name, p in merge(model).named_parameters()}


def test_it_starts_at_the_base_and_trains_every_weight_that_full_fine_tuning_does(base, elements):
    model, _ = begun(base, elements)
    batch = base.collate(structures(9, elements))
    assert torch.equal(model(batch).forces, base(batch).forces)
    assert model.counts() == adapt(base, ["full"], elements).counts()


def flat_gradients(kron, gradients):
    """Gradients by parameter name as kron counts all trained weights."""
    rows = kron._rows
    found = [(gradients[layer.parameter].flatten(), rows.get(layer.parameter)) for layer in kron._trained]
    return torch.cat([g if r is None else g[r.indices] for g, r in found])


def basis_of(kron, layer, path, species):
    """U and V of one matrix of a path, found by where its weights stand; `species`: as the model counts them."""
    start = sum(kron._own(other).numel() for other in kron._trained[: kron._trained.index(layer)])
    places = torch.arange(layer.numel)[path.offset : path.offset + path.numel].view(path.shape)
    rows = kron._rows.get(layer.parameter)
    if rows is not None:
        places = torch.searchsorted(rows.indices, places)
    if path.species_axis is not None:
        places = places.select(path.species_axis, species)
    places = places.reshape(-1, path.shape[-1]) + start
    for blocks, sides in zip(kron._blocks, kron._bases):
        for k, block in enumerate(blocks):
            if torch.equal(block, places):
                return [None if side is None else side[k] for side in sides]
    raise AssertionError(f"no block is {layer.name} {path}")


def test_u_and_v_are_eigenvectors_of_what_the_gradients_of_the_structures_say(base, elements):
    frames = structures(0, elements, n=3)
    _, kron = begun(base, elements, frames)
    whole = adapt(base, ["full"]).use(Composition([Full(base.backbone.copy())], base.base, elements, base.e0))
    gradients = []
    for frame in frames:
        batch = whole.collate([frame])
        loss = CONFIG.loss_of(whole(batch, training=True), batch)
        gradients.append(torch.autograd.grad(loss, whole.trainable(), allow_unused=True))
    named = [dict(zip([n for n, _ in whole.backbone.stock.named_parameters()], g)) for g in gradients]
    n_seen = 0
    for layer in kron._trained:
        for path in layer.paths:
            for species in base.species_of(elements)[: 1 if path.species_axis is None else None]:
                gs = [g[layer.parameter].flatten()[path.offset : path.offset + path.numel] for g in named]
                gs = [g.view(path.shape) for g in gs]
                if path.species_axis is not None:
                    gs = [g.select(path.species_axis, species) for g in gs]
                gs = [g.reshape(-1, path.shape[-1]) for g in gs]
                u, v = basis_of(kron, layer, path, species)
                for basis, moment in ((u, sum(g @ g.T for g in gs)), (v, sum(g.T @ g for g in gs))):
                    assert (basis is None) == (len(moment) == 1)
                    if basis is not None:
                        found = basis.T @ (moment + RIDGE * moment.diagonal().diag()) @ basis
                        one = torch.eye(len(moment), dtype=found.dtype)
                        assert torch.allclose(basis.T @ basis, one, rtol=0, atol=1e-12)
                        off = found - torch.diag(found.diagonal())
                        assert float(off.abs().max()) <= 1e-10 * float(moment.trace()), (layer.name, path)
                        n_seen += 1
    assert n_seen > 20


@pytest.mark.parametrize("most_side", [4, 512])
def test_gradients_of_d_are_those_of_the_weights_in_its_coordinates(base, elements, most_side, monkeypatch):
    monkeypatch.setattr("pathtune.adaptations.kronecker.MOST_SIDE", most_side)
    model, kron = begun(base, elements)
    drawn(kron)
    batch = base.collate(structures(5, elements))
    dense = {name: w.detach().requires_grad_() for name, w in model.effective_weights().items()}
    values = []
    for weights in (kron.weights(model.backbone.parameters), dense):
        p = model.predict(weights, batch, Request(batch.wanted, training=True))
        values.append((p.forces**3).sum() + (p.interaction_energy**2).sum())
    found = torch.autograd.grad(values[0], list(kron._d))
    gradients = dict(zip(dense, torch.autograd.grad(values[1], list(dense.values()))))
    flat = flat_gradients(kron, gradients)
    for d, block, (u, v) in zip(found, kron._blocks, kron._bases):
        expected = flat[block] if u is None else u.mT @ flat[block]
        expected = expected if v is None else expected @ v
        assert torch.allclose(d, expected, rtol=1e-9, atol=1e-12 * float(flat.abs().max()))


def test_in_the_basis_of_the_weights_themselves_it_is_full_fine_tuning(base, elements, monkeypatch):
    expected = trained(adapt(base, ["full"], elements), elements)
    monkeypatch.setattr("pathtune.adaptations.kronecker.Kronecker.begin", lambda *of: False)
    found = trained(adapt(base, ["kron"], elements), elements)
    for name, w in expected.items():
        assert torch.allclose(found[name], w, rtol=0, atol=1e-9), name


def test_it_resumes_bitwise_and_leaves_other_elements_bitwise(base, elements, tmp_path):
    expected = trained(adapt(base, ["kron"], elements), elements)
    folder = RunFolder(tmp_path)
    with killed_at(3):
        trained(adapt(base, ["kron"], elements), elements, folder=folder)
    found = trained(adapt(base, ["kron"], elements), elements, folder=folder)
    assert all(torch.equal(found[name], w) for name, w in expected.items())
    for layer in base.backbone.layers:
        w, own = found[layer.parameter].flatten(), base.backbone.parameters[layer.parameter].flatten()
        others = torch.ones(layer.numel, dtype=torch.bool)
        others[layer.reachable(base.species_of(elements))] = False
        assert not torch.equal(w, own), layer.parameter
        assert torch.equal(w[others], own[others]), layer.parameter


def test_what_was_learnt_stays_when_more_species_or_another_basis_come(base):
    model = adapt(base, ["kron"], (1, 8))
    before = trained(model, (1, 8))
    kron = model.adaptation.parts()[0]
    kron.sees(base.species_of([1, 6]))
    after = {name: p.detach() for name, p in merge(model).named_parameters()}
    assert all(torch.allclose(after[name], w, rtol=0, atol=1e-14) for name, w in before.items())
    kron.begin(model, batches(model, as_source(structures(3, (1, 6, 8))), 1), CONFIG.loss_of)
    after = {name: p.detach() for name, p in merge(model).named_parameters()}
    assert all(torch.allclose(after[name], w, rtol=0, atol=1e-14) for name, w in before.items())


def test_a_pull_holds_it_nearer_to_the_base(base):
    elements = (1, 6, 8)
    for pull in ("l2sp", "ewc"):
        moved = []
        for strength in (0.0, 10.0):
            options = {"pull": PullOptions(pull=pull, pull_strength=strength)}
            found = trained(adapt(base, ["kron", "pull"], elements, options), elements)
            own = base.backbone.parameters
            moved.append(sum(float((found[n] - w).square().sum()) for n, w in own.items() if n in found))
        assert moved[1] < moved[0]


def test_its_rate_follows_the_root_of_the_run_and_its_basis_asks_few_structures(base):
    kron = adapt(base, ["kron"]).adaptation.parts()[0]
    assert kron.learning_rate(400) == pytest.approx(20 * RATE)
    seen = []

    def frames():
        for batch in batches(base, as_source(structures(0, (1, 6, 8), n=MOST_FRAMES + 3)), 1):
            seen.append(batch)
            yield batch

    model = adapt(base, ["kron"])
    model.adaptation.parts()[0].begin(model, frames(), CONFIG.loss_of)
    assert len(seen) == MOST_FRAMES


def test_gradients_that_are_not_finite_are_refused(base):
    model = adapt(base, ["kron"])
    frames = batches(model, as_source(structures(0, (1, 6, 8))), 1)
    with pytest.raises(InputError, match="kron: .* gradients that are not finite"):
        model.adaptation.parts()[0].begin(model, frames, lambda *of: CONFIG.loss_of(*of) * float("inf"))
    with pytest.raises(InputError, match="kron: the training set has 0 structures"):
        model.adaptation.parts()[0].begin(model, [], CONFIG.loss_of)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_where_few_structures_leave_the_basis_open_rounding_does_not_choose_it(dtype):
    stock = tiny_mace(hidden_irreps="16x0e + 16x1o")
    bases = []
    for backend in ("reference", "cpu"):
        model = load(stock, dtype=dtype, backend=backend)
        model, kron = begun(model, (1, 6, 8), structures(0, (1, 6, 8), n=3))
        bases.append([basis for sides in kron._bases for basis in sides if basis is not None])
    for a, b in zip(*bases, strict=True):
        # Up to the sign of a vector, which Adam does not see.
        alike = (a.mT @ b).abs()
        assert float((alike.diagonal(dim1=-2, dim2=-1) - 1).abs().mean()) < (1e-4 if dtype == "float64" else 0.05)


def test_replay_does_not_change_the_basis(base):
    bases = []
    for replay in (None, structures(80, (1, 6, 8), n=9)):
        model = adapt(base, ["kron"])
        fit(model, structures(0, (1, 6, 8)), structures(50, (1, 6, 8)), CONFIG, replay=replay)
        bases.append(model.adaptation.state()[0]["bases"])
    assert all(torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in zip(*bases, strict=True))
    assert not torch.equal(bases[0][0][0], torch.eye(len(bases[0][0][0]), dtype=bases[0][0].dtype))


def test_the_frames_that_are_asked_lie_all_over_a_sorted_file(base, monkeypatch):
    seen = []

    def begin(self, model, frames, loss):
        seen.extend(batch.n_nodes for batch in itertools.islice(frames, 6))

    monkeypatch.setattr("pathtune.adaptations.kronecker.Kronecker.begin", begin)
    data = [from_atoms(a) for a in labelled([molecule(i, n=4 + i // 10) for i in range(20)])]
    fit(adapt(base, ["kron"]), data, data[:2], FitConfig(epochs=1, batch_size=10, check_units=False))
    assert set(seen) == {4, 5}
