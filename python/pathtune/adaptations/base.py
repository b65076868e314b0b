"""What every adaptation of a potential is, the registry of their kinds, and how several compose.

An adaptation changes weights, W' by parameter name, or adds a term to the energy of each atom, or both. A new kind
is one file with a subclass of Adaptation, and one call of `register_adaptation`: nothing else knows its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pathtune.adaptations.averaging import beta1_for
from pathtune.adaptations.state import check_like
from pathtune.data import Batch, Comparison, EnergyTerm, Predictor
from pathtune.errors import InputError
from pathtune.layers import Layer, Weights

if TYPE_CHECKING:
    from pathtune.adaptations.stored import Stored
    from pathtune.model import Potential, Prediction

Loss = Callable[["Prediction", Batch], torch.Tensor]


class Controller:
    """What an adaptation does beside the optimizer while it is trained; this one does nothing."""

    def after_step(
        self, step: int, dense_gradients: Callable[[], Mapping[str, torch.Tensor]] | None = None
    ) -> bool | None:
        """After `step` steps; True where it changed which weights may change. `dense_gradients`: dL/dW' of every weight
        that is written, computed only when called, by all processes alike."""

    def after_epoch(self) -> None:
        """After the last step of an epoch."""

    def is_reached(self, step: int) -> bool:
        """Whether what was asked holds from `step` on, so that a model may be kept as the best."""
        return True


class Adaptation(torch.nn.Module):
    """One kind of change, with the parameters that it trains.

    A subclass sets `kind` and overrides what it needs: `build` and `weights` (or `energy_term`) make a kind that
    trains; `tensors` and `from_tensors` one that an adapter file can hold.
    """

    kind: ClassVar[str] = ""  # its name: in the registry, after --arm, in adapter files
    options: ClassVar[type | None] = None  # the dataclass of what a user may ask of it; its fields become flags
    section: ClassVar[str] = ""  # the section of these options in a config file
    is_stored: ClassVar[bool] = True  # whether an adapter file can hold it
    replaces: ClassVar[bool] = False  # whether what it writes does not build on the weights that it is given
    starts_anew: ClassVar[bool] = False  # whether step 0 is not near the base, so that E0 are refitted for it
    inputs: ClassVar[tuple[str, ...]] = ()  # names of the labels that its term of the energy reads from the batch
    rate: float = 0.01  # default learning rate, where `learning_rate` is not overridden
    backbone: Any = None  # the adaptation's own copy of the backbone, where it trains the weights themselves
    base: Any = None  # the backbone that it was made for, once it is in a composition
    elements: tuple[int, ...] = ()  # atomic numbers of the data that it was made for, once it is in a composition

    @classmethod
    def build(cls, base: Potential, elements: Sequence[int], options: Any, seed: int) -> Adaptation:
        """A new one for `base`. `elements`: atomic numbers of the training data; `options`: of type cls.options."""
        raise NotImplementedError

    @classmethod
    def check(cls, options: Any, n_steps: int) -> None:
        """Raise InputError for options that a run of `n_steps` steps cannot fulfil."""

    def layers(self) -> Sequence[Layer]:
        """Layers whose weights may change; empty where it is not a matter of layers."""
        return ()

    def writes(self) -> frozenset[str]:
        """Names of the parameters that `weights` gives."""
        return frozenset(layer.parameter for layer in self.layers())

    def weights(self, parameters: Mapping[str, Any], plain: frozenset[str] = frozenset()) -> Weights:
        """W' by parameter name, differentiable; `parameters` hold the W. Those named in `plain` are tensors."""
        return {}

    def energy_term(self) -> EnergyTerm | None:
        """What is added to the energies of the atoms, of their final features; None: nothing."""
        return None

    def predictors(self) -> Mapping[str, Predictor]:
        """By name, outputs of its own as functions of the final features."""
        return {}

    def comparisons(self) -> Mapping[str, Comparison]:
        """How outputs are compared with their labels, by name, where that is not as they stand."""
        return {}

    def summary(self) -> dict[str, Any]:
        """What a user should know of it after training, plain values by name."""
        return {}

    def trainable(self) -> list[torch.nn.Parameter]:
        """What an optimizer trains, in a fixed order."""
        return list(self.parameters())

    def groups(self) -> list[dict[str, Any]]:
        """Groups of an optimizer, with their weight decay; `lr` is added to them."""
        return [{"params": self.trainable(), "weight_decay": 0.0}]

    def learning_rate(self, n_steps: int) -> float:
        """Default learning rate in a run of `n_steps` steps."""
        return self.rate

    def beta1(self, n_steps: int) -> float:
        """Default beta1 of schedule-free training in a run of `n_steps` steps."""
        return beta1_for(n_steps)

    def penalty(self, model: Potential) -> torch.Tensor | None:
        """A term of the loss of `model`, which uses it, that asks no data; None where there is none."""
        return None

    def sees(self, species: Sequence[int]) -> None:
        """Before a training: species indices, ascending, of all structures that it will be trained on."""

    def begin(self, model: Potential, frames: Iterable[Batch], loss: Loss) -> bool:
        """Before step 0: whatever needs the training data, `frames` of one structure each; whether it did anything."""
        return False

    def controller(self, optimizer: Any, groups: slice, n_steps: int) -> Controller:
        """What happens beside the optimizer; `groups`: which of the optimizer's are those of this adaptation."""
        return Controller()

    def state(self) -> dict[str, Any]:
        """Copies of everything that training changes, as a checkpoint holds it."""
        return {"parameters": [p.detach().clone() for p in self.trainable()]}

    def check_state(self, state: Mapping[str, Any], where: str) -> None:
        """Raise InputError, naming the file `where`, for what `restore` cannot take: by default what is not as `state`
        of now in keys, types and shapes, and numbers that are not finite."""
        check_like(dict(state), self.state(), where, self.kind)

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """The reverse of `state`; the parameters stay the same objects."""
        for parameter, value in zip(self.trainable(), state["parameters"], strict=True):
            parameter.copy_(value)

    def tensors(self, atomic_numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """What an adapter file holds of it, on the CPU, by names that do not depend on the model's species."""
        raise InputError(f"adapter: a model of kind {self.kind!r} has none, expected its merged model to be saved")

    @classmethod
    def from_tensors(cls, base: Potential, stored: Stored) -> Adaptation:
        """The reverse of `tensors`, frozen. Raises InputError, naming the file, for what does not fit `base`."""
        raise InputError(f"{stored.where}: a model of kind {cls.kind!r} is held by no adapter")

    def scaled(self, weight: float) -> Adaptation:
        """A frozen one whose change is `weight` times this one's, whatever weights it is given.

        Raises InputError for a kind whose change depends on them.
        """
        raise InputError(f"a change of kind {self.kind!r} cannot be multiplied by {weight:g}, expected sparse or lora")

    def n_changed(self) -> int:
        """Number of weights that differ, or may differ, from the base's, or of the values that say what differs."""
        return sum(p.numel() for p in self.trainable())


_KINDS: dict[str, type[Adaptation]] = {}


def register_adaptation(cls: type[Adaptation]) -> type[Adaptation]:
    """Make a kind known to `adapt`, adapters and the command line.

    Raises InputError for a name given twice, and for a section of the config file that is another kind's.
    """
    if not cls.kind or cls.kind in _KINDS:
        raise InputError(f"adaptation kind is {cls.kind!r}, expected a new name beside {', '.join(_KINDS)}")
    for other in _KINDS.values():
        if cls.options is not None and other.section == cls.section and other.options not in (None, cls.options):
            raise InputError(
                f"section [{cls.section}] of adaptation {cls.kind!r} is that of {other.kind!r}, expected a new name"
            )
    _KINDS[cls.kind] = cls
    return cls


def unregister_adaptation(kind: str) -> None:
    """Forget a kind, as tests do."""
    _KINDS.pop(kind, None)


def adaptation_kinds() -> tuple[str, ...]:
    """Names of the registered kinds."""
    return tuple(_KINDS)


def adaptation_class(kind: str, where: str = "arm") -> type[Adaptation]:
    """The class of a kind. Raises InputError, which lists the kinds, for an unknown one."""
    if kind not in _KINDS:
        raise InputError(f"{where} is {kind!r}, expected one of {', '.join(_KINDS)}")
    return _KINDS[kind]


def option_sections() -> dict[str, type]:
    """Sections of a config file that the registered kinds bring, with their dataclasses."""
    return {cls.section: cls.options for cls in _KINDS.values() if cls.options is not None}
