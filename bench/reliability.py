"""Hostile input by the hundred thousand, and every attack by name: how many were tried, and how many broke the law.

    python bench/reliability.py                          # all of it, hours on one core; goes on where it stopped
    python bench/reliability.py --anew                   # from the first trial on
    python bench/reliability.py adapters --trials 1000   # one family, so many trials
    python bench/reliability.py adapters --seed 4711     # one trial, with its traceback

The law: an InputError of one sentence, or a result that is finite and valid; never a traceback or a crash, more than
10 s of the processor, or more than 1 GB of memory. Trials run in a child process, one after the other in its memory;
where it dies or hangs, the trial counts as a failure and another child goes on with the next. Counts go to
bench/results/reliability.json, from which bench/tables.py makes the tables of docs/reliability.md. What is changed,
and how, is in tests/fuzz. A family's trials are numbered: each is made of its number alone.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import pathlib
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
RESULTS = ROOT / "bench" / "results" / "reliability.json"
TRIALS = {"adapters": 100_000, "structures": 20_000, "configs": 5_000, "commands": 2_000, "folders": 2_000}
MOST_SECONDS = 10.0  # of the processor, in a trial
HUNG_SECONDS = 60.0  # of the processor without a report, after which a child counts as hung
MOST_WALL_SECONDS = 3600.0  # of any time: the machine may be busy
MOST_BYTES = 1_000_000_000  # of growth, in a trial
ADDRESS_SPACE = 16_000_000_000  # beyond, a child runs out of memory before the machine does
SCRATCH = "/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None
OUTCOMES = ("refused", "accepted", "failed")
EXAMPLES = 5  # of each kind of failure that are kept


def peak_bytes() -> int:
    """Most memory of this process since the last call of `forget_peak`."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    return 0


def forget_peak() -> int:
    """Let the peak be what is used now, which is returned."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def tried(family, number: int) -> dict:
    """What became of a trial."""
    began, before = time.process_time(), forget_peak()
    said = {}
    try:
        outcome = family.trial(random.Random(number))
    except Exception as error:
        outcome, at = "failed", traceback.extract_tb(error.__traceback__)[-1]
        said = {"error": f"{type(error).__name__}: {error}"[:300], "at": f"{pathlib.Path(at.filename).name}, {at.name}"}
    seconds, growth = time.process_time() - began, peak_bytes() - before
    if seconds > MOST_SECONDS:
        outcome, said = "failed", {"error": f"{seconds:.0f} s", **said}
    if growth > MOST_BYTES:
        outcome, said = "failed", {"error": f"{growth / 1e9:.1f} GB", **said}
    return {"number": number, "outcome": outcome, "seconds": seconds, "bytes": growth, **said}


def child(name: str, first: int, end: int) -> None:
    """Trials one after the other, a line of JSON on standard output for each."""
    from fuzz.families import FAMILIES

    warnings.simplefilter("ignore")
    warnings.simplefilter("error", RuntimeWarning)  # of numpy: a number that overflowed on the way
    reports = os.fdopen(os.dup(1), "w")  # what is tried may print
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with tempfile.TemporaryDirectory(prefix="reliability-", dir=SCRATCH) as folder:
        os.chdir(folder)
        family = FAMILIES[name](pathlib.Path(folder))
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        for number in range(first, end):
            print(json.dumps(tried(family, number)), file=reports, flush=True)


class Count:
    """What became of the trials of a family."""

    def __init__(self, before: dict | None = None):
        """`before`: the result of trials that were done earlier."""
        before = before or {"trials": 0, "most_seconds": 0.0, "most_megabytes": 0, "failures": []}
        self.n_trials = before["trials"]
        self.outcomes = collections.Counter({name: before.get(name, 0) for name in OUTCOMES})
        self.failures = {found["what"]: found for found in before["failures"]}
        self.seconds, self.megabytes = before["most_seconds"], before["most_megabytes"]

    def add(self, report: dict) -> None:
        """One more trial."""
        self.n_trials += 1
        self.outcomes[report["outcome"]] += 1
        self.seconds = max(self.seconds, round(report["seconds"], 2))
        self.megabytes = max(self.megabytes, round(report["bytes"] / 1e6))
        if report["outcome"] == "failed":
            what = f"{report['error'][:60]} ({report.get('at')})"
            found = self.failures.setdefault(what, {"what": what, "count": 0, "numbers": []})
            found["count"] += 1
            if len(found["numbers"]) < EXAMPLES:
                found["numbers"].append(report["number"])
                print(f"  {report}", flush=True)

    def result(self) -> dict:
        """For the file."""
        return {
            "trials": self.n_trials,
            **{name: self.outcomes[name] for name in OUTCOMES},
            "most_seconds": self.seconds,
            "most_megabytes": self.megabytes,
            "failures": list(self.failures.values()),
        }


def count(name: str, first: int, end: int, found: Count, save: Callable[[], None]) -> None:
    """The trials of a family from the number `first` to before `end`, in children."""
    number, began = first, time.monotonic()
    while number < end:
        command = [sys.executable, __file__, name, "--child", str(number), str(end)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            number = follow(process, found, number, save)
            process.kill()
            status = process.wait()
        if number < end:
            why = f"killed by signal {-status}" if status < 0 and status != -9 else "died or hung"
            found.add({"number": number, "outcome": "failed", "error": why, "seconds": 0.0, "bytes": 0})
            number += 1
        save()
        print(f"{name}: {number - first} trials, {time.monotonic() - began:.0f} s, {dict(found.outcomes)}", flush=True)


def follow(process: subprocess.Popen, found: Count, number: int, save: Callable[[], None]) -> int:
    """Count what a child reports until it ends or hangs; the number of the trial after the last one reported."""
    buffer = b""
    descriptor = process.stdout.fileno()
    began, used = time.monotonic(), processor_seconds(process.pid)
    while True:
        if not select.select([descriptor], [], [], 5.0)[0]:
            is_hung = processor_seconds(process.pid) - used > HUNG_SECONDS
            if is_hung or time.monotonic() - began > MOST_WALL_SECONDS:
                break
            continue
        data = os.read(descriptor, 65536)
        if not data:
            break
        began, used = time.monotonic(), processor_seconds(process.pid)
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            found.add(json.loads(line))
            number += 1
            if number % 100 == 0:
                save()
    return number


def processor_seconds(pid: int) -> float:
    """What a process has used of the processor; 0 where it has ended."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help=f"some of {', '.join(TRIALS)}; all by default")
    parser.add_argument("--trials", type=int, help="so many of each family, which are printed and not kept")
    parser.add_argument("--first", type=int, default=0, help="number of the first of them")
    parser.add_argument("--anew", action="store_true", help="forget the trials that were done before")
    parser.add_argument("--seed", type=int, help="the number of one trial, which is run here")
    parser.add_argument("--child", type=int, nargs=2, metavar=("FIRST", "END"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.child:
        child(args.families[0], *args.child)
    elif args.seed is not None:
        alone(args.families[0], args.seed)
    else:
        for name in args.families or TRIALS:
            if args.trials:
                found = Count()
                count(name, args.first, args.first + args.trials, found, lambda: None)
            else:
                found = Count(None if args.anew else kept().get(name))
                count(name, found.n_trials, TRIALS[name], found, functools.partial(keep, name, found))
            print(name, json.dumps(found.result(), indent=1))


def kept() -> dict:
    """What the results file holds."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def keep(name: str, found: Count) -> None:
    """Write a family's counts into the results file."""
    RESULTS.write_text(json.dumps({**kept(), name: found.result()}, indent=1) + "\n")


def alone(name: str, number: int) -> None:
    """One trial in this process, with its traceback."""
    from fuzz.families import FAMILIES

    warnings.simplefilter("error", RuntimeWarning)
    with tempfile.TemporaryDirectory(prefix="reliability-", dir=SCRATCH) as folder:
        os.chdir(folder)
        print(FAMILIES[name](pathlib.Path(folder)).trial(random.Random(number)))


if __name__ == "__main__":
    main()
