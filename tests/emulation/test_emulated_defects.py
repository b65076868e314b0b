"""The checks are checked: defects planted into our own kernels are found by the union of values in five orders of
threads, the emulator's own reports, ASan + UBSan and TSan.

    python tests/emulation/test_emulated_defects.py [--again]

writes bench/results/planted_defects.json, defect by defect; what stands there already is not tried again.
"""

import json
import os
import pathlib
import shutil
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from build import build
from defects import DEFECTS
from test_emulated_sanitizers import ROOT, run_under

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


def found_by(defect, folder):
    """The first check that finds the defect, or None."""
    csrc = planted(defect, folder)
    selected = f"tiny_{defect.operator}"
    for variant, name in (("plain", "values or emulator"), ("asan", "asan"), ("tsan", "tsan")):
        if run_under(variant, selected, build(variant, csrc=csrc)).returncode != 0:
            return name
    return None


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: f"{d.operator}: {d.name}")
def test_a_planted_defect_is_found(defect, tmp_path):
    assert found_by(defect, tmp_path) is not None


def test_the_kernels_without_a_defect_raise_no_alarm():
    assert run_under("plain", "tiny").returncode == 0


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
