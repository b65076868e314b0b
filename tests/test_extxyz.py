"""Law of our reader of extxyz: whatever a frame holds, it gives what ASE gives, or leaves the frame to ASE."""

import io
import random

import ase.io
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from models import crystal, labelled, molecule
from pathtune.data import extxyz

NAMES = ["REF_forces", "forces", "charge", "magmoms", "momenta", "tags", "mass", "a0", "REF_magmom", "a",
         "move_mask", "numbers", "pos", "initial_charges", "energies"]  # fmt: skip
KEYS = ["REF_energy", "energy", "stress", "virial", "REF_stress", "config_type", "uid", "head", "free_energy", "pbc",
        "Lattice", "Properties", "dipole", "kind-2", "_x"]  # fmt: skip
WORDS = ["T", "F", "true", "TRUE", "1", "-3", "0.5", "-1e-3", "nan", "-inf", "1_000", "99999999999999999999", "C",
         "1,2", "_JSON", "[1]", "{2", "}", "'", '"', "\\", "=", "a=b", "", "\t", "é", "\x1c", "1.0", "2.0", ",",
         "Infinity", "0x10", "1d3", "VEC1", "R", "S", ":"]  # fmt: skip


def number(rng):
    return rng.choice([f"{rng.gauss(0, 3):.8f}", repr(rng.gauss(0, 9)), str(rng.randint(-9, 99)), f"{rng.random():e}"])


def several(rng, n):
    return rng.choice([" ", "  ", "\t", ","]).join(number(rng) for _ in range(n))


def value(rng, key):
    n = {"Lattice": 9, "stress": rng.choice([6, 9]), "virial": 9, "dipole": 3}.get(key, rng.choice([1, 1, 1, 2, 6, 9]))
    if key == "pbc":
        return rng.choice(['"T T T"', '"T F T"', "T", "[T, T, F]", '"1 0 1"'])
    if n == 1:
        return rng.choice([number(rng), rng.choice(WORDS) or "T", "word"])
    opened, closed = rng.choice(['""', '""', '""', "''", "[]", "{}"])
    return opened + several(rng, n) + closed


def frame(rng):
    """The text of one frame, mostly sound."""
    columns = ["species:S:1", "pos:R:3"]
    for name in rng.sample(NAMES[: 9 if rng.random() < 0.8 else None], rng.choice([0, 1, 1, 2, 3])):
        columns.append(f"{name}:{rng.choice('RRRRRRRRIILS')}:{rng.choice([3, 3, 1, 2, 12])}")
    if rng.random() < 0.1:
        rng.shuffle(columns)
    kinds = [kind for c in columns for kind in c.split(":")[1] * int(c.split(":")[2])]
    words = {"R": number, "I": lambda rng: str(rng.randint(-5, 2**31 + 3 if rng.random() < 0.02 else 9)),
             "S": lambda rng: rng.choice(["C", "h", "O", "He", "X", "6", "Qq"] if rng.random() < 0.1 else ["C", "H"]),
             "L": lambda rng: rng.choice(["T", "F", "True", "False", "t"])}  # fmt: skip
    n = rng.randint(0 if rng.random() < 0.1 else 1, 4)
    keys = [f"{key}={value(rng, key)}" for key in rng.sample(KEYS, rng.randint(0, 5)) if key != "Properties"]
    keys.insert(rng.randint(0, len(keys)), f"Properties={':'.join(columns)}")
    rows = [rng.choice(["  ", "\t", " "]).join(words[kind](rng) for kind in kinds) for _ in range(n)]
    return "\n".join([str(n), rng.choice([" ", "  "]).join(keys), *rows]) + "\n"


def changed(rng, text):
    """The text with a word or character more, less, or another."""
    place = rng.randrange(len(text))
    if rng.random() < 0.5:
        return text[:place] + rng.choice(WORDS) + text[place + rng.choice([0, 1, 3]) :]
    words = text.split(" ")
    words[rng.randrange(len(words))] = rng.choice(WORDS)
    return " ".join(words)


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tolist() == expected.tolist() or np.array_equal(found, expected, equal_nan=True)
    else:
        assert found == expected or found != found


def assert_same_atoms(found, expected):
    for part in ("arrays", "info"):
        assert_same(getattr(found, part), getattr(expected, part))
    assert_same(found.cell.array, expected.cell.array)
    assert_same(found.pbc, expected.pbc)
    assert (found.calc is None) == (expected.calc is None)
    assert_same(found.calc and found.calc.results, expected.calc and expected.calc.results)


@pytest.mark.filterwarnings("ignore")  # ASE's and numpy's, of overflows and the like
@hypothesis.settings(max_examples=600, derandomize=True, deadline=None, database=None)
@hypothesis.given(st.integers(0, 2**32), st.booleans())
def test_a_frame_of_any_text_is_left_to_ase_or_is_what_ase_reads(seed, is_changed):
    rng = random.Random(seed)
    text = changed(rng, frame(rng)) if is_changed else frame(rng)
    lines = text.split("\n")
    try:
        found = extxyz._common(text)
    except (ValueError, OverflowError, KeyError):
        return
    if found is not None:
        expected = ase.io.read(io.StringIO(text), ":", format="extxyz")
        assert len(expected) == 1, lines
        assert_same_atoms(found, expected[0])


def test_frames_that_ase_writes_are_of_the_common_shape():
    frames = labelled([molecule(0), crystal(1)], stress=True)
    frames[1].info |= {"config_type": "a b", "head": "pbe", "weights": np.array([1.0, 2.0])}
    frames[1].arrays |= {"tag": np.arange(5), "is_free": np.arange(5) > 2, "one": np.arange(5) / 3}
    calculated = crystal(2)
    calculated.calc = SinglePointCalculator(calculated, energy=1.5, forces=np.ones((5, 3)), stress=np.arange(6) / 7)
    for atoms in (*frames, calculated):
        stream = io.StringIO()
        ase.io.write(stream, atoms, format="extxyz")
        found = extxyz._common(stream.getvalue())
        assert found is not None
        assert_same_atoms(found, extxyz.read_by_ase(stream.getvalue())[0])


def test_nothing_of_a_frame_is_shared_with_the_next():
    stream = io.StringIO()
    ase.io.write(stream, crystal(0), format="extxyz")
    text = stream.getvalue().replace("pbc=", 'd="1 2 3" pbc=')
    first = extxyz.read_frame(text)
    first.info["d"][0] = 7
    first.cell[0, 0] = 99.0
    assert extxyz.read_frame(text).info["d"].tolist() == [1, 2, 3]
    assert extxyz.read_frame(text).cell[0, 0] == 3.2
