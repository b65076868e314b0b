"""Every class of mace is built, loaded, tuned and merged; what happens is what tests/models_table.toml says."""

import pathlib
import subprocess
import sys
import tomllib
import warnings

import pytest
import torch

from models import irreps_of, labelled, molecule, tiny_mace
from pathtune import FitConfig, InputError, SparseDelta, fit, load, merge, sparsify
from pathtune.data import from_atoms

pytestmark = pytest.mark.usefixtures("needs_mace")
TESTS = pathlib.Path(__file__).parent.parent
TABLE = tomllib.loads((TESTS / "models_table.toml").read_text())
SMALL = {"max_ell": 1, "radial_MLP": [6], "num_bessel": 3}


def outcome_of(stock):
    """("kernels" or "stock", None), or ("refused", the sentence), of a load, two steps of a fit, and a merge."""
    frames = labelled([molecule(k) for k in range(3)])
    for atoms in frames:
        atoms.info.update(charge=1, spin=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            base = load(stock)
        except InputError as error:
            return "refused", str(error)
    is_said = any("falling back to the stock forward" in str(w.message) for w in caught)
    assert is_said is (base.backbone.backend == "reference")
    model = sparsify(base, SparseDelta(active_share=0.5), base.atomic_numbers)
    history = fit(model, frames[:2], frames[2:], FitConfig(epochs=1, batch_size=1, check_units=False))
    assert len(history.epochs) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = load(merge(model))
    batch = model.collate([from_atoms(a) for a in frames])
    assert torch.allclose(model(batch).energy, merged(batch).energy, rtol=1e-10)
    assert not torch.equal(model(batch).forces, base(batch).forces)
    return {"cpu": "kernels"}.get(base.backbone.backend, "stock"), None


def check(row, stock):
    assert outcome_of(stock) == (row["outcome"], row.get("words"))


def row_ids(kind):
    return pytest.mark.parametrize("row", TABLE[kind], ids=lambda row: row.get("class") or row["title"])


def test_the_table_has_every_class_that_mace_has():
    from mace import modules

    assert {row["class"] for row in TABLE["interaction"]} == set(modules.interaction_classes)
    assert {row["class"] for row in TABLE["readout"]} == set(modules.readout_classes)
    models = {name for name in modules.__all__ if name.endswith("MACE")}
    assert {row["class"] for row in TABLE["model_class"]} == models


@row_ids("interaction")
def test_interaction(row):
    from mace import modules

    block = modules.interaction_classes[row["class"]]
    check(row, tiny_mace(**SMALL, interaction_cls=block, interaction_cls_first=block))


@row_ids("readout")
def test_readout(row):
    from mace import modules

    cls, stock = modules.readout_classes[row["class"]], tiny_mace(**SMALL)
    more = {} if row["class"][:6] == "Linear" else {"MLP_irreps": irreps_of("4x0e+4x1o"), "gate": torch.nn.SiLU()}
    if row["class"] in ("NonLinearReadoutBlock", "NonLinearBiasReadoutBlock"):
        more["MLP_irreps"] = irreps_of("4x0e")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        stock.readouts[1] = cls(irreps_of("4x0e"), **more)
    finally:
        torch.set_default_dtype(before)
    check(row, stock)


@row_ids("model_class")
def test_model_class(row):
    from mace import modules

    cls = getattr(modules, row["class"])
    if row["outcome"] != "refused":
        return check(row, tiny_mace(**SMALL, cls=cls))
    stock = cls.__new__(cls)  # its own arguments do not matter: the class is what is refused
    torch.nn.Module.__init__(stock)
    return check(row, stock)


@row_ids("option")
def test_option(row):
    arguments = dict(row["arguments"])
    if "hidden_irreps" in arguments:
        arguments["hidden_irreps"] = irreps_of(arguments["hidden_irreps"])
    check(row, tiny_mace(**SMALL, **arguments))


def test_the_page_is_what_the_table_gives():
    command = [sys.executable, str(TESTS.parent / "bench" / "models_page.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
