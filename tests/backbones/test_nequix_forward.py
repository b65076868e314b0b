"""The accelerated forward of nequix against the plain module, in float64 and on published weights."""

import pytest
import torch

from laws.forward import (
    START,
    assert_a_step_repeats,
    assert_forwards_agree,
    assert_no_edges_and_no_structures_work,
    assert_published_weights_agree,
    batch_of,
)
from models import ALL, crystal, molecule
from nequixes import VARIANTS, nequix_file
from pathtune import load, sparsify

pytestmark = pytest.mark.usefixtures("needs_e3nn")


def both(file, dtype="float64"):
    return [load(file, dtype, backend=backend) for backend in ("reference", "cpu")]


@pytest.mark.parametrize("variant", VARIANTS)
def test_energies_forces_stress_and_gradients_equal_the_plain_modules(variant, tmp_path):
    reference, ours = both(nequix_file(tmp_path, **VARIANTS[variant]))
    assert (reference.backbone.backend, ours.backbone.backend) == ("reference", "cpu")
    batch = batch_of(ours, crystal(), molecule(1), molecule(n=1))
    assert_forwards_agree(reference, ours, batch)


def test_radial_tables_and_float32_stay_within_their_rounding(tmp_path):
    file = nequix_file(tmp_path, **VARIANTS["nequix-mp-1"])
    exact, tabled = load(file, "float64"), load(file)
    assert tabled.backbone.dtype == torch.float32
    p, q = (m(batch_of(m, crystal(), molecule(1)), outputs=ALL) for m in (exact, tabled))
    assert tabled.backbone._forward.tables._known
    assert torch.allclose(p.interaction_energy.float(), q.interaction_energy.float(), rtol=1e-5, atol=1e-5)
    assert torch.allclose(p.forces.float(), q.forces.float(), rtol=1e-4, atol=1e-4)


def test_no_edges_and_no_structures(tmp_path):
    reference, ours = both(nequix_file(tmp_path))
    assert_no_edges_and_no_structures_work(reference, ours)


def test_energies_do_not_change_under_rotation_and_inversion(tmp_path):
    model = load(nequix_file(tmp_path), "float64")
    atoms, turned = molecule(2), molecule(2)
    turned.rotate(37, (1, 2, 3))
    mirrored = molecule(2)
    mirrored.positions *= -1
    p = model(batch_of(model, atoms, turned, mirrored))
    assert torch.allclose(p.energy, p.energy[:1].expand(3), rtol=1e-12)


def test_the_same_step_repeats_bitwise(tmp_path):
    model = sparsify(load(nequix_file(tmp_path)), START)
    assert_a_step_repeats(model)


@pytest.mark.parametrize("name", ["nequix-mp-1", "nequix-oam-1"])
def test_published_weights_agree_with_the_plain_module_in_float32(name, data_folder):
    reference, ours = both(data_folder / "weights" / f"{name}.nqx", "float32")
    assert_published_weights_agree(reference, ours)
