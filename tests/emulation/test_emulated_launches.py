"""The budget of launches: what a sparse step of the demo model's shape makes on a device, counted."""

import json
import sys

import pytest
from build import ROOT

BUDGET = ROOT / "bench" / "results" / "launches.json"


@pytest.mark.usefixtures("needs_mace", "emulated")
def test_a_step_launches_no_more_than_was_committed(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench"), *sys.path])
    import launches_of_step

    budget = next(row for row in json.loads(BUDGET.read_text())["rows"] if row["model"] == "demo")
    found = launches_of_step.counted("demo", launches_of_step.SHAPES["demo"])
    assert found["kernels"] == budget["kernels"]
    assert found["n_torch"] <= budget["n_torch"]
    assert found["n_read_on_host"] <= budget["n_read_on_host"]
    assert found["preparing"]["n_torch"] <= budget["preparing"]["n_torch"]
    assert (found["preparing"]["n_copies"], found["preparing"]["n_blocking"]) == (1, 0)
    assert found["preparing"]["n_copies_again"] == 0
    assert found["peak_bytes_per_atom"] <= 1.02 * budget["peak_bytes_per_atom"]
