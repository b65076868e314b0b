"""Irreps without e3nn."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Ir:
    """An irrep of degree l and parity p."""

    l: int
    p: int


def irreps(text):
    """`2x0e+3x1o` as e3nn iterates it."""
    result = []
    for part in text.split("+"):
        mul, ir = part.split("x")
        result.append((int(mul), Ir(int(ir[:-1]), 1 if ir[-1] == "e" else -1)))
    return result
