"""Operators on CPU tensors whose CUDA kernels run as PTX, in the interpreter."""

import pathlib
import sys

import pytest
import torch

from pathtune.ops import _kernels

TESTS = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / name) for name in ("ptx", "emulation", "ops", "nvcc")]
from build import ROOT, load  # noqa: E402
from device import Device, compile_all  # noqa: E402
from resources import find_nvcc  # noqa: E402


def pytest_collection_modifyitems(items):
    for item in items:
        if pathlib.Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.nvcc)


@pytest.fixture(scope="session")
def nvcc():
    found = find_nvcc()
    if found is None:
        pytest.skip("no CUDA compiler")
    return found


@pytest.fixture(scope="session")
def emulated():
    return load()


@pytest.fixture(scope="session")
def device(nvcc, emulated):
    return Device(compile_all(nvcc, ROOT / "build" / "ptx"), emulated.__file__)


@pytest.fixture
def interpreted(device, emulated, monkeypatch):
    """What the operators launch is interpreted; an address outside of the tensors whose data_ptr they took is an
    error."""
    address_of = torch.Tensor.data_ptr

    def data_ptr(tensor):
        device.tensors.append(tensor)
        return address_of(tensor)

    monkeypatch.setattr(torch.Tensor, "data_ptr", data_ptr)
    monkeypatch.setattr(_kernels, "emulated", emulated)
    emulated.set_launcher(device.launch)
    yield device
    emulated.set_launcher(None)
    device.forget()
