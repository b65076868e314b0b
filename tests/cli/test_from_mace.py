"""`pathtune fit --from-mace`: every flag of mace_run_train is translated, or answered by a sentence."""

import json
import random
import warnings

import pytest
import yaml

from pathtune.cli import main
from pathtune.cli.from_mace import translate
from pathtune.cli.mace_flags import ALIASES, ANSWERS, TRANSLATED, WITH_VALUES, WITHOUT_VALUE
from pathtune.data import demo_file
from pathtune.errors import InputError

FINE_TUNING = {
    "name": "mine",
    "work_dir": "runs",
    "foundation_model": "demo",
    "train_file": "train.xyz",
    "E0s": "average",
    "max_num_epochs": 20,
    "batch_size": 5,
    "loss": "universal",
    "energy_weight": 1,
    "forces_weight": 100.0,
    "lr": 0.0001,
    "scheduler": "ReduceLROnPlateau",
    "ema": True,
    "ema_decay": 0.99,
    "swa": True,
    "stage_two_lr": "1e-4",
    "multiheads_finetuning": False,
    "default_dtype": "float32",
    "device": "cpu",
    "seed": 3,
}


def written(tmp_path, **table):
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(table))
    return str(file)


@pytest.fixture(scope="module")
def maces_flags(needs_mace):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mace.tools.arg_parser import build_default_arg_parser
    return [a for a in build_default_arg_parser()._actions if a.dest != "help"]


def test_every_flag_of_mace_is_translated_or_answered(maces_flags):
    assert len(maces_flags) > 150
    for action in maces_flags:
        names = [flag.lstrip("-") for flag in action.option_strings]
        name = names[0]
        assert name in TRANSLATED or name in ANSWERS, f"{name} is neither"
        assert all(ALIASES.get(other) == name for other in names[1:]), names
        assert (action.nargs == 0) == (name in WITHOUT_VALUE), name
        assert (action.nargs == "+") == (name in WITH_VALUES), name


def test_no_flag_is_known_that_mace_does_not_have(maces_flags):
    theirs = {flag.lstrip("-") for action in maces_flags for flag in action.option_strings}
    assert {*TRANSLATED, *ANSWERS, *ALIASES, *WITHOUT_VALUE, *WITH_VALUES} <= theirs
    assert not TRANSLATED & set(ANSWERS)


@pytest.mark.parametrize("answer", sorted(set(ANSWERS.values())))
def test_an_answer_is_one_sentence(answer):
    assert answer.endswith(".")
    assert ". " not in answer


def test_every_flag_that_is_set_gets_an_option_or_an_answer(maces_flags):
    """Each alone, beside what a run needs: nothing that the user wrote is dropped without a word."""
    needed = {"name": "n", "foundation_model": "demo", "train_file": "t.xyz"}
    values = {"heads": "{a: {train_file: a.xyz}, b: {}}", "clip_grad": "5", "freeze": "5", "loss": "l1l2energyforces",
              "valid_file": "v.xyz", "multiheads_finetuning": "True", "lora": "True", "E0s": "{1: -13.6}",
              "config_type_weights": "{'Default': 1.0, 'bulk': 2.5}"}  # fmt: skip
    plain = translate(["--name", "n", "--foundation_model", "demo", "--train_file", "t.xyz"])
    for action in maces_flags:
        name = action.option_strings[0].lstrip("-")
        if name in needed or name == "config":
            continue
        choices = [choice for choice in action.choices or [] if choice not in ("none", "None")]
        plain_value = "3" if action.type in (int, float) else "word"
        value = values.get(name, choices[0] if choices else plain_value)
        words = [f"--{name}"] if action.nargs == 0 else [f"--{name}", str(value)]
        found = translate([*plain_words(needed), *words])
        assert not found.rest, name
        changed = found.options != plain.options or found.resume or found.is_dry
        assert changed or name in " ".join(found.answers), name


def plain_words(table):
    return [word for name, value in table.items() for word in (f"--{name}", value)]


def test_a_usual_fine_tuning_is_translated(tmp_path):
    found = translate([written(tmp_path, **FINE_TUNING)])
    assert found.options == {
        "model": "demo", "train": ("train.xyz",), "epochs": 20, "batch_size": 5, "energy_weight": 1.0,
        "forces_weight": 100.0, "dtype": "float32", "seed": 3, "out": "runs/mine", "loss": "huber", "arm": ("full",),
        "device": "cpu", "refit_e0": True, "valid_fraction": 0.1,
    }  # fmt: skip
    assert set(found.answers) == {"lr", "scheduler", "ema", "ema_decay", "swa", "swa_lr", "loss"}
    assert "averages the weights" in found.answers["ema"]


def test_flags_win_over_the_file_and_give_the_same(tmp_path):
    as_file = translate([written(tmp_path, name="a", lr=0.1, max_num_epochs=3, restart_latest=True)])
    as_flags = translate(["--name", "a", "--lr", "0.1", "--max_num_epochs", "3", "--restart_latest"])
    assert as_file == as_flags
    assert as_file.resume
    both = translate([written(tmp_path, name="a", max_num_epochs=3), "--max_num_epochs", "7"])
    assert both.options["epochs"] == 7
    assert translate(["--config", written(tmp_path, max_num_epochs=3)]).options["epochs"] == 3


@pytest.mark.parametrize(("given", "options"), [
    ({"loss": "weighted"}, {"loss": "weighted", "stress_weight": 0.0}),
    ({"loss": "forces_only"}, {"loss": "weighted", "stress_weight": 0.0, "energy_weight": 0.0}),
    ({"loss": "stress"}, {"loss": "weighted"}),
    ({"E0s": "foundation"}, {"refit_e0": False, "refit_e0_last": False}),
    ({"E0s": "{1: -13.6, 'O': -432}"}, {"e0": ("H=-13.6", "O=-432.0")}),
    ({"E0s": {8: -432.1}}, {"e0": ("O=-432.1",)}),
    ({"E0s": "IsolatedAtom"}, {"e0": ("isolated",)}),
    ({"lora": True, "lora_rank": 8}, {"arm": ("lora",), "rank": 8, "alpha": 1.0}),
    ({"freeze": 6}, {"freeze": ("node_embedding.*", "interactions.*", "products.*")}),
    ({"optimizer": "schedulefree", "lr": "1e-2", "beta1_schedulefree": 0.95}, {"lr": 0.01, "beta1": 0.95}),
    ({"pt_train_file": "old.xyz", "weight_pt_head": 0.5}, {"replay": "old.xyz", "replay_weight": 0.5}),
    ({"config_type_weights": "{\"Default\": 1.0, \"bulk\": 2.5}"}, {"config_type_weights": ("bulk=2.5",)}),
    ({"config_type_weights": {"a": 0.1}}, {"config_type_weights": ("a=0.1",)}),
    ({"clip_grad": "None"}, {"clip": 1e9}),
    ({"heads": {"mine": {"train_file": "a.xyz", "valid_file": "b.xyz"}}}, {"train": ("a.xyz",), "valid": ("b.xyz",)}),
    ({"valid_file": "v.xyz", "valid_fraction": 0.2, "train_file": ["a.xyz", "b.xyz"]},
     {"valid": ("v.xyz",), "train": ("a.xyz", "b.xyz")}),
])  # fmt: skip
def test_the_values_that_change_more_than_their_name(tmp_path, given, options):
    plain = {"arm": ("full",)}
    assert translate([written(tmp_path, **given)]).options == plain | options


@pytest.mark.parametrize(("table", "words"), [
    ({"max_epochs": 3}, "key 'max_epochs' is no flag of mace_run_train"),
    ({"max_num_epochs": "ten"}, "max_num_epochs is 'ten', expected int"),
    ({"lr": [1]}, "names nothing|--from-mace"),
    ({"config_type_weights": "bulk"}, "config_type_weights is .bulk., expected weights by config_type"),
    ({"heads": 3}, "heads is 3, expected a table by head"),
    ({"E0s": "mean"}, "E0s is 'mean', expected energies by atomic number"),
    ({"E0s": {}}, "E0s is {}, expected energies by atomic number"),
    ({"E0s": {200: -1.0}}, "e0 has '200=-1.0', expected isolated, or ELEMENT=ENERGY"),
    ({"E0s": {1: "a"}}, "E0s is 'a', expected float"),
    ({"loss": ["a"]}, r"loss is \['a'\]"),
    ({}, "expected the YAML file or the flags"),
])  # fmt: skip
def test_a_mistake_in_the_file_is_one_sentence(tmp_path, table, words):
    if "lr" in table:
        table = table | {"optimizer": "schedulefree"}
    with pytest.raises(InputError, match=words):
        translate([written(tmp_path, **table)])


def test_hostile_files_are_one_sentence_or_a_translation(tmp_path):
    file, draw = tmp_path / "config.yml", random.Random(0)
    text = yaml.safe_dump(FINE_TUNING).encode()
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
    )
    nested = "E0s: " + "[" * 1500
    code = b"E0s: !!python/object/apply:os.system ['touch pwned']"
    cases = [bomb.encode(), nested.encode(), code, b"\xff\xfe", b"- 1"]
    for _ in range(60):
        damaged = bytearray(text)
        for _ in range(draw.randrange(1, 6)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        cases.append(bytes(damaged))
    for case in cases:
        file.write_bytes(case)
        try:
            found = translate([str(file)])
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert found.lines()
    assert not list(tmp_path.glob("pwned"))


@pytest.mark.usefixtures("needs_mace")
def test_a_translated_command_runs_and_flags_of_pathtune_win(tmp_path, capsys):
    table = FINE_TUNING | {"work_dir": str(tmp_path), "train_file": str(demo_file("train")), "max_num_epochs": 1}
    file = written(tmp_path, **table)
    own = ["--max-frames", "4", "--valid", str(demo_file("valid")) + "@:4"]
    assert main(["fit", *own, "--keep-worse", "--from-mace", file, "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("from mace_run_train: pathtune fit --")
    assert " --model demo " in out
    assert "  ema: schedule-free" in out
    assert not (tmp_path / "mine").exists()
    command = ["fit", *own, "--json", "--no-report", "--from-mace", file, "--arm", "sparse", "--epochs", "2"]
    assert main([*command, "--keep-worse"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert (metrics["arm"], metrics["epochs"], metrics["seed"]) == ("sparse", 2, 3)


def test_a_mistake_in_the_command_exits_with_status_2(tmp_path, capsys):
    assert main(["fit", "--from-mace", str(tmp_path / "none.yml")]) == 2
    assert "none.yml: cannot be read" in capsys.readouterr().err
    assert main(["fit", "--from-mace"]) == 2
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--from-mace", "--name", "a", "--nonsense", "1"])
    assert ended.value.code == 2
