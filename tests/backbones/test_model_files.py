"""Files of models: other layouts, unmerged adapters, compiled models, folders without pickle, and what is refused."""

import json
import zipfile

import pytest
import torch
from test_charge_and_spin import SPECS
from test_reachable import TWO_HEADS, nonlinear

from models import crystal, irreps_of, molecule, tiny_mace
from pathtune import InputError, export, load, merge, save
from pathtune.backbones._packages import quiet_torchscript
from pathtune.cli import main
from pathtune.data import from_atoms

pytestmark = pytest.mark.usefixtures("needs_mace")


def energies(model):
    structures = [from_atoms(a) for a in (crystal(), molecule(1))]
    for s in structures:
        s.labels.update({name: torch.ones(()).double().numpy() for name in model.inputs})
    p = model(model.collate(structures))
    return torch.cat([p.energy, p.forces.flatten().double()])


FOLDERS = {
    "residual": dict,
    "two heads, plain MACE": lambda: {**TWO_HEADS, "cls": _mace()},
    "density, transform, ZBL": lambda: {**_blocks("Density", "DensityResidual"), "distance_transform": "Agnesi",
                                        "pair_repulsion": True, "correlation": 3},
    "nonlinear, two heads": lambda: nonlinear(**TWO_HEADS, radial_MLP=[6]),
    "charge and spin": lambda: {"embedding_specs": SPECS, "use_embedding_readout": True},
    "last readout only": lambda: {"use_last_readout_only": True, "correlation": [2, 1]},
}  # fmt: skip


def _mace():
    from mace import modules

    return modules.MACE


def _blocks(first, other):
    from mace import modules

    return {"interaction_cls_first": getattr(modules, f"RealAgnostic{first}InteractionBlock"),
            "interaction_cls": getattr(modules, f"RealAgnostic{other}InteractionBlock")}  # fmt: skip


@pytest.mark.filterwarnings("ignore:pathtune. the cpu backend does not cover")
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_without_pickle_gives_the_same_model_bit_by_bit(kind, tmp_path, monkeypatch):
    model = load(tiny_mace(max_ell=1, **FOLDERS[kind]()), backend="reference")
    merged = merge(model)
    export(merged, tmp_path / "folder")
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["model.json", "model.safetensors"]
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was loaded"))
    again = load(tmp_path / "folder", backend="reference")
    assert torch.equal(energies(load(merged, backend="reference")), energies(again))
    assert again.backbone.heads == model.backbone.heads
    assert again.e0.dtype == torch.float64
    assert torch.equal(again.e0, model.e0)


def test_the_command_exports_and_a_damaged_folder_is_one_sentence(tmp_path, capsys):
    save(merge(load(tiny_mace())), tmp_path / "a.model")
    assert main(["export", str(tmp_path / "a.model"), "--out", str(tmp_path / "f")]) == 0
    assert main(["export", str(tmp_path / "a.model"), "--out", str(tmp_path / "f")]) == 2
    assert "exists already, expected a new folder" in capsys.readouterr().err
    assert torch.equal(energies(load(tmp_path / "f")), energies(load(tmp_path / "a.model")))
    good = json.loads((tmp_path / "f" / "model.json").read_text())
    for bad, words in ((good | {"format": 2}, "has format 2, expected 1"),
                       (good | {"class": "os.system"}, "holds a os"),
                       (good | {"constructor": good["constructor"] | {"interaction_cls": "torch"}}, "KeyError: .torch"),
                       (good | {"constructor": good["constructor"] | {"hidden_irreps": "9x0e"}}, "no MACE can be bui"),
                       ([], "has format None")):  # fmt: skip
        (tmp_path / "f" / "model.json").write_text(json.dumps(bad))
        with pytest.raises(InputError, match=words):
            load(tmp_path / "f")
    with pytest.raises(InputError, match=r"model\.json: cannot be read"):
        load(tmp_path)


def test_unmerged_adapters_of_mace_are_merged_on_load(tmp_path):
    from mace.modules.lora import inject_LoRAs

    with quiet_torchscript():
        stock = inject_LoRAs(tiny_mace(), rank=2)
        with torch.no_grad():
            for name, p in stock.named_parameters():
                if "lora_" in name:
                    p.normal_(std=0.3)
        theirs = load_stock_energy(stock)
        torch.save(stock, tmp_path / "lora.model")
    ours = load(tmp_path / "lora.model")
    assert not any("lora" in name for name in ours.backbone.parameters)
    assert ours.backbone.backend == "cpu"
    assert torch.allclose(energies(ours)[:1], theirs, rtol=1e-12)


def load_stock_energy(stock):
    """By mace alone, with its adapters still apart."""
    from mace.calculators import MACECalculator

    atoms = crystal()
    atoms.calc = MACECalculator(models=[stock], device="cpu", default_dtype="float64")
    return torch.tensor([atoms.get_potential_energy()], dtype=torch.float64)


def test_a_model_in_another_accelerators_layout_goes_through_maces_converter():
    """OpenEquivariance keeps all weights as they are; its package is not needed to turn one back."""
    from mace.modules.wrapper_ops import OEQConfig

    stock = tiny_mace(use_reduced_cg=True)
    expected = energies(load(stock))
    before = torch.get_default_dtype()
    for block in stock.interactions:
        block.oeq_config = OEQConfig(enabled=True)
        block.oeq_config.enabled = True
    found = load(stock)
    assert torch.get_default_dtype() == before
    assert found.backbone.backend == "cpu"
    assert torch.equal(energies(found), expected)
    assert not any(getattr(block, "oeq_config", None) for block in found.backbone.stock.interactions)


def test_compiled_and_foreign_files_are_one_sentence_each_and_never_loaded(tmp_path, monkeypatch):
    with quiet_torchscript():
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "compiled.model")
    with zipfile.ZipFile(tmp_path / "packaged.pth", "w") as archive:
        archive.writestr("model/.data/version", "1")
    with zipfile.ZipFile(tmp_path / "aot.nequip.pt2", "w") as archive:
        archive.writestr("aot/data/aotinductor/model/x.cpp", "")
    (tmp_path / "half.model").write_bytes((tmp_path / "compiled.model").read_bytes()[:-40])
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("was loaded"))
    for name, words in (("half.model", "is a damaged zip"),
                        ("compiled.model", "is a compiled .TorchScript. model, whose weights cannot be tuned"),
                        ("aot.nequip.pt2", r"is a compiled .AOTInductor. model.*NequIP: the .ckpt or .nequip.zip"),
                        ("packaged.pth", r"is a zip without data\.pkl, expected a .model file of mace")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            load(tmp_path / name)


def test_a_compiled_module_is_refused():
    with quiet_torchscript(), pytest.raises(InputError, match="is a compiled"):
        load(torch.jit.script(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize("is_zip", [True, False])
def test_kinds_are_told_by_content_whatever_the_ending(is_zip, tmp_path):
    from pathtune.loading import _package

    torch.save({"config": {}, "model_state_dict": {"x": torch.zeros(3)}}, tmp_path / "a.model",
               _use_new_zipfile_serialization=is_zip)  # fmt: skip
    torch.save(tiny_mace(), tmp_path / "b.pth", _use_new_zipfile_serialization=is_zip)
    assert _package(tmp_path / "a.model") == "sevenn"
    assert _package(tmp_path / "b.pth") == "mace"
    assert load(tmp_path / "b.pth").backbone.name == "ScaleShiftMACE"
    torch.save({"model": {}}, tmp_path / "c.pt", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(InputError, match="holds a dict, expected a MACE model"):
        load(tmp_path / "c.pt")


def test_a_file_that_needs_a_missing_package_says_which(tmp_path, monkeypatch):
    def missing(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'cuequivariance_torch'", name="cuequivariance_torch")

    torch.save(torch.nn.Linear(1, 1), tmp_path / "a.model")
    monkeypatch.setattr(torch, "load", missing)
    with pytest.raises(InputError, match="package cuequivariance_torch, which is not installed: pip install cuequ"):
        load(tmp_path / "a.model")


def test_models_that_mace_cannot_copy_load_merge_and_keep_dead_weights_at_zero():
    stock = tiny_mace(use_so3=True, hidden_irreps=irreps_of("4x0e+4x1e"))
    reference, ours = (load(stock, backend=b, radial_tables=False) for b in ("reference", "cpu"))
    assert torch.allclose(energies(reference), energies(ours), rtol=1e-11, atol=1e-11)
    assert torch.equal(energies(load(merge(ours))), energies(ours))
