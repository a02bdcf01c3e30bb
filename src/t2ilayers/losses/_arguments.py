"""What the losses ask of their arguments, and the precision they are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def full(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is in float64."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_ids(name: str, ids: Tensor) -> None:
    if ids.is_floating_point() or ids.is_complex():
        raise TypeError(f"{name} must be integers, got {ids.dtype}; use {name}.long().")
