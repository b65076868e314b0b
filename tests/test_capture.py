"""That a training step on a device could be captured in a CUDA graph, and that what cannot be captured is found."""

import contextlib
import os
import sys

import pytest
import schedulefree
import torch

sys.path.append(os.path.join(os.path.dirname(__file__), "emulation"))

from launches import Preparing

from capturing import CaptureError, CaptureLint, NoKernels, move_to_meta
from models import deltas_of, named_molecules
from pathtune import FitConfig, SparseDelta, load, sparsify
from pathtune.data import Frames
from pathtune.losses import loss
from pathtune.ops import _kernels, _operator
from pathtune.training.captured import CapturedSteps
from pathtune.training.late import LateNumber
from pathtune.training.loop import Loop, Piece


def sparse_demo():
    model = sparsify(load("demo", dtype="float32"), SparseDelta(initial_share=0.1), [1, 6, 7, 8], seed=0)
    assert all(d.is_sparse for d in deltas_of(model) if d.is_covered)
    return model


@contextlib.contextmanager
def no_kernels():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_kernels, "emulated", NoKernels())
        patch.setattr(_operator, "_is_traced", lambda: False)  # a dispatch mode is no tracing here
        yield


@pytest.fixture(scope="module")
def step(needs_mace):
    """A step of the demo model, prepared by one step before: forward, forces, loss, backward, optimizer.

    It takes what to do with the energies on the way.
    """
    model = sparse_demo()
    host = model.collate(named_molecules("CH4", "NH3"))
    move_to_meta(model)
    batch, parameters = host.to("meta"), model.trainable()
    assert {p.device.type for p in parameters} == {"meta"}
    optimizer = schedulefree.AdamWScheduleFree(parameters, lr=1e-3)
    optimizer.train()

    def run(also=lambda energy, batch: energy):
        optimizer.zero_grad(set_to_none=True)
        prediction = model(batch, training=True)
        prediction.outputs["energy"] = also(prediction.outputs["energy"], batch)
        loss(prediction, batch).backward(inputs=parameters)
        assert all(p.grad is not None for p in parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()

    with no_kernels():
        run()
        assert model.backbone._forward.tables._tables  # the radial networks are read from tables
        yield run


def test_a_prepared_step_has_nothing_that_a_graph_cannot_capture(step):
    with CaptureLint() as lint:
        step()
    assert lint.n_seen > 50


@pytest.fixture
def training(needs_mace, monkeypatch):
    """A training loop of the demo model on torch's meta device, after an epoch; its losses are never read.

    It narrows nothing: a step that does reads how many candidates there are.
    """
    source, model = Frames(named_molecules("CH4", "NH3", "CH3CH2OH", "H2O", "CH3OH", "C2H6")), sparse_demo()
    config = FitConfig(epochs=4, batch_size=2, check_units=False)
    scale = config.scale_of(model, source)
    monkeypatch.setattr(FitConfig, "scale_of", lambda *_: scale)
    move_to_meta(model)
    monkeypatch.setattr(LateNumber, "read", lambda number: 1.0)
    loop = Loop(model, source, source, config)
    loop.controllers = []
    with no_kernels():
        loop._train_epoch()
        loop.step = 0
        yield loop


def test_a_training_step_copies_its_batch_once_and_neither_waits_nor_reads_anything(training):
    plan = training.plans.of(training.epoch)
    for k in range(len(plan)):
        with Preparing() as seen:
            training._train_step(training._piece(plan.step(k)))
        assert (seen.n_copies, seen.n_blocking) == (1, 0)
        batch = training._piece(plan.step(k)).batch()
        training.model(batch, training=True)
        with CaptureLint() as lint:
            training._train_step(Piece([], lambda batch=batch: batch, None, None))
        assert lint.n_seen > 50


class Linting:
    """Records nothing, and looks at what would be recorded."""

    def __init__(self):
        self.seen = []

    def run(self, step):
        return step()

    def record(self, step):
        with CaptureLint() as lint:
            outcome = step()
        self.seen.append(lint.n_seen)
        return lambda: None, outcome


def test_what_a_graph_is_to_record_has_nothing_that_it_cannot_capture(training):
    config = FitConfig(config_type_weights=("Default=2",))
    recorder = Linting()
    steps = CapturedSteps(training.model, training.train, config, training.scale, recorder)
    for k in range(6):
        with Preparing() as seen:
            steps.staged([0, 1] if k % 2 else [1, 2])()
        assert (seen.n_copies, seen.n_blocking) == (1, 0)
        assert all(p.grad is not None and p.grad.is_meta for p in training.model.trainable())
    assert len(recorder.seen) == steps.n_graphs == 2
    assert min(recorder.seen) > 50


def test_a_blocking_copy_and_a_second_one_are_counted():
    with Preparing() as seen:
        torch.zeros(3).to("meta")
        torch.zeros(3).to("meta", non_blocking=True)
        torch.empty(3, device="meta").copy_(torch.zeros(3))
        torch.empty(3, device="meta").copy_(torch.zeros(3), non_blocking=True)
    assert (seen.n_copies, seen.n_blocking) == (4, 2)


def by_number(energy, batch):
    return energy * energy.sum().item()


def by_truth(energy, batch):
    return energy if energy.sum() > 0 else -energy


def by_mask(energy, batch):
    return energy + energy[energy > 0].sum()


def by_places(energy, batch):
    return energy + energy[torch.nonzero(energy)].sum()


def by_kinds(energy, batch):
    return energy * torch.unique(batch.species).numel()


def by_list(energy, batch):
    return energy * torch.tensor([1.0, 2.0]).to(energy.device)


def by_new_tensor(energy, batch):
    return energy * torch.tensor([1.0, 2.0], device=energy.device)


def by_host_scalar(energy, batch):
    return energy * torch.tensor(2.0)


def by_host_copy(energy, batch):
    return energy * energy.cpu().sum().to(energy.device)


def by_repeats(energy, batch):
    return energy + torch.repeat_interleave(energy, batch.head + 1).sum()


def by_pinned(energy, batch):
    torch.zeros(2).pin_memory()
    return energy


@pytest.mark.parametrize(("defect", "words"), [
    (by_pinned, "pinned memory is allocated"),
    (by_number, "_local_scalar_dense at .*: a number is read on the host"),
    (by_truth, "a number is read on the host"),
    (by_mask, "an index is a mask"),
    (by_places, "nonzero.*: the result's size depends on numbers"),
    (by_kinds, "unique.*: the result's size depends on numbers"),
    (by_list, "a copy from cpu to meta"),
    (by_new_tensor, "a copy from cpu to meta"),
    (by_host_scalar, "operands lie on the host and on the device"),
    (by_host_copy, "a copy from meta to cpu"),
    (by_repeats, "repeat_interleave.*: the result's size depends on numbers"),
])  # fmt: skip
def test_what_a_graph_cannot_capture_is_found_by_name(defect, words, step):
    with pytest.raises(CaptureError, match=words), CaptureLint():
        step(defect)
