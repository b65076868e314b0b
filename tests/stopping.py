"""Trainings that end before their end, as a kill or Ctrl-C ends them."""

import contextlib

import pytest

from pathtune.training import loop


class Killed(BaseException):
    pass


@contextlib.contextmanager
def killed_at(step):
    """A training in here dies, and must, after `step` steps."""
    original = loop.Loop._train_step

    def killed(self, batch):
        if self._steps_done == step:
            raise Killed
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_train_step", killed)
        with pytest.raises(Killed):
            yield


@contextlib.contextmanager
def interrupted_after(epoch):
    """Ctrl-C, in here, after `epoch` epochs."""
    original = loop.Loop._finish_epoch

    def interrupt(self):
        original(self)
        if self.epoch == epoch:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_finish_epoch", interrupt)
        yield
