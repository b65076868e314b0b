"""What may happen to one of several processes: all end alike, and the run goes on as an undisturbed one."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from pathtune.adapter_file import read_adapter
from pathtune.data.store import prepare

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("needs_mace")]


@pytest.fixture(scope="module")
def command(data_folder, tmp_path_factory):
    """A fit in float64 from a store, with a checkpoint after every step."""
    folder = tmp_path_factory.mktemp("model")
    subprocess.run([sys.executable, data_folder / "weights" / "to_mace.py", "mace_spice_32x0e", folder / "spice.model"],
                   check=True, capture_output=True)  # fmt: skip
    ethanol = data_folder / "rmd17" / "ethanol"
    prepare([str(ethanol / "train.extxyz.xz")], folder / "store", jobs=1)
    return ["-m", "pathtune", "fit", "--model", str(folder / "spice.model"), "--train", str(folder / "store"),
            "--max-frames", "24", "--valid", str(ethanol / "valid.extxyz.xz") + "@:20", "--epochs", "8",
            "--dtype", "float64",
            "--checkpoint-minutes", "1e-9", "--timeout-minutes", "0.5"]  # fmt: skip


def start(n, arguments, launcher=()):
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), *launcher] if n else []
    command = [sys.executable, *several, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(n, arguments, launcher=()):
    process = start(n, arguments, launcher)
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert finished(0, [*command, "--out", str(out)])[0] == 0
    return read_adapter(out / "adapter.safetensors")[0]


def assert_same_adapter(out, expected, most=1e-10):
    found = read_adapter(out / "adapter.safetensors")[0]
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name].double(), expected[name].double(), rtol=0, atol=most) for name in expected)


def wait_for_checkpoint(out, process):
    file = out / "checkpoint" / "last.pt"
    while not file.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def ranks_of(process):
    """Process ids by rank."""
    command = ["ps", "-o", "pid=", "--ppid", str(process.pid)]
    children = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = {}
    for pid in map(int, children.split()):
        with open(f"/proc/{pid}/environ") as stream:
            variables = dict(v.split("=", 1) for v in stream.read().split("\0") if "=" in v)
        found[int(variables["RANK"])] = pid
    return found


def test_a_killed_rank_ends_the_run_in_a_sentence_and_one_process_goes_on(command, undisturbed, tmp_path):
    out = tmp_path / "run"
    process = start(2, [*command, "--out", str(out)])
    wait_for_checkpoint(out, process)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "pathtune fit: rank 1 of 2 no longer answers" in err
    assert err.count("Traceback (most recent") == 1, err  # torchrun's own
    code, _, err = finished(0, [*command, "--out", str(out), "--resume"])
    assert code == 0
    assert "processes were 2 and are now 1" in err
    assert_same_adapter(out, undisturbed)


def test_torchrun_restarts_a_killed_rank_without_a_flag(command, undisturbed, tmp_path):
    out = tmp_path / "run"
    process = start(2, [*command, "--out", str(out)], ["--max-restarts", "2"])
    wait_for_checkpoint(out, process)
    os.kill(ranks_of(process)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err[-2000:]
    assert_same_adapter(out, undisturbed)


@pytest.mark.parametrize("n", [0, 2])
def test_sigterm_saves_at_the_next_step_and_the_run_goes_on(command, undisturbed, tmp_path, n):
    out = tmp_path / "run"
    process = start(n, [*command[:-4], "--timeout-minutes", "0.5", "--checkpoint-minutes", "600", "--out", str(out)])
    while not (out / "log.jsonl").exists():  # the end of the first epoch
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "stopped by SIGTERM in epoch" in err
    assert n or process.returncode == 143
    code, _, err = finished(n, [*command[:-4], "--checkpoint-minutes", "600", "--out", str(out), "--resume"])
    assert code == 0, err[-2000:]
    assert_same_adapter(out, undisturbed)


def test_a_damaged_shard_is_one_sentence_and_status_2(command, tmp_path):
    broken = tmp_path / "store"
    shutil.copytree(command[command.index("--train") + 1], broken)
    shard = broken / "shards" / "000000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-40] ^= 1
    shard.write_bytes(content)
    arguments = [str(broken) if a == command[command.index("--train") + 1] else a for a in command]
    code, _, err = finished(2, [*arguments, "--out", str(tmp_path / "run")])
    assert code != 0
    assert err.count("structures 0 to 99 are damaged") == 1
    assert err.count("Traceback (most recent") == 1, err  # torchrun's own
    assert "exitcode  : 2" in err


def test_a_rank_that_stops_answering_is_named(command, tmp_path):
    out = tmp_path / "run"
    process = start(3, [*command[:-1], "0.1", "--out", str(out)])
    wait_for_checkpoint(out, process)
    stopped = ranks_of(process)[2]
    os.kill(stopped, signal.SIGSTOP)
    time.sleep(40)
    os.kill(stopped, signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert "rank 2 of 3 no longer answers (killed, or over 6 s behind)" in err


def test_a_full_disk_of_the_first_rank_ends_all_in_a_sentence(command, tmp_path):
    arguments = ["-c", FULL_DISK, *command[2:], "--out", str(tmp_path / "run")]
    code, _, err = finished(2, arguments, ["--no-python", sys.executable])
    assert code != 0
    assert err.count("cannot be written (No space left on device)") == 1
    assert "exitcode  : 2" in err


def agent(port, arguments):
    """One of up to two agents of torchrun, as on two machines, each with a process."""
    options = {"nnodes": "1:2", "nproc-per-node": 1, "max-restarts": 5, "monitor-interval": 0.5,
               "rdzv-backend": "c10d", "rdzv-endpoint": f"localhost:{port}", "rdzv-id": "elastic",
               "rdzv-conf": "last_call_timeout=10"}  # fmt: skip
    several = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "torch.distributed.run", *several, *arguments]
    # Without it agents that join later wait for an address that torch 2.13 gives to the first ones only.
    environment = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def logged(out):
    """Epochs that ended so far."""
    file = out / "log.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def wait_for_epochs(out, more, process):
    end = logged(out) + more
    while logged(out) < end:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_a_lost_node_and_one_that_joins_end_in_the_same_adapter(command, tmp_path):
    """2 -> 1 -> 2 agents. The run is long enough to outlast both changes."""
    long = [*command, "--resume"]
    long[long.index("--epochs") + 1] = "120"
    expected = tmp_path / "expected"
    assert finished(0, [*long, "--out", str(expected)])[0] == 0
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    out = tmp_path / "run"
    first = agent(port, [*long, "--out", str(out)])
    time.sleep(2)  # the first agent keeps the store of the rendezvous
    second = agent(port, [*long, "--out", str(out)])
    wait_for_epochs(out, 2, first)
    kill_node(second)
    wait_for_epochs(out, 2, first)
    third = agent(port, [*long, "--out", str(out)])
    _, err = first.communicate(timeout=500)
    _, joined = third.communicate(timeout=100)
    assert first.returncode == 0, err[-3000:]
    assert third.returncode == 0, joined[-3000:]
    assert "processes were 2 and are now 1" in err
    assert "processes were 1 and are now 2" in err
    # Sums of another order differ by 1e-16, which 360 steps let grow: 1e-9 in the losses, 1e-6 in the weights.
    assert_same_adapter(out, read_adapter(expected / "adapter.safetensors")[0], most=1e-5)


def kill_node(agent):
    """The agent and its process at once, as a machine goes."""
    command = ["ps", "-o", "pid=", "--ppid", str(agent.pid)]
    children = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    for pid in (agent.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    agent.communicate(timeout=60)


FULL_DISK = """
import errno, os, sys
from pathtune.cli import main
from pathtune.training import folder
def full(file, write):
    raise folder.InputError(f"{file}: cannot be written ({os.strerror(errno.ENOSPC)})")
folder.write_atomically = full
sys.exit(main(sys.argv[1:]))
"""
