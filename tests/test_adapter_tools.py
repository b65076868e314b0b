"""Laws of the tools on adapter files: show, diff, blend, extract."""

import copy
import json
import pathlib

import pytest
import torch

from models import labelled, molecule, reordered, tiny_mace
from pathtune import FitConfig, InputError, SparseDelta, adapt, fit, load, load_adapter, merge, save, save_adapter
from pathtune.adapter_tools import blend, compare, describe, extract
from pathtune.cli import main
from pathtune.data import from_atoms

pytestmark = pytest.mark.usefixtures("needs_mace")
FORMAT_1 = pathlib.Path(__file__).parent / "format1"
KINDS = {"a": ["sparse"], "b": ["sparse"], "c": ["sparse", "lora"], "d": ["modulation"], "e": ["lora", "pull"]}


@pytest.fixture(scope="module")
def base():
    return load(tiny_mace())


def structures(seed, n=4):
    return [from_atoms(atoms) for atoms in labelled([molecule(seed + i, n=4) for i in range(n)], seed)]


@pytest.fixture(scope="module")
def world(base, tmp_path_factory):
    """A base as a file, an adapter of each of KINDS, and a fully tuned model."""
    folder = tmp_path_factory.mktemp("tools")
    torch.save(base.backbone.stock, folder / "base.model")
    for i, (name, kinds) in enumerate(KINDS.items()):
        model = adapt(base, kinds, (1, 6, 8), {"delta": SparseDelta(active_share=0.1 + 0.1 * i)}, seed=i)
        fit(model, structures(10 * i), structures(50), FitConfig(epochs=2, batch_size=2))
        save_adapter(model, folder / f"{name}.safetensors", {"epochs": 2})
    full = adapt(base, ["full"])
    fit(full, structures(0), structures(50), FitConfig(epochs=2, batch_size=2))
    save(merge(full), folder / "tuned.model")
    return folder


def changes(base, model):
    now, own = merge(model).state_dict(), base.backbone.stock.state_dict()
    return {name: now[name] - own[name] for name in base.backbone.parameters}


def test_an_adapter_is_described_without_its_base(world, base, capsys):
    found = describe(world / "c.safetensors")
    model = load_adapter(base, world / "c.safetensors")
    assert found["kinds"] == ["sparse", "lora"]
    assert found["elements"] == ["H", "C", "O"]
    assert found["counts"] == model.counts()
    assert sum(found["values"].values()) == model.counts()["active"]
    assert found["training"] == {"epochs": 2}
    assert list(found["e0_shift_ev"].values()) == pytest.approx((model.e0 - base.e0).tolist(), abs=1e-9)
    assert main(["show", str(world / "c.safetensors")]) == 0
    text = capsys.readouterr().out
    for part in ("sparse + lora", "ScaleShiftMACE", "trained on H C O", "interactions.1.skip_tp.weight", "E0 C"):
        assert part in text
    for file in [*FORMAT_1.glob("*.safetensors"), *(world / f"{name}.safetensors" for name in KINDS)]:
        assert main(["show", str(file), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["counts"]["active"] > 0
    assert main(["show", str(world / "base.model")]) == 2
    assert "not a readable adapter" in capsys.readouterr().err


@pytest.mark.parametrize("pair", ["aa", "ab", "cd"])
def test_a_comparison_counts_and_measures_what_both_change(world, base, pair):
    files = [world / f"{name}.safetensors" for name in pair]
    rows = {row["parameter"]: row for row in compare(base, *files)}
    a, b = (changes(base, load_adapter(base, file)) for file in files)
    flat_a, flat_b = (torch.cat([w.flatten() for w in c.values()]) for c in (a, b))
    total = rows["all"]
    assert total["changed"] == [int((flat_a != 0).sum()), int((flat_b != 0).sum())]
    assert total["both"] == int(((flat_a != 0) & (flat_b != 0)).sum())
    assert total["norms"] == pytest.approx([float(flat_a.norm()), float(flat_b.norm())], rel=1e-9)
    assert total["cosine"] == pytest.approx(float(flat_a @ flat_b / flat_a.norm() / flat_b.norm()), abs=1e-9)
    name = "interactions.1.skip_tp.weight"
    chance = int((a[name] != 0).sum()) * int((b[name] != 0).sum()) / a[name].numel()
    assert rows[name]["chance"] == pytest.approx(chance)
    if pair == "aa":
        assert total["both"] == total["changed"][0]
        assert total["cosine"] == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["a", "c", "e"])
def test_a_blend_with_one_weight_is_that_adapter_bitwise(world, base, name):
    batch = base.collate(structures(9))
    expected = load_adapter(base, world / f"{name}.safetensors")
    for files, weights in ((["a", name, "d"], [0, 1, 0]), ([name], [1.0]), ([name, name], [0.0, 1.0])):
        found = blend(base, [world / f"{file}.safetensors" for file in files], weights)
        assert torch.equal(found(batch).forces, expected(batch).forces)
        assert torch.equal(found(batch).energy, expected(batch).energy)


@pytest.mark.parametrize("names", ["ab", "ac", "ce"])
def test_a_blend_adds_the_weighted_changes_and_goes_through_a_file(world, base, tmp_path, names):
    files = [world / f"{name}.safetensors" for name in names]
    found = blend(base, files, [0.25, 1.5])
    a, b = (load_adapter(base, file) for file in files)
    change_a, change_b = changes(base, a), changes(base, b)
    for name, change in changes(base, found).items():
        expected = 0.25 * change_a[name] + 1.5 * change_b[name]
        assert torch.allclose(change, expected, rtol=0, atol=1e-13), name
    assert torch.allclose(found.e0 - base.e0, 0.25 * (a.e0 - base.e0) + 1.5 * (b.e0 - base.e0), rtol=0, atol=1e-12)
    save_adapter(found, tmp_path / "blend.safetensors")
    again = load_adapter(base, tmp_path / "blend.safetensors")
    batch = base.collate(structures(9))
    assert torch.allclose(again(batch).energy, found(batch).energy, rtol=0, atol=1e-12)
    assert torch.equal(again(batch).forces, found(batch).forces)
    if names == "ab":
        assert again.adaptation.kind == "sparse"
        assert again.counts()["active"] == sum(int((w != 0).sum()) for w in changes(base, found).values())


def test_an_extracted_adapter_merges_to_the_tuned_model_bitwise_and_predicts_as_it(world, base, tmp_path):
    out = tmp_path / "tuned.safetensors"
    arguments = ["--base", str(world / "base.model"), "--out", str(out)]
    assert main(["extract", str(world / "tuned.model"), *arguments]) == 0
    assert main(["merge", "--model", str(world / "base.model"), "--adapter", str(out),
                 "--out", str(tmp_path / "merged.model")]) == 0  # fmt: skip
    tuned, merged = (torch.load(f, weights_only=False).state_dict()
                     for f in (world / "tuned.model", tmp_path / "merged.model"))  # fmt: skip
    assert tuned.keys() == merged.keys()
    assert all(torch.equal(tensor, merged[name]) for name, tensor in tuned.items())
    loaded, expected = load_adapter(base, out), load(world / "tuned.model")
    batch = base.collate(structures(9))
    assert torch.equal(loaded(batch).forces, expected(batch).forces)
    assert torch.equal(loaded(batch).energy, expected(batch).energy)
    own = base.backbone.stock.state_dict()
    n_changed = sum(int((tuned[name] != own[name]).sum()) for name in base.backbone.parameters)
    assert loaded.counts()["active"] == describe(out)["counts"]["active"] == n_changed
    assert torch.equal(loaded.use(None)(batch).forces, base(batch).forces)


def test_an_extracted_adapter_holds_only_what_differs(base, tmp_path):
    tuned = adapt(base, ["readout"])
    fit(tuned, structures(0), structures(50), FitConfig(epochs=2, batch_size=2))
    model = extract(base, load(merge(tuned)))
    tensors = model.adaptation.parts()[0].tensors(model.atomic_numbers)
    assert tensors
    assert all(name.startswith("readouts.") for name in tensors)


def test_an_extracted_adapter_serves_a_model_that_knows_its_species_in_another_order(world, base, tmp_path):
    tuned = load(world / "tuned.model")
    save_adapter(extract(base, tuned), tmp_path / "a.safetensors")
    other = load(reordered(base.backbone.stock))
    loaded, frames = load_adapter(other, tmp_path / "a.safetensors"), structures(4)
    found = loaded(other.collate(frames)).forces
    assert torch.allclose(found, tuned(base.collate(frames)).forces, rtol=0, atol=1e-10)
    assert not torch.allclose(found, other(other.collate(frames)).forces, rtol=0, atol=1e-4)


def test_what_an_adapter_cannot_hold_is_refused_by_extract(base):
    for options, said in (
        ({"r_max": 4.0}, "the tuned model has cutoff 4.0, expected that of the base, 3.5"),
        ({"num_elements": 2, "atomic_numbers": [1, 6], "atomic_energies": torch.zeros(2).numpy()},
         r"the tuned model has table of elements \(1, 6\), expected that of the base, \(1, 6, 8\)"),
        ({"dtype": torch.float32}, "the tuned model has precision torch.float32, expected that of the base"),
        ({"radial_MLP": [8, 4]}, "the tuned model has other weight shapes than the base"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            extract(base, load(tiny_mace(**options)))
    scaled = copy.deepcopy(base.backbone.stock)
    scaled.scale_shift.scale += 0.5
    with pytest.raises(InputError, match="the tuned model's scale_shift.scale differs from the base's"):
        extract(base, load(scaled))


def test_no_tool_writes_over_a_file_and_mistakes_are_one_sentence(world, capsys):
    taken, model = world / "a.safetensors", str(world / "base.model")
    before = taken.read_bytes()
    a, d = str(taken), str(world / "d.safetensors")
    for command, said in (
        (["blend", a, a, "--model", model, "--out", str(taken)], "a.safetensors: exists already"),
        (["extract", str(world / "tuned.model"), "--base", model, "--out", str(taken)], "exists already"),
        (["blend", a, a, "--weights", "1", "--model", model, "--out", "new"], "weights are 1, expected one for each"),
        (["blend", a, d, "--model", model, "--out", "new"],
         "d.safetensors: a change of kind 'modulation' cannot be multiplied by 0.5, expected sparse or lora"),
        (["extract", str(world / "tuned.model"), "--out", "new"], "--base is missing"),
        (["diff", a, d], "--model is missing"),
        (["diff", a, str(world / "absent"), "--model", model], "absent: no such file"),
    ):  # fmt: skip
        assert main(command) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert taken.read_bytes() == before
    assert not pathlib.Path("new").exists()


def test_the_verbs_print_and_write(world, base, tmp_path, capsys):
    a, b, model = str(world / "a.safetensors"), str(world / "b.safetensors"), str(world / "base.model")
    out = tmp_path / "blend.safetensors"
    assert main(["blend", a, b, "--weights", "0.5", "0.5", "--model", model, "--out", str(out)]) == 0
    assert describe(out)["training"] == {"blend": {a: 0.5, b: 0.5}}
    capsys.readouterr()
    assert main(["diff", a, str(out), "--model", model]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:3] == ["parameter", "A", "changes"]
    assert table[-1].startswith("all ")
    assert main(["diff", a, b, "--model", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[-1]["parameter"] == "all"
