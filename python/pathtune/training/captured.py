"""Training steps as CUDA graphs: recorded once for each shape of a batch, then replayed without the host's work.

A step of a small batch is bound by the host, which launches some hundred kernels for it. A graph launches them at once,
on the same memory each time, so that a step must have the shape of the one that was recorded: batches are padded
(data/padding.py), and a batch is copied into the buffer that the graph reads. What the host reads of a batch while it
launches is the same for all batches of a `key`.

The graph holds forward, loss and gradients. The optimizer and the clipping follow it, as in any other step. What an
adaptation trains changes its size when it is narrowed, up to 150 times in a run: then all graphs are forgotten, and
those that are still asked for recorded again. A recording takes the host about as long as a step does, and some ten
steps lie between two narrowings of a long run. Buffers of the first size would keep the graphs, but also all the work
that narrowing saves.

A shape is run without a graph when it is first seen, which makes what is made once, and recorded the second time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from pathtune.backbones._geometry import closest_a, held
from pathtune.data import Batch, Source, elements_of
from pathtune.data.batch import PackedBatch
from pathtune.data.padding import padding
from pathtune.data.plan import labelled_numbers
from pathtune.errors import InputError
from pathtune.losses import keep_factors, total_of_kept
from pathtune.model import Potential
from pathtune.processes import world
from pathtune.training.options import FitConfig, LossScale

MOST_ELEMENTS = 12  # of every pair of which a batch gets an edge, and a model its radial tables
MOST_GRAPHS = 16  # kept at a time; each keeps the gradients of what is trained
NEAR_A = 0.5  # atoms nearer than that make a model's radial tables give way: a step of its own

Outcome = tuple[torch.Tensor, Sequence[torch.Tensor | None]]  # the loss and its gradients


class StepBatch(NamedTuple):
    """The batch of a step on the host, padded."""

    key: Any  # equal for batches that one graph can serve; None: none can
    packed: PackedBatch


class Recorder(Protocol):
    """What runs a step and records it; of CUDA, or of a test."""

    def run(self, step: Callable[[], Outcome]) -> Outcome:
        """The outcome of the step."""
        ...

    def record(self, step: Callable[[], Outcome]) -> tuple[Callable[[], None], Outcome]:
        """A function that does the step again, and where it will leave its outcome."""
        ...


class CudaRecorder:
    """Records CUDA graphs on a stream of its own. Never run on a device by us."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        # one graph that stays: a pool whose graphs are all gone is refused
        self._first, _ = self.record(lambda: (torch.zeros((), device=device), []))

    def run(self, step: Callable[[], Outcome]) -> Outcome:
        """The outcome of the step, on the stream of the recordings, which autograd then knows."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            value, gradients = step()
        current.wait_stream(self._stream)
        for t in (value, *gradients):
            if t is not None:
                t.record_stream(current)
        return value, gradients

    def record(self, step: Callable[[], Outcome]) -> tuple[Callable[[], None], Outcome]:
        """A replay, and the memory that it writes to."""
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            # not torch.cuda.graph, which collects garbage and empties caches; thread_local, since another thread pins
            # the memory of the next batches meanwhile
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                outcome = step()
            finally:
                graph.capture_end()
        return graph.replay, outcome


class _Graph(NamedTuple):
    buffer: torch.Tensor  # what a batch is copied to
    held: list[Any]  # what else it reads, and what others might give up
    replay: Callable[[], None]
    outcome: Outcome


class CapturedSteps:
    """The loss and gradients of padded batches, by graphs where their shape is known."""

    def __init__(self, model: Potential, train: Source, config: FitConfig, scale: LossScale, recorder: Recorder):
        """Raises InputError for a model that reads more than atoms and cells, whose padding would need values, and for
        one that is not computed by our kernels."""
        if model.inputs:
            raise InputError(f"capture is on, but the model reads {', '.join(model.inputs)}, expected capture off")
        backend = getattr(model.backbone, "backend", "cpu")
        if backend != "cpu":
            raise InputError(f"capture is on, but the model has the {backend} backend, expected cpu's own kernels")
        self._model, self._train, self._config, self._scale = model, train, config, scale
        self._recorder = recorder
        self._elements = elements_of(train)
        if len(self._elements) > MOST_ELEMENTS:
            n = len(self._elements)
            raise InputError(
                f"capture is on, but the training data have {n} elements, expected {MOST_ELEMENTS} at most"
            )
        self._shapes: list[torch.Size] = []  # of what is trained
        self._seen: set[Any] = set()
        self._graphs: dict[Any, _Graph] = {}

    def staged(self, indices: Sequence[int]) -> Callable[[], torch.Tensor]:
        """`step` of the structures of a step, which are made a batch on the host here, maybe in a thread.

        InputError as Potential.collate.
        """
        return functools.partial(self.step, self.on_host(indices))

    def on_host(self, indices: Sequence[int]) -> StepBatch:
        """Structures of the training data as a padded batch."""
        model = self._model
        structures, graphs = model.read(self._train, indices)
        sizes = sum(len(s) for s in structures), sum(len(g.pair) for g in graphs)
        more, edges = padding(self._elements, *sizes, model.backbone.r_max, structures[0].head)
        host = model.on_host([*structures, more], [*graphs, edges])
        counts = labelled_numbers(self._train, np.asarray(indices))
        keep_factors(host, counts, self._scale.weights, self._config.type_weights)
        model.backbone.prepare(host)
        packed = host.packed(pins=model.device.type == "cuda")
        return StepBatch(_key(host, packed), packed)

    def step(self, batch: StepBatch) -> torch.Tensor:
        """The loss [] of the batch; its gradients become those of the parameters."""
        parameters = self._model.trainable()
        shapes = [p.shape for p in parameters]
        if shapes != self._shapes:
            self.forget()
            self._shapes = shapes
        value, gradients = self._outcome(batch)
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = gradient
        return value

    def forget(self) -> None:
        """Drop the graphs: what is trained has another size, or other tensors."""
        self._seen.clear()
        self._graphs.clear()

    @property
    def n_graphs(self) -> int:
        """Graphs that are kept."""
        return len(self._graphs)

    def _outcome(self, batch: StepBatch) -> Outcome:
        if batch.key in self._graphs:
            graph = self._graphs.pop(batch.key)  # and again at the end, so that the oldest is the first to go
            graph.buffer.copy_(batch.packed.buffer.buffer, non_blocking=True)
        else:
            buffer = batch.packed.buffer.moved_to(self._model.device)
            step = lambda: self._gradients(batch.packed.seen_in(buffer))  # noqa: E731
            if batch.key is None or batch.key not in self._seen:
                self._seen.add(batch.key)
                return self._recorder.run(step)
            replay, outcome = self._recorder.record(step)
            graph = _Graph(buffer, held(getattr(self._model.backbone, "_forward", None)), replay, outcome)
            if len(self._graphs) == MOST_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
        self._graphs[batch.key] = graph
        graph.replay()
        value, gradients = graph.outcome
        return value.clone(), gradients

    def _gradients(self, batch: Batch) -> Outcome:
        prediction = self._model(batch, outputs=batch.wanted, training=True)
        terms = self._config.terms_of(prediction, batch, self._scale.spreads)
        value = total_of_kept(terms, batch)
        for penalty in self._model.adaptation.penalties(self._model):
            value = value + penalty
        parameters = self._model.trainable()
        return value.detach(), torch.autograd.grad(value, parameters, allow_unused=True)


def captured_steps(model: Potential, train: Source, config: FitConfig, scale: LossScale) -> CapturedSteps | None:
    """Of a run that asks for them, on a device that can, in one process; None: steps are run one by one."""
    if not config.capture or model.device.type != "cuda" or world().size > 1:
        return None
    return CapturedSteps(model, train, config, scale, CudaRecorder(model.device))


def _key(host: Batch, packed: PackedBatch) -> Any:
    """What the host reads of a batch while it launches a step; the padding makes species and pairs of them alike."""
    if closest_a(host) < NEAR_A:
        return None
    kept = tuple(str(key) for key in host.kept)
    return packed.buffer.layout, kept, host.shared_head, host.wanted, tuple(host.weights)
