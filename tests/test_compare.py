"""`compare`: every arm is cared for alike, finished runs are not repeated, and the table says what the runs did."""

import json
import math
import multiprocessing
import os
import shutil
import signal
from concurrent import futures
from types import SimpleNamespace

import ase.io
import pytest
import torch

import pathtune
from launching import launched
from models import labelled, molecule, tiny_mace
from pathtune import CompareOptions, FitConfig, InputError
from pathtune.cli import main
from pathtune.comparing import comparison, probe, running
from pathtune.comparing.arms import Arm, Plan, Trial, arms_of
from pathtune.comparing.running import result_of
from pathtune.comparing.table import add_ratios, arm_row, markdown
from pathtune.data import from_atoms
from pathtune.training import loop
from pathtune.training.progress import SeriesProgress
from pathtune.training.run import ModelOptions

pytestmark = pytest.mark.usefixtures("needs_mace")


def frames(seed, n):
    return labelled([molecule(seed + i, n=4) for i in range(n)], seed)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a model and three sets."""
    folder = tmp_path_factory.mktemp("compare")
    torch.save(tiny_mace(torch.float32), folder / "tiny.model")
    for name, seed, n in (("train", 0, 6), ("valid", 50, 3), ("test", 70, 3)):
        ase.io.write(folder / f"{name}.xyz", frames(seed, n), format="extxyz")
    return folder


def words(world, out, *more):
    files = [word for name in ("train", "valid", "test") for word in (f"--{name}", str(world / f"{name}.xyz"))]
    return ["compare", "--model", str(world / "tiny.model"), *files, "--out", str(out), "--epochs", "2",
            "--batch-size", "2", "--no-check-units", *more]  # fmt: skip


def command(world, out, *more):
    return main(words(world, out, *more))


ARMS = ("--arms", "full", "sparse", "--active-share", "0.1", "--n-rates", "2", "--more-rates", "0", "--seeds", "3", "4")


def measure_here(monkeypatch):
    """Costs are measured in few steps and in this process."""
    monkeypatch.setattr(probe, "N_STEPS", 6)
    monkeypatch.setattr("pathtune.comparing.comparison.costs", lambda arms, world, _: probe.costs(arms, world, False))


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """The folder of a finished comparison."""
    with pytest.MonkeyPatch.context() as patched:
        measure_here(patched)
        out = tmp_path_factory.mktemp("finished") / "out"
        assert command(world, out, *ARMS, "--known", str(world / "test.xyz")) == 0
    return out


def test_every_arm_has_the_same_rates_steps_and_seeds_and_the_best_by_validation_is_taken(finished):
    result = json.loads((finished / "compare.json").read_text())
    rows = {row["arm"]: row for row in result["rows"]}
    arms = ["full", "sparse_share0.1"]
    assert list(rows) == ["zero-shot", "zero-shot, E0 refit", *arms]
    for arm in arms:
        runs = [run for run in result["runs"] if run["arm"] == arm]
        first = [run for run in runs if run["seed"] == 3]
        best = min(first, key=lambda run: run["valid_loss"])
        assert len({run["lr"] for run in first}) == 2
        assert max(run["lr"] for run in first) == pytest.approx(2 * min(run["lr"] for run in first), rel=0.01)
        assert [(run["seed"], run["lr"]) for run in runs if run["seed"] != 3] == [(4, best["lr"])]
        assert {run["n_steps"] for run in runs} == {6}
        row, chosen = rows[arm], [run for run in runs if run["lr"] == best["lr"]]
        assert row["lr"] == best["lr"]
        for split in ("valid", "test", "known"):
            found = [run[split]["forces_mae_mev_a"] for run in chosen]
            assert row[split]["forces_mae_mev_a"] == [
                pytest.approx(sum(found) / 2, abs=1e-4), pytest.approx(abs(found[0] - found[1]), abs=1e-4)]  # fmt: skip
        ratio = row["test"]["forces_mae_mev_a"][0] / rows["full"]["test"]["forces_mae_mev_a"][0]
        assert row["over_full"]["forces_mae_mev_a"] == pytest.approx(ratio, abs=1e-4)


@pytest.mark.parametrize(
    ("best", "more", "expected", "chosen"),
    [
        (0.1, 2, [0.05, 0.1, 0.2], 0.1),
        (0.4, 2, [0.05, 0.1, 0.2, 0.4, 0.8], 0.4),
        (0.01, 2, [0.0125, 0.025, 0.05, 0.1, 0.2], 0.0125),
        (0.4, 0, [0.05, 0.1, 0.2], 0.2),
    ],
)
def test_rates_go_on_beyond_the_best_until_it_lies_between_two_others(monkeypatch, best, more, expected, chosen):
    arm, asked = Arm(("full",)), CompareOptions(more_rates=more)
    world = SimpleNamespace(plan=SimpleNamespace(compare=asked))

    def trained(trials, *_):
        runs = [{"arm": t.arm.key, "lr": t.lr, "diverged": None, "seed": t.seed} for t in trials]
        return [run | {"valid_loss": abs(math.log(run["lr"] / best))} for run in runs]

    monkeypatch.setattr(comparison, "run_trials", trained)
    monkeypatch.setattr(comparison, "rates", lambda *_: [0.05, 0.1, 0.2])
    monkeypatch.setattr(comparison, "arm_row", lambda arm, tried, runs, cost: {"lr": runs[0]["lr"]})
    rows, runs = comparison.compare_arms([arm], world, SeriesProgress(1, quiet=True), {"full": 1})
    assert sorted(run["lr"] for run in runs) == expected
    assert rows == [{"lr": chosen}]


def test_no_rate_is_added_to_those_that_were_asked_or_where_all_diverged():
    runs = [{"lr": lr, "valid_loss": lr, "diverged": None} for lr in (1.0, 2.0, 4.0)]
    assert comparison.rate_beyond(runs, CompareOptions()) == 0.5
    assert comparison.rate_beyond(runs, CompareOptions(lrs=(1.0, 2.0, 4.0))) is None
    assert comparison.rate_beyond(runs[:1], CompareOptions(n_rates=1)) is None
    lost = [run | {"valid_loss": None, "diverged": "fit: the loss is nan"} for run in runs]
    assert comparison.rate_beyond(lost, CompareOptions()) is None


def test_the_table_counts_values_bytes_time_and_memory(finished):
    base = pathtune.load(tiny_mace(torch.float32))
    n_weights = sum(p.numel() for p in base.backbone.parameters.values())
    rows = {row["arm"]: row for row in json.loads((finished / "compare.json").read_text())["rows"]}
    full, sparse = rows["full"], rows["sparse_share0.1"]
    assert full["shares"] == {"reachable": 1.0, "adapted": 1.0, "all": 1.0}
    assert full["stored_bytes"] == 4 * full["values"] == 4 * n_weights
    assert full["optimizer_bytes"] == 2 * 4 * n_weights  # z and the second moment
    counts = sparse["counts"]
    assert sparse["values"] == round(0.1 * counts["reachable_weights"])
    for name in ("reachable", "adapted", "all"):
        assert sparse["shares"][name] == pytest.approx(sparse["values"] / counts[f"{name}_weights"])
    run = finished / "runs" / f"sparse_share0.1_lr{sparse['lr']:g}"
    assert sparse["stored_bytes"] == (run / "adapter.safetensors").stat().st_size
    assert min(full["step_seconds"], sparse["step_seconds"]) > 0
    assert full["peak_bytes"] is None  # measured in a process of its own only
    table = (finished / "compare.md").read_text().splitlines()
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 2 + len(rows)
    assert (finished / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_comparison_is_printed_again_and_not_repeated(world, finished, monkeypatch, capsys):
    monkeypatch.setattr(loop.Loop, "_train_step", None)
    assert command(world, finished, *ARMS, "--known", str(world / "test.xyz"), "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((finished / "compare.json").read_text())
    assert command(world, finished, *ARMS, "--known", str(world / "test.xyz")) == 0
    assert "sparse, 10 %" in " ".join(capsys.readouterr().out.split())


def test_a_run_of_a_comparison_is_a_run_of_fit(finished, tmp_path, capsys):
    run = next(p for p in (finished / "runs").iterdir() if p.name.startswith("sparse_share0.1"))
    again = ["fit", "--config", str(run / "config.toml"), "--out", str(tmp_path / "again"), "--json", "--no-report"]
    assert main(again) == 0
    again, first = json.loads(capsys.readouterr().out), json.loads((run / "metrics.json").read_text())
    for key in ("valid", "test", "valid_loss", "counts", "shares"):
        assert again[key] == first[key]
    assert main(["describe", str(run)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for name in ("reachable", "adapted", "all"):
        assert f"{100 * first['shares'][name]:.3g} % of" in printed
    assert f"of the {first['counts']['adapted_weights']:,d} adapted ones" in printed


def without_times(result):
    timed = {"seconds", "step_seconds", "peak_bytes", "step_time_ratio", "out"}
    if isinstance(result, dict):
        return {k: without_times(v) for k, v in result.items() if k not in timed}
    return [without_times(v) for v in result] if isinstance(result, list) else result


def test_an_interrupted_comparison_goes_on_to_the_same_numbers_and_so_does_one_in_memory(tmp_path, monkeypatch):
    measure_here(monkeypatch)
    sets = [[from_atoms(atoms) for atoms in frames(seed, 4)] for seed in (0, 50)]
    config = FitConfig(epochs=2, batch_size=2, check_units=False)
    base = pathtune.load(tiny_mace())

    def compare(out):
        options = CompareOptions(out=str(tmp_path / out), arms=("readout", "sparse+lora"), rank=(1, 2), n_rates=1)
        return pathtune.compare(base, *sets, options=options, config=config)

    whole = compare("whole")
    original, n_steps = loop.Loop._train_step, 0

    def interrupt(self, batch):
        nonlocal n_steps
        n_steps += 1
        if n_steps == 7:  # in the second epoch of the second run
            raise KeyboardInterrupt
        return original(self, batch)

    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "compare.toml").write_bytes((tmp_path / "whole" / "compare.toml").read_bytes())
    (tmp_path / "broken" / "costs.json").write_bytes((tmp_path / "whole" / "costs.json").read_bytes())
    monkeypatch.setattr(loop.Loop, "_train_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compare("broken")
    assert without_times(compare("broken")) == without_times(whole)
    assert n_steps == 7 + 2 + 4  # the step that was cut short and the next, and the run that had not begun
    assert [row["arm"] for row in whole["rows"][3:]] == ["sparse+lora_share0.03_rank1", "sparse+lora_share0.03_rank2"]
    assert whole["rows"][3]["values"] < whole["rows"][4]["values"]
    assert whole["rows"][2]["shares"]["reachable"] < 1  # a readout is not all weights
    assert whole["rows"][2]["peak_bytes"] is None


def test_sigterm_ends_in_a_sentence_and_the_same_command_goes_on(world, tmp_path, monkeypatch, capsys):
    arms = ("--arms", "full", "--n-rates", "1")
    measure_here(monkeypatch)
    original, steps = loop.Loop._train_step, []

    def terminated(self, batch):
        steps.append(1)
        if len(steps) == 8:  # six are those of the costs
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch)

    monkeypatch.setattr(loop.Loop, "_train_step", terminated)
    assert command(world, tmp_path / "out", *arms) == 143
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said == "pathtune compare: stopped by SIGTERM in epoch 1 after step 2; the same command goes on from here"
    assert command(world, tmp_path / "out", *arms) == 0
    assert len(steps) == 6 + 6


def test_equal_seconds_are_steps_times_the_ratio_of_median_steps(world, tmp_path, monkeypatch, capsys):
    cost = {"full": 0.04, "sparse_share0.1": 0.01}
    found = lambda arms, world, is_on_disk: [probe.Cost(cost[arm.key], "wall", None) for arm in arms]  # noqa: E731
    monkeypatch.setattr("pathtune.comparing.comparison.costs", found)
    arms = ("--arms", "sparse", "full", "--active-share", "0.1", "--n-rates", "1", "--equal", "seconds")
    assert command(world, tmp_path / "out", *arms, "--valid-fraction", "0.4") == 2
    assert "--valid and --valid-fraction are both given" in capsys.readouterr().err
    assert command(world, tmp_path / "new", *arms) == 0
    result = json.loads((tmp_path / "new" / "compare.json").read_text())
    assert result["equal"]["reference"] == "full"
    assert result["equal"]["step_time_ratio"] == {"sparse_share0.1": 4.0, "full": 1.0}
    assert [row["n_steps"] for row in result["rows"][2:]] == [24, 6]
    assert json.loads((tmp_path / "new" / "costs.json").read_text())["full"]["step_seconds"] == 0.04
    assert "sparse_share0.1 4.00, full 1.00" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_step_and_memory_of_an_arm_are_measured_in_a_process_of_its_own(world, tmp_path):
    assert command(world, tmp_path / "out", "--arms", "full", "readout", "--n-rates", "1") == 0
    found = json.loads((tmp_path / "out" / "costs.json").read_text())
    assert found.keys() == {"full", "readout"}
    for cost in found.values():
        assert 0 < cost["step_seconds"] < 10
        assert cost["peak_bytes"] > 0


@pytest.mark.slow
def test_runs_in_parallel_are_those_one_after_the_other(world, tmp_path):
    arms = ("--arms", "sparse", "readout", "--active-share", "0.1", "--n-rates", "2", "--seeds", "0", "1")
    results = []
    for jobs in ("1", "2"):
        assert command(world, tmp_path / jobs, *arms, "--jobs", jobs) == 0
        results.append(json.loads((tmp_path / jobs / "compare.json").read_text()))
    done = launched(2, ["-m", "pathtune", *words(world, tmp_path / "torchrun", *arms)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Written to") == 1
    results.append(json.loads((tmp_path / "torchrun" / "compare.json").read_text()))
    one, *others = (without_times(result) for result in results)
    for other in others:
        assert one["rows"] == other["rows"]
        assert one["runs"] == other["runs"]


@pytest.mark.slow
def test_a_mistake_in_one_run_ends_all_processes_in_its_sentence(world, tmp_path):
    arms = ("--arms", "sparse", "readout", "--active-share", "0.1", "--n-rates", "1")
    run = tmp_path / "out" / "runs" / "readout_lr0.05"
    arms += ("--lrs", "0.05")
    assert command(world, tmp_path / "out", *arms) == 0
    (tmp_path / "out" / "compare.json").unlink()
    (run / "metrics.json").write_text("{")
    done = launched(2, ["-m", "pathtune", *words(world, tmp_path / "out", *arms)])
    assert done.returncode != 0
    assert done.stderr.count(f"pathtune compare: {run / 'metrics.json'}") == 1
    assert "exitcode  : 2" in done.stderr


def test_a_rate_at_which_a_run_diverges_is_kept_as_that_and_not_chosen(world, tmp_path, monkeypatch, capsys):
    measure_here(monkeypatch)
    arms = ("--arms", "full", "--lrs", "0.001", "1e6", "--refit-e0-last")
    assert command(world, tmp_path / "out", *arms) == 0
    monkeypatch.setattr(loop.Loop, "_train_step", None)
    (tmp_path / "out" / "compare.json").unlink()
    assert command(world, tmp_path / "out", *arms) == 0  # a run that diverged is not tried again
    result = json.loads((tmp_path / "out" / "compare.json").read_text())
    good, bad = result["runs"]
    assert good["diverged"] is None
    assert bad["diverged"].startswith("fit: the ")
    assert (result["rows"][2]["lr"], result["rows"][2]["n_diverged"]) == (0.001, 0)


def test_an_arm_whose_runs_all_diverged_has_a_row_without_errors():
    run = {"name": "a", "arm": "full", "lr": 1.0, "seed": 0, "valid_loss": None, "diverged": "fit: the loss is inf"}
    row = arm_row(Arm(("full",)), [run], [run], None)
    add_ratios([row])
    assert row["n_diverged"] == 1
    assert "test" not in row
    assert markdown([row]).splitlines()[2].startswith("| full fine-tuning | 1 | none |")


MISTAKES = {
    "arms has 'sprase', expected some of sparse, full": ("--arms", "sprase"),
    "arms has 'full+nothing'": ("--arms", "full+nothing"),
    "arms is full full, expected one or several that differ": ("--arms", "full", "full"),
    "active_share is given, but no arm has sparse": ("--arms", "full", "--active-share", "0.1"),
    "rank is given, but no arm has lora": ("--arms", "full", "--rank", "2"),
    "alpha is 3.0, which no arm reads": ("--arms", "full", "--alpha", "3"),
    "active_share is 1.5, expected a share in": ("--active-share", "1.5"),
    "lrs has -1.0, expected numbers above 0": ("--lrs", "-1"),
    "n_rates is 0": ("--n-rates", "0"),
    "more_rates is -1": ("--more-rates", "-1"),
    "jobs is 0": ("--jobs", "0"),
    "max_frames is 0, expected at least 1": ("--max-frames", "0"),
    "adaptations: 'full' replaces the weights that 'sparse' has changed": ("--arms", "sparse+full"),
}


@pytest.mark.parametrize("said", MISTAKES)
def test_a_mistake_is_one_sentence_and_trains_nothing(world, tmp_path, capsys, monkeypatch, said):
    monkeypatch.setattr(loop.Loop, "_train_step", None)
    monkeypatch.setattr("pathtune.comparing.comparison.costs", lambda arms, *_: [probe.Cost(1.0, "wall", None)] * 9)
    assert command(world, tmp_path / "out", *MISTAKES[said]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert (captured.out, captured.err.strip().count("\n")) == ("", 0)


def test_further_arms_and_seeds_train_only_what_is_new(world, finished, tmp_path, monkeypatch):
    out = shutil.copytree(finished, tmp_path / "out")
    measure_here(monkeypatch)
    before = json.loads((out / "compare.json").read_text())
    trained, run_arm = [], running.run_arm
    monkeypatch.setattr(running, "run_arm", lambda *given: (trained.append(given[4].folder.name), run_arm(*given)))
    more = ("--arms", "full", "sparse", "readout", *ARMS[3:], "5", "--known", str(world / "test.xyz"))
    assert command(world, out, *more) == 0
    after = json.loads((out / "compare.json").read_text())
    old, runs = ({run["name"]: run for run in result["runs"]} for result in (before, after))
    assert (sorted(trained), len(trained)) == (sorted(set(runs) - set(old)), 2 + 4)  # a seed of two arms; a third arm
    assert old.items() <= runs.items()
    assert [row["arm"] for row in after["rows"]][2:] == ["full", "sparse_share0.1", "readout"]


def test_what_is_in_a_folder_is_never_mixed_with_another_comparison(world, finished, tmp_path, capsys):
    for other in ((), ("--known", str(world / "test.xyz"), "--seeds", "4", "3")):
        assert command(world, finished, *ARMS, *other) == 2
        assert "holds a comparison with other options" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    assert command(world, tmp_path / "mine") == 2
    assert "is not empty and holds no comparison" in capsys.readouterr().err
    plan = Plan(CompareOptions(arms=("full",)), ModelOptions(model="demo"))
    assert Trial(arms_of(plan)[0], 0.01, 0, 3).name == "full_lr0.01"


@pytest.mark.parametrize("seconds", [0, 1e300])
def test_damaged_costs_are_one_sentence(world, finished, tmp_path, capsys, seconds):
    out = shutil.copytree(finished, tmp_path / "out")
    (out / "compare.json").unlink()
    costs = json.loads((out / "costs.json").read_text())
    costs["full"]["step_seconds"] = seconds
    (out / "costs.json").write_text(json.dumps(costs))
    assert command(world, out, *ARMS, "--known", str(world / "test.xyz")) == 2
    assert f"full, step_seconds is {seconds:g}, expected a number between 0 and" in capsys.readouterr().err


def test_a_process_that_is_lost_is_one_sentence():
    with futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        lost = pool.submit(os._exit, 9)
        with pytest.raises(InputError, match="a process of the comparison was lost"):
            result_of(lost)


def test_jobs_need_files(tmp_path):
    options = CompareOptions(out=str(tmp_path / "out"), jobs=2)
    with pytest.raises(InputError, match="jobs is 2 beside data in memory, expected files that each job can read"):
        pathtune.compare("demo", frames(0, 2), frames(5, 2), options=options)


def test_every_arm_starts_from_the_e0_that_were_asked(world, tmp_path):
    given = ("--e0", "H=-2", "C=-2", "O=-2.5", "--arms", "full", "--lrs", "0.001", "--epochs", "1")
    assert command(world, tmp_path / "out", *given) == 0
    (run,) = (tmp_path / "out" / "runs").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["e0_fit"]["e0_ev"] == {"H": -2.0, "C": -2.0, "O": -2.5}
