"""Reading ahead: a thread makes the next batches while this one is trained on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
DEPTH = 2  # batches ahead
WAIT_S = 0.1


def read_ahead(items: Iterable[T], depth: int = DEPTH) -> Generator[T, None, None]:
    """The items, in order, made by a thread that is `depth` of them ahead; what it raises is raised here."""
    ready: queue.Queue = queue.Queue(depth)
    is_over = threading.Event()

    def put(entry: tuple[bool, object]) -> bool:
        while not is_over.is_set():
            try:
                ready.put(entry, timeout=WAIT_S)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    thread = threading.Thread(target=work, daemon=True, name="pathtune reads ahead")
    thread.start()
    try:
        while True:
            is_item, value = ready.get()
            if is_item:
                yield value
            elif value is None:
                return
            else:
                raise value
    finally:
        is_over.set()
        thread.join()
