"""radial_table: formula and contract in csrc/radial_table/radial_table.hpp.

Two custom operators, the slots of one form: each one's backward is made of the other, with the order of the
derivative in r raised by one where that to r is asked for. Orders 0 to 2 exist, so that third derivatives in r
are refused.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch

from pathtune.ops._autograd import needed_gradients
from pathtune.ops._check import check_same_kind, check_size
from pathtune.ops._kernels import call_cpu, call_cuda, uses_cuda
from pathtune.ops._operator import operator
from pathtune.ops._records import addresses, record

N_TERMS = 8  # as in the header
MOST_ORDERS = 3


@dataclasses.dataclass(frozen=True)
class RadialTable:
    """Piecewise polynomials of several tables that share their columns."""

    coefficients: torch.Tensor  # [n_segments of all tables, N_TERMS, n_columns]
    first: torch.Tensor  # [n_tables] int64, the first segment of each
    n_segments: torch.Tensor  # [n_tables] int64
    begin: torch.Tensor  # [n_tables] float64 A; below it a table must not be read
    width: torch.Tensor  # [n_tables] float64 A, of a segment

    def to(self, device: torch.device) -> RadialTable:
        """The same table on another device."""
        return RadialTable(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))

    def slots(self) -> tuple[torch.Tensor, ...]:
        """Where each table stands, as the operators take it."""
        return self.first, self.n_segments, self.begin, self.width


@record
class RadialTableIndex(NamedTuple):
    """A table, and which of its slots each row reads."""

    coefficients: torch.Tensor
    slot: torch.Tensor | None
    first: torch.Tensor
    n_segments: torch.Tensor
    begin: torch.Tensor
    width: torch.Tensor


@record
class RadialTableSizes(NamedTuple):
    """All integers of a call."""

    n_rows: int
    n_columns: int
    order: int


def radial_table(
    r: torch.Tensor,  # [n_rows] A
    table: RadialTable,
    slot: torch.Tensor | None = None,  # [n_rows] int64, the table of each row; None: all read table 0
) -> torch.Tensor:  # [n_rows, n_columns]
    """The radial functions at r, zero at a table's end and beyond; differentiable twice in r.

    float32 or float64. Raises TypeError on dtype or device, ValueError on sizes that disagree or, on the CPU, a slot
    that does not exist (on a device nobody waits for the slots to look), NotImplementedError for a third derivative.
    """
    check_same_kind("radial_table", r=r, coefficients=table.coefficients)
    check_size("radial_table", "number of dimensions of r", r.dim(), 1)
    check_size("radial_table", "number of terms", table.coefficients.shape[1], N_TERMS)
    if slot is not None:
        check_size("radial_table", "number of slots", slot.numel(), r.numel())
        if slot.device.type == "cpu" and slot.numel() and not uses_cuda(slot):
            _check_slots(slot, table.first.numel())
    return _expand(r, None, table.coefficients, slot, *table.slots(), 0)


def _check_slots(slot: torch.Tensor, n_tables: int) -> None:
    lowest, highest = map(int, slot.aminmax())
    if lowest < 0 or highest >= n_tables:
        raise ValueError(f"radial_table: slots span {lowest} to {highest}, expected 0 to {n_tables - 1}")


def _call(name: str, r, other, coefficients, slot, slots, order: int, out: torch.Tensor) -> torch.Tensor:
    if order >= MOST_ORDERS:
        raise NotImplementedError("radial_table: third derivatives (first and second are implemented)")
    r, other = r.contiguous(), None if other is None else other.contiguous()
    index = addresses(RadialTableIndex, (coefficients, slot, *slots))
    sizes = RadialTableSizes(r.numel(), coefficients.shape[2], order)
    call = call_cuda if uses_cuda(r) else call_cpu
    call(name, r, sizes, index, r.data_ptr(), 0 if other is None else other.data_ptr(), out.data_ptr())
    return out


@operator("pathtune::radial_expand")
def _expand(
    r: torch.Tensor,
    a: torch.Tensor | None,
    coefficients: torch.Tensor,
    slot: torch.Tensor | None,
    first: torch.Tensor,
    n_segments: torch.Tensor,
    begin: torch.Tensor,
    width: torch.Tensor,
    order: int,
) -> torch.Tensor:
    out = r.new_empty(r.numel(), coefficients.shape[2])
    return _call("radial_expand", r, a, coefficients, slot, (first, n_segments, begin, width), order, out)


@operator("pathtune::radial_contract")
def _contract(
    r: torch.Tensor,
    g: torch.Tensor,
    coefficients: torch.Tensor,
    slot: torch.Tensor | None,
    first: torch.Tensor,
    n_segments: torch.Tensor,
    begin: torch.Tensor,
    width: torch.Tensor,
    order: int,
) -> torch.Tensor:
    out = r.new_empty(r.numel())
    return _call("radial_contract", r, g, coefficients, slot, (first, n_segments, begin, width), order, out)


_expand.register_fake(lambda r, a, coefficients, *rest: r.new_empty(r.shape[0], coefficients.shape[2]))
_contract.register_fake(lambda r, g, coefficients, *rest: r.new_empty(r.shape[0]))


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.order = inputs
    ctx.save_for_backward(*tensors)


def _backward_of_expand(ctx, g):
    r, a, *table = ctx.saved_tensors
    needs_r, needs_a = needed_gradients(ctx)[:2]
    grad_r = None
    if needs_r:
        grad_r = _contract(r, g, *table, ctx.order + 1)
        grad_r = grad_r if a is None else grad_r * a
    return grad_r, _contract(r, g, *table, ctx.order) if needs_a else None, *[None] * 7


def _backward_of_contract(ctx, b):
    r, g, *table = ctx.saved_tensors
    needs_r, needs_g = needed_gradients(ctx)[:2]
    grad_r = b * _contract(r, g, *table, ctx.order + 1) if needs_r else None
    return grad_r, _expand(r, b, *table, ctx.order) if needs_g else None, *[None] * 7


_expand.register_autograd(_backward_of_expand, setup_context=_save)
_contract.register_autograd(_backward_of_contract, setup_context=_save)
