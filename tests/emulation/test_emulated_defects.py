"""The checks are checked: defects planted into our own kernels are found by the union of values in five orders of
threads, the emulator's own reports, ASan + UBSan and TSan.

    python tests/emulation/test_emulated_defects.py [--again]

writes bench/results/planted_defects.json, defect by defect; what stands there already is not tried again.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from build import build
from defects import DEFECTS
from test_emulated_sanitizers import HERE, ROOT, run_under

pytestmark = pytest.mark.slow
MATRIX = ROOT / "bench" / "results" / "planted_defects.json"


def planted(defect, folder):
    """A copy of csrc with the defect in it."""
    csrc = folder / "csrc"
    shutil.copytree(ROOT / "csrc", csrc, dirs_exist_ok=True)
    file = csrc / defect.file
    text = file.read_text()
    assert text.count(defect.find) == 1, f"{defect.name}: {defect.file} has {text.count(defect.find)} such places"
    file.write_text(text.replace(defect.find, defect.replace))
    return csrc


def fails_plainly(module, selected):
    """Whether values in any order, or the emulator itself, tell."""
    environment = {**os.environ, "PATHTUNE_EMULATED": str(module), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", selected, str(HERE),
               "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode != 0


def found_by(defect, folder):
    """The first check that finds the defect, or None."""
    csrc, selected = planted(defect, folder), f"tiny_{defect.operator}"
    if fails_plainly(build("plain", csrc=csrc), selected):
        return "values or emulator"
    for variant in ("asan", "tsan"):
        if run_under(variant, selected, build(variant, csrc=csrc)).returncode != 0:
            return variant
    return None


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: f"{d.operator}: {d.name}")
def test_a_planted_defect_is_found(defect, tmp_path):
    assert found_by(defect, tmp_path) is not None


def test_the_kernels_without_a_defect_raise_no_alarm():
    assert not fails_plainly(build("plain"), "tiny")


def main():
    import tempfile

    again = "--again" in sys.argv
    rows = [] if again or not MATRIX.exists() else json.loads(MATRIX.read_text())
    done = {(row["operator"], row["defect"]) for row in rows}
    for defect in DEFECTS:
        if (defect.operator, defect.name) in done:
            continue
        with tempfile.TemporaryDirectory() as folder:
            check = found_by(defect, pathlib.Path(folder))
        rows.append({"operator": defect.operator, "defect": defect.name, "found_by": check})
        print(rows[-1], flush=True)
        MATRIX.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
