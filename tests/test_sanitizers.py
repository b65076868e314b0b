"""The operators' tests with kernels built under AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).parent.parent


def library(name):
    """A runtime library of the compiler, None where it has none."""
    done = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = pathlib.Path(done.stdout.strip())
    return path if path.is_absolute() and path.exists() else None


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """A copy of the package whose _core is sanitized."""
    if shutil.which("g++") is None or library("libasan.so") is None:
        pytest.fail("g++ with libasan is needed for the sanitizer tests")
    import pybind11

    folder = tmp_path_factory.mktemp("sanitized")
    build = folder / "build"
    subprocess.run(
        ["cmake", "-S", ROOT, "-B", build, f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
         f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", "-DPATHTUNE_SANITIZE=address,undefined"],
        check=True, capture_output=True)  # fmt: skip
    subprocess.run(["cmake", "--build", build, "-j", "2"], check=True, capture_output=True)
    shutil.copytree(ROOT / "python" / "pathtune", folder / "pathtune", ignore=shutil.ignore_patterns("*.so"))
    for extension in build.glob("_core*.so"):
        shutil.copy(extension, folder / "pathtune" / "ops")
    return folder


def test_operator_tests_pass_under_sanitizers(sanitized):
    preload = " ".join(str(library(name)) for name in ("libasan.so", "libubsan.so", "libstdc++.so") if library(name))
    environment = {
        **os.environ,
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",  # the interpreter's own leaks are not ours
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "OMP_NUM_THREADS": "2",
    }
    # Run from the copy: an editable install's finder would come before the path.
    code = (f"import sys; sys.path.insert(0, {str(sanitized)!r}); "
            "sys.meta_path = [f for f in sys.meta_path if 'Editable' not in type(f).__name__ "
            "and 'ScikitBuild' not in type(f).__name__]; import pathtune; "
            f"assert pathtune.__file__.startswith({str(sanitized)!r}), pathtune.__file__; "
            "import pytest; sys.exit(pytest.main(sys.argv[1:]))")  # fmt: skip
    tests = [str(ROOT / "tests" / "ops"), "-q", "-x", "-k", "reference or gradcheck or bitwise or dense",
             "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, *tests], env=environment, capture_output=True, text=True,
                          check=False, cwd=sanitized)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
