"""The call of sampled_gradient's kernel, on the CPU here and on CUDA in _sampled_cuda.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pathtune.ops import _sampled_cuda
from pathtune.ops._kernels import call_cpu, uses_cuda
from pathtune.ops._records import record
from pathtune.ops._sampled_layer import Layer, address, term_records


@record
class SampledLayer(NamedTuple):
    """A layer as the CPU's kernel reads it."""

    blocks: int
    runs: int
    u_tiles: int
    v_tiles: int
    v_row: int
    place: int
    n_blocks: int
    n_candidates: int
    paths: int
    coefficients: int
    dim_in: int
    dim_out: int
    first_term: int
    end_term: int
    other: int
    delta: int
    segment: int
    n_thresholds: int
    grad_values: int
    grad_thresholds: int


def fill_gradients(layers: Sequence[Layer]) -> None:
    """Write grad_values and grad_thresholds of all layers, in one call of the kernel. Tensors are contiguous."""
    like = layers[0].grad_values
    if uses_cuda(like):
        _sampled_cuda.fill_gradients(layers)
        return
    records = []
    terms = []
    for layer in layers:
        tables = layer.tables
        first_term = len(terms)
        terms += term_records(layer)
        records.append(
            SampledLayer(
                blocks=address(tables and tables.blocks),
                runs=address(tables and tables.runs),
                u_tiles=address(tables and tables.u_tiles),
                v_tiles=address(tables and tables.v_tiles),
                v_row=address(tables and tables.v_row),
                place=address(tables and tables.place),
                n_blocks=tables.blocks.shape[0] if tables else 0,
                n_candidates=layer.grad_values.numel(),
                paths=address(tables and tables.paths),
                coefficients=address(tables and tables.coefficients),
                dim_in=layer.dim_in,
                dim_out=layer.dim_out,
                first_term=first_term,
                end_term=len(terms),
                other=address(layer.other),
                delta=address(layer.delta),
                segment=address(layer.segment),
                n_thresholds=layer.grad_thresholds.numel(),
                grad_values=address(layer.grad_values),
                grad_thresholds=address(layer.grad_thresholds),
            )
        )
    call_cpu("sampled_gradient", like, records, terms)
