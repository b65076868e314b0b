"""The blocks of MH-0, MH-1 and OMOL-0 on our kernels, against the stock model, in float64."""

import functools

import pytest
import torch
from test_charge_and_spin import SPECS, charged
from test_mace_forward import assert_equal
from test_reachable import TWO_HEADS, nonlinear, readout

from laws.forward import force_loss_gradients
from models import crystal, irreps_of, labelled, molecule, tiny_mace
from pathtune import FitConfig, SparseDelta, fit, load, merge, sparsify
from pathtune.data import from_atoms

pytestmark = pytest.mark.usefixtures("needs_mace")


def mixed():
    from mace import modules

    return {"interaction_cls_first": modules.RealAgnosticDensityInteractionBlock,
            "interaction_cls": modules.RealAgnosticResidualNonLinearInteractionBlock}  # fmt: skip


VARIANTS = {
    "MH-1, small": lambda: nonlinear(hidden_irreps=irreps_of("5x0e+5x1o"), edge_irreps=irreps_of("3x0e+3x1o+3x2e"),
                                     radial_MLP=[6, 6], use_last_readout_only=True, **TWO_HEADS),
    "one layer's radial network, cutoff in the basis": lambda: nonlinear(apply_cutoff=True, use_edge_irreps_first=True),
    "no edge_irreps, products that know the species": lambda: nonlinear(edge_irreps=None, use_agnostic_product=False),
    "readout with biases": lambda: nonlinear(**TWO_HEADS, readout_cls=readout("NonLinearBiasReadoutBlock")),
    "OMOL-0, small": lambda: nonlinear(num_interactions=3, embedding_specs=SPECS, use_embedding_readout=True),
    "beside a density block, ZBL, Agnesi": lambda: {**mixed(), "pair_repulsion": True, "distance_transform": "Agnesi"},
}  # fmt: skip


@functools.cache
def both(variant, dtype=torch.float64):
    stock = tiny_mace(dtype, **{"max_ell": 2, "radial_MLP": [6], **VARIANTS[variant]()})
    with torch.no_grad():  # mace starts these near zero or at one value
        for name, p in stock.named_parameters():
            if "embedding.weight" in name or name.endswith(("beta", ".bias")) or ".net.1." in name:
                p.add_(torch.randn_like(p) * 0.3)
            if name.endswith("alpha"):
                p.fill_(3.0)
    return [load(stock, backend=b, radial_tables=False) for b in ("reference", "cpu")]


def batch_of(model):
    frames = [charged(a, c, s) for a, c, s in ((crystal(), -1, 2), (molecule(1), 2, 1), (molecule(n=1), 0, 1))]
    structures = [from_atoms(a) for a in frames]
    if len(model.backbone.heads) == 2:
        structures[1].head = "b"
    return model.collate(structures)


@pytest.mark.parametrize("variant", VARIANTS)
def test_energies_forces_stress_and_gradients_equal_the_stock_models(variant):
    reference, ours = both(variant)
    assert ours.backbone.backend == "cpu"
    batch = batch_of(ours)
    assert_equal(reference, ours, batch)


def test_a_gradient_at_few_candidates_is_the_dense_one_there():
    _, ours = both("MH-1, small")
    names = {f"interactions.1.{name}" for name in ("linear_up", "linear_res", "linear_1", "linear_2", "skip_tp")}
    assert names <= ours.backbone.sparse_layers
    batch, dense = batch_of(ours), sparsify(ours, SparseDelta(active_share=1.0, initial_share=1.0))
    few = {d.layer.name: d.indices[::7] for d in dense.adaptation.parts()[0].deltas}
    sparse = sparsify(ours, SparseDelta(active_share=1.0), candidates=few)
    found = dict(zip(few, force_loss_gradients(sparse, batch)))
    for d, g in zip(dense.adaptation.parts()[0].deltas, force_loss_gradients(dense, batch)):
        assert torch.allclose(found[d.layer.name], g[::7], rtol=1e-10, atol=1e-12), d.layer.name


def test_float32_agrees_to_rounding():
    reference, ours = both("MH-1, small", torch.float32)
    p, q = (m(batch_of(ours)) for m in (reference, ours))
    assert torch.allclose(p.interaction_energy, q.interaction_energy, rtol=1e-5, atol=1e-5)
    assert (p.forces - q.forces).abs().max() <= 1e-5 * p.forces.abs().max()


def test_a_fit_and_a_merge_keep_what_was_learned():
    _, ours = both("MH-1, small")
    frames = labelled([molecule(k) for k in range(6)])
    model = sparsify(ours, SparseDelta(active_share=0.3))
    history = fit(model, frames[:4], frames[4:], FitConfig(epochs=2, batch_size=2, check_units=False))
    assert len(history.epochs) == 2
    batch = batch_of(ours)
    merged = load(merge(model), backend="reference")
    p, q = model(batch), merged(batch)
    assert torch.allclose(p.forces, q.forces, rtol=1e-10, atol=1e-11)
    assert not torch.equal(p.forces, ours(batch).forces)


@pytest.mark.slow
def test_it_agrees_at_the_widths_of_mh_1():
    """512x0e+512x1o, 128 channels of order 3 on the edges, 16 atoms, double precision; all gradients."""
    from pathtune.benchmark.cases import build
    from pathtune.benchmark.step import agreement, make_batch, make_model

    stock = build("mh-1", dtype=torch.float64)
    reference, ours = (make_model(stock, backend, "full", 1.0, [8, 26, 29]) for backend in ("reference", "cpu"))
    assert ours.backbone.backend == "cpu"
    found = agreement(reference, ours, make_batch(ours, "mh-1", 16))
    assert found["energy_ev_atom"] < 1e-12
    assert found["forces_ev_a"] < 1e-10 * found["forces_max_ev_a"]
    assert found["gradient_relative"] < 1e-11
