"""The losses of steps, read when a device has computed them, so that no step waits for it."""

from __future__ import annotations

from typing import NamedTuple

import torch


def steps_late(device: torch.device) -> int:
    """How many steps after its own a loss is read. On the CPU none: it is there, and a bad one stops the optimizer."""
    return 0 if device.type == "cpu" else 1


class LateNumber:
    """A number on its way from a device to the host. Never run on a device by us."""

    def __init__(self, value: torch.Tensor):
        self._host, self._arrived = value.detach(), None
        if value.is_cuda:
            self._host = torch.empty((), dtype=value.dtype, pin_memory=True)
            self._host.copy_(value.detach(), non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(value.device))

    def read(self) -> float:
        """The number; waits until the device has come as far as the copy, and for nothing that it was given later."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return float(self._host.numpy())


class StepDone(NamedTuple):
    """A step whose loss was not read yet."""

    epoch: int
    step: int  # of the epoch, from 1
    n_steps: int  # of the epoch
    n_before: int  # steps of all epochs, this one included
    n_structures: int
    loss: LateNumber
