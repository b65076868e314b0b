"""The site's pages and tutorials are whole; that they build and run is a step of .ci/run."""

import json
import pathlib
import re

import pytest

import pathtune

DOCS = pathlib.Path(__file__).parent.parent / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.ipynb"))


def test_the_reference_has_every_public_name():
    listed = re.findall(r"^::: pathtune\.(\S+)$", (DOCS / "reference.md").read_text(), re.M)
    assert sorted(name.split(".")[-1] for name in listed) == sorted(set(pathtune.__all__) - {"__version__"})


@pytest.mark.parametrize("file", TUTORIALS, ids=lambda file: file.stem)
def test_every_cell_of_a_tutorial_was_run_in_order_without_an_error(file):
    cells = [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_there_is_a_tutorial_for_a_molecule_and_for_a_crystal():
    assert [file.stem for file in TUTORIALS] == ["crystal", "molecule"]
