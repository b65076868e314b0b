"""Laws of the sparse mode: what the dense mode says, without the dense gradient."""

import pytest
import schedulefree
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models import ALL, crystal, delta_of, deltas_of, molecule, tiny_mace
from pathtune import InputError, SparseDelta, load, merge, sparsify
from pathtune.adaptations.sparse import delta as delta_module
from pathtune.adaptations.sparse.delta import DeltaParameter
from pathtune.adapter_file import load_adapter, save_adapter
from pathtune.data import collate, from_atoms
from pathtune.layers import Layer, Path

pytestmark = pytest.mark.usefixtures("needs_mace")
LAYERS = [f"{block}.{name}" for i in range(2)
          for block, name in ((f"interactions.{i}", "linear_up"), (f"interactions.{i}", "linear"),
                              (f"interactions.{i}", "skip_tp"), (f"products.{i}", "linear"))]  # fmt: skip
CONFIG = {"delta_start": "paper", "initial_std": 0.3, "initial_threshold": 0.1}


def batch_of(model, *atoms):
    structures = [from_atoms(a) for a in atoms or (molecule(), crystal())]
    return collate(structures, model.atomic_numbers, model.backbone.r_max, model.backbone.dtype)


def candidates_of(base, share=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layers = {layer.name: layer.numel for layer in base.backbone.layers}
    return {name: torch.randperm(layers[name], generator=generator)[: max(1, int(share * layers[name]))]
            for name in LAYERS}  # fmt: skip


def both_modes(monkeypatch, dtype=torch.float64, **config):
    """The same model in sparse and in dense mode."""
    base = load(tiny_mace(dtype), backend="cpu")
    candidates, options = candidates_of(base), SparseDelta(**{**CONFIG, **config})
    sparse = sparsify(base, options, candidates=candidates)
    monkeypatch.setattr(delta_module, "CROSSOVER", 0.0)
    dense = sparsify(base, options, candidates=candidates)
    assert all(d.is_sparse for d in deltas_of(sparse))
    assert not any(d.is_sparse for d in deltas_of(dense))
    return sparse, dense


def loss_of(model, batch):
    prediction = model(batch, outputs=ALL, training=True)
    return prediction.forces.pow(2).sum() + prediction.energy.sum() + prediction.stress.pow(2).sum()


@pytest.mark.parametrize("threshold", ["per_layer", "per_path"])
def test_sparse_equals_dense_in_loss_and_gradients(monkeypatch, threshold):
    losses, gradients = [], []
    for model in both_modes(monkeypatch, threshold=threshold):
        losses.append(loss_of(model, batch_of(model)))
        gradients.append(torch.autograd.grad(losses[-1], model.trainable()))
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)
    for found, expected in zip(*gradients):
        assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
        assert (expected != 0).any()


class Created(TorchDispatchMode):
    """Shapes of all tensors of numbers that operators return; lists of edges may be as long as weights are many."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        # views of W' are not made of memory
        if not function.is_view:
            self.shapes |= {tuple(t.shape) for t in outputs if isinstance(t, torch.Tensor) and t.is_floating_point()}
        return result


def test_the_backward_makes_no_tensor_of_the_weights_size(monkeypatch):
    found = []
    for model in both_modes(monkeypatch):
        loss, created = loss_of(model, batch_of(model)), Created()
        with created:
            loss.backward(inputs=model.trainable())
        dense = {(d.layer.numel,) for d in deltas_of(model)}
        dense |= {path.shape for d in deltas_of(model) for path in d.layer.paths}
        found.append(created.shapes & dense)
    assert not found[0]
    assert found[1]  # the dense mode does


def test_training_in_both_modes_is_the_same(monkeypatch):
    import schedulefree

    losses = []
    for model in both_modes(monkeypatch):
        # writes through .data: W' must follow
        optimizer = schedulefree.AdamWScheduleFree(model.trainable(), lr=0.01)
        optimizer.train()
        batch, trace = batch_of(model), []
        for _ in range(20):
            loss = loss_of(model, batch)
            trace.append(loss.item())
            optimizer.zero_grad()
            loss.backward(inputs=model.trainable())
            optimizer.step()
        optimizer.eval()
        losses.append([*trace, loss_of(model, batch).item()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    assert losses[0][0] != losses[0][-1]


def test_validating_between_forward_and_backward_changes_nothing(monkeypatch):
    model, _ = both_modes(monkeypatch)
    batch = batch_of(model)
    expected = torch.autograd.grad(loss_of(model, batch), model.trainable())
    loss = loss_of(model, batch)
    model(batch)
    for found, e in zip(torch.autograd.grad(loss, model.trainable()), expected):
        assert torch.equal(found, e)


def test_a_step_between_forward_and_backward_is_refused_once_the_weights_are_rewritten(monkeypatch):
    model, _ = both_modes(monkeypatch)
    loss = loss_of(model, batch_of(model))
    with torch.no_grad():
        for parameter in model.trainable():
            parameter.mul_(1.1)
    model(batch_of(model))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward(inputs=model.trainable())


def test_entries_of_absent_species_get_zero(monkeypatch):
    model, _ = both_modes(monkeypatch)
    atoms = molecule()
    atoms.numbers[:] = 6
    loss_of(model, batch_of(model, atoms)).backward(inputs=model.trainable())
    skip = delta_of(model, "interactions.1.skip_tp")
    reached = torch.isin(skip.indices, skip.layer.reachable([1]))
    assert (skip.values.grad[~reached] == 0).all()
    assert (skip.values.grad[reached] != 0).any()


def test_merging_saving_and_counting_work(monkeypatch, tmp_path):
    sparse, dense = both_modes(monkeypatch)
    batch = batch_of(sparse)
    assert sparse.counts() == dense.counts()
    before = {k: v.clone() for k, v in sparse.backbone.stock.state_dict().items()}
    prediction = sparse(batch)
    assert all(torch.equal(v, before[k]) for k, v in sparse.backbone.stock.state_dict().items())
    save_adapter(sparse, tmp_path / "a.safetensors")
    loaded = load_adapter(load(tiny_mace(), backend="cpu"), tmp_path / "a.safetensors")
    for other in (load(merge(sparse), backend="cpu"), loaded, dense):
        assert (other(batch).forces - prediction.forces).abs().max() <= 1e-11


def test_the_sparse_mode_is_for_few_candidates_and_the_cpu_backend():
    base = load(tiny_mace(), backend="cpu")
    assert not any(d.is_sparse for d in deltas_of(sparsify(base, SparseDelta(delta_start="paper"))))
    assert not any(d.is_sparse for d in deltas_of(sparsify(base, candidates=candidates_of(base, 0.6))))
    base = load(tiny_mace(), backend="reference")
    assert not any(d.is_sparse for d in deltas_of(sparsify(base, candidates=candidates_of(base))))


@pytest.mark.parametrize(("candidates", "words"), [
    ({"interactions.7.linear": [0]}, "interactions.7.linear.*expected some of node_embedding.linear"),
    ({"interactions.0.linear": [0, 100000]}, "span 0 to 100000"),
    ({"interactions.0.linear": [-1]}, "span -1 to -1"),
    ({"interactions.0.linear": [3, 3]}, "repeated"),
])  # fmt: skip
def test_wrong_candidates_are_named(candidates, words):
    with pytest.raises(InputError, match=words):
        sparsify(load(tiny_mace()), candidates=candidates)


def bytes_of(*tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


def test_delta_and_optimizer_memory_is_a_fifteenth_of_dense_at_3_percent():
    paths = (Path("0e -> 0e", 0, (128, 128)), Path("1o -> 1o", 128**2, (128, 128)))
    layer = Layer("layer", "path linear", paths, 2 * 128**2)
    base = torch.zeros(layer.numel)
    chosen = torch.randperm(layer.numel)[: round(0.03 * layer.numel)].sort().values
    delta = DeltaParameter(layer, chosen, SparseDelta(), base, layer.numel, is_covered=True)
    assert delta.is_sparse
    optimizer = schedulefree.AdamWScheduleFree([delta.values], lr=1e-3)
    optimizer.train()
    delta.values.grad = torch.ones_like(delta.values)
    optimizer.step()
    state = [t for t in optimizer.state[delta.values].values() if torch.is_tensor(t)]
    tables = [t for t in vars(delta.target.candidates).values() if torch.is_tensor(t)]
    parts = [delta.values, delta.values.grad, delta.indices, delta.segment, *state, *tables]
    sparse = bytes_of(*{t.data_ptr(): t for t in parts}.values())  # the indices are shared
    dense = 4 * bytes_of(base)  # D, its gradient and two sequences of the optimizer, as the paper's code keeps them
    assert sparse <= dense / 15
