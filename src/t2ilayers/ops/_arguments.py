"""The tensors of a call: checked, and in the one form that the implementations take."""

from __future__ import annotations

import torch
from torch import Tensor


def as_4d(t: Tensor) -> Tensor:
    """(N, C, L) as (N, C, 1, L) and (N, C, D, H, W) as (N, C, D, H * W); a view wherever memory allows."""
    return t.unsqueeze(2) if t.dim() == 3 else t.flatten(3)


def check_features(x: Tensor, upsample: int) -> None:
    """Errors unless x is a floating point map that can be made ``upsample`` times as large."""
    if upsample not in (1, 2):
        raise ValueError(f"upsample must be 1 or 2, got {upsample!r}")
    check_tensor("x", x, x)
    if x.dim() != 4 and (upsample != 1 or x.dim() not in (3, 5)):
        others = "" if upsample == 2 else ", (N, C, L) or (N, C, D, H, W)"
        raise ValueError(f"x must be (N, C, H, W){others}, got shape {tuple(x.shape)}")


def check_tensor(name: str, t: Tensor, x: Tensor) -> None:
    """Errors unless ``t`` is a floating point tensor where x is."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(t).__name__}")
    if not t.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {t.dtype}; convert it with .float()")
    if t.device != x.device:
        raise ValueError(f"{name} must be on the device of x, {x.device}, got {t.device}; use .to(x.device)")


def parameter(name: str, t: Tensor, x: Tensor, *, upsample: int, maps: bool) -> Tensor:
    """gamma or beta as (N, C), or as a 4-d map as large as the result where ``maps`` allows one."""
    check_tensor(name, t, x)
    shape, given, dims = x.shape, t.shape, t.dim()  # dims first: sizes that are compared become guards of a graph
    if dims == 2 and given == shape[:2]:
        return t
    if (dims == 1 and given == shape[1:2]) or (dims == 2 and given == (1, shape[1])):
        return t.expand(shape[:2])
    if maps and dims == x.dim() and given == (*shape[:2], *(upsample * side for side in shape[2:])):
        return t if t.dim() == 4 else as_4d(t)
    form = "(N, C), (C,), (1, C) or a map (N, C, s*H, s*W)" if maps else "(N, C), (C,) or (1, C)"
    raise ValueError(
        f"{name} must be {form} with (N, C) = {tuple(shape[:2])} for x of shape {tuple(shape)}, got {tuple(given)}"
    )


def mask_of(mask: Tensor, x: Tensor, *, upsample: int) -> Tensor:
    """A mask as (N, 1, sH, sW), floating point."""
    if isinstance(mask, Tensor) and mask.dtype == torch.bool:
        mask = mask.to(x.dtype)
    check_tensor("mask", mask, x)
    n, sides = x.shape[0], tuple(upsample * side for side in x.shape[2:])
    if mask.shape != (n, 1, *sides):
        if mask.shape != (1, 1, *sides):
            raise ValueError(
                f"mask must be (N, 1, s*H, s*W) = {(n, 1, *sides)}, or of one sample for all, for x of shape "
                f"{tuple(x.shape)} and s = upsample = {upsample}, got {tuple(mask.shape)}; resize it with "
                "MaskPredictor.to_mask or F.interpolate; a map with channels is a gamma"
            )
        mask = mask.expand(n, 1, *sides)
    return mask if mask.dim() == 4 else as_4d(mask)
