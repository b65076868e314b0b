"""cuEquivariance: its naive method as a second oracle of our operators, and `backend="cueq"`.

The tests of its own need cuequivariance-torch, which changes the shapes of mace's contractions: an environment of their
own, `pip install ".[mace,cueq,test]"`. On a CPU only its naive method runs.
"""

import copy

import pytest
import torch

from laws.compare import assert_all_close
from laws.edge_conv import derivatives, graph_of, inputs_of
from laws.symmetric_contraction import SPECIES
from laws.symmetric_contraction import derivatives as contraction_derivatives
from laws.symmetric_contraction import kernel as contraction_kernel
from models import ALL, crystal, irreps_of, molecule, tiny_mace
from pathtune import InputError, SparseDelta, load, merge, sparsify
from pathtune.backbones import _mace_cueq
from pathtune.backbones._packages import import_cueq, quiet_torchscript
from pathtune.backbones.mace import MaceBackbone
from pathtune.data import from_atoms
from pathtune.model import Potential
from pathtune.ops import edge_conv

pytestmark = pytest.mark.usefixtures("needs_mace")


@pytest.fixture
def cueq():
    try:
        return import_cueq()
    except ImportError:
        pytest.skip("needs the package cuequivariance-torch")


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


FEATURES = ("5x0e", "4x0e+4x1o", "3x0e+3x1o+3x2e", "2x0o+2x1e")


@pytest.mark.parametrize("graph", ["several", "one node, its images"])
@pytest.mark.parametrize("features", FEATURES)
def test_edge_conv_equals_cuequivariances_naive_method_through_second_derivatives(features, graph, cueq, double):
    from e3nn import o3
    from mace.modules.irreps_tools import tp_out_irreps_with_instructions

    from pathtune.backbones._e3nn import conv_table

    cue, _ = cueq
    x, y = o3.Irreps(features), o3.Irreps.spherical_harmonics(3)
    target = o3.Irreps("0e+0o+1o+1e+2e+2o")
    out, instructions = tp_out_irreps_with_instructions(x, y, target)
    with quiet_torchscript():
        product = o3.TensorProduct(x, y, out, instructions, shared_weights=False, internal_weights=False)
    theirs = _mace_cueq.cueq_product(product, torch.float64, "naive", cue.ir_mul)

    def naive(x, y, w, graph, table):
        edges = {"indices_1": graph.sender, "indices_out": graph.receiver, "size_out": graph.n_nodes}
        return theirs(x, y, w[graph.weight_row], **edges)

    inputs = inputs_of(conv_table(product), graph_of(graph))
    assert_all_close(derivatives(edge_conv, *inputs), derivatives(naive, *inputs), 1e-12)


@pytest.mark.parametrize("species", ["several", "one node"])
@pytest.mark.parametrize("correlation", [2, 3])
@pytest.mark.parametrize(("before", "after"), [("4x0e+4x1o", "4x0e"), ("3x0e+3x1o+3x2e", "3x0e+3x1o")])
def test_symmetric_contraction_equals_cuequivariances_naive_method(before, after, correlation, species, cueq, double):
    from mace.modules.symmetric_contraction import SymmetricContraction
    from mace.tools.cg import O3_e3nn

    cue, cuet = cueq
    with quiet_torchscript():
        irreps = irreps_of(before), irreps_of(after)
        stock = SymmetricContraction(*irreps, correlation, num_elements=5, use_reduced_cg=False)
    theirs = cuet.SymmetricContraction(
        cue.Irreps(O3_e3nn, before), cue.Irreps(O3_e3nn, after), correlation, 5, layout=cue.ir_mul, method="naive",
        original_mace=True, dtype=torch.float64, math_dtype=torch.float64,
    )  # fmt: skip
    outputs, weights, order = [], [], []
    for contraction in stock.contractions:
        degrees = range(1, correlation + 1)
        us = [contraction.U_tensors(degree) for degree in degrees]
        outputs.append([u if u.ndim == d + 2 else u.unsqueeze(0) for d, u in zip(degrees, us)])
        n = len(weights)
        weights += [contraction.weights[correlation - 1 - d].detach().clone() for d in degrees[:-1]]
        weights.append(contraction.weights_max.detach().clone())
        order += [n + correlation - 1, *range(n + correlation - 2, n - 1, -1)]  # mace's: highest degree first
    u_s = [u for by_degree in outputs for u in by_degree]
    weights = [w.requires_grad_(bool(u.any())) for w, u in zip(weights, u_s)]  # no coupling: held at zero

    def naive(a, weights, species, outputs):
        flat = torch.cat([weights[k] for k in order if weights[k].requires_grad], 1)
        return torch.func.functional_call(theirs, {"weight": flat}, (a.flatten(1), species.int())).reshape(
            a.shape[0], -1, a.shape[2]
        )

    index = SPECIES[species]
    a = torch.randn(index.numel(), irreps_of(before).dim // weights[0].shape[-1], weights[0].shape[-1]).requires_grad_()
    arguments = (a, weights, index, outputs)
    assert_all_close(
        contraction_derivatives(contraction_kernel, *arguments), contraction_derivatives(naive, *arguments), 1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    {}, {"use_reduced_cg": True}, {"correlation": 3, "hidden_irreps": "4x0e+4x1o+4x2e"},
], ids=["plain", "reduced", "correlation 3"])  # fmt: skip
def test_a_model_in_cuequivariances_layout_comes_back_exactly(options, cueq, double, tmp_path):
    from mace.cli import convert_e3nn_cueq

    if "hidden_irreps" in options:
        options = {**options, "hidden_irreps": irreps_of(options["hidden_irreps"])}
    stock = tiny_mace(**options)
    expected = predict(load(stock))
    with quiet_torchscript():
        torch.save(convert_e3nn_cueq.run(stock, device="cpu", return_model=True), tmp_path / "cueq.model")
    found = load(tmp_path / "cueq.model")
    assert found.backbone.backend == "cpu"
    if not options:
        assert all(torch.equal(w, found.backbone.parameters[name]) for name, w in stock.named_parameters())
    assert_all_close(predict(found), expected, 1e-12)


def predict(model, training=False):
    p = model(model.collate([from_atoms(a) for a in (crystal(), molecule(1))]), outputs=ALL, training=training)
    return [p.interaction_energy, p.forces, p.stress]


def gradients(model):
    loss = sum((t**2).sum() for t in predict(model, training=True))
    return torch.autograd.grad(loss, model.trainable(), allow_unused=True, materialize_grads=True)


def attention(**changes):
    """A model with a block that our kernels do not cover."""
    from mace.modules import RealAgnosticAttResidualInteractionBlock as Block

    return tiny_mace(interaction_cls=Block, interaction_cls_first=Block, **changes)


def on_cpu(monkeypatch, product):
    """Lets backend "cueq" compute on a CPU, by this in place of cuEquivariance's product on a device."""
    monkeypatch.setattr(_mace_cueq, "cueq_product", product)


def assert_the_backend_agrees(stock):
    reference, found = Potential(MaceBackbone(stock, "reference")), Potential(MaceBackbone(stock, "cueq"))
    assert (reference.backbone.backend, found.backbone.backend) == ("reference", "cueq")
    assert_all_close(predict(found), predict(reference), 1e-11)
    delta = SparseDelta(delta_start="paper", initial_std=0.1)
    tuned, expected = sparsify(found, delta), sparsify(reference, delta)
    assert_all_close(gradients(tuned), gradients(expected), 1e-9)
    assert_all_close(predict(Potential(tuned.backbone.copy())), predict(found), 1e-12)
    merged = load(merge(tuned), backend="reference")
    assert_all_close(predict(merged), predict(tuned), 1e-11)


@pytest.mark.parametrize("kind", ["covered", "attention"])
def test_the_backend_computes_what_mace_does_by_the_naive_method(kind, cueq, monkeypatch):
    product = _mace_cueq.cueq_product
    on_cpu(monkeypatch, lambda tp, dtype, method: product(tp, dtype, "naive"))
    assert_the_backend_agrees({"covered": tiny_mace, "attention": attention}[kind]())


def test_weights_pass_through_the_replaced_products(monkeypatch):
    on_cpu(monkeypatch, lambda tp, dtype, method: copy.deepcopy(tp))
    assert_the_backend_agrees(attention())


class Wrong(torch.nn.Module):
    def __init__(self, product, change):
        super().__init__()
        self.product, self.change = product, change

    def forward(self, *inputs):
        return self.change(self.product, *inputs)


def _flat(product, x, y, w):
    """The right value and first derivatives, and no second ones."""
    value = product(x, y, w)
    first = torch.autograd.grad((value**2).sum(), (x, y, w), retain_graph=True)
    return value.detach() + sum(((t - t.detach()) * g).sum() for t, g in zip((x, y, w), first)) / value.numel()


PLANTED = {
    "one part in a thousand": (lambda p, x, y, w: p(x, y, w) * 1.001, "differs from mace's by"),
    "paths in another order": (lambda p, x, y, w: p(x, y, w.roll(4, 1)), "differs from mace's by"),
    "derivatives that are wrong": (_flat, "differs from mace's by"),
    "no gradient of the harmonics": (lambda p, x, y, w: p(x, y.detach(), w), "cannot replace mace's in interactions.0"),
    "not a number": (lambda p, x, y, w: p(x, y, w) * float("nan"), "differs from mace's by nan"),
    "another size": (lambda p, x, y, w: p(x, y, w)[:, :-1], "cannot replace mace's in interactions.0 .shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANTED)
def test_a_product_that_is_not_maces_is_refused_before_it_is_used(case, monkeypatch):
    change, words = PLANTED[case]
    on_cpu(monkeypatch, lambda tp, dtype, method: Wrong(copy.deepcopy(tp), change))
    with pytest.raises(InputError, match=f"backend is 'cueq', but cuEquivariance's product .*{words}"):
        MaceBackbone(attention(), "cueq")


def test_a_fault_of_one_later_block_is_found_too(monkeypatch):
    seen = []

    def product(tp, dtype, method):
        seen.append(tp)
        return Wrong(copy.deepcopy(tp), lambda p, *inputs: p(*inputs) * (1.0 + 1e-6 * (len(seen) == 2)))

    on_cpu(monkeypatch, product)
    with pytest.raises(InputError, match="in interactions.1 differs"):
        MaceBackbone(attention(), "cueq")


def test_the_backend_is_for_mace_on_a_device_only(monkeypatch):
    with pytest.raises(InputError, match="backend is 'cueq', but device is 'cpu', expected cuda"):
        load(attention(), backend="cueq")
    monkeypatch.setattr("pathtune.loading._checked_device", lambda device, backend: torch.device("cuda"))
    with pytest.raises(InputError, match="backend is 'cueq', which is for MACE only, expected auto, cpu or reference"):
        load("nequix:any.nqx", backend="cueq", device="cuda")
