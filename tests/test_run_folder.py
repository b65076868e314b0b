"""The folder of a run: whose checkpoint it is, one process at a time, copies, damage, a full disk, odd names."""

import errno
import json
import math
import resource
import shutil
import signal
import subprocess
import sys
import tomllib

import ase.io
import pytest
import torch

from models import labelled, molecule, tiny_mace
from pathtune import InputError, files, guidance
from pathtune.adapter_file import read_adapter
from pathtune.cli import main
from pathtune.training import loop
from pathtune.training.folder import RunFolder

pytestmark = pytest.mark.usefixtures("needs_mace")


class World:
    """Model and data files, and `pathtune fit` on them."""

    def __init__(self, folder):
        self.folder = folder
        for name, seed in (("tiny", 0), ("other", 1)):
            torch.save(tiny_mace(torch.float32, seed=seed), folder / f"{name}.model")
        for name, seed in (("train", 0), ("valid", 100), ("more", 200)):
            frames = labelled([molecule(seed + i, n=4) for i in range(4)], seed)
            ase.io.write(folder / f"{name}.xyz", frames, format="extxyz")

    def fit(self, out, *more, epochs=3, stop_after=None):
        """Exit status; with `stop_after` it is interrupted, as by Ctrl-C, after so many epochs."""
        original = loop.Loop._finish_epoch

        def finish(mine):
            original(mine)
            if mine.folder and mine.epoch == stop_after:  # not in a sweep
                raise KeyboardInterrupt

        files = {"--model": "tiny.model", "--train": "train.xyz", "--valid": "valid.xyz"}
        named = [word for flag, name in files.items() for word in (flag, str(self.folder / name))]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.Loop, "_finish_epoch", finish)
            given = ["--epochs", str(epochs), "--batch-size", "2", "--keep-worse", "--no-report", "--out", str(out)]
            return main(["fit", *named, *given, *more])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A run of three epochs that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert world.fit(out) == 0
    return out


@pytest.fixture(scope="module")
def stopped(world, tmp_path_factory):
    """The same, interrupted after two."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    assert world.fit(out, stop_after=2) == 130
    return out


@pytest.fixture
def copy(stopped, tmp_path):
    """A copy of it in another place."""
    return shutil.copytree(stopped, tmp_path / "copy")


def assert_same_adapter(a, b):
    (mine, _), (theirs, _) = (read_adapter(folder / "adapter.safetensors") for folder in (a, b))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def said(capsys):
    """The one sentence on standard error."""
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return captured.err


def test_a_run_folder_that_was_copied_goes_on_to_the_same_bits_also_with_data_at_other_places(
    world, whole, copy, tmp_path, monkeypatch
):
    for name in ("train.xyz", "valid.xyz", "tiny.model"):
        shutil.copy(world.folder / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    moved = ["--train", "train.xyz", "--valid", "valid.xyz", "--model", "tiny.model"]
    assert world.fit("copy", "--resume", *moved) == 0
    assert_same_adapter(whole, copy)
    config = tomllib.loads((copy / "config.toml").read_text())
    assert config["run"]["out"] == "copy"
    assert config["run"]["train"] == ["train.xyz"]


OTHERS = {
    "training data": (["--train", "more.xyz"], "belongs to a run with other training data"),
    "validation data": (["--valid", "more.xyz"], "belongs to a run with other validation data"),
    "model": (["--model", "other.model"], "was made for another model"),
    "learning rate": (["--lr", "0.5"], "--resume, but lr is 0.5 and was not set in"),
    "seed": (["--seed", "1"], "--resume, but seed is 1 and was 0 in"),
    "fewer epochs": (["--epochs", "2"], "--resume, but epochs is 2 and was 3 in"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_run_does_not_go_on_as_another(world, copy, capsys, monkeypatch, case):
    more, words = OTHERS[case]
    monkeypatch.chdir(world.folder)
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert world.fit(copy, "--resume", *more) == 2
    assert words in said(capsys)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_the_checkpoint_of_another_run_is_refused(world, copy, tmp_path, capsys):
    assert world.fit(tmp_path / "other", "--lr-growth", "0", stop_after=1) == 130
    shutil.copy(tmp_path / "other" / "checkpoint" / "last.pt", copy / "checkpoint" / "last.pt")
    capsys.readouterr()
    assert world.fit(copy, "--resume") == 2
    assert "last.pt: belongs to a run with other options, expected one of this run" in said(capsys)


def test_more_epochs_than_planned_go_on_with_the_rates_of_the_plan_and_say_so(world, whole, copy, capsys):
    assert world.fit(copy, "--resume", epochs=5, stop_after=4) == 130
    assert "epochs were 3 and are now 5: learning rate, averaging and narrowing stay those of a run of 3" in (
        capsys.readouterr().err
    )
    assert world.fit(copy, "--resume", epochs=4) == 2
    assert "epochs is 4 and was 5 in" in said(capsys)
    assert world.fit(copy, "--resume", epochs=6) == 0
    planned, longer = ([json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
                       for out in (whole, copy))  # fmt: skip
    assert [line["epoch"] for line in longer] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(planned, longer):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    assert longer[-1]["active"] == planned[-1]["active"]
    state = RunFolder(copy).load_checkpoint()
    assert {group["lr"] for group in state["optimizer"]["param_groups"]} == {
        group["lr"] for group in RunFolder(whole).load_checkpoint()["optimizer"]["param_groups"]}  # fmt: skip


def test_a_sweep_is_not_repeated_where_epochs_are_raised(world, tmp_path, monkeypatch):
    monkeypatch.setattr(guidance.choose_share, "__defaults__", (None, None, (0.05, 0.5), None, None, False))
    out = tmp_path / "run"
    assert world.fit(out, "--active-share", "sweep", stop_after=1) == 130
    before = (out / "sweep.json").read_bytes()
    assert world.fit(out, "--active-share", "sweep", "--resume", epochs=8) == 0
    assert (out / "sweep.json").read_bytes() == before


def changed(key, value):
    """What puts a value at a place of the checkpoint, with a right checksum."""

    def change(folder):
        state = folder.load_checkpoint()
        *path, last = key
        place = state
        for step in path:
            place = place[step]
        if value is None:
            del place[last]
        else:
            place[last] = value(place[last]) if callable(value) else value
        folder.save_checkpoint(state)

    return change


def bytewise(change):
    return lambda folder: folder.checkpoint.write_bytes(change(folder.checkpoint.read_bytes()))


def a_folder(folder):
    folder.checkpoint.unlink()
    folder.checkpoint.mkdir()


PARAMETER = ("last", 0, "parameters", 0)
DAMAGE = {
    "a bit": (bytewise(lambda b: b[:5000] + bytes([b[5000] ^ 1]) + b[5001:]), "last.pt: is damaged"),
    "its end": (bytewise(lambda b: b[:-1000]), "last.pt: is damaged"),
    "nothing left": (bytewise(lambda b: b""), "last.pt: is damaged"),
    "of an older version": (bytewise(lambda b: b[:-64]), "last.pt: is damaged, or of another version"),
    "a folder": (a_folder, "last.pt: cannot be read (Is a directory)"),
    "no table": (lambda folder: folder.save_checkpoint([1]), "the content is [1], expected a table"),
    "no step": (changed(("step",), None), "the content lacks 'step'"),
    "epoch beyond": (changed(("epoch",), 10**9), "has done 1000000000 of 1000000000 epochs, but epochs is 3"),
    "epoch negative": (changed(("epoch",), -1), "epoch is -1, expected 0 to 3"),
    "epoch of another type": (changed(("epoch",), 1.0), "['epoch'] is 1.0, expected an integer"),
    "best beyond": (changed(("best_epoch",), 3), "best_epoch is 3, expected 0 to 2"),
    "step beyond": (changed(("step",), 3), "step is 3, expected 0 to 2"),
    "loss": (changed(("loss_sum",), math.nan), "['loss_sum'] is nan, expected a finite number"),
    "log": (changed(("lines",), lambda lines: lines[1:]), "has 1 lines of the log, expected one for each of 2"),
    "log of tensors": (changed(("lines", 0, "other"), torch.zeros(2, 2)), "the lines of the log are not JSON"),
    "no truth": (changed(("lines", 0, "is_eligible"), 0), "['is_eligible'] is 0, expected a truth value"),
    "a tensor for a number": (changed(("epoch",), torch.zeros(2, 2)), "expected an integer"),
    "a large number": (changed(("optimizer", "param_groups", 0, "weight_decay"), 10**400), "weight_decay is 1000"),
    "shape": (changed(PARAMETER, lambda t: t[:-1]), "sparse, parameters[0] is torch.float32"),
    "type": (changed(PARAMETER, lambda t: t.double()), "is torch.float64"),
    "nan": (changed(PARAMETER, lambda t: t * math.nan), "holds a number that is not finite"),
    "candidates": (changed(("best", 0, "indices"), lambda all: [t.flip(0) for t in all]), "are not ascending"),
    "two": (changed(("last",), lambda parts: parts * 2), "last has 2 adaptations, expected 1"),
    "groups": (changed(("optimizer", "param_groups"), []), "optimizer is a list of 0, expected a list of 1"),
    "rate": (changed(("optimizer", "param_groups", 0, "lr"), math.inf), "optimizer[0], lr is inf"),
    "parameters": (changed(("optimizer", "param_groups", 0, "params", 0), 1), "optimizer has the parameters"),
    "average": (changed(("optimizer", "state", 0, "z"), lambda t: t[1:]), "optimizer, parameter 0, z is"),
    "atomic energies": (changed(("e0",), lambda t: t[:-1]), "e0 is torch.float64 [2], expected torch.float64 [3]"),
    "stranger": (changed(("optimizer", "state", 99), {}), "99, expected"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_is_one_sentence_and_stays(world, copy, capsys, case):
    change, words = DAMAGE[case]
    folder = RunFolder(copy)
    change(folder)
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert world.fit(copy, "--resume") == 2
    assert words in said(capsys)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_a_damaged_log_is_made_again_from_the_checkpoint(world, whole, copy):
    (copy / "log.jsonl").write_bytes(b"\xff\x00 no line")
    assert world.fit(copy, "--resume") == 0
    lines = [[{**json.loads(line), "seconds": 0} for line in (out / "log.jsonl").read_text().splitlines()]
             for out in (whole, copy)]  # fmt: skip
    assert lines[0] == lines[1]


SMALL_FILES = {
    "config not text": ("config.toml", b"\xff", "config.toml: is not text in UTF-8"),
    "config not TOML": ("config.toml", b"[run", "config.toml: is not TOML"),
    "config of another kind": ("config.toml", b"run = 3", "--resume, but "),
    "config a folder": ("config.toml", None, "config.toml: cannot be read (Is a directory)"),
    "log a folder": ("log.jsonl", None, "log.jsonl: cannot be written (Is a directory)"),
}


@pytest.mark.parametrize("case", SMALL_FILES)
def test_a_damaged_small_file_is_one_sentence(world, copy, capsys, case):
    name, content, words = SMALL_FILES[case]
    (copy / name).unlink()
    (copy / name).mkdir() if content is None else (copy / name).write_bytes(content)
    assert world.fit(copy, "--resume") == 2
    assert words in said(capsys)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b'{"epochs": 1, "points": [{"share": "0.1"}]}',
                                     b'{"epochs": 1, "points": [{"share": 0.1, "active": 1, "losses": "12"}]}',
                                     b"[" * 100_000])  # fmt: skip
def test_a_damaged_sweep_is_one_sentence(world, tmp_path, capsys, content):
    out = tmp_path / "run"
    assert world.fit(out, "--active-share", "0.3", stop_after=1) == 130
    config = (out / "config.toml").read_text().replace("active_share = 0.3", 'active_share = "sweep"')
    (out / "config.toml").write_text(config)
    shutil.rmtree(out / "checkpoint")
    (out / "sweep.json").write_bytes(content)
    capsys.readouterr()
    assert world.fit(out, "--active-share", "sweep", "--resume") == 2
    assert "sweep.json: " in said(capsys)


HOLD = """
import sys, time
from pathtune.training.folder import RunFolder
with RunFolder(sys.argv[1]).start("a = 1", resume=False):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_gone_even_if_it_was_killed(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder.folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        for resume in (False, True):
            with pytest.raises(InputError, match="run: another process is at work in it, expected it to end"):
                folder.start("a = 1", resume)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    with folder.start("a = 1", resume=True), pytest.raises(InputError, match="another process"):
        folder.start("a = 1", resume=True)


def test_two_runs_in_one_process_are_refused_alike(world, copy, capsys):
    with RunFolder(copy).start((copy / "config.toml").read_text(), resume=True):
        for more in (["--resume"], []):
            assert world.fit(copy, *more) == 2
            assert "another process is at work" in said(capsys)


def test_on_a_full_disk_the_run_stops_in_one_sentence_and_goes_on_later_to_the_same_bits(
    world, whole, copy, capsys, monkeypatch
):
    before, original = (copy / "checkpoint" / "last.pt").read_bytes(), loop.Loop._finish_epoch
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def finish(mine):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limit[1]))  # no file can grow beyond
        original(mine)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_finish_epoch", finish)
        status = world.fit(copy, "--resume", "--json")
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert status == 2
    assert "last.pt: cannot be written (File too large)" in said(capsys)
    assert (copy / "checkpoint" / "last.pt").read_bytes() == before
    assert not list(copy.rglob("*.tmp"))
    assert world.fit(copy, "--resume") == 0
    assert_same_adapter(whole, copy)


def no_space(_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(copy, monkeypatch):
    folder = RunFolder(copy)
    state, before = folder.load_checkpoint(), folder.checkpoint.read_bytes()
    monkeypatch.setattr(files.os, "fsync", no_space)
    for write in (lambda: folder.save_checkpoint(state), lambda: folder.append_log({})):
        with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
            write()
    assert folder.checkpoint.read_bytes() == before
    assert not list(copy.rglob("*.tmp"))


def test_a_device_without_an_end_is_not_read(copy):
    folder = RunFolder(copy)
    folder.checkpoint.unlink()
    folder.checkpoint.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"last\.pt: is a device, expected a file"):
        folder.load_checkpoint()


def test_a_standard_output_on_a_full_disk_is_one_sentence(whole):
    command = [sys.executable, "-m", "pathtune", "show", str(whole / "adapter.safetensors")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "pathtune show: No space left on device\n")


def test_odd_names_of_the_folder_work_and_impossible_ones_are_one_sentence(world, tmp_path, capsys):
    odd = tmp_path / "ré\tü \"😀' \x7f"
    assert world.fit(odd, stop_after=1) == 130
    assert world.fit(odd, "--resume") == 0
    capsys.readouterr()
    assert main(["fit", "--config", str(odd / "config.toml"), "--resume"]) == 2
    assert "holds a finished run" in said(capsys)
    for out, words in (("x" * 300, "is too long for a path"), ("a\0b", "holds a character that no path can hold"),
                       ("/dev/full", "is a file, expected a folder"),
                       ("/dev/full/a", "Not a directory"), ("/proc/a", "cannot be written")):  # fmt: skip
        assert world.fit(out) == 2
        assert words in said(capsys)
    for flag in ("--model", "--train", "--config"):
        for name in ("x" * 300, "a\0b", str(tmp_path)):
            assert world.fit(tmp_path / "new", flag, name) == 2
            assert name[:1] in said(capsys)
    assert not (tmp_path / "new").exists()
