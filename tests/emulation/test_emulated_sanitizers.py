"""The emulated kernels' tests again, with kernels built under AddressSanitizer + UBSan and under ThreadSanitizer.

Out-of-bounds and misaligned accesses, undefined shifts and overflows; and races: two threads of a block, or two
blocks, that meet in a place without a barrier or an atomic between them. The emulator gives every thread of a block
its own fiber, of which ThreadSanitizer is told.
"""

import os
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from build import build

pytestmark = pytest.mark.slow
HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
LIBRARIES = {"plain": (), "asan": ("libasan.so", "libubsan.so", "libstdc++.so"), "tsan": ("libtsan.so", "libstdc++.so")}
OPTIONS = {
    "plain": {},
    "asan": {"ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=0",
             "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"},
    "tsan": {"TSAN_OPTIONS": "halt_on_error=1:exitcode=66:report_signal_unsafe=0:ignore_noninstrumented_modules=1"},
}  # fmt: skip
# Every operator and pass on its smallest ragged shapes; ThreadSanitizer needs seconds for a launch.
SELECTED = {"asan": "reference or oracle or equal", "tsan": "tiny"}


def library(name):
    """A runtime library of the compiler; the loader takes it before the interpreter's own."""
    done = subprocess.run(
        [os.environ.get("CXX", "g++"), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def run_under(variant, selected, module=None):
    """pytest over this folder with the kernels of `variant`."""
    environment = {
        **os.environ,
        **OPTIONS[variant],
        "PATHTUNE_EMULATED": str(module or build(variant)),
        "LD_PRELOAD": " ".join(map(library, LIBRARIES[variant])),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-k",
        selected,
        str(HERE),
        "-c",
        str(ROOT / "pyproject.toml"),
        "--rootdir",
        str(ROOT),
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("variant", SELECTED)
def test_emulated_kernels_pass_under_sanitizers(variant):
    done = run_under(variant, SELECTED[variant])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert " passed" in done.stdout
