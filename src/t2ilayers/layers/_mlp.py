"""Linear -> ReLU -> Linear, and where its last layer starts."""

from __future__ import annotations

import torch
from torch import nn

from .spectral import SpectralNorm


def mlp(
    in_features: int,
    hidden_dim: int,
    out_features: int,
    *,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Sequential:
    """Linear -> ReLU -> Linear, as torch initialises them."""
    return nn.Sequential(
        nn.Linear(in_features, hidden_dim, device=device, dtype=dtype),
        nn.ReLU(),
        nn.Linear(hidden_dim, out_features, device=device, dtype=dtype),
    )


def start_at(module: nn.Module, value: float) -> None:
    """Let ``module`` give ``value`` whatever the condition: by its last Linear or its Embedding."""
    last = module[-1] if isinstance(module, nn.Sequential) else module
    if isinstance(last, SpectralNorm):  # its weight is divided by its length, so it cannot start at zero
        return
    if isinstance(last, nn.Embedding):
        nn.init.constant_(last.weight, value)
    elif isinstance(last, nn.Linear):
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.constant_(last.bias, value)
