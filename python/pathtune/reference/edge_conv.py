"""edge_conv as gather, einsum and scatter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pathtune.tables.edge_conv import EdgeConvTable

if TYPE_CHECKING:
    from pathtune.ops.edge_conv import ConvGraph


def edge_conv(
    x: torch.Tensor,  # [n_nodes, dim_in]
    y: torch.Tensor,  # [n_edges, dim_y]
    w: torch.Tensor,  # [n_rows, weight_numel]
    graph: ConvGraph,
    table: EdgeConvTable,
) -> torch.Tensor:  # [n_nodes, dim_out]
    """out[r, k, u] = sum_{e to r, p, i, j} C_p[i,j,k] x[sender_e, i, u] y[e, j] w[row_e, p, u]."""
    out = x.new_zeros(graph.n_nodes, table.dim_out)
    for x_at, y_at, out_at, w_at, c_at, mul, dim1, dim2, dim3, out_mul in table.paths.tolist():
        c = table.coefficients[c_at : c_at + dim1 * dim2 * dim3].reshape(dim1, dim2, dim3).to(x.dtype)
        x_p = x[graph.sender, x_at : x_at + dim1 * mul].reshape(-1, dim1, mul)
        y_p = y[:, y_at : y_at + dim2]
        w_p = w[graph.weight_row, w_at : w_at + mul]
        m = torch.einsum("ijk,ej->eik", c, y_p)
        messages = torch.einsum("eik,eiu,eu->eku", m, x_p, w_p)
        columns = (out_at + torch.arange(dim3).unsqueeze(1) * out_mul + torch.arange(mul)).flatten()
        out_p = x.new_zeros(graph.n_nodes, dim3 * mul).index_add(0, graph.receiver, messages.flatten(1))
        out = out.index_add(1, columns, out_p)
    return out
