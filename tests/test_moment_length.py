"""Lengths of magnetic moments as an output: a head on the final features; docs/magnetism.md."""

import json

import ase.io
import numpy as np
import pytest
import torch

import spins
from models import tiny_mace
from pathtune import FitConfig, InputError, LengthHead, adapt, calculator, evaluate, fit, load, load_adapter, merge
from pathtune import save_adapter as save
from pathtune.adaptations import Stored
from pathtune.cli import main
from pathtune.data import as_source, batches, from_atoms

pytestmark = pytest.mark.usefixtures("needs_mace")
ALL, PLAIN = (1, 6, 8), ("energy", "forces", "stress")
HEAD = LengthHead(moment_length=("C", "O"), length_hidden=8)


@pytest.fixture(scope="module")
def base(needs_mace):
    return load(tiny_mace())


def head_of(model):
    return next(c for c in model.adaptation.parts() if c.kind == "moment_length")


def head_model(base, kinds=("moment_length",), **options):
    """A head with random numbers in all of its parts."""
    model = adapt(base, kinds, ALL, {"moment_length": HEAD, **options})
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in head_of(model).parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=rng, dtype=p.dtype))
        head_of(model).constants.fill_(1.0)
    return model


def lengths(model, atoms):
    return spins.predict(model, atoms, names=("moment_length",)).of("moment_length").detach()


def taught(base, n=12, seed=0):
    """Frames whose moments have lengths that are linear in the features."""
    teacher = head_model(base)
    with torch.no_grad():
        head_of(teacher).hidden_out.zero_()
        head_of(teacher).constants.fill_(2.0)
        head_of(teacher).linear.mul_(0.1)
    frames = spins.spin_frames(n, seed)
    for atoms in frames:
        m = atoms.arrays["REF_magmom"]
        atoms.arrays["REF_magmom"] = m / np.linalg.norm(m, axis=1)[:, None] * lengths(teacher, atoms).numpy()[:, None]
    return frames


def test_lengths_do_not_depend_on_moments_nor_on_the_orientation(base):
    model, atoms = head_model(base), spins.spin_crystal()
    found = lengths(model, atoms)
    turned, other = atoms.copy(), atoms.copy()
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    other.arrays["REF_magmom"] *= -3
    assert torch.allclose(lengths(model, turned), found, rtol=0, atol=1e-12)
    assert torch.equal(lengths(model, other), found)
    assert found.std() > 0.1
    assert found.min() >= 0
    assert bool((found[torch.as_tensor(atoms.numbers == 1)] == 0).all())


def test_a_head_leaves_energies_and_forces_as_they_are_to_the_last_bit(base):
    model, atoms = head_model(base), spins.spin_crystal()
    one, other = (
        spins.predict(m, atoms, names=names) for m, names in ((base, PLAIN), (model, (*PLAIN, "moment_length")))
    )
    assert all(torch.equal(one.of(name), other.of(name)) for name in PLAIN)
    with pytest.warns(UserWarning, match="merge leaves out moment_length, which a plain model cannot predict"):
        plain = load(merge(model))
    assert torch.equal(spins.predict(plain, atoms, names=PLAIN).energy, one.energy)


def test_lengths_in_data_are_those_of_the_moments_unless_they_are_given():
    atoms = spins.spin_crystal()
    assert np.allclose(from_atoms(atoms).labels["moment_length"], np.linalg.norm(atoms.arrays["REF_magmom"], axis=1))
    atoms.arrays["REF_moment_length"] = np.full(5, 1.5)
    assert np.array_equal(from_atoms(atoms).labels["moment_length"], np.full(5, 1.5))
    assert "moment_length" not in from_atoms(atoms, with_outputs=False).labels


def test_the_start_finds_lengths_that_are_linear_in_the_features(base):
    model = adapt(base, ["moment_length"], ALL, {"moment_length": HEAD})
    frames = taught(base, 30)
    assert head_of(model).begin(model, batches(model, as_source(frames), 1), None)
    assert evaluate(model, taught(base, 6, seed=70))["per_element"]["C"]["moment_length_mae_mu_b"] < 0.02
    assert not head_of(model).begin(model, batches(model, as_source(frames), 1), None)


def test_equal_positions_with_moments_of_other_lengths_are_said(base):
    frames = spins.spin_frames(3)
    frames.append(frames[0].copy())
    frames[-1].arrays["REF_magmom"] *= 2
    model = adapt(base, ["moment_length"], ALL, {"moment_length": HEAD})
    largest = np.linalg.norm(frames[0].arrays["REF_magmom"][frames[0].numbers != 1], axis=1).max()
    words = f"1 groups of frames have equal positions and other lengths of moments, by up to {largest:.2f}"
    with pytest.warns(UserWarning, match=words):
        head_of(model).begin(model, batches(model, as_source(frames), 1), None)


@pytest.mark.filterwarnings("ignore:pathtune. magforces are not")
@pytest.mark.parametrize("kinds", [("moment_length",), ("sparse", "moment_length"), ("spin", "moment_length")])
def test_training_lowers_the_errors_beside_other_adaptations(base, kinds):
    frames = taught(base, 10)
    for atoms in frames:
        atoms.arrays["REF_magmom"] *= 1 + 0.3 * np.sin(3 * np.linalg.norm(atoms.arrays["REF_magmom"], axis=1))[:, None]
    model = adapt(base, kinds, ALL, {"moment_length": HEAD, "spin": spins.LAYER})
    history = fit(model, frames, frames, FitConfig(epochs=8, batch_size=5, lr=0.01))
    values = [line["valid_parts"]["moment_length"] for line in history.epochs]
    assert min(values[1:]) < values[0]
    assert "moment_length" in model.outputs


def test_the_calculator_gives_lengths_without_moments(base):
    model, atoms = head_model(base), spins.spin_crystal()
    expected = lengths(model, atoms).numpy()
    del atoms.arrays["REF_magmom"]
    atoms.calc = calculator(model)
    assert atoms.calc.get_property("moment_length", atoms) == pytest.approx(expected, rel=1e-12)


def test_an_adapter_holds_the_head_bitwise_and_refuses_what_does_not_fit(base, tmp_path):
    model, atoms = head_model(base), spins.spin_crystal()
    save(model, tmp_path / "a.safetensors")
    assert torch.equal(lengths(load_adapter(base, tmp_path / "a.safetensors"), atoms), lengths(model, atoms))
    kind, tensors = type(head_of(model)), head_of(model).tensors(base.atomic_numbers)
    for change, words in (
        ({"linear": torch.zeros(2, 3)}, r"f: linear of the moment lengths has shape \(2, 3\), expected \(2, 4\)"),
        ({"elements": torch.tensor([6, 26])}, "f: has Fe, expected elements that the model knows"),
        ({"more": torch.zeros(2)}, "f: holds a tensor 'more', expected only those of the model's layers"),
    ):
        with pytest.raises(InputError, match=words):
            kind.from_tensors(base, Stored({**tensors, **change}, "f", 3))
    tensors.pop("linear")
    with pytest.raises(InputError, match="f: lacks the tensor 'linear'"):
        kind.from_tensors(base, Stored(tensors, "f", 3))


def test_what_cannot_be_predicted_is_one_sentence(base):
    def built(*elements):
        return adapt(base, ["moment_length"], ALL, {"moment_length": LengthHead(moment_length=elements)})

    with pytest.raises(InputError, match="moment_length names no element, expected those with moments, such as Fe Ni"):
        built()
    with pytest.raises(InputError, match="moment_length: has Fe, expected elements that the model knows"):
        built("Fe")
    with pytest.raises(InputError, match="moment_length: 'Q' is no element, expected symbols such as Fe Ni"):
        built("Q")
    frames = spins.spin_frames(2)
    for atoms in frames:
        del atoms.arrays["REF_magmom"], atoms.arrays["REF_magforces"]
    with pytest.raises(InputError, match="moment_length is C, expected elements that have moments in the training"):
        fit(built("C"), frames, frames, FitConfig(epochs=1))
    with pytest.raises(InputError, match="backend is 'reference', but an adaptation predicts an output, expected"):
        lengths(head_model(load(tiny_mace(), backend="reference")), spins.spin_crystal())


@pytest.mark.filterwarnings("ignore:pathtune")
@pytest.mark.parametrize("kinds", [("moment_length",), ("full", "moment_length")], ids="+".join)
def test_the_command_line_leaves_a_plain_model_and_the_head(tmp_path, kinds):
    torch.save(tiny_mace(torch.float32), tmp_path / "tiny.model")
    for name, seed in (("train", 0), ("valid", 50)):
        ase.io.write(tmp_path / f"{name}.xyz", spins.spin_frames(8, seed), format="extxyz")
    files = ["--train", str(tmp_path / "train.xyz"), "--valid", str(tmp_path / "valid.xyz")]
    assert main(["fit", "--model", str(tmp_path / "tiny.model"), *files, "--epochs", "2", "--keep-worse", "--arm",
                 *kinds, "--moment-length", "C", "O", "--out", str(tmp_path / "run")]) == 0  # fmt: skip
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["valid"]["moment_length_mae_mu_b"] > 0
    plain = load(tmp_path / "run" / "merged.model")
    model = load_adapter(
        plain if "full" in kinds else load(tmp_path / "tiny.model"), tmp_path / "run/adapter.safetensors"
    )
    assert lengths(model, spins.spin_crystal()).max() > 0
