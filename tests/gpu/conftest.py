"""Every test of this folder needs a CUDA device: run them with pytest -m gpu tests/gpu."""

import os
import sys

import pytest
import torch

from pathtune.ops import cuda_status

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "ops"))


def pytest_collection_modifyitems(items):
    for item in items:
        if os.path.dirname(__file__) in str(item.path):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def cuda():
    """The device; without one, or with a build that has no CUDA, the tests are skipped with the reason."""
    reason = cuda_status()
    if reason:
        pytest.skip(f"no CUDA device: {reason}")
    return torch.device("cuda")
