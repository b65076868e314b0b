"""Sums between the rows of w, each of which stands for an edge or for an edge and its reverse, and their two ends.

Two operators, the slots of one form: each one's derivative is the other. Both are torch's embedding_bag, which sums
gathered rows in one launch, in the order in which they are listed; torch itself differentiates it only once.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch


@dataclasses.dataclass(frozen=True)
class Ends:
    """The ends of the rows, listed by node and by row."""

    node_ptr: torch.Tensor  # [n_nodes + 1] int64: node n ends rows node_rows[node_ptr[n] : node_ptr[n + 1]]
    node_rows: torch.Tensor  # [2 n_rows] int64
    node_sign: torch.Tensor  # [2 n_rows] +1 where the node sends, -1 where it receives
    row_ptr: torch.Tensor  # [n_rows + 1] int64: row r has the ends row_nodes[row_ptr[r] : row_ptr[r + 1]]
    row_nodes: torch.Tensor  # [2 n_rows] int64
    row_sign: torch.Tensor  # [2 n_rows]
    ones: torch.Tensor  # [2 n_rows]


def ends_of(
    sender: torch.Tensor,  # [n_rows]
    receiver: torch.Tensor,  # [n_rows]
    node_ptr: torch.Tensor,  # [n_nodes + 1]
    node_rows: torch.Tensor,  # [2 n_rows]
    node_sign: torch.Tensor,  # [2 n_rows]
) -> Ends:
    """The ends of rows from sender to receiver, which are known by node already (ends_by_node)."""
    n_rows = sender.numel()
    return Ends(
        node_ptr=node_ptr,
        node_rows=node_rows,
        node_sign=node_sign,
        row_ptr=torch.arange(0, 2 * n_rows + 1, 2, device=sender.device),
        row_nodes=torch.stack([sender, receiver], dim=1).flatten(),
        row_sign=torch.stack([torch.ones_like(node_sign[:n_rows]), -torch.ones_like(node_sign[:n_rows])], 1).flatten(),
        ones=torch.ones_like(node_sign),
    )


def ends_by_node(
    sender: torch.Tensor, receiver: torch.Tensor, n_nodes: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """node_ptr, node_rows and node_sign of rows from sender to receiver, sorted on the host."""
    n_rows = sender.numel()
    both = torch.cat([sender, receiver])
    order = torch.argsort(both, stable=True)
    node_ptr = torch.zeros(n_nodes + 1, dtype=torch.int64)
    node_ptr[1:] = torch.bincount(both, minlength=n_nodes).cumsum(0)
    return node_ptr, order % max(n_rows, 1), torch.where(order < n_rows, 1.0, -1.0).to(dtype)


def sum_at_nodes(rows: torch.Tensor, ends: Ends, is_signed: bool = False) -> torch.Tensor:  # [n_nodes, n_columns]
    """out[n] = sum over the rows r that node n ends of rows[r]; `is_signed`: minus rows[r] where it receives.

    `rows` [n_rows, n_columns]; differentiable any number of times.
    """
    return _Sums.apply(rows, ends, is_signed, True)


def sum_at_rows(nodes: torch.Tensor, ends: Ends, is_signed: bool = False) -> torch.Tensor:  # [n_rows, n_columns]
    """out[r] = nodes[sender_r] + nodes[receiver_r] or, `is_signed`, their difference; `nodes` [n_nodes, n_columns]."""
    return _Sums.apply(nodes, ends, is_signed, False)


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, ends: Ends, is_signed: bool, at_nodes: bool) -> torch.Tensor:
        ctx.given = ends, is_signed, at_nodes
        listed, ptr = (ends.node_rows, ends.node_ptr) if at_nodes else (ends.row_nodes, ends.row_ptr)
        sign = ends.node_sign if at_nodes else ends.row_sign
        if not listed.numel():
            return values.new_zeros(ptr.numel() - 1, values.shape[1])
        factors = sign if is_signed else ends.ones
        return torch.embedding_bag(values.detach().contiguous(), listed, ptr, False, 0, False, factors, True)[
            0
        ]  # 0: sums

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        ends, is_signed, at_nodes = ctx.given
        return _Sums.apply(cotangents[0], ends, is_signed, not at_nodes), None, None, None
