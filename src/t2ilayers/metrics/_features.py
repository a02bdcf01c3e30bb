"""What every measure of features asks of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ._finite import check_finite


def check_features(least: int = 2, **features: Tensor) -> list[Tensor]:
    """The features in float64 on the CPU.

    Raises:
        ValueError: another shape than ``(N, D)``, fewer than ``least``, or values that are not finite.
    """
    checked = []
    for name, values in features.items():
        if values.dim() != 2 or values.shape[1] < 1:
            raise ValueError(f"{name} must be (N, D), got {tuple(values.shape)}")
        if len(values) < least:
            raise ValueError(f"{name} must be at least {least}, got {len(values)}; give more pictures")
        check_finite(name, values)
        checked.append(values.detach().cpu().double())
    return checked


def check_same_space(**features: Tensor) -> None:
    """ValueError where features ``(N, D)`` are not all of one D."""
    dims = {values.shape[1] for values in features.values()}
    if len(dims) > 1:
        found = ", ".join(str(values.shape[1]) for values in features.values())
        raise ValueError(f"{' and '.join(features)} must have as many dimensions, got {found}")


def unit_rows(features: Tensor) -> Tensor:
    """``(N, D)`` rows of length 1; a row of zeros stays one."""
    return torch.nn.functional.normalize(features, dim=1)
