"""Noise to draw pictures from, and modules in evaluation mode while they draw."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def noise(n: int, z_dim: int, seed: int | None, truncation: float | None) -> Tensor:
    """Noise ``(n, z_dim)`` of N(0, 1), cut to [-truncation, truncation] if that is given, drawn on the CPU.

    Raises:
        ValueError: a truncation that is not positive.
    """
    random = torch.Generator()
    if seed is None:
        random.seed()
    else:
        random.manual_seed(operator.index(seed))  # numpy's integers too
    if truncation is None:
        return torch.randn(n, z_dim, generator=random, device="cpu")
    if not truncation > 0:
        raise ValueError(f"truncation must be > 0, got {truncation}")
    z = torch.empty(n, z_dim, device="cpu")
    return nn.init.trunc_normal_(z, a=-truncation, b=truncation, generator=random)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` in evaluation mode; each of its parts is back in its own mode afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
