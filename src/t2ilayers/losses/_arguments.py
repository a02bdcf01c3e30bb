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


def check_logits(name: str, logits: Tensor, *, empty: bool = False) -> None:
    if not logits.is_floating_point():
        raise TypeError(f"{name} must be logits of a floating dtype, got {logits.dtype}.")
    if logits.numel() == 0 and not empty:
        raise ValueError(
            f"{name} must hold at least one logit, got shape {tuple(logits.shape)}: "
            "the mean of nothing is NaN; skip the step for an empty batch."
        )
