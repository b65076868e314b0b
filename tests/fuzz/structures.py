"""Structure files, changed in lines, words, keys and bytes, packed ones too, read and used for a prediction."""

import io
import lzma
import pathlib
import random

import ase.io
import numpy as np

from fuzz import odd
from fuzz.law import ACCEPTED, BrokenLawError, is_finite, refused_or
from models import crystal, labelled, molecule, tiny_mace
from pathtune import LabelKeys, evaluate, load
from pathtune.data import as_source, labels
from spins import spin_frames

KEYS = (
    "REF_energy",
    "REF_forces",
    "REF_stress",
    "REF_magmom",
    "energy",
    "forces",
    "stress",
    "virial",
    "free_energy",
    "config_type",
    "charge",
    "total_spin",
    "pbc",
    "Lattice",
    "Properties",
    "weight",
    "numbers",
    "positions",
    "cell",
    "momenta",
    "tags",
)
OTHER_KEYS = [key for key in KEYS if not key.startswith("REF_") or key == "REF_energy"]
PROPERTIES = (
    "species:S:1:pos:R:3",
    "species:S:1:pos:R:3:REF_forces:R:3",
    "pos:R:3",
    "species:S:1",
    "species:I:1:pos:R:3",
    "species:S:1:pos:R:-3",
    "species:S:1:pos:R:1000000000",
    "species:S:1:pos:X:3",
    "Z:I:1:pos:R:3",
    "species:S:1:pos:I:3:REF_forces:L:3",
    "species:S:1:pos:R:3:pos:R:3",
    "::::",
    "species:S:1:pos:R:2",
)
LATTICES = (
    "0 0 0 0 0 0 0 0 0",
    "nan 0 0 0 5 0 0 0 5",
    "1e200 0 0 0 5 0 0 0 5",
    "5 0 0 10 0 0 0 0 5",
    "5 0 0 0 5 0 0 0",
    "1e-9 0 0 0 5 0 0 0 5",
    "5 0 0 0 5 0 0 0 inf",
    "-5 0 0 0 -5 0 0 0 -5",
    "5",
    "a b c d e f g h i",
    "1e5 0 0 0 1e5 0 0 0 0.2",
    "0.2 0 0 0 0.2 0 0 0 0.2",
    "5 0 0 4.99999 0.01 0 0 0 5",
)
SYMBOLS = ("X", "Xx", "h", "HE", "U", "Og", "1", "0", "-1", "119", "999", "C1", "", "é")
COUNTS = ("0", "-1", "1", "3", "1000000000000", "9" * 400, "4.0", "four", "", "1e3", "0x4", " 4 ", "٣")


def texts() -> dict[str, str]:
    """Good files of several kinds."""
    plain = [molecule(i, n=3) for i in range(3)]
    isolated = labelled([molecule(5, n=1), molecule(6, n=3)])
    isolated[0].info["config_type"] = "IsolatedAtom"
    kinds = {
        "molecules": labelled([molecule(i, n=4) for i in range(3)]),
        "crystals": labelled([crystal(i) for i in range(2)], stress=True),
        "isolated": isolated,
        "no labels": plain,
        "moments": spin_frames(2),
    }
    found = {}
    for name, frames in kinds.items():
        out = io.StringIO()
        ase.io.write(out, frames, format="extxyz")
        found[name] = out.getvalue()
    found["calculator"] = found["molecules"].replace("REF_", "")
    return found


class Structures:
    """See the module."""

    name = "structures"

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.texts = texts()
        self.model = load(tiny_mace())

    def trial(self, rng: random.Random) -> str:
        """One changed file."""
        text = self.texts[rng.choice(sorted(self.texts))]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            text = rng.choice((self.line, self.word, self.word, self.key, self.count, odd.changed_text))(rng, text)
        data = text.encode("utf-8", "surrogatepass") if rng.random() < 0.95 else text.encode("utf-16", "surrogatepass")
        if rng.random() < 0.15:
            data = odd.changed_bytes(rng, data)
        suffix = rng.choice((".extxyz", ".xyz", ".extxyz", ".extxyz.xz", ".xyz.xz", ".xz"))
        if suffix.endswith("xz"):
            data = lzma.compress(data, preset=0)
            data = odd.changed_bytes(rng, data) if rng.random() < 0.3 else data
        elif rng.random() < 0.02:
            suffix = rng.choice((".traj", ".db", ".cif", ".json", ".xml", "", ".vasp", ".pdb", ".npy"))
        file = self.folder / f"changed{suffix}"
        file.write_bytes(data)
        return self.verdict(rng, file)

    def verdict(self, rng: random.Random, file: pathlib.Path) -> str:
        """What is made of the file."""
        asked = {} if rng.random() < 0.9 else {"energy_key": rng.choice(OTHER_KEYS)}
        if refused_or(lambda: LabelKeys(**asked)) != ACCEPTED:
            return "refused"
        keys = LabelKeys(**asked)
        name = f"{file}{rng.choice(('@:', '@0', '@-1', '@5:', '@::2', '@1:1'))}" if rng.random() < 0.1 else str(file)
        held = []
        needs_labels = rng.random() < 0.8
        if refused_or(lambda: held.append(as_source(name, keys, needs_labels=needs_labels)), file.name) != ACCEPTED:
            return "refused"
        for i in range(len(held[0])):
            self.check(held[0].read(i))
        return refused_or(lambda: is_finite(evaluate(self.model, held[0])))

    def check(self, s) -> None:
        """Raise BrokenLawError unless the arrays fit each other and are finite."""
        n = len(s)
        if s.positions.shape != (n, 3) or s.cell.shape != (3, 3) or s.pbc.shape != (3,):
            raise BrokenLawError(f"shapes {s.positions.shape} {s.cell.shape} {s.pbc.shape} of {n} atoms")
        is_finite([s.positions, s.cell])
        known = {label.name: label for label in labels()}
        for name, value in s.labels.items():
            rows = (n,) if known[name].per == "atom" else ()
            if value.shape != (*rows, *known[name].shape) or value.dtype != np.float64:
                raise BrokenLawError(f"{name} has shape {value.shape} and type {value.dtype}")
            is_finite(value)

    def line(self, rng: random.Random, text: str) -> str:
        """A line lost, doubled, moved, or cut."""
        lines = text.split("\n")
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        kind = rng.randrange(5)
        if kind == 0:
            del lines[i]
        elif kind == 1:
            lines.insert(j, lines[i])
        elif kind == 2:
            lines[i], lines[j] = lines[j], lines[i]
        elif kind == 3:
            lines[i] = lines[i][: rng.randrange(len(lines[i]) + 1)]
        else:
            lines = lines[: i + 1]
        return "\n".join(lines)

    def word(self, rng: random.Random, text: str) -> str:
        """A word of an atom's line replaced: a number, or a symbol."""
        lines = text.split("\n")
        i = rng.randrange(len(lines))
        words = lines[i].split()
        if not words:
            return text
        k = rng.randrange(len(words))
        words[k] = rng.choice(SYMBOLS) if k == 0 and rng.random() < 0.7 else odd.number(rng)
        lines[i] = " ".join(words)
        return "\n".join(lines)

    def key(self, rng: random.Random, text: str) -> str:
        """A key=value of a comment line put in, in the place of what was there where it was."""
        lines = text.split("\n")
        comments = [i for i, line in enumerate(lines) if "=" in line] or [0]
        i = rng.choice(comments)
        key = rng.choice(KEYS)
        value = (
            rng.choice(PROPERTIES)
            if key == "Properties"
            else rng.choice(LATTICES)
            if key == "Lattice"
            else rng.choice(("T T T", "F F F", "T F T", "T", "1 1 1", "yes"))
            if key == "pbc" and rng.random() < 0.8
            else odd.text(rng)
            if rng.random() < 0.5
            else " ".join(odd.number(rng) for _ in range(rng.choice((1, 6, 9))))
        )
        new = f'{key}="{value}"' if rng.random() < 0.8 else f"{key}={value}"
        words = [w for w in lines[i].split(" ") if not (w.startswith(key + "=") and rng.random() < 0.5)]
        words.insert(rng.randrange(len(words) + 1), new)
        lines[i] = " ".join(words)
        return "\n".join(lines)

    def count(self, rng: random.Random, text: str) -> str:
        """The number of atoms of a frame replaced."""
        lines = text.split("\n")
        counts = [i for i, line in enumerate(lines) if line.strip().isdigit()] or [0]
        lines[rng.choice(counts)] = rng.choice(COUNTS)
        return "\n".join(lines)
