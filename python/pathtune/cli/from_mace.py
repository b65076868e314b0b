"""`pathtune fit --from-mace`: what a YAML file or the flags of mace_run_train ask, in pathtune's own options.

Only what is written there is translated; for the rest pathtune's defaults hold. A flag without a counterpart is
answered by a sentence that says what stands in its place (mace_flags.py). Nothing of mace is imported or run.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from ase.data import chemical_symbols

from pathtune.atomic_energies import ISOLATED, e0_asked
from pathtune.cli.mace_flags import ALIASES, ANSWERS, TRANSLATED, WITH_VALUES, WITHOUT_VALUE
from pathtune.errors import InputError
from pathtune.files import read_text, shown

WORDS = {
    **dict.fromkeys(("yes", "true", "t", "y", "1"), True),
    **dict.fromkeys(("no", "false", "f", "n", "0"), False),
}
SAME: dict[str, tuple[str, Callable[[str], Any]]] = {
    "seed": ("seed", int),
    "default_dtype": ("dtype", str),
    "valid_fraction": ("valid_fraction", float),
    "energy_key": ("energy_key", str),
    "forces_key": ("forces_key", str),
    "stress_key": ("stress_key", str),
    "virials_key": ("virials_key", str),
    "total_charge_key": ("total_charge_key", str),
    "total_spin_key": ("total_spin_key", str),
    "energy_weight": ("energy_weight", float),
    "forces_weight": ("forces_weight", float),
    "stress_weight": ("stress_weight", float),
    "huber_delta": ("huber_delta", float),
    "batch_size": ("batch_size", int),
    "max_num_epochs": ("epochs", int),
    "patience": ("patience", int),
    "foundation_model": ("model", str),
    "foundation_head": ("head", str),
    "weight_pt_head": ("replay_weight", float),
}
FILES = {"train_file": "train", "valid_file": "valid", "test_file": "test"}
NO_CLIP = 1e9  # a norm that no gradient has
NO_STRESS = {"loss": "weighted", "stress_weight": 0.0}  # losses of mace without a term for stresses
LOSSES: dict[str, dict[str, Any]] = {
    "weighted": NO_STRESS,
    "ef": NO_STRESS,
    "forces_only": {**NO_STRESS, "energy_weight": 0.0},
    "stress": {"loss": "weighted"},
    "huber": {"loss": "huber"},
}
NEAREST = {"universal": "huber", "l1l2energyforces": "huber", "virials": "weighted"}
FROZEN = ((1, "node_embedding.*"), (5, "interactions.*"), (6, "products.*"), (7, "readouts.*"))
ISOLATED_WORDS = ("isolated", "isolatedatom")
REFIT = ("average", "estimated")


@dataclasses.dataclass
class Translation:
    """What was found: pathtune's options by name, and sentences for the flags that have none."""

    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    answers: dict[str, str] = dataclasses.field(default_factory=dict)  # by mace's flag
    resume: bool = False
    is_dry: bool = False  # --dry_run: print, train nothing
    rest: list[str] = dataclasses.field(default_factory=list)  # flags that are pathtune's own

    def lines(self) -> list[str]:
        """For a person: the command, then an answer for each flag without a counterpart."""
        command = f"pathtune fit {shlex.join(self.words())}".rstrip()
        answers = [f"  {flag}: {answer}" for flag, answer in self.answers.items()]
        return [f"from mace_run_train: {command}", *(["not carried over:"] if answers else []), *answers]

    def words(self) -> list[str]:
        """The options as the command line takes them."""
        found = []
        for name, value in self.options.items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                found.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                found += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
        return [*found, *(["--resume"] if self.resume else [])]


def translate(words: Sequence[str]) -> Translation:
    """The translation of what follows `--from-mace`: a YAML file, flags of mace_run_train, or both; flags win.

    Raises InputError for a file that is not a table of YAML, a key that mace_run_train does not have, and a value of
    another type than its flag's.
    """
    given, rest = _read_flags(words)
    file = given.pop("config", None)
    if file is not None:
        given = _read_yaml(file) | given
    result = Translation(rest=rest)
    if not given:
        raise InputError("--from-mace names nothing, expected the YAML file or the flags of mace_run_train")
    _one_head(given, result)
    for flag in [name for name, value in given.items() if value is None or (name in ANSWERS and _is_off(value))]:
        del given[flag]  # says what is so anyway
    for flag, value in given.items():
        if flag in ANSWERS:
            result.answers[flag] = ANSWERS[flag]
        elif flag in SAME:
            name, kind = SAME[flag]
            result.options[name] = _value(flag, value, kind)
        elif flag in FILES:
            result.options[FILES[flag]] = _files(flag, value)
    for rule in (_folder, _loss, _types, _arm, _rate, _device, _clip, _e0, _replay, _validation, _actions):
        rule(given, result)
    return result


def apply(args: argparse.Namespace, parser: argparse.ArgumentParser) -> Translation:
    """Fill `args` with the translation of `args.from_mace`; `parser` reads the flags among it that are pathtune's own.

    Flags of pathtune win over those of mace. Raises InputError as `translate`.
    """
    result = translate(args.from_mace)
    parser.parse_args(result.rest, namespace=args)
    if args.valid is not None:
        result.options.pop("valid_fraction", None)
    elif args.valid_fraction is not None:
        result.options.pop("valid", None)
    if args.arm is not None and tuple(args.arm) != result.options["arm"]:
        for name in ("freeze", "rank", "alpha"):
            result.options.pop(name, None)
    for name in list(result.options):
        if getattr(args, name) is not None:
            del result.options[name]
        else:
            setattr(args, name, result.options[name])
    args.resume = args.resume or result.resume
    return result


def _read_flags(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Flags of mace by name, without aliases, and the words that are none of its."""
    parser = argparse.ArgumentParser(prog="pathtune fit --from-mace", allow_abbrev=False, add_help=False)
    for name in {*ANSWERS, *TRANSLATED}:
        flags = [f"--{n}" for n in (name, *(alias for alias, of in ALIASES.items() if of == name))]
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
        if name in WITHOUT_VALUE:
            options |= {"action": "store_const", "const": True}
        elif name in WITH_VALUES:
            options["nargs"] = "+"
        parser.add_argument(*flags, **options)
    words = list(words)
    file = {"config": words.pop(0)} if words and not words[0].startswith("-") else {}
    known, rest = parser.parse_known_args(words)
    return file | vars(known), rest


def _read_yaml(file: str) -> dict[str, Any]:
    text = read_text(file)
    try:
        table = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not YAML ({shown(str(error))}), expected mace_run_train's config") from error
    if not isinstance(table, dict):
        raise InputError(f"{file}: holds {shown(table)}, expected a table of mace_run_train's flags")
    result = {}
    for key, value in table.items():
        name = str(key).lstrip("-")
        name = ALIASES.get(name, name)
        if name not in ANSWERS and name not in TRANSLATED:
            raise InputError(
                f"{file}: key {shown(key)} is no flag of mace_run_train (0.3.16), expected one of its flags"
            )
        result[name] = value
    return result


def _is_off(value: Any) -> bool:
    return value is False or str(value).lower() in ("false", "none", "no")


def _value(flag: str, value: Any, kind: Callable[[str], Any]) -> Any:
    """The value as its flag has it; InputError for another type."""
    try:
        if isinstance(value, (dict, list)):
            raise ValueError
        return WORDS[str(value).lower()] if kind is bool else kind(str(value))
    except (ValueError, KeyError) as error:
        expected = getattr(kind, "__name__", "a value")
        raise InputError(f"--from-mace: {flag} is {shown(value)}, expected {expected}") from error


def _files(flag: str, value: Any) -> tuple[str, ...]:
    """One file, or a list of them, which may be written as text."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--from-mace: {flag} is {shown(value)}, expected files") from error
    return tuple(_value(flag, v, str) for v in (value if isinstance(value, list) else [value]))


def _one_head(given: dict[str, Any], result: Translation) -> None:
    """Where one head is named, its files and keys are those of the run; several are answered."""
    heads = given.pop("heads", None)
    if isinstance(heads, str):
        try:
            heads = yaml.safe_load(heads)
        except yaml.YAMLError as error:
            raise InputError(f"--from-mace: heads is {shown(heads)}, expected a table by head") from error
    if heads is None:
        return
    if not isinstance(heads, dict) or not all(isinstance(head, dict) for head in heads.values()):
        raise InputError(f"--from-mace: heads is {shown(heads)}, expected a table by head")
    own = {name: head for name, head in heads.items() if name != "pt_head"}
    if len(own) != 1:
        result.answers["heads"] = "a run trains one head: run pathtune fit once for each, with --train and --head."
        return
    for key, value in next(iter(own.values())).items():
        if key in TRANSLATED or key in ANSWERS:
            given.setdefault(key, value)
        else:
            result.answers[f"heads, {shown(key)}"] = "is not read; set --energy-key, --forces-key and --stress-key."


def _folder(given: dict[str, Any], result: Translation) -> None:
    if "name" in given:
        parts = [_value(flag, given[flag], str) for flag in ("work_dir", "name") if flag in given]
        result.options["out"] = str(pathlib.Path(*parts))
    elif "work_dir" in given:
        result.answers["work_dir"] = "it takes a name beside it; --out names the folder of the run."


def _loss(given: dict[str, Any], result: Translation) -> None:
    if "loss" not in given:
        return
    loss = _value("loss", given["loss"], str)
    if loss in LOSSES:
        result.options |= LOSSES[loss]
    elif loss in NEAREST:
        result.options["loss"] = NEAREST[loss]
        result.answers["loss"] = f"{loss} is not there; {NEAREST[loss]} is the nearest."
    else:
        result.answers["loss"] = f"{shown(loss)} is not there; --loss takes huber or weighted."
    if result.options.get("stress_weight") == 0.0:
        result.answers["loss"] = f"mace's {loss} has no stresses, hence --stress-weight 0."


def _types(given: dict[str, Any], result: Translation) -> None:
    """Weights by config_type, a table that may be written as text; those of 1 say nothing."""
    if "config_type_weights" not in given:
        return
    table = asked = given["config_type_weights"]
    if isinstance(asked, str):
        try:
            table = yaml.safe_load(asked)
        except yaml.YAMLError:
            table = None
    if not isinstance(table, dict):
        raise InputError(f"--from-mace: config_type_weights is {shown(asked)}, expected weights by config_type")
    weights = {str(name): _value("config_type_weights", value, float) for name, value in table.items()}
    found = tuple(f"{name}={weight:g}" for name, weight in weights.items() if weight != 1)
    if found:
        result.options["config_type_weights"] = found


def _arm(given: dict[str, Any], result: Translation) -> None:
    """mace_run_train trains every weight, or low-rank factors; the defaults of the latter are mace's."""
    if _value("lora", given.get("lora", False), bool):
        result.options["arm"] = ("lora",)
        result.options["rank"] = _value("lora_rank", given.get("lora_rank", 4), int)
        result.options["alpha"] = _value("lora_alpha", given.get("lora_alpha", 1.0), float)
    else:
        result.options["arm"] = ("full",)
        for name in {"lora_rank", "lora_alpha"} & set(given):
            result.answers[name] = "counts with lora only."
    n_frozen = _value("freeze", given.get("freeze", 0), int)
    patterns = tuple(pattern for least, pattern in FROZEN if n_frozen >= least)
    if patterns and result.options["arm"] == ("full",):
        result.options["freeze"] = patterns
    elif n_frozen:
        result.answers["freeze"] = "mace_run_train freezes nothing for it here, and neither does pathtune."


def _rate(given: dict[str, Any], result: Translation) -> None:
    """A rate of Adam says nothing of one of schedule-free AdamW, whose best value grows with the run."""
    is_same = given.get("optimizer") == "schedulefree" and result.options["arm"] == ("full",)
    for name, option in (("lr", "lr"), ("beta1_schedulefree", "beta1")):
        if name in given and is_same:
            result.options[option] = _value(name, given[name], float)
        elif name in given:
            result.answers[name] = f"--{option} follows the run's length unless set; mace's is of another optimizer."
    if "optimizer" in given and given["optimizer"] != "schedulefree":
        result.answers["optimizer"] = "the optimizer is schedule-free AdamW."


def _device(given: dict[str, Any], result: Translation) -> None:
    if given.get("device") in ("cpu", "cuda"):
        result.options["device"] = given["device"]
    elif "device" in given:
        result.answers["device"] = f"{shown(given['device'])} is not there; --device takes cpu or cuda."


def _clip(given: dict[str, Any], result: Translation) -> None:
    if "clip_grad" in given and _is_off(given["clip_grad"]):
        result.options["clip"] = NO_CLIP
        result.answers["clip_grad"] = "gradients are always clipped, here at a norm that none has."
    elif "clip_grad" in given:
        result.options["clip"] = _value("clip_grad", given["clip_grad"], float)


def _e0(given: dict[str, Any], result: Translation) -> None:
    """A word, or energies by atomic number."""
    if "E0s" not in given:
        return
    asked = given["E0s"]
    word = asked.lower() if isinstance(asked, str) else ""
    if word == "foundation":
        result.options |= {"refit_e0": False, "refit_e0_last": False}
    elif word in ISOLATED_WORDS:
        result.options["e0"] = (ISOLATED,)
    elif word in REFIT:
        result.options["refit_e0"] = True
    elif word.endswith(".json"):
        result.answers["E0s"] = "a file is not read; --e0 takes values, such as H=-13.6 O=-432.1."
    else:
        result.options["e0"] = _energies(asked)


def _energies(asked: Any) -> tuple[str, ...]:
    """A table by atomic number or symbol, or its text, as --e0 has it."""
    table = asked
    if isinstance(asked, str):
        try:
            table = yaml.safe_load(asked)
        except (yaml.YAMLError, ValueError, RecursionError):
            table = None
    if not isinstance(table, dict) or not table:
        raise InputError(f"--from-mace: E0s is {shown(asked)}, expected energies by atomic number, or a word of mace")
    found = []
    for key, value in table.items():
        is_number = isinstance(key, int) and not isinstance(key, bool) and 0 < key < len(chemical_symbols)
        found.append(f"{chemical_symbols[key] if is_number else key}={_value('E0s', value, float)}")
    e0_asked(tuple(found))
    return tuple(found)


def _replay(given: dict[str, Any], result: Translation) -> None:
    """Structures of the pretrained head become replayed ones, labelled by the base."""
    file = given.get("pt_train_file")
    is_file = isinstance(file, str) and pathlib.Path(file).suffix != ""
    if is_file:
        result.options["replay"] = _value("pt_train_file", file, str)
        result.answers["pt_train_file"] = (
            "it has no head of its own: it is --replay, labelled by the base; --replay-labels own takes its labels."
        )
    else:
        result.options.pop("replay_weight", None)
        if file is not None:
            result.answers["pt_train_file"] = "is downloaded by mace; --replay FILE takes a file."
        if "weight_pt_head" in given:
            result.answers["weight_pt_head"] = "counts beside a file of structures to replay only."
        if _value("multiheads_finetuning", given.get("multiheads_finetuning", False), bool):
            result.answers["multiheads_finetuning"] = "one head is trained; --replay FILE is there against forgetting."


def _validation(given: dict[str, Any], result: Translation) -> None:
    """A file, or a share of the training data, by default mace's tenth."""
    if "valid" in result.options:
        result.options.pop("valid_fraction", None)
    elif "train" in result.options:
        result.options.setdefault("valid_fraction", 0.1)


def _actions(given: dict[str, Any], result: Translation) -> None:
    result.resume = _value("restart_latest", given.get("restart_latest", False), bool)
    if _value("wandb", given.get("wandb", False), bool):
        result.options["logger"] = ("wandb",)
    result.is_dry = _value("dry_run", given.get("dry_run", False), bool)
