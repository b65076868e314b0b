"""nvcc's word on the kernels: no warning, no spill, no more registers or shared memory than the committed budget."""

import json
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from resources import ARCHITECTURES, BUDGET, find_nvcc, measure

pytestmark = pytest.mark.nvcc


@pytest.fixture(scope="module")
def budget():
    return json.loads(BUDGET.read_text())


@pytest.fixture(scope="module")
def measured():
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("no CUDA compiler")
    return measure(nvcc)  # raises on any warning


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_kernel_spills_or_outgrows_its_budget(arch, measured, budget):
    assert measured[arch].keys() == budget[arch].keys(), "kernels came or went: run tests/nvcc/resources.py"
    for kernel, used in measured[arch].items():
        assert used["spilled_bytes"] == 0, f"{kernel} spills on {arch}"
        for what, allowed in budget[arch][kernel].items():
            assert used[what] <= allowed, f"{kernel} on {arch} uses {used[what]} {what}, budget {allowed}"


def test_a_spill_is_an_error_of_the_compilation(tmp_path, monkeypatch):
    """A kernel that indexes a local array at run time, as no kernel of ours may."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("no CUDA compiler")
    import resources

    source = tmp_path / "cuda.cu"
    source.write_text(
        "__global__ void k(const int* at, float* out) {\n"
        "  float local[64] = {};\n"
        "  for (int i = 0; i < 64; ++i) local[at[i]] += out[i];\n"
        "  out[threadIdx.x] = local[at[threadIdx.x]];\n}\n"
    )
    with pytest.raises(RuntimeError, match=r"cuda\.cu for sm_90"):
        resources.compile_one(nvcc, source, "sm_90")
