"""One check of numbers, types and words serves Python, the command line and config files."""

import dataclasses
import tomllib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from pathtune import FitConfig, InputError, demo_file, evaluate
from pathtune.cli import main
from pathtune.data import as_source
from pathtune.options import fields_of, from_mapping, option, to_toml
from pathtune.training.run import sections

FIELDS = [(cls, field) for cls in sections().values() for field in fields_of(cls)]
WRONG = {
    int: (True, 2.5, "4", 2**63 - 1, -(2**63), [1]),
    float: (True, "0.1", float("nan"), float("inf"), -float("inf"), 1e300, [0.1]),
    str: (3, True, ["a"]),
    bool: (1, "yes"),
    tuple: (3, True, [1, 2], {"a": 1}),
}


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=[f"{cls.__name__}.{field.name}" for cls, field in FIELDS])
def test_a_value_that_a_field_cannot_have_is_refused_alike_in_python_and_in_a_config_file(cls, field):
    for value in [v for v in WRONG[field.kind] if not (field.is_table and isinstance(v, dict))]:
        for make in (lambda v: cls(**{field.name: v}), lambda v: from_mapping(cls, {field.name: v}, "a.toml, [x]")):
            with pytest.raises(InputError, match=f"{field.name} is .*expected"):
                make(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch_size", -1), ("seed", -1), ("seed", 2**32), ("patience", -1), ("energy_weight", -1.0),
     ("lr", 0.0), ("beta1", 1.0), ("epochs", None)],
)  # fmt: skip
def test_a_number_out_of_range_is_refused(name, value):
    with pytest.raises(InputError, match=f"{name} is {value}, expected"):
        FitConfig(**{name: value})


def test_numbers_of_numpy_are_numbers():
    assert FitConfig(epochs=np.int64(3), lr=np.float32(0.5)).epochs == 3


def test_counts_of_frames_and_structures_start_at_one(tmp_path, capsys):
    file = demo_file("valid")
    for bad in (0, -4):
        with pytest.raises(InputError, match=f"max_frames is {bad}, expected at least 1"):
            as_source(file, max_frames=bad)
        with pytest.raises(InputError, match=f"batch_size is {bad}, expected at least 1"):
            evaluate(None, file, batch_size=bad)
        for flag in ("--batch-size", "--max-frames"):
            assert main(["evaluate", "--model", "demo", "--data", str(file), flag, str(bad)]) == 2
            assert "expected at least 1" in capsys.readouterr().err
    with pytest.raises(InputError, match="data hold no structures"):
        as_source([])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Some:
    """One option of each kind."""

    text: str | None = option(None, "")
    number: float = option(0.0, "")
    count: int = option(0, "")
    choice: bool = option(False, "")
    names: tuple[str, ...] = option((), "")


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


@hypothesis.settings(max_examples=300, derandomize=True, deadline=None, database=None)
@hypothesis.given(st.builds(Some, text=TEXTS, number=st.floats(), count=st.integers(), choice=st.booleans(),
                            names=st.lists(TEXTS, max_size=3).map(tuple)))  # fmt: skip
def test_every_config_file_that_is_written_is_read_back_as_it_was(some):
    table = tomllib.loads(to_toml(some=some).encode().decode())["some"]
    back = from_mapping(Some, table, "test")
    assert repr(back) == repr(some)


def test_a_path_that_is_not_unicode_is_refused_before_a_file_is_written():
    with pytest.raises(InputError, match="text is 'a.udcff', expected a text in UTF-8"):
        to_toml(some=Some(text="a\udcff"))
