"""Command lines of every verb, with flags lost, doubled, strange, given odd values, and of other verbs."""

import argparse
import importlib
import pathlib
import random

from fuzz import odd
from fuzz.law import ACCEPTED, REFUSED
from fuzz.world import ADAPTER, FIT, MODEL, World
from pathtune.benchmark.cases import NAMES
from pathtune.cli import VERBS

GOOD = {
    "fit": [*FIT, "--out", "run"],
    "evaluate": ["--model", MODEL, "--data", "test.xyz"],
    "prepare": ["train.xyz", "--out", "new.store", "--jobs", "1"],
    "export": [MODEL, "--out", "exported"],
    "report": ["first", "--out", "page", "--max-frames", "1"],
    "compare": ["--model", MODEL, "--train", "train.xyz", "--valid", "valid.xyz", "--arms", "full", "--epochs", "1",
                "--n-rates", "1", "--out", "compared", "--no-check-units"],
    "paths": ["--model", MODEL],
    "merge": ["--model", MODEL, "--adapter", ADAPTER, "--out", "merged.model"],
    "show": [ADAPTER],
    "diff": [ADAPTER, ADAPTER, "--model", MODEL],
    "blend": [ADAPTER, ADAPTER, "--model", MODEL, "--out", "blend.safetensors"],
    "extract": ["first/merged.model", "--base", MODEL, "--out", "extracted.safetensors"],
    "describe": ["first"],
    "demo": ["--out", "demo", "--epochs", "1", "--max-frames", "2"],
    "bench": ["step", "--model", "demo", "--atoms", "10", "--rounds", "1", "--no-memory"],
}
SHARES = {
    "fit": 6,
    "evaluate": 6,
    "prepare": 3,
    "export": 2,
    "report": 1,
    "compare": 1,
    "merge": 3,
    "blend": 3,
    "extract": 2,
    "diff": 2,
    "paths": 3,
    "show": 2,
    "describe": 2,
    "demo": 1,
    "bench": 1,
}
FROM_MACE = ["--from-mace", "--name", "n", "--foundation_model", MODEL, "--train_file", "train.xyz", "--valid_file",
             "valid.xyz", "--max_num_epochs", "1", "--E0s", "average", "--keep-worse"]  # fmt: skip
MOST = {"demo": 12, "bench": 12, "compare": 2, "prepare": 2}  # of a number that asks for time or processes
WORDS = (
    "train.xyz",
    "test.xyz@:1",
    "*.xyz",
    "none.xyz",
    MODEL,
    ADAPTER,
    "first",
    "first/config.toml",
    "first/metrics.json",
    "first/merged.model",
    "first/checkpoint/last.pt",
    ".",
    "/",
    "/dev/full",
    "/dev/null",
    "new",
    "0",
    "1",
    "-1",
    "2.5",
    "nan",
    "inf",
    "1e400",
    "4294967296",
    "9223372036854775808",
    "H",
    "O",
    "Xx",
    "H C O",
    "auto",
    "sweep",
    "float64",
    "reference",
    "cuda",
    "sparse",
    "lora",
    "full",
    "energy",
    "forces",
    "x" * 300,
    "a\0b",
    "é",
    "\udcff",
    "",
    " ",
    "--",
    "-",
    "--json",
    "--help",
    "--version",
    "-h",
)


class Commands:
    """See the module."""

    name = "commands"

    def __init__(self, folder: pathlib.Path):
        self.world = World(folder)
        self.flags = {verb: _flags(verb) for verb in VERBS}

    def trial(self, rng: random.Random) -> str:
        """One changed command line."""
        verb = rng.choices(list(SHARES), list(SHARES.values()))[0]
        words = list(FROM_MACE if verb == "fit" and rng.random() < 0.2 else GOOD[verb])
        for _ in range(rng.choice((1, 1, 2, 3))):
            words = self.changed(rng, verb, words)
        if verb in MOST:
            words = _bounded(words, MOST[verb])
        self.world.clean()
        line = [verb, *words] if rng.random() < 0.97 else words
        status, _, _ = self.world.run(line)
        self.world.check_folders()
        return REFUSED if status == 2 else ACCEPTED

    def changed(self, rng: random.Random, verb: str, words: list[str]) -> list[str]:
        """One change."""
        i, kind = rng.randrange(len(words) + 1), rng.randrange(7)
        word = rng.choice(WORDS) if rng.random() < 0.8 else odd.text(rng)
        if kind == 0:
            return words[:i] + words[i + 1 :]
        if kind == 1:
            return words[:i] + [word] + words[i:]
        if kind == 2:
            return words[:i] + words[i : i + 2] * 2 + words[i + 2 :]
        if kind == 3 and i < len(words):
            return words[:i] + [word] + words[i + 1 :]
        other = verb if rng.random() < 0.8 else rng.choice(sorted(self.flags))
        flag, choices, takes = rng.choice(self.flags[other])
        if not takes:
            return [*words, flag]
        value = rng.choice(choices) if choices and rng.random() < 0.7 else word
        return [*words, flag, value] if rng.random() < 0.8 else [*words, f"{flag}={value}"]


def _flags(verb: str) -> list[tuple[str, list[str], bool]]:
    """Of a verb: each flag, its allowed words, and whether it takes a value."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"pathtune.cli.{verb}").add_arguments(parser)
    actions = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            actions += [a for sub in action.choices.values() for a in sub._actions]
    return [
        (flag, [str(c) for c in action.choices or ()], action.nargs != 0)
        for action in actions
        if not isinstance(action, argparse._SubParsersAction)
        for flag in action.option_strings
    ]


def _bounded(words: list[str], most: int) -> list[str]:
    """The words without numbers and shapes that ask for hours of timing: sizes and rounds are what the user wants."""
    is_large = [word.lstrip("-").isdecimal() and _exceeds(word.lstrip("-"), most) for word in words]
    return [str(most) if large else "demo" if word in NAMES else word for word, large in zip(words, is_large)]


def _exceeds(word: str, most: int) -> bool:
    return len(word) > 9 or int(word) > most
