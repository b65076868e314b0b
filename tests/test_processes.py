"""Laws of several processes: they do what one does, and what one of them raises, all raise."""

import functools
import pathlib
from concurrent import futures

import pytest
import torch
from torch.distributed.run import get_args_parser

from launching import launched
from pathtune.options import fields_of
from pathtune.processes import _meeting
from pathtune.training.run import sections

pytestmark = pytest.mark.usefixtures("needs_mace")
HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def alone(tmp_path_factory, needs_mace):
    import ranks

    def run(short):
        file = tmp_path_factory.mktemp("alone") / "one.pt"
        ranks.main(file, bool(short))
        return torch.load(file, weights_only=False)["tensors"]

    return functools.lru_cache(run)


@pytest.fixture(scope="module", params=[
    pytest.param((2, "short"), id="2, one training"),
    pytest.param((2,), id="2", marks=pytest.mark.slow),
    pytest.param((3,), id="3", marks=pytest.mark.slow),
])  # fmt: skip
def together(request, tmp_path_factory, needs_mace):
    file = tmp_path_factory.mktemp("together") / "many.pt"
    n, *short = request.param
    done = launched(n, [str(HERE / "ranks.py"), str(file), *short])
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(file, weights_only=False) | {"short": tuple(short)}


def test_processes_end_with_the_parameters_candidates_and_losses_of_one(alone, together):
    for name, expected in alone(together["short"]).items():
        found = together["tensors"][name]
        assert len(found) == len(expected)
        for a, b in zip(found, expected):
            assert a.shape == b.shape
            assert torch.allclose(a.double(), b.double(), rtol=1e-10, atol=1e-10), name


def test_every_process_raises_the_sentence_of_the_one_that_failed(together):
    first, *others = together["sentences"]
    assert all(sentences == first for sentences in others)
    last, damaged, data, options, size, own, job = len(others), *first
    assert damaged == "shard 7: structures 0 to 255 are damaged"
    assert data.startswith(f"rank {last} has training data ")
    assert options.startswith(f"rank {last} has options ")
    assert size.startswith(f"{last + 1} processes share steps of at most 1 structures")
    assert own == "rank 0: ZeroDivisionError: division by zero"
    assert job == "rank 1: ZeroDivisionError: division by zero"


def test_shared_jobs_give_their_results_in_order_and_each_is_alone_in_one_process(together):
    numbers, sizes, ranks = zip(*together["shared"])
    assert numbers == (0, 1, 2, 3, 4)
    assert set(sizes) == {1}
    assert set(ranks) == set(range(len(together["sentences"])))


def test_processes_of_each_start_meet_under_a_name_of_their_own():
    store = torch.distributed.HashStore()
    starts = []
    for _ in range(3):  # the later ones find what the earlier left
        with futures.ThreadPoolExecutor(3) as pool:
            starts.append(set(pool.map(lambda rank: _meeting(store, rank, 3, 10.0), (2, 1, 0))))
    assert [len(names) for names in starts] == [1, 1, 1]
    assert len(set.union(*starts)) == 3


def test_a_first_process_that_does_not_answer_is_not_waited_for():
    store = torch.distributed.HashStore()
    store.set("pathtune meeting", "of an earlier start")
    with pytest.raises(RuntimeError, match="the first process did not answer"):
        _meeting(store, 1, 2, 0.1)


def test_torchrun_takes_no_flag_of_fit_for_its_own():
    for cls in sections().values():
        for field in fields_of(cls):
            flag = f"--{field.name.replace('_', '-')}"
            args = get_args_parser().parse_args(["--nproc-per-node", "2", "-m", "pathtune", "fit", flag, "1"])
            assert args.training_script_args == ["fit", flag, "1"]
