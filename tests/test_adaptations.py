"""A new kind of adaptation, registered here alone, goes through everything; kinds compose; `use` is a hot swap."""

import dataclasses
import json
import pathlib

import ase.io
import pytest
import torch

import pathtune
from models import labelled, molecule, sparse_of, tiny_mace
from pathtune import FitConfig, InputError, SparseDelta, adapt, evaluate, fit, load, merge, sparsify
from pathtune.adaptations import Adaptation, Frozen, register_adaptation, unregister_adaptation
from pathtune.adapter_file import read_adapter
from pathtune.cli import main
from pathtune.data import from_atoms
from pathtune.layers import select_layers
from pathtune.options import option
from stopping import interrupted_after

pytestmark = pytest.mark.usefixtures("needs_mace")
ELEMENTS = (1, 6, 8)
FORMAT_1 = pathlib.Path(__file__).parent / "format1"


class Scale(Adaptation):
    """One factor for each path of the linears: W' = s W."""

    kind = "scale"
    rate = 0.01

    def __init__(self, layers, scales):
        super().__init__()
        self.scaled = layers
        self.scales = torch.nn.ParameterList(scales)

    @classmethod
    def build(cls, base, elements, options, seed):
        layers = select_layers(base.backbone.layers)
        return cls(layers, [torch.ones(len(layer.paths), dtype=base.backbone.dtype) for layer in layers])

    def layers(self):
        return self.scaled

    def weights(self, parameters, plain=frozenset()):
        result = {}
        for layer, scale in zip(self.scaled, self.scales):
            w = parameters[layer.parameter]
            of_entry = scale[layer.path_of_entries(torch.arange(w.numel()))]
            result[layer.parameter] = w * of_entry.view_as(w)
        return result

    def tensors(self, atomic_numbers):
        return {layer.name: scale.detach().clone() for layer, scale in zip(self.scaled, self.scales)}

    @classmethod
    def from_tensors(cls, base, stored):
        layers = [layer for layer in base.backbone.layers if layer.name in stored.tensors]
        stored.check_names(layer.name for layer in layers)
        return cls(layers, [stored.values(layer.name, len(layer.paths)) for layer in layers])


class Counting(Scale):
    """Reads all training data before step 0."""

    kind = "counting"

    def begin(self, model, frames, loss):
        self.n_read = sum(1 for _ in frames)
        return True


class Offset(Adaptation):
    """A constant added to the energy of each atom: no weight can hold it."""

    kind = "offset"

    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    @classmethod
    def build(cls, base, elements, options, seed):
        return cls()

    def energy_term(self):
        return lambda features, edges, batch: self.value * features[:, 0] ** 2


@pytest.fixture
def toys():
    for cls in (Scale, Counting, Offset):
        register_adaptation(cls)
    yield
    for cls in (Scale, Counting, Offset):
        unregister_adaptation(cls.kind)


@pytest.fixture(scope="module")
def base():
    return load(tiny_mace())


def frames(seed, n=4):
    return labelled([molecule(seed + i, n=4) for i in range(n)], seed)


def structures(seed, n=4):
    return [from_atoms(atoms, where=f"{i}") for i, atoms in enumerate(frames(seed, n))]


def trained(base, kinds, **options):
    model = adapt(base, kinds, ELEMENTS, options)
    history = fit(model, structures(0), structures(50), FitConfig(epochs=3, batch_size=2))
    return model, history


@pytest.mark.parametrize("kinds", [("scale",), ("scale", "sparse"), ("sparse", "scale")], ids="+".join)
def test_a_registered_kind_and_its_compositions_train_merge_and_load_bitwise(toys, base, tmp_path, kinds):
    options = {"delta": SparseDelta(active_share=0.05)}
    model, history = trained(base, kinds, **options)
    assert history.epochs[-1]["active"] > 0
    batch = base.collate(structures(9))
    found = model(batch)
    assert not torch.equal(found.forces, base(batch).forces)
    pathtune.save_adapter(model, tmp_path / "toy.safetensors")
    loaded = pathtune.load_adapter(base, tmp_path / "toy.safetensors")
    assert torch.equal(loaded(batch).forces, load(merge(model))(batch).forces)
    assert torch.allclose(loaded(batch).forces, found.forces, rtol=0, atol=1e-12)
    assert evaluate(loaded, structures(9))["n_structures"] == 4


@pytest.mark.parametrize("kinds", [("scale",), ("scale", "sparse"), ("sparse", "lora")], ids="+".join)
def test_the_command_line_knows_a_registered_kind_and_resumes_it_bitwise(toys, tmp_path, capsys, kinds):
    torch.save(tiny_mace(torch.float32), tmp_path / "tiny.model")
    for name, seed in (("train", 0), ("valid", 50)):
        ase.io.write(tmp_path / f"{name}.xyz", frames(seed), format="extxyz")

    def command(out, *more):
        files = ["--train", str(tmp_path / "train.xyz"), "--valid", str(tmp_path / "valid.xyz")]
        return main(["fit", "--model", str(tmp_path / "tiny.model"), *files, "--epochs", "3", "--batch-size", "2",
                     "--arm", *kinds, "--keep-worse", "--no-report", "--out", str(tmp_path / out), *more])  # fmt: skip

    assert command("whole") == 0
    with interrupted_after(2):
        assert command("broken") == 130
    assert command("broken", "--resume") == 0
    whole, broken = (read_adapter(tmp_path / out / "adapter.safetensors")[0] for out in ("whole", "broken"))
    assert set(whole) == set(broken)
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())
    assert json.loads((tmp_path / "whole" / "metrics.json").read_text())["arm"] == "+".join(kinds)
    capsys.readouterr()
    evaluate_command = ["evaluate", "--model", str(tmp_path / "tiny.model"), "--data", str(tmp_path / "valid.xyz")]
    assert main([*evaluate_command, "--adapter", str(tmp_path / "whole" / "adapter.safetensors")]) == 0


def test_a_term_of_the_energy_is_trained_beside_weights_and_refuses_to_merge(toys, base):
    model, _ = trained(base, ("sparse", "offset"), delta=SparseDelta(active_share=0.1))
    batch = base.collate(structures(9))
    assert not torch.equal(model(batch).energy, load(merge(model.use(sparse_of(model))))(batch).energy)
    with pytest.raises(InputError, match="an adaptation of kind 'offset' adds a term to the energy"):
        merge(adapt(base, ["offset"]))


def test_every_adaptation_of_a_composition_reads_all_frames_before_step_0(toys, base):
    model, _ = trained(base, ("counting", "counting"))
    assert [component.n_read for component in model.adaptation.parts()] == [4, 4]


def test_use_swaps_adaptations_of_one_model_only_and_none_is_the_base_bitwise(base):
    batch = base.collate(structures(9))
    plain = base(batch)
    first, _ = trained(base, ["sparse"])
    second, _ = trained(base, ["sparse"], delta=SparseDelta(active_share=0.2))
    other = load(tiny_mace())
    expected = second(batch)
    first_before = first(batch)
    for model in (first, other):
        kept = model.adaptation
        swapped = model.use(second.adaptation)(batch)
        assert torch.equal(swapped.energy, expected.energy)
        assert torch.equal(swapped.forces, expected.forces)
        model.use(kept)
    assert torch.equal(first(batch).forces, first_before.forces)
    unused = first.use(None)(batch)
    assert torch.equal(unused.energy, plain.energy)
    assert torch.equal(unused.forces, plain.forces)


def test_the_weights_of_a_loaded_adapter_are_computed_once(base, tmp_path):
    model, _ = trained(base, ["sparse"])
    pathtune.save_adapter(model, tmp_path / "a.safetensors")
    loaded = pathtune.load_adapter(base, tmp_path / "a.safetensors")
    frozen = loaded.adaptation.parts()[0]
    assert isinstance(frozen, Frozen)
    first, again = (loaded.adaptation.weights(loaded.backbone.parameters) for _ in range(2))
    assert first
    assert all(again[name] is w for name, w in first.items())


@pytest.mark.parametrize("name", ["identity", "paper_per_path"])
def test_adapters_of_format_1_load_and_give_the_energies_that_they_gave(name):
    """Written by version 0.1.0 before format 2 on the shipped model, with the energies that it found."""
    expected = json.loads((FORMAT_1 / "expected.json").read_text())[name]
    model = pathtune.load_adapter(load("demo"), FORMAT_1 / f"{name}.safetensors")
    test = pathtune.read_structures(pathtune.demo_file("test"), max_frames=3)
    found = model(model.collate(test))
    assert found.energy.tolist() == pytest.approx(expected["energy_ev"], abs=1e-5)
    assert float(found.forces.double().abs().sum()) == pytest.approx(expected["force_sum_abs"], rel=1e-5)


def test_what_cannot_be_composed_is_said_in_one_sentence(toys, base, tmp_path):
    with pytest.raises(InputError, match="'full' replaces the weights that 'sparse' has changed"):
        adapt(base, ["sparse", "full"])
    with pytest.raises(InputError, match="arm is 'nothing', expected one of sparse, full, kron, readout"):
        adapt(base, ["nothing"])
    with pytest.raises(InputError, match="adaptation kind is 'sparse', expected a new name"):
        register_adaptation(type("Again", (Adaptation,), {"kind": "sparse"}))
    other = sparsify(load(tiny_mace(seed=1)), SparseDelta(active_share=0.1))
    with pytest.raises(InputError, match="use: was made for another model"):
        load(tiny_mace()).use(other.adaptation)
    model, _ = trained(base, ["scale"])
    pathtune.save_adapter(model, tmp_path / "toy.safetensors")
    unregister_adaptation("scale")
    with pytest.raises(InputError, match=r"toy.safetensors: the kind of adaptation is 'scale', expected one of sparse"):
        pathtune.load_adapter(base, tmp_path / "toy.safetensors")


def test_two_kinds_that_ask_for_one_flag_or_one_section_are_refused_in_one_sentence(toys, capsys):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mine:
        active_share: float = option(0.5, "a flag that the sparse delta has")

    for section, said in (("mine", "'active_share' of section [mine] is one of [delta]"), ("fit", "section [fit]")):
        kind = type("Clash", (Scale,), {"kind": "clash", "section": section, "options": Mine})
        register_adaptation(kind)
        try:
            assert main(["fit", "--help"]) == 2
        finally:
            unregister_adaptation("clash")
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert "expected" in error
    with pytest.raises(InputError, match=r"section \[delta\] of adaptation 'clash' is that of 'sparse'"):
        register_adaptation(type("Clash", (Scale,), {"kind": "clash", "section": "delta", "options": Mine}))
