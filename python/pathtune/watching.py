"""Knowing when something that was made of tensors must be made again."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Watch:
    """Whether tensors are the same objects as before, and were not written to since."""

    def __init__(self):
        self._seen: list[tuple[torch.Tensor, int]] | None = None  # with their versions

    def has_changed(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Compare with the last call, and remember these; the first call says yes."""
        seen = self._seen
        is_same = seen is not None and len(seen) == len(tensors)
        if is_same and all(t is kept and _version(t) == version for t, (kept, version) in zip(tensors, seen or ())):
            return False
        self._seen = [(t, _version(t)) for t in tensors]
        return True


def watch_of(tensors: Sequence[torch.Tensor]) -> Watch:
    """One that has seen these."""
    watch = Watch()
    watch.has_changed(tensors)
    return watch


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # what torch.inference_mode made counts no writes
