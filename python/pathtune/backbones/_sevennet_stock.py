"""A stock SevenNet of sevenn from the keys of its configuration."""

from __future__ import annotations

from typing import Any

import torch

from pathtune.backbones._packages import default_dtype, import_sevenn, quiet_torchscript


def stock_sevennet(dtype: torch.dtype = torch.float32, seed: int = 0, **config: Any) -> torch.nn.Module:
    """A SevenNet with random weights drawn by `seed`; `config` over sevenn's defaults, which know no elements."""
    import_sevenn()
    from sevenn._const import DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG
    from sevenn.model_build import build_E3_equivariant_model

    config = {**DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG, **config}
    torch.manual_seed(seed)
    with default_dtype(dtype), quiet_torchscript():
        stock: Any = build_E3_equivariant_model(config)
    stock.pathtune_config = config
    return stock.to(dtype)
