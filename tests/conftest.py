"""Fixtures, and the strict mode of CI: a skipped test fails unless its reason is one of the allowed."""

import os
import pathlib

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: a thread each, and before torch counts the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from pathtune.backbones._packages import import_e3nn, import_mace, import_nequip, import_sevenn
from pathtune.ops import _core

ALLOWED_SKIPS = ("no CUDA device", "needs the package sevenn", "needs the package mace-torch",
                 "needs the package e3nn", "needs the package nequix", "needs the package nequip",
                 "needs the package cuequivariance", "needs the package ase-db-backends")  # fmt: skip


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if os.environ.get("PATHTUNE_STRICT") != "1" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(allowed in reason for allowed in ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"skipped under PATHTUNE_STRICT=1: {reason}"


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_folder() -> pathlib.Path:
    """The real data sets and weights; see CONTRIBUTING.md."""
    folder = pathlib.Path(os.environ.get("PATHTUNE_DATA", "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"PATHTUNE_DATA: no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def needs_mace():
    """mace-torch and the e3nn it pins, imported the safe way."""
    try:
        import_mace()
    except ImportError:
        pytest.skip("needs the package mace-torch")


@pytest.fixture(scope="session")
def needs_sevenn():
    """sevenn and the e3nn it needs, which excludes mace-torch's."""
    try:
        import_sevenn()
    except ImportError:
        pytest.skip("needs the package sevenn")


@pytest.fixture(scope="session")
def needs_nequip():
    """nequip, which goes with sevenn and not with mace-torch."""
    try:
        import_nequip()
    except ImportError:
        pytest.skip("needs the package nequip")


@pytest.fixture(scope="session")
def needs_e3nn():
    """e3nn of any version, which both packages bring."""
    try:
        import_e3nn()
    except ImportError:
        pytest.skip("needs the package e3nn")


@pytest.fixture(params=range(3), ids=["plain", "avx2", "avx512"])
def isa(request):
    """Runs a test once for each instruction set that this machine has."""
    before = _core.active_isa()
    isa = min(request.param, _core.best_isa())  # where the machine lacks one, its best one is tested again
    _core.set_active_isa(isa)
    yield isa
    _core.set_active_isa(before)
