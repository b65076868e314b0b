"""e3nn modules seen as adaptable layers. Imported by backbone files after their package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any  # of e3nn modules, whose attributes torch.nn.Module hides from type checkers

import torch
from e3nn import o3

from pathtune.layers import Layer, Path
from pathtune.ops import (
    SparseWeights,
    SpeciesGroups,
    SpeciesRows,
    path_linear,
    sparse_path_linear,
    sparse_species_linear,
    species_linear,
    species_rows_linear,
)
from pathtune.tables.edge_conv import EdgeConvTable, edge_conv_table
from pathtune.tables.irreps import blocks
from pathtune.tables.species_linear import SpeciesLinearTable, species_linear_table


def layer_of(name: str, module: Any, species_input: bool = False) -> Layer | None:
    """The Layer of an e3nn module with internal weights, None for any other module.

    `species_input`: the module's only input (a linear) or second operand (a tensor product) is the
    one-hot species. e3nn stores a linear's path as `[mul_in, mul_out]`, a fully connected tensor
    product's as `[mul_in1, mul_in2, mul_out]`, one path after the other.
    """
    linear, product = isinstance(module, o3.Linear), isinstance(module, o3.TensorProduct)
    if linear:
        if not module.internal_weights or module.weight_numel == 0:
            return None
        paths, offset = [], 0
        for ins in module.instructions:
            if ins.i_in == -1:  # a bias: not a path weight
                continue
            ir = module.irreps_in[ins.i_in].ir
            paths.append(Path(f"{ir} -> {ir}", offset, tuple(ins.path_shape), 0 if species_input else None))
            offset += paths[-1].numel
        return Layer(name, "species linear" if species_input else "path linear", tuple(paths), module.weight_numel)
    if product:
        if not module.internal_weights or module.weight_numel == 0:
            return None
        paths, offset = [], 0
        for ins in module.instructions:
            if not ins.has_weight:
                continue
            irs = (module.irreps_in1[ins.i_in1].ir, module.irreps_in2[ins.i_in2].ir, module.irreps_out[ins.i_out].ir)
            axis = 1 if species_input and len(ins.path_shape) == 3 else None
            paths.append(Path(f"{irs[0]} x {irs[1]} -> {irs[2]}", offset, tuple(ins.path_shape), axis))
            offset += paths[-1].numel
        kind = "species linear" if species_input else "tensor product"
        return Layer(name, kind, tuple(paths), module.weight_numel)
    return None


class PathLinear:
    """An o3.Linear in layout ir_mul. Dense products are our kernel's on a CPU, where it is up to twice as fast as one
    product of torch for each path, and torch's elsewhere.

    `n_single`: the last block of the input is so many scalars, each of which counts as an irrep of its own
    (with one path to each output instead of one row of a path's weights). `scale`: what the output is multiplied by.
    """

    def __init__(self, module: Any, n_single: int = 0, scale: float = 1.0):
        if any(ins.i_in == -1 for ins in module.instructions):
            raise ValueError("an o3.Linear with a bias is not covered")
        irreps_in, instructions = list(module.irreps_in), []
        last = len(irreps_in) - 1
        for ins in module.instructions:
            n_rows = n_single if n_single and ins.i_in == last else 1
            instructions += [(ins.i_in + row, ins.i_out, float(ins.path_weight) * scale) for row in range(n_rows)]
        if n_single:
            irreps_in[last:] = [(1, irreps_in[last].ir)] * n_single
        self.table = species_linear_table(irreps_in, module.irreps_out, 1, instructions)
        self.out_shapes = [(n_components, mul) for _, mul, n_components in blocks(module.irreps_out)]
        self.by_output: list[list[tuple[int, int, int, int, int, float]]] = [[] for _ in self.out_shapes]
        for (_, i_out, coefficient), row in zip(instructions, self.table.paths.tolist()):
            in_offset, _, w_offset, n_components, mul_in, mul_out = row
            self.by_output[i_out].append((in_offset, n_components, mul_in, mul_out, w_offset, coefficient))

    def flops_per_node(self) -> int:
        """FLOPs of one forward for one node."""
        return sum(2 * n * mul_in * mul_out for paths in self.by_output for _, n, mul_in, mul_out, _, _ in paths)

    def __call__(self, x: torch.Tensor, weight: torch.Tensor | SparseWeights) -> torch.Tensor:
        """y [n_nodes, dim_out] from x [n_nodes, dim_in] and the flat weights."""
        if isinstance(weight, SparseWeights):
            return sparse_path_linear(x, weight, self.table)
        if x.device.type == "cpu":
            return path_linear(x, weight, self.table)
        outputs = []
        for paths, (n_components, mul_out) in zip(self.by_output, self.out_shapes):
            total = None
            for in_offset, _, mul_in, _, w_offset, path_weight in paths:
                block = x[:, in_offset : in_offset + n_components * mul_in].reshape(-1, mul_in)
                w = weight[w_offset : w_offset + mul_in * mul_out].reshape(mul_in, mul_out) * path_weight
                total = block @ w if total is None else torch.addmm(total, block, w)
            if total is None:
                total = x.new_zeros(x.shape[0] * n_components, mul_out)
            outputs.append(total.reshape(x.shape[0], n_components * mul_out))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def apply_species_linear(
    x: torch.Tensor, weights: torch.Tensor | SparseWeights | SpeciesRows, groups: SpeciesGroups, table: Any
) -> torch.Tensor:
    """A species linear [n_nodes, dim_out] of x [n_nodes, dim_in]: dense, trained sparsely, or for some species."""
    if isinstance(weights, SparseWeights):
        return sparse_species_linear(x, weights, groups, table)
    if isinstance(weights, SpeciesRows):
        return species_rows_linear(x, weights, groups, table)
    return species_linear(x, weights, groups, table)


def skip_table(module: Any, n_species: int) -> SpeciesLinearTable:
    """The species linear that a FullyConnectedTensorProduct with a one-hot second operand is."""
    # 3j(l, 0, l) is the identity over sqrt(2l + 1)
    instructions = [
        (ins.i_in1, ins.i_out, float(ins.path_weight) / module.irreps_out[ins.i_out].ir.dim ** 0.5)
        for ins in module.instructions
    ]
    return species_linear_table(module.irreps_in1, module.irreps_out, n_species, instructions)


def conv_table(module: Any, scale: float = 1.0, joined: bool = False) -> EdgeConvTable:
    """The paths of a channel-wise ('uvu') tensor product times `scale`, 3j in float64; `joined` as edge_conv_table."""
    instructions = []
    for ins in module.instructions:
        ls = (module.irreps_in1[ins.i_in1].ir.l, module.irreps_in2[ins.i_in2].ir.l, module.irreps_out[ins.i_out].ir.l)
        c = o3.wigner_3j(*ls, dtype=torch.float64) * (float(ins.path_weight) * scale)
        instructions.append((ins.i_in1, ins.i_in2, ins.i_out, c))
    return edge_conv_table(module.irreps_in1, module.irreps_in2, module.irreps_out, instructions, joined)


def called(module: torch.nn.Module, name: str, parameters: Mapping[str, Any], x: Any) -> Any:
    """A stock module with the weights that are passed in place of its own."""
    own = {key: parameters[f"{name}.{key}"] for key, _ in module.named_parameters() if f"{name}.{key}" in parameters}
    return torch.func.functional_call(module, own, (x,))
