"""The emulated CUDA kernels, in the place of the CPU's."""

import os
import sys

import pytest

from pathtune.ops import _kernels

# The operators' tests know how inputs and oracles are made.
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "ops"))
sys.path.insert(0, os.path.dirname(__file__))
from build import load

ORDERS = {"forward": (0, 0), "reverse": (1, 0), "random1": (2, 1), "random2": (2, 2), "random3": (2, 3)}


@pytest.fixture(scope="session")
def emulated():
    return load()


@pytest.fixture(params=list(ORDERS))
def order(request):
    """In which order the threads between two barriers, and the blocks, are run."""
    return request.param


@pytest.fixture
def cuda_kernels(order, emulated, monkeypatch):
    """Operators on CPU tensors call the emulated CUDA kernels, whose threads run in this order."""
    yield from in_order(order, emulated, monkeypatch)


@pytest.fixture
def forward_kernels(emulated, monkeypatch):
    """As cuda_kernels, in one order: for what does not depend on it."""
    yield from in_order("forward", emulated, monkeypatch)


@pytest.fixture
def kernels(forward_kernels):
    """Of which tests/laws speaks."""
    return forward_kernels


@pytest.fixture
def all_kernels(forward_kernels):
    """There is one instruction set; laws of the order of threads stand in this folder."""
    return forward_kernels


def in_order(order, emulated, monkeypatch):
    emulated.reset()
    emulated.set_order(*ORDERS[order])
    monkeypatch.setattr(_kernels, "emulated", emulated)
    yield emulated
    assert emulated.errors() == 0, "the emulator reports misuse (stderr)"
