"""Memory of whole processes: for programs that own theirs, as the command line does."""

from __future__ import annotations

from pathtune.ops import _core


def keep_large_blocks() -> bool:
    """Let this process's malloc keep freed blocks of any size for the next step.

    A step's buffers are tens to hundreds of MB, which glibc would return to the system and fault in again
    at every step. The memory stays with the process until it ends; the peak does not grow. False, and
    nothing done, where malloc is not glibc's. See docs/decisions/0005-large-blocks.md.
    """
    return _core.keep_large_blocks()
