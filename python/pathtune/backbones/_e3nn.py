"""e3nn modules seen as adaptable layers. Imported by backbone files after their package."""

from __future__ import annotations

import torch
from e3nn import o3

from pathtune.layers import Layer, Path


def layer_of(name: str, module: torch.nn.Module, species_input: bool = False) -> Layer | None:
    """The Layer of an e3nn module with internal weights, None for any other module.

    `species_input`: the module's only input (a linear) or second operand (a tensor product) is the
    one-hot species. e3nn stores a linear's path as `[mul_in, mul_out]`, a fully connected tensor
    product's as `[mul_in1, mul_in2, mul_out]`, one path after the other.
    """
    if isinstance(module, o3.Linear):
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
    if isinstance(module, o3.TensorProduct):
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
