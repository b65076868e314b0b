"""What a user asks of a spin layer."""

from __future__ import annotations

import dataclasses

from ase.data import atomic_numbers

from pathtune.errors import InputError
from pathtune.options import check_at_most, check_fields, check_positive, option

MOST_BASIS, MOST_HIDDEN = 256, 4096  # far beyond what helps; their product is a matrix in memory
FIT = "fit"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpinLayer:
    """Which atoms carry moments, and how their energy is written (docs/magnetism.md)."""

    spin: tuple[str, ...] = option((), "elements whose magnetic moments count, such as Fe Ni")
    spin_order: str = option(
        "pair", "pair: exchange of pairs; many-body: and a network of spin densities", choices=("pair", "many-body")
    )
    spin_cutoff: float | None = option(None, "largest distance of a pair, A (the model's cutoff)")
    spin_basis: int = option(8, "radial functions of the exchange")
    spin_hidden: int = option(32, "hidden values of each of the layer's networks")
    magforces_scale: float | str = option(
        1.0, "by what magforces in files are multiplied to be -dE/dm; fit: what the training energies ask", words=(FIT,)
    )
    magforces_part: str = option(
        "all",
        "perpendicular: only the part perpendicular to the moment counts, as where lengths are constrained",
        choices=("all", "perpendicular"),
    )

    def __post_init__(self):
        check_fields(self)
        check_positive(self, "spin_basis", "spin_hidden")
        check_at_most(self, spin_basis=MOST_BASIS, spin_hidden=MOST_HIDDEN)
        if self.spin_cutoff is not None:
            check_positive(self, "spin_cutoff")
        if self.magforces_scale != FIT and (isinstance(self.magforces_scale, str) or not self.magforces_scale > 0):
            raise InputError(f"magforces_scale is {self.magforces_scale!r}, expected a number above 0 or {FIT!r}")
        for symbol in self.spin:
            if symbol not in atomic_numbers or symbol == "X":
                raise InputError(f"spin: {symbol!r} is no element, expected symbols such as Fe Ni")

    @property
    def atomic_numbers(self) -> tuple[int, ...]:
        """Of the elements, ascending, each once. Raises InputError where none is named."""
        if not self.spin:
            raise InputError("spin names no element, expected those whose moments count, such as Fe Ni")
        return tuple(sorted({atomic_numbers[symbol] for symbol in self.spin}))
