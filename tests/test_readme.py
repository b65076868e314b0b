"""The README's Python runs as it stands, on the shipped model."""

import pathlib
import re

import numpy as np
import pytest

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.usefixtures("needs_mace")
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_python_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["scores"]["forces_mae_mev_a"] > 0
    assert np.isfinite(names["atoms"].get_forces()).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.model", "mine.safetensors"]


def test_there_is_a_python_block_to_run():
    assert len(BLOCKS) == 1
