"""Batches that are packed and moved by one copy, made ahead by a thread, and losses that are read late: on the CPU.

What runs on a device is forced here with the CPU, or torch's meta device, in its place: no CUDA device has run it.
"""

import dataclasses
import functools
import threading
from typing import NamedTuple

import numpy as np
import pytest
import torch

import spins
from models import labelled, molecule, tiny_mace
from pathtune import FitConfig, InputError, SparseDelta, fit, load, sparsify
from pathtune.backbones import _geometry
from pathtune.data import Frames, ahead, from_atoms, made_ahead
from pathtune.data.packing import ALIGNMENT, Packed, moved
from pathtune.errors import DivergedError
from pathtune.losses import loss, loss_terms
from pathtune.model import Potential
from pathtune.training import loop
from pathtune.training.folder import RunFolder
from pathtune.training.late import LateNumber
from pathtune.training.stopping import StoppedError
from stopping import killed_at


class Pair(NamedTuple):
    first: torch.Tensor
    second: int


@dataclasses.dataclass(frozen=True)
class Record:
    values: torch.Tensor
    name: str


def structures(n=6, seed=0):
    return [from_atoms(a) for a in labelled([molecule(seed + i, n=3 + i % 3) for i in range(n)], seed)]


@pytest.fixture(scope="module")
def base(needs_mace):
    return load(tiny_mace(), dtype="float32")


def nest():
    shared = torch.randn(5, 3)
    return {
        "strided": torch.arange(12).reshape(3, 4).T[::2],
        "pair": Pair(torch.tensor([True, False, True]), 7),
        "record": Record(torch.randn(7, dtype=torch.float64), "a name"),
        "list": [shared, shared, torch.zeros(0, 3), torch.tensor(2.5)],
        "tuple": (1, None, torch.arange(3, dtype=torch.int32)),
    }


def assert_equal(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        assert_equal(list(found.values()), list(expected.values()))
    elif dataclasses.is_dataclass(expected):
        assert_equal(list(vars(found).values()), list(vars(expected).values()))
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for f, e in zip(found, expected):
            assert_equal(f, e)
    else:
        assert found == expected


def test_what_is_packed_and_moved_is_bitwise_what_it_was():
    given = nest()
    assert_equal(moved(given, "cpu"), given)


def test_packed_tensors_lie_in_one_buffer_each_at_a_multiple_of_the_alignment():
    given = nest()
    there = moved(given, "cpu")
    tensors = [there["strided"], there["pair"].first, there["record"].values, there["list"][0], there["tuple"][2]]
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == 1
    start = tensors[0].untyped_storage().data_ptr()
    assert all((t.data_ptr() - start) % ALIGNMENT == 0 and t.is_contiguous() for t in tensors)
    assert len({t.data_ptr() for t in tensors}) == len(tensors)


def test_a_tensor_that_a_nest_holds_twice_is_packed_once():
    tensor = torch.randn(100)
    packed = Packed([tensor, (tensor, tensor)])
    assert packed.buffer.numel() == 512
    one, (two, three) = packed.to("cpu")
    assert one is two is three


def test_a_write_to_a_moved_tensor_is_no_write_to_its_neighbours():
    one, two = moved([torch.zeros(3), torch.zeros(3)], "cpu")
    one.add_(1)
    assert (one._version, two._version) == (1, 0)
    assert two.tolist() == [0, 0, 0]


def prepared(model, frames, device="cpu"):
    batch = model.collate(frames)
    model.backbone.prepare(batch)
    return batch.to(device)


def outcome(model, batch):
    prediction = model(batch, outputs=("energy", "forces", "stress"), training=True)
    gradients = torch.autograd.grad(loss(prediction, batch), model.trainable())
    return [prediction.energy, prediction.forces, prediction.stress, *gradients]


def test_a_packed_batch_gives_the_bitwise_same_energies_forces_and_gradients(base):
    model = sparsify(base, SparseDelta(initial_share=0.3), [1, 6, 8])
    expected = outcome(model, model.collate(structures()))
    found = outcome(model, prepared(model, structures()))
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


def test_a_prepared_batch_is_moved_with_all_that_a_forward_reads_of_it(base, monkeypatch):
    batch = prepared(base, structures())
    index = _geometry.edge_index(batch, base.backbone._forward.by_pair)
    assert index.graph.sender.untyped_storage().data_ptr() == batch.positions.untyped_storage().data_ptr()
    for name in ("_edge_index", "_vectors", "group_by_species", "conv_graph"):
        monkeypatch.setattr(_geometry, name, None)  # nothing of it is made again
    base(batch)


def test_vectors_follow_positions_that_are_written_to_after_the_move(base):
    batch, frames = prepared(base, structures(1)), structures(1)
    before = base(batch).energy
    with torch.no_grad():
        batch.positions[0] += 0.05
    plain = base.collate(frames)
    with torch.no_grad():
        plain.positions[0] += 0.05
    assert torch.equal(base(batch).energy, base(plain).energy)
    assert not torch.equal(base(batch).energy, before)


def test_weights_by_config_type_go_with_a_packed_batch(base):
    frames, weights = structures(), {"a": 3.0, "b": 0.0}
    for k, frame in enumerate(frames):
        frame.config_type = "abc"[k % 3]
    found, expected = (
        loss_terms(base(batch), batch, type_weights=weights)["energy"].sum
        for batch in (prepared(base, frames), base.collate(frames))
    )
    assert torch.equal(found, expected)


def test_the_graph_of_a_spin_layer_is_made_on_the_host_and_moved():
    model = spins.spin_model("many-body", base=load(tiny_mace(), dtype="float32"))
    frames = [from_atoms(spins.spin_crystal(seed)) for seed in range(2)]
    batch = prepared(model, frames)
    found, expected = (model(b, outputs=spins.NAMES) for b in (batch, model.collate(frames)))
    assert all(torch.equal(found.of(name), expected.of(name)) for name in spins.NAMES)
    (key,) = (key for key in batch.kept if key[0] == "spin")
    here, there = batch.host.kept[key].value, batch.kept[key].value
    assert_equal(there, here)
    assert there.rows.data_ptr() != here.rows.data_ptr()


def test_a_batch_without_edges_is_prepared_and_moved(base):
    frame = structures(1)[0]
    frame = dataclasses.replace(
        frame, atomic_numbers=frame.atomic_numbers[:1], positions=frame.positions[:1], labels={}
    )
    assert torch.equal(base(prepared(base, [frame])).energy, base(base.collate([frame])).energy)


@pytest.fixture
def as_on_a_device(monkeypatch):
    """Training on the CPU as it is on a device: packed batches, a thread, losses that are read a step later."""
    original, closing = Potential._staged, loop.contextlib.closing

    def staged(self, frames, graphs):
        batch = original(self, frames, graphs)()
        self.backbone.prepare(batch)
        return functools.partial(batch.packed().to, "cpu")

    monkeypatch.setattr(Potential, "_staged", staged)
    monkeypatch.setattr(loop, "steps_late", lambda device: 1)
    monkeypatch.setattr(loop, "made_ahead", lambda made, source, device: closing(ahead.read_ahead(made)))


CONFIG = FitConfig(epochs=3, batch_size=2, lr=1e-2, check_units=False)
OFTEN_SAVED = dataclasses.replace(CONFIG, checkpoint_minutes=1e-9)  # after every step


def fitted(base, config=CONFIG, folder=None, **changes):
    model = sparsify(base, SparseDelta(**{"delta_start": "paper", **changes}), [1, 6, 8], seed=3)
    history = fit(model, structures(7), structures(2, 50), config, folder=folder)
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in history.epochs]
    return [p.detach().clone() for p in model.trainable()], lines


NARROWED = {"delta_start": "identity", "active_share": 0.1, "by_step": 8}


@pytest.fixture(scope="module")
def plain(base):
    return fitted(base), fitted(base, **NARROWED)


def assert_same_run(found, expected):
    assert found[1] == expected[1]
    assert all(torch.equal(f, e) for f, e in zip(found[0], expected[0], strict=True))


def no_threads_are_left():
    return not [t for t in threading.enumerate() if t.name == "pathtune reads ahead"]


@pytest.mark.parametrize(("device", "maker"), [("meta", "pathtune reads ahead"), ("cpu", "MainThread")])
def test_a_thread_makes_what_a_device_computes_next_and_ends_with_the_loop(device, maker):
    names = []

    def made():
        for k in range(9):
            names.append(threading.current_thread().name)
            yield k

    def fail():
        with made_ahead(made(), Frames(structures(1)), torch.device(device)) as items:
            for _ in items:
                raise InputError("the loop fails")

    with pytest.raises(InputError) as kept:  # and with it the frame that holds the items
        fail()
    assert kept.value.args == ("the loop fails",)
    assert set(names) == {maker}
    assert no_threads_are_left()


@pytest.mark.usefixtures("as_on_a_device")
def test_training_as_on_a_device_is_bitwise_the_plain_one(base, plain):
    assert_same_run(fitted(base), plain[0])
    assert no_threads_are_left()


@pytest.mark.usefixtures("as_on_a_device")
def test_narrowing_as_on_a_device_is_bitwise_the_plain_one(base, plain):
    assert_same_run(fitted(base, **NARROWED), plain[1])


@pytest.mark.usefixtures("as_on_a_device")
@pytest.mark.parametrize("step", [1, 5])
def test_a_run_killed_as_on_a_device_resumes_to_the_bitwise_same_result(base, plain, tmp_path, step):
    folder = RunFolder(tmp_path)
    with killed_at(step):
        fitted(base, OFTEN_SAVED, folder)
    assert no_threads_are_left()
    assert_same_run(fitted(base, OFTEN_SAVED, folder), plain[0])


@pytest.mark.usefixtures("as_on_a_device")
def test_a_run_that_is_stopped_as_on_a_device_saves_and_leaves_no_thread(base, plain, tmp_path, monkeypatch):
    folder, original = RunFolder(tmp_path), loop.Loop._train_step

    def step(self, piece):
        self.asked.is_asked = self._steps_done == 2
        original(self, piece)

    monkeypatch.setattr(loop.Loop, "_train_step", step)
    with pytest.raises(StoppedError, match="stopped by SIGTERM in epoch 1 after step 3"):
        fitted(base, folder=folder)
    assert no_threads_are_left()
    monkeypatch.undo()
    assert_same_run(fitted(base, folder=folder), plain[0])


@pytest.mark.usefixtures("as_on_a_device")
def test_what_a_thread_cannot_read_is_said_in_its_own_sentence(base, monkeypatch):
    original = loop.Loop._piece

    def piece(self, indices):
        if 5 in indices:
            raise InputError("frame 5 is bad")
        return original(self, indices)

    monkeypatch.setattr(loop.Loop, "_piece", piece)
    with pytest.raises(InputError, match="^frame 5 is bad$"):
        fitted(base)
    assert no_threads_are_left()


def diverging(base, folder, monkeypatch):
    """The sentence of a run whose third step gives a loss that is not finite, and the steps that were begun."""
    original, begun = loop.Loop._value_of, []

    def value_of(self, piece):
        begun.append(self._steps_done)
        return original(self, piece) * (np.nan if self._steps_done == 2 else 1.0)

    monkeypatch.setattr(loop.Loop, "_value_of", value_of)
    with pytest.raises(DivergedError) as found:
        fitted(base, OFTEN_SAVED, folder)
    return str(found.value), len(begun)


def test_a_loss_that_is_not_finite_is_said_in_the_same_sentence_a_step_later(base, tmp_path, monkeypatch, request):
    plain_sentence, n_plain = diverging(base, RunFolder(tmp_path / "plain"), monkeypatch)
    monkeypatch.undo()
    request.getfixturevalue("as_on_a_device")
    sentence, n_late = diverging(base, RunFolder(tmp_path / "late"), monkeypatch)
    assert sentence == plain_sentence
    assert "the loss is nan in epoch 1, step 3, expected a finite number" in sentence
    assert (n_plain, n_late) == (3, 3)  # a checkpoint was due after step 3: its loss was read before


def test_no_checkpoint_holds_what_followed_a_loss_that_is_not_finite(base, plain, tmp_path, monkeypatch, request):
    request.getfixturevalue("as_on_a_device")
    folder = RunFolder(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        diverging(base, folder, patch)
    assert_same_run(fitted(base, OFTEN_SAVED, folder), plain[0])


def test_without_a_checkpoint_a_loss_that_is_not_finite_ends_the_run_one_step_later(base, monkeypatch, request):
    request.getfixturevalue("as_on_a_device")
    sentence, n_begun = diverging(base, None, monkeypatch)
    assert "the loss is nan in epoch 1, step 3, expected a finite number" in sentence
    assert n_begun == 4


@pytest.mark.usefixtures("as_on_a_device")
def test_a_rate_that_is_far_too_high_is_said_as_on_a_device(base):
    with pytest.raises(InputError, match=r"the loss rose from .* in \d+ steps at the learning rate 30, .* --lr 10$"):
        fitted(base, dataclasses.replace(CONFIG, epochs=10, lr=30.0))


def test_a_late_number_is_the_number_of_its_own_step():
    value = torch.tensor(0.1, dtype=torch.float32, requires_grad=True)
    assert LateNumber(value).read() == float(value.detach())
