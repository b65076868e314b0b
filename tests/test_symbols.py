"""What a kernel file makes of std:: templates must not be shared between instruction sets (csrc/list.hpp)."""

import pathlib
import platform
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
KERNELS = re.findall(r"csrc/\w+/\w+\.cpp", (ROOT / "CMakeLists.txt").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_object_has_no_weak_std_symbols(kernel, tmp_path):
    compiler, nm = shutil.which("c++"), shutil.which("nm")
    assert compiler
    assert nm
    flags = ["-mavx2", "-mfma"] if platform.machine() in ("x86_64", "AMD64") else []
    subprocess.run(
        [compiler, "-std=c++17", "-O3", "-fopenmp", "-Wno-psabi", "-DPATHTUNE_ISA=avx2", *flags,
         "-I", str(ROOT / "csrc"), "-c", str(ROOT / kernel), "-o", str(tmp_path / "kernel.o")], check=True,
    )  # fmt: skip
    symbols = subprocess.check_output([nm, "-C", str(tmp_path / "kernel.o")], text=True)
    weak = [line for line in symbols.splitlines() if re.search(r" [WVu] ", line) and "std::" in line]
    assert symbols
    assert not [line for line in weak if "pathtune::avx2" not in line]
