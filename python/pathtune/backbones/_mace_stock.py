"""A stock MACE of mace-torch from constructor arguments that are text and numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pathtune.backbones._packages import default_dtype, import_mace, quiet_torchscript

GATES = {"silu": torch.nn.functional.silu, "tanh": torch.tanh, "abs": torch.abs, None: None}
IRREPS = ("hidden_irreps", "MLP_irreps", "edge_irreps")


def stock_mace(cls: str = "ScaleShiftMACE", dtype: torch.dtype = torch.float32, **options: Any) -> torch.nn.Module:
    """A stock MACE or ScaleShiftMACE with random weights; irreps, gate, interaction and readout classes as text."""
    mace = import_mace()
    from e3nn import o3

    known = mace.modules.interaction_classes
    classes = {"interaction_cls": known, "interaction_cls_first": known, "readout_cls": mace.modules.readout_classes}
    for name, found in classes.items():
        if name in options:
            options[name] = found[options[name]]
    for name in IRREPS:
        if options.get(name) is not None:
            options[name] = o3.Irreps(options[name])
    gate = options.get("gate", "silu")
    options["gate"] = GATES[gate] if gate is None or isinstance(gate, str) else gate
    options.setdefault("num_elements", len(options["atomic_numbers"]))
    options["atomic_energies"] = np.asarray(options["atomic_energies"])
    defaults: dict[str, Any] = {"use_reduced_cg": False}
    if cls == "ScaleShiftMACE":
        defaults |= {"atomic_inter_scale": 1.0, "atomic_inter_shift": 0.0}
    with default_dtype(dtype), quiet_torchscript():
        return getattr(mace.modules, cls)(**defaults | options)
