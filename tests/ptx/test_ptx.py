"""The PTX that nvcc makes of every kernel, interpreted, against the plain reference: the code that g++, and so the
emulation, never sees."""

import json
import os
import pathlib
import re
import shutil

import pytest
import test_emulated_edge_conv as edge_conv_laws
import test_emulated_tiny as tiny
import torch
from build import ROOT
from device import compile_ptx, host_name
from program import parse

TRAFFIC = pathlib.Path(__file__).with_name("traffic.json")
F32, F64 = torch.float32, torch.float64


def edge_conv_with_parts():
    """More channels than a block has room for: gy is summed over chunks."""
    edge_conv_laws.TestEmulated().check(*edge_conv_laws.make("several chunks"))


def edge_conv_over_senders():
    torch.use_deterministic_algorithms(True)
    try:
        tiny.test_tiny_edge_conv_over_senders(None, None)
    finally:
        torch.use_deterministic_algorithms(False)


CASES = {  # what to run, and the kernels that it launches
    "edge_conv": (lambda: tiny.test_tiny_edge_conv("ragged, joined", F32, None), "conv_receivers"),
    "edge_conv, several chunks": (edge_conv_with_parts, "conv_receivers conv_sum_parts"),
    "edge_conv over senders": (edge_conv_over_senders, "conv_receivers conv_senders"),
    "species_linear": (lambda: tiny.test_tiny_species_linear("ragged tails", F32, None), "multiply_rows sum_outer"),
    "species_linear, float64": (lambda: tiny.test_tiny_species_linear("ragged tails", F64, None),
                                "multiply_rows sum_outer"),
    "symmetric_contraction": (lambda: tiny.test_tiny_symmetric_contraction("ragged tails", F32, None),
                              "contract contract_backward contract_double_backward sum_over_nodes"),
    "sampled_gradient": (lambda: tiny.test_tiny_sampled_gradient(F32, None),
                         "products finish_values finish_thresholds"),
    "soft_threshold": (lambda: tiny.test_tiny_soft_threshold(F32, None), "write_deltas"),
    "radial_table": (lambda: tiny.test_tiny_radial_table(37, F32, None), "radial_expand_rows radial_contract_rows"),
    "radial_table, 16 bytes at a time": (lambda: tiny.test_tiny_radial_table(132, F64, None),
                                         "radial_expand_rows radial_contract_rows"),
    "edge_geometry": (lambda: tiny.test_tiny_edge_geometry(3, F32, None),
                      "geometry_forward geometry_backward geometry_double_backward"),
    "edge_geometry, float64": (lambda: tiny.test_tiny_edge_geometry(2, F64, None),
                               "geometry_forward geometry_backward geometry_double_backward"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_interpreted_ptx_equals_reference(case, interpreted):
    run, kernels = CASES[case]
    # its contraction sums eight edges at a time, also those beyond the last, whose sums nobody uses
    interpreted.reads_unwritten = case.startswith("edge_conv")
    run()
    assert interpreted.launched == set(kernels.split())
    assert_no_more_traffic(case, interpreted.traffic)


def assert_no_more_traffic(case, found):
    """No kernel needs more sectors and passes than committed; PATHTUNE_WRITE_TRAFFIC=1 commits those of this run."""
    known = json.loads(TRAFFIC.read_text()) if TRAFFIC.exists() else {}
    counts = {kernel: dict(found[kernel]) for kernel in sorted(found)}
    if os.environ.get("PATHTUNE_WRITE_TRAFFIC"):
        TRAFFIC.write_text(json.dumps({**known, case: counts}, indent=1, sort_keys=True) + "\n")
        return
    for kernel, count in counts.items():
        for what in ("sectors", "passes"):
            assert count[what] <= known[case][kernel][what], f"{kernel}: {what}"


def test_a_tile_without_padding_is_found_by_its_bank_conflicts(nvcc, device, interpreted, tmp_path, monkeypatch):
    """The planted defect changes no number that the kernel computes."""
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    file = tmp_path / "csrc" / "species_linear" / "cuda_tile.hpp"
    padded = "stride_of = Tile + vector_width<T>;"
    assert file.read_text().count(padded) == 1
    file.write_text(file.read_text().replace(padded, "stride_of = Tile;"))
    kernels = parse(compile_ptx(nvcc, file.with_name("cuda.cu"), tmp_path))
    for name in kernels:
        monkeypatch.setitem(device.kernels, host_name(name), kernels[name])
    CASES["species_linear"][0]()
    with pytest.raises(AssertionError, match="multiply_rows: passes"):
        assert_no_more_traffic("species_linear", interpreted.traffic)


def test_every_kernel_has_a_case():
    kernel = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\(.*\)\s+)?(\w+)\(")
    found = {name for file in ROOT.glob("csrc/*/cuda*") for name in kernel.findall(file.read_text())}
    assert found == {name for _, kernels in CASES.values() for name in kernels.split()}
