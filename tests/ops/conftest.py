"""The kernels of the CPU, of which tests/laws speaks."""

import pytest

from pathtune.ops import _core


@pytest.fixture
def kernels():
    """The kernels of the best instruction set."""
    return _core


@pytest.fixture
def all_kernels(isa):
    """The kernels of each instruction set in turn."""
    return _core
