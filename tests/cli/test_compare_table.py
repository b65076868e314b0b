"""The table that `pathtune compare` prints."""

import json
import pathlib
import re

import pytest

from pathtune.cli.compare import _print
from pathtune.comparing.table import cost_cells, error_cells

RESULT = pathlib.Path(__file__).parents[2] / "bench" / "results" / "accuracy" / "ethanol.json"


@pytest.mark.parametrize("width", [60, 100])
def test_no_number_is_cut_however_narrow_the_terminal(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    result = json.loads(RESULT.read_text())
    _print(result, "out")
    printed = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert max(map(len, printed.splitlines())) <= width
    lines = [*error_cells(result["rows"])[1], *cost_cells(result["rows"])[1]]
    numbers = [cell for line in lines for cell in line if cell[:1].isdigit()]
    assert [cell for cell in numbers if cell not in printed] == []
    assert "\u2026" not in printed
