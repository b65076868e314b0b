"""Instructions that the CUDA kernels issue, a second floor beside bytes: bench/results/issued.json.

    python bench/issued.py

The calls are those of bench/emulated_traffic.py, MACE-MP-0b3 medium's second layer on a few nodes. Each launch runs as
PTX in the interpreter of tests/ptx, which counts an instruction once for each warp some of whose lanes execute it. The
machine code is not the PTX: ptxas joins some instructions and splits others. No device has run this.
"""

from __future__ import annotations

import json
import pathlib
import sys

import torch

from emulated_traffic import N_NODES, emulated, measure

ROOT = pathlib.Path(__file__).parent.parent
WARPS_PER_US = 132 * 4 * 1980  # of an H100 SXM: multiprocessors, schedulers, MHz
N_ATOMS = 1000


class Issued:
    """Launches in the interpreter; counts as the emulation counts bytes."""

    def __init__(self, module):
        sys.path[:0] = [str(ROOT / "tests" / name) for name in ("ptx", "nvcc")]
        from device import Device, compile_all
        from resources import find_nvcc

        nvcc = find_nvcc()
        if nvcc is None:
            raise SystemExit("no CUDA compiler: set CUDACXX or install nvidia-cuda-nvcc")
        self.device = Device(compile_all(nvcc, ROOT / "build" / "ptx"), module.__file__)
        self.device.reads_unwritten = True
        module.set_launcher(self.device.launch)
        address_of = torch.Tensor.data_ptr

        def data_ptr(tensor: torch.Tensor) -> int:
            self.device.tensors.append(tensor)
            return address_of(tensor)

        torch.Tensor.data_ptr = data_ptr
        self._restore = lambda: (module.set_launcher(None), setattr(torch.Tensor, "data_ptr", address_of))

    def close(self) -> None:
        """Launches are the emulation's again."""
        self._restore()

    def reset(self) -> None:
        """Count from zero."""
        self.device.issued = 0
        self.device.tensors.clear()

    def bytes_moved(self) -> tuple[int, int]:
        """Instructions of warps since then."""
        return self.device.issued, 0


def main() -> None:
    rows = []
    issued = Issued(emulated())
    for cost, n_issued in measure(issued):
        for_atoms = n_issued / N_NODES * N_ATOMS
        counts = {"issued": n_issued, "issued_per_atom": n_issued / N_NODES}
        floor_us = round(for_atoms / WARPS_PER_US, 2)
        rows.append({"kernel": cost.kernel, "call": cost.call, **counts, "floor_us": floor_us})
        print(rows[-1], flush=True)
    issued.close()
    result = {"n_nodes": N_NODES, "n_atoms": N_ATOMS, "warps_per_us": WARPS_PER_US, "rows": rows}
    (ROOT / "bench" / "results" / "issued.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
