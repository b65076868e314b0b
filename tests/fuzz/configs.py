"""Config files of `pathtune fit`, changed in values, keys, sections, words and bytes; accepted ones are trained."""

import json
import pathlib
import random
import tomllib

from fuzz import odd
from fuzz.law import ACCEPTED, REFUSED
from fuzz.world import MODEL, World
from pathtune.options import fields_of
from pathtune.training.run import sections

ARMS = (["sparse"], ["lora"], ["modulation"], ["full"], ["kron"], ["readout"], ["sparse", "lora"], ["sparse", "pull"])
SECTIONS = {"sparse": "delta", "lora": "lora", "modulation": "modulation", "full": "full", "pull": "pull"}
VALUES = (
    "true",
    "false",
    "1",
    "-1",
    "0",
    "0.5",
    "1e-3",
    "1e300",
    "1e-300",
    "inf",
    "-inf",
    "nan",
    "4294967295",
    "2147483648",
    "9223372036854775807",
    "1" + "0" * 30,
    '""',
    '"auto"',
    '"sweep"',
    '"a"',
    "[]",
    '["*"]',
    "[1]",
    "[[[]]]",
    "{}",
    "{a = 1}",
    "1979-05-27",
    "07:32:00",
    "0x1F",
    "1_000",
    '"""\na"""',
    "'\\'",
    "[true, 1]",
    "-0.0",
)
BASE = {
    "run": {"train": ["train.xyz"], "valid": ["valid.xyz"], "out": "run"},
    "model": {"model": MODEL},
    "data": {},
    "fit": {"epochs": 1, "check_units": False, "keep_worse": True},
}


class Configs:
    """See the module."""

    name = "configs"

    def __init__(self, folder: pathlib.Path):
        self.world = World(folder)
        self.options = {name: fields_of(cls) for name, cls in sections().items()}

    def trial(self, rng: random.Random) -> str:
        """One changed file, and `pathtune fit` on it."""
        tables = json.loads(json.dumps(BASE))
        tables["run"]["arm"] = rng.choice(ARMS)
        lines = {(section, key): _toml(value) for section, table in tables.items() for key, value in table.items()}
        for _ in range(rng.choice((1, 1, 2, 3))):
            mine = [
                "run",
                "model",
                "data",
                "fit",
                *(SECTIONS[kind] for kind in tables["run"]["arm"] if kind in SECTIONS),
            ]
            section = rng.choice(mine if rng.random() < 0.9 else sorted(self.options))
            field = rng.choice(self.options[section])
            lines[section, field.name] = self.value(rng, field)
        text = _file(lines)
        kind = rng.randrange(6)
        data = (odd.changed_text(rng, text) if kind == 0 else text).encode("utf-8", "surrogatepass")
        data = odd.changed_bytes(rng, data) if kind == 1 else data
        if not _is_harmless(data):
            return self.trial(rng)
        self.world.clean()
        (self.world.folder / "changed.toml").write_bytes(data)
        status, _, _ = self.world.run(["fit", "--config", "changed.toml"])
        self.world.check_folders()
        return REFUSED if status == 2 else ACCEPTED

    def value(self, rng: random.Random, field) -> str:
        """A value of an option, of the right type or not, as TOML."""
        if rng.random() < 0.3:
            return rng.choice(VALUES)
        if field.choices and rng.random() < 0.7:
            word = json.dumps(rng.choice(field.choices))
            return f"[{word}]" if field.kind is tuple else word
        if field.kind is bool:
            return rng.choice(("true", "false"))
        if field.kind is int:
            return str(rng.choice((0, 1, 2, 3, 5, 8, 64, 1000, -1, 100_000, 2**31, 2**32 - 1)))
        if field.kind is float:
            return repr(rng.choice((-1.0, 1.0)) * 10.0 ** rng.randint(-12, 12)) if rng.random() < 0.5 else "0.5"
        text = json.dumps(odd.text(rng), ensure_ascii=rng.random() < 0.5)
        return f"[{text}]" if field.kind is tuple else text


def _toml(value) -> str:
    return json.dumps(value)


def _file(lines: dict) -> str:
    sections_of = dict.fromkeys(section for section, _ in lines)
    return "\n".join(
        f"[{section}]\n" + "\n".join(f"{key} = {value}" for (mine, key), value in lines.items() if mine == section)
        for section in sections_of
    )


def _is_harmless(data: bytes) -> bool:
    """Whether what the file would write stays in the folder, and no model is fetched by its name."""
    try:
        tables = tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        return True
    run, model = tables.get("run", {}), tables.get("model", {})
    out = run.get("out") if isinstance(run, dict) else None
    name = model.get("model") if isinstance(model, dict) else None
    leaves = (
        isinstance(out, str) and (out.startswith(("/", "~")) or ".." in out) and not out.startswith(("/dev/", "/proc/"))
    )
    return not leaves and not (isinstance(name, str) and name.lower() in ("small", "medium", "large"))
