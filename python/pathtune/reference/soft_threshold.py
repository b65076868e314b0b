"""soft_threshold in plain torch; autograd gives its derivatives."""

from __future__ import annotations

import torch


def soft_threshold(
    values: torch.Tensor,  # [n_candidates]
    threshold: torch.Tensor,  # [n_thresholds]
    segment: torch.Tensor | None = None,  # [n_candidates] which threshold an entry obeys; None: the only one
) -> torch.Tensor:  # [n_candidates]
    """S(D, d) = sign(D) relu(|D| - d); dS/dD = 1 and dS/dd = -sign(D) where |D| > d, else 0."""
    d = threshold if segment is None else threshold[segment]
    return values.sign() * (values.abs() - d).relu()
