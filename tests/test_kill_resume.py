"""A run killed with SIGKILL ten times at random moments ends as an undisturbed one."""

import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from pathtune.adapter_file import read_adapter

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("needs_mace")]


@pytest.fixture
def command(data_folder, tmp_path):
    """The ethanol fit of the README, with a checkpoint after every step."""
    model = tmp_path / "spice.model"
    subprocess.run([sys.executable, data_folder / "weights" / "to_mace.py", "mace_spice_32x0e", model],
                   check=True, capture_output=True)  # fmt: skip
    ethanol = data_folder / "rmd17" / "ethanol"
    return [sys.executable, "-m", "pathtune", "fit", "--model", str(model), "--max-frames", "50",
            "--train", str(ethanol / "train.extxyz.xz"), "--valid", str(ethanol / "valid.extxyz.xz"),
            "--epochs", "40", "--checkpoint-minutes", "1e-9"]  # fmt: skip


def test_ten_sigkills_change_no_bit_of_the_adapter(command, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run([*command, "--out", str(undisturbed)], check=True, capture_output=True)
    checkpoint = killed / "checkpoint" / "last.pt"
    generator, n_kills = random.Random(), 0  # fresh moments every time
    while n_kills < 10:
        resume = ["--resume"] if (killed / "config.toml").exists() else []
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = subprocess.Popen([*command, "--out", str(killed), *resume], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
            time.sleep(0.002)  # until this process has done a step
        time.sleep(generator.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it was killed: use more epochs"
        n_kills += 1
    assert not (killed / "metrics.json").exists()
    subprocess.run([*command, "--out", str(killed), "--resume"], check=True, capture_output=True)
    (a, _), (b, _) = (read_adapter(folder / "adapter.safetensors") for folder in (undisturbed, killed))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not list(killed.rglob("*.tmp"))
