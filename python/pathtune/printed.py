"""Results that print as tables: on a terminal by `print`, in a notebook by themselves."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDEST = 400  # characters of a line; a terminal may break it


def table_of(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> Table:
    """A table whose first column is of words and whose others are of numbers."""
    table = Table(box=SIMPLE_HEAD, caption=Text(caption) if caption else None, caption_justify="left")
    for k, name in enumerate(header):
        table.add_column(name, justify="right" if k else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


class Printed:
    """What prints as the table that `table` makes."""

    def table(self) -> Table:
        """The table."""
        raise NotImplementedError

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=WIDEST, color_system=None, force_terminal=False, force_jupyter=False).print(
            self.table()
        )
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What IPython shows on a terminal."""
        printer.text(str(self))

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        """What a notebook shows."""
        return self.table()._repr_mimebundle_((), ()) | {"text/plain": str(self)}
