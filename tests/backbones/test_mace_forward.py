"""The accelerated forward against the stock model, block by block, in float64."""

import ase.build
import numpy as np
import pytest
import torch

from laws.forward import assert_a_step_repeats, batch_of, force_loss_gradients
from models import ALL, crystal, molecule, tiny_mace
from pathtune import InputError, SparseDelta, load, sparsify, unfreeze
from pathtune.data import collate

pytestmark = pytest.mark.usefixtures("needs_mace")


def blocks(kind):
    from mace import modules

    return {"interaction_cls_first": getattr(modules, f"RealAgnostic{kind[0]}InteractionBlock"),
            "interaction_cls": getattr(modules, f"RealAgnostic{kind[1]}InteractionBlock")}  # fmt: skip


def irreps(text):
    from e3nn import o3

    return o3.Irreps(text)


VARIANTS = {
    "OFF23 and MP-0": lambda: blocks(("", "Residual")),
    "residual in the first layer": lambda: blocks(("Residual", "Residual")),
    "MP-0b3 and MPA-0": lambda: {**blocks(("Density", "DensityResidual")), "distance_transform": "Agnesi",
                                 "pair_repulsion": True},
    "density residual in the first layer": lambda: blocks(("DensityResidual", "DensityResidual")),
    "soft transform": lambda: {"distance_transform": "Soft"},
    "scalars only": lambda: {"hidden_irreps": irreps("5x0e"), "max_ell": 3, "correlation": 3},
    "second order": lambda: {"hidden_irreps": irreps("3x0e+3x1o+3x2e"), "correlation": 3},
    "three layers": lambda: {"num_interactions": 3},
    "two heads": lambda: {"heads": ["a", "b"], "atomic_energies": np.arange(6.0).reshape(2, 3),
                          "atomic_inter_scale": [1.3, 0.7], "atomic_inter_shift": [0.1, -0.2]},
    "cutoff outside the radial basis": lambda: {"apply_cutoff": False},
    "reduced couplings": lambda: {"use_reduced_cg": True},
    "gaussian basis": lambda: {"radial_type": "gaussian"},
}  # fmt: skip


def both(stock, head=None):
    return [load(stock, backend=backend, head=head, radial_tables=False) for backend in ("reference", "cpu")]


def assert_equal(reference, ours, batch):
    """Energies, forces, stress, and the gradients of a loss of forces by all weights and by a sparse delta."""
    p, q = reference(batch, outputs=ALL), ours(batch, outputs=ALL)
    assert torch.allclose(p.interaction_energy, q.interaction_energy, rtol=1e-12, atol=1e-12)
    assert torch.allclose(p.forces, q.forces, rtol=1e-11, atol=1e-11)
    assert torch.allclose(p.stress[0], q.stress[0], rtol=1e-11, atol=1e-11)
    paper = SparseDelta(delta_start="paper", initial_std=0.1)
    for tuned in (lambda m: unfreeze(m, "full"), lambda m: sparsify(m, paper)):
        expected, found = (force_loss_gradients(tuned(m), batch) for m in (reference, ours))
        for a, b in zip(expected, found):
            assert (a - b).abs().max() <= 1e-10 * max(a.abs().max().item(), 1e-3) if a.numel() else True


@pytest.mark.parametrize("variant", VARIANTS)
def test_energies_forces_stress_and_gradients_equal_the_stock_models(variant):
    options = VARIANTS[variant]()
    stock = tiny_mace(**options)
    head = "b" if "heads" in options else None
    reference, ours = both(stock, head)
    assert ours.backbone.backend == "cpu"
    batch = batch_of(ours, crystal(), molecule(1), molecule(n=1))
    assert_equal(reference, ours, batch)


def test_float32_agrees_to_rounding():
    reference, ours = both(tiny_mace(torch.float32))
    batch = batch_of(ours, crystal(), molecule(1))
    p, q = reference(batch), ours(batch)
    assert torch.allclose(p.interaction_energy, q.interaction_energy, rtol=1e-6, atol=1e-6)
    assert (p.forces - q.forces).abs().max() <= 1e-6 * p.forces.abs().max()


def test_no_edges_and_no_structures():
    _, ours = both(tiny_mace())
    far = ase.Atoms("HO", positions=[[0, 0, 0], [50, 0, 0]])
    p = ours(batch_of(ours, far), outputs=ALL)
    assert p.forces.abs().max() == 0
    assert torch.isfinite(p.interaction_energy).all()
    empty = ours(collate([], ours.atomic_numbers, ours.backbone.r_max, torch.float64))
    assert empty.interaction_energy.shape == (0,)
    assert empty.forces.shape == (0, 3)


def test_an_asymmetric_radial_function_falls_back_to_directed_edges(monkeypatch):
    from pathtune.backbones import mace_forward

    stock = tiny_mace()
    paired = load(stock, backend="cpu")
    assert paired.backbone._forward.by_pair
    monkeypatch.setattr(mace_forward, "radial_is_symmetric", lambda stock: False)
    directed = load(stock, backend="cpu")
    assert not directed.backbone._forward.by_pair
    batch = batch_of(paired, crystal(), molecule(1))
    p, q = paired(batch, outputs=ALL), directed(batch, outputs=ALL)
    assert torch.allclose(p.forces, q.forces, rtol=0, atol=1e-12)
    assert torch.allclose(p.stress, q.stress, rtol=0, atol=1e-12)


def test_an_uncovered_block_falls_back_with_one_warning_and_cpu_refuses():
    from mace import modules

    stock = tiny_mace(interaction_cls=modules.RealAgnosticAttResidualInteractionBlock,
                      interaction_cls_first=modules.RealAgnosticAttResidualInteractionBlock)  # fmt: skip
    words = "does not cover interaction block RealAgnosticAttResidualInteractionBlock"
    with pytest.warns(UserWarning, match=words) as warned:
        model = load(stock)
    assert len([w for w in warned if "pathtune" in str(w.message)]) == 1
    assert model.backbone.backend == "reference"
    with pytest.raises(InputError, match=words):
        load(stock, backend="cpu")


def test_full_fine_tuning_skips_nothing_it_needs():
    """Every parameter that the stock model gives a gradient gets one here."""
    reference, ours = both(tiny_mace())
    batch = batch_of(ours, crystal())
    expected, found = (force_loss_gradients(unfreeze(m, "full"), batch) for m in (reference, ours))
    assert [bool(g.abs().max() > 0) for g in expected if g.numel()] == [
        bool(g.abs().max() > 0) for g in found if g.numel()
    ]


def test_the_same_step_repeats_bitwise():
    model = sparsify(load(tiny_mace(torch.float32), backend="cpu"))
    assert_a_step_repeats(model)


def test_one_and_many_threads_work():
    model = load(tiny_mace(), backend="cpu")
    batch, before, found = batch_of(model, molecule(0), crystal()), torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)  # what the kernels are told to use
            found.append(model(batch, outputs=ALL))
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(found[0].energy, found[1].energy, rtol=0, atol=1e-11)
    assert torch.allclose(found[0].forces, found[1].forces, rtol=0, atol=1e-11)
