"""What can be adapted of a MACE model, and copies of it."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch

from pathtune.backbones._packages import quiet_torchscript
from pathtune.layers import Layer, whole_layer

# linears of the one-hot species alone; so is the second operand of a skip_tp that is a product
SPECIES_LINEARS = ("node_embedding.linear", ".source_embedding", ".target_embedding")
# axes of a readout's linears that have a part for each head
HEAD_AXES = {"linear": (1,), "linear_1": (1,), "linear_mid": (0, 1), "linear_2": (0, 1)}


def copied(stock: Any) -> Any:
    """An independent copy. mace's EmptyParam, of couplings that are zero, cannot copy itself."""
    memo = {id(p): type(p)(p.data) for p in stock.parameters() if type(p).__name__ == "EmptyParam"}
    with quiet_torchscript():
        return copy.deepcopy(stock, memo)


def dead_parameters(stock: torch.nn.Module) -> frozenset[str]:
    """Names of the contraction weights that mace holds at zero, since their couplings vanish."""
    names = set()
    for name, buffer in stock.named_buffers():
        if name.endswith("_zeroed") and ".contractions." in name and bool(buffer):
            module, _, weight = name.removesuffix("_zeroed").rpartition(".")
            names.add(f"{module}.{weight if weight == 'weights_max' else weight.replace('_', '.')}")
    return frozenset(names)


def layers_of(stock: torch.nn.Module) -> tuple[Layer, ...]:
    """Every layer that an adaptation may change."""
    from pathtune.backbones._e3nn import layer_of

    layers = []
    n_heads = n_heads_of(stock)
    for name, module in stock.named_modules():
        is_species = name.endswith(SPECIES_LINEARS) or (name.endswith(".skip_tp") and hasattr(module, "irreps_in2"))
        layer = layer_of(name, module, is_species)
        if layer is not None:
            layers.append(_by_head(layer, n_heads) if name.startswith(("readouts.", "embedding_readout.")) else layer)
    return (*layers, *_opt_in_layers(stock))


def n_heads_of(stock: Any) -> int:
    """How many levels of theory share the weights."""
    return len(getattr(stock, "heads", None) or ("Default",))


def _by_head(layer: Layer, n_heads: int) -> Layer:
    """A readout's linear: a head reads and trains its own part only."""
    axes = HEAD_AXES.get(layer.name.rpartition(".")[2], ())
    paths = [
        dataclasses.replace(path, head_axes=axes, n_heads=n_heads)
        if all(path.shape[axis] % n_heads == 0 for axis in axes)
        else path
        for path in layer.paths
    ]
    return dataclasses.replace(layer, paths=tuple(paths))


def _opt_in_layers(stock: Any) -> list[Layer]:
    """Contraction weights [n_species or 1, n_paths, mul] and radial matrices: scopes beyond the paper."""
    layers, dead = [], dead_parameters(stock)
    for name, parameter in stock.named_parameters():
        module, _, weight = name.rpartition(".")
        shape = tuple(parameter.shape)
        if ".contractions." in name and name not in dead:
            block = stock.get_submodule(name.partition(".symmetric_contractions.")[0])
            axis = None if getattr(block, "use_agnostic_product", False) else 0
            if weight.isdigit():  # of a ParameterList, one entry for each degree below the highest
                module, weight = module.rpartition(".")[0], f"weights.{weight}"
            layers.append(whole_layer(f"{module}.{weight}", "contraction", shape, axis, ""))
        elif ".conv_tp_weights." in name and len(shape) == 2:
            layers.append(whole_layer(module, "radial", shape, None, weight))
    return layers
