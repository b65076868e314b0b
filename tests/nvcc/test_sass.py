"""nvdisasm's word on the kernels: nothing in local memory, loads as wide as the source says, no more instructions than
committed."""

import json
import os
import re
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
import sass
from resources import find_nvcc

pytestmark = pytest.mark.nvcc
MORE = 1.1  # of the committed number of instructions, which another nvcc may make
# kernels one of whose template arguments, the first or the last, says how many neighbouring channels are moved as one
PACKED = re.compile(
    r"(conv_receivers|radial_expand_rows|radial_contract_rows|multiply_rows|sum_outer)<(float|double), (.*)>"
)


def tools():
    nvcc, nvdisasm = find_nvcc(), sass.find_nvdisasm()
    if nvcc is None or nvdisasm is None:
        pytest.skip("no CUDA compiler or no nvdisasm")
    return nvcc, nvdisasm


@pytest.fixture(scope="module")
def found():
    return sass.measure(*tools())


def channels_of(name):
    """The channels of a Pack of a kernel, None where its name says none."""
    match = PACKED.search(name)
    if match is None:
        return None
    arguments = [a.strip() for a in match[3].split(",")]
    return int(arguments[0] if match[1] == "conv_receivers" else arguments[-1]) * {"float": 4, "double": 8}[match[2]]


def test_no_kernel_uses_local_memory_or_a_pointer_into_unknown_memory(found):
    assert not {name: kernel.bad for name, kernel in found.items() if kernel.bad}


def test_packs_are_moved_as_one(found):
    packed = {name: n for name in found if (n := channels_of(name))}
    assert len(packed) >= 20
    for name, n in packed.items():
        assert found[name].loads.get(n, 0) > 0, f"{name} has no load of {n} bytes"
        assert max(found[name].stores, default=n) == n or "contract" in name, f"{name} has no store of {n} bytes"


def test_no_kernel_is_longer_or_moves_less_at_once_than_committed(found):
    committed = json.loads(sass.FILE.read_text())
    assert found.keys() == committed.keys(), "kernels came or went: run tests/nvcc/sass.py"
    for name, kernel in found.items():
        row = sass.row(kernel)
        for what in ("instructions", "longest_loop"):
            assert row[what] <= MORE * committed[name][what], f"{name}: {what}"
        for what in ("load_bytes", "store_bytes"):
            assert row[what] >= committed[name][what], f"{name}: {what}"


PLANTED = """
struct Pack { float v[4]; };  // without its alignment
struct alignas(16) Aligned { float v[4]; };
__global__ void narrow(const Pack* a, Pack* b) { b[threadIdx.x] = a[threadIdx.x]; }
__global__ void wide(const Aligned* a, Aligned* b) { b[threadIdx.x] = a[threadIdx.x]; }
__global__ void local_array(const int* at, float* out) {
  float local[64] = {};
  for (int i = 0; i < 64; ++i) local[at[i]] += out[i];
  out[threadIdx.x] = local[at[threadIdx.x]];
}
__global__ void looped(const float* a, float* b, int n) {
#pragma unroll 1
  for (int i = 0; i < n; ++i) b[i * 32] = a[i * 64];
}
"""


def test_a_narrow_load_a_local_array_and_a_loop_are_seen(tmp_path):
    source = tmp_path / "cuda.cu"
    source.write_text(PLANTED)
    found = sass.of_source(*tools(), source)
    assert (found["wide"].loads, found["wide"].stores) == ({16: 1}, {16: 1})
    assert (found["narrow"].loads, found["narrow"].stores) == ({4: 4}, {4: 4})
    assert any(operation.startswith(("LDL", "STL")) for operation in found["local_array"].bad)
    assert not found["wide"].bad
    assert len(found["looped"].loops) == 1
    assert 4 <= found["looped"].loops[0] < found["looped"].instructions
