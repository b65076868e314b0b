"""Changed files and command lines by the hundred: one sentence, or a sound result (bench/reliability.py does more)."""

import random
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import pytest

from fuzz.families import FAMILIES

pytestmark = pytest.mark.usefixtures("needs_mace")
FEW = {"adapters": 150, "structures": 100, "configs": 8, "commands": 8}  # folders: in the long run only


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """Each family, made when it is first asked for."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = FAMILIES[name](tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.mark.parametrize("name", FEW)
def test_whatever_is_changed_ends_in_one_sentence_or_a_sound_result(name, families):
    family, found = families(name), set()

    @hypothesis.settings(max_examples=FEW[name], derandomize=True, deadline=None, database=None)
    @hypothesis.given(st.integers(0, 2**32))
    def law(number):
        outcome = family.trial(random.Random(number))
        assert outcome in ("refused", "accepted")
        found.add(outcome)

    law()
    assert "refused" in found


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_long_run_breaks_the_law_nowhere(name):
    """A tenth of what is committed, other trials: the whole takes hours (python bench/reliability.py)."""
    n = {"adapters": 10_000, "structures": 2_000, "configs": 500, "commands": 200, "folders": 200}[name]
    command = [sys.executable, "bench/reliability.py", name, "--trials", str(n), "--first", "1000000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '"failed": 0' in done.stdout, done.stdout
