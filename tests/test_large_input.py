"""Law of large data and many processes: what is wrong is one sentence and status 2."""

import json
import shutil

import ase.io
import pytest

from models import labelled, molecule, tiny_mace
from pathtune import FitConfig, InputError, load
from pathtune.cli import main
from pathtune.data import Frames, as_source, from_atoms
from pathtune.data.store import prepare
from pathtune.processes import OneProcess
from pathtune.training.agreement import check_same

pytestmark = pytest.mark.usefixtures("needs_mace")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a file, a store of it, and one for models of another cutoff."""
    folder = tmp_path_factory.mktemp("large")
    ase.io.write(folder / "a.xyz", labelled([molecule(i, n=3 + i % 4) for i in range(9)]), format="extxyz")
    prepare([str(folder / "a.xyz")], folder / "store", jobs=1)
    prepare([str(folder / "a.xyz")], folder / "cutoff", r_max=3.0, jobs=1)
    return folder


def damaged(folder, out):
    shutil.copytree(folder / "store", out)
    shard = out / "shards" / "000000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-40] ^= 1
    shard.write_bytes(content)


def of_another_version(folder, out):
    shutil.copytree(folder / "store", out)
    manifest = json.loads((out / "store.json").read_text())
    (out / "store.json").write_text(json.dumps(manifest | {"version": 9}))


def without_forces(folder, out):
    frames = ase.io.read(folder / "a.xyz", ":")
    for atoms in frames:
        del atoms.arrays["REF_forces"]
    ase.io.write(out.with_suffix(".xyz"), frames, format="extxyz")
    prepare([str(out.with_suffix(".xyz"))], out, jobs=1, needs_labels=False)


def of_another_cutoff(folder, out):
    shutil.copytree(folder / "cutoff", out)


def sound(folder, out):
    shutil.copytree(folder / "store", out)


@pytest.mark.parametrize(("make", "flags", "words"), [
    (damaged, (), "000000.safetensors: structures 0 to 8 are damaged, expected what pathtune prepare wrote"),
    (of_another_version, (), "the store is of version 9, expected 1"),
    (without_forces, (), "holds energy, but no forces, expected it for a training"),
    (of_another_cutoff, (), "was prepared with --r-max 3, but the cutoff of the model is 5 A"),
    (sound, ("--batch-atoms", "5"), "batch_atoms is 5, expected at least 6, the atoms of the largest structure"),
])  # fmt: skip
def test_a_store_or_budget_that_does_not_fit_is_one_sentence_and_status_2(made, tmp_path, capsys, make, flags, words):
    make(made, tmp_path / "train")
    arguments = ["--model", "demo", "--train", str(tmp_path / "train"), "--valid", str(made / "a.xyz")]
    assert main(["fit", *arguments, "--out", str(tmp_path / "run"), "--no-check-units", *flags]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "expected" in line]
    assert len(said) == 1
    assert words in said[0]


class Two(OneProcess):
    """Two processes, of which the second says what it is told to."""

    size = 2

    def __init__(self, changes):
        self.changes = changes

    def gather(self, make):
        mine = make()
        return [mine, mine | self.changes]


@pytest.mark.parametrize(("key", "theirs"), [("pathtune", "0.0.9"), ("torch", "1.0"), ("training data", "1234")])
def test_processes_with_other_versions_or_stores_are_refused_by_rank(made, key, theirs):
    source = as_source(made / "store")
    with pytest.raises(InputError, match=f"^rank 1 has {key} {theirs}, rank 0 has .*, expected the same on all ranks$"):
        check_same(Two({key: theirs}), load(tiny_mace()), {"training": source}, FitConfig())


def test_stores_of_the_same_structures_with_one_other_number_differ(made):
    frames = list(ase.io.read(made / "a.xyz", ":"))
    one = Frames([from_atoms(a) for a in frames]).fingerprint
    frames[3].info["REF_energy"] += 1e-9
    assert Frames([from_atoms(a) for a in frames]).fingerprint != one


@pytest.mark.parametrize(("config", "flag"), [
    (FitConfig(batch_size=1), "batch_size"), (FitConfig(batch_atoms=6), "batch_atoms"),
])  # fmt: skip
def test_more_processes_than_structures_in_any_step_are_refused(config, flag):
    source = Frames([from_atoms(a) for a in labelled([molecule(i, n=5) for i in range(4)])])
    words = f"2 processes share steps of at most 1 structures, .* or a larger {flag}"
    with pytest.raises(InputError, match=words):
        check_same(Two({}), load(tiny_mace()), {"training": source}, config)
