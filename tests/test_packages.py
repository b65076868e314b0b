"""Which package a model belongs to, and what is said when it is missing; no backbone's package is needed."""

import pathlib
import re
import sys
import tomllib

import pytest
import torch

from pathtune import InputError, load
from pathtune.backbones._packages import import_cueq, import_e3nn, import_mace, import_nequip, import_sevenn
from pathtune.loading import _package

EXTRAS = tomllib.loads((pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


@pytest.mark.parametrize(("extra", "package", "load_it"), [
    ("sevenn", "sevenn", import_sevenn), ("mace", "mace", import_mace), ("nequix", "e3nn", import_e3nn),
    ("nequip", "nequip", import_nequip), ("cueq", "cuequivariance_torch", import_cueq),
])  # fmt: skip
def test_a_missing_package_says_how_to_install_the_version_that_the_extra_asks_for(
    extra, package, load_it, monkeypatch
):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    asked = EXTRAS[extra][0].partition(">=")[0]
    with pytest.raises(ImportError, match=f"pip install {re.escape(asked)}[,;] "):
        load_it()


def test_a_file_is_told_apart_without_being_loaded(tmp_path, monkeypatch):
    files = {name: tmp_path / name for name in ("checkpoint.pth", "module.model", "text.pth", "text.nqx")}
    torch.save({"config": {}, "model_state_dict": {"x": torch.zeros(3)}}, files["checkpoint.pth"])
    torch.save(torch.nn.Linear(2, 2), files["module.model"])
    files["text.pth"].write_text("model_state_dict")
    files["text.nqx"].write_text('{"cutoff": 6.0}')
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("was loaded"))
    assert {name: _package(file) for name, file in files.items()} == {
        "checkpoint.pth": "sevenn", "module.model": "mace", "text.pth": "mace", "text.nqx": "nequix",
    }  # fmt: skip
    assert _package("sevennet:7net-0") == "sevenn"
    assert _package("nequix:any") == "nequix"
    assert _package("nequip:any") == _package("nequip.net:any") == "nequip"
    assert _package("medium-0b3") == _package(torch.nn.Linear(2, 2)) == "mace"


def test_a_sevennet_of_an_unsupported_version_says_which(monkeypatch):
    try:
        sevenn = import_sevenn()
    except ImportError:
        pytest.skip("needs the package sevenn")
    monkeypatch.setattr(sevenn, "__version__", "0.12.1")
    with pytest.raises(ImportError, match=r"need sevenn 0\.13, but 0\.12\.1 is installed"):
        load("sevennet:7net-0")


def test_an_allegro_is_refused_where_no_package_of_it_is_installed(tmp_path):
    config = {"_target_": "allegro.model.AllegroModel"}
    content = {"pytorch-lightning_version": "2.6.6", "hyper_parameters": {"model": config, "info_dict": {}}}
    torch.save(content, tmp_path / "any.model")
    with pytest.raises(InputError, match=r"any.model: is an Allegro \(allegro.model.AllegroModel\), whose"):
        load(tmp_path / "any.model")
