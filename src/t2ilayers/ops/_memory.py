"""How the kernels lay out what they return: shape rules need the same, since Inductor plans by strides."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """Channels last exactly where the kernels make it so."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def empty_map(x: Tensor, upsample: int) -> Tensor:
    """A map in the layout of x."""
    n, c, h, w = x.shape
    shape = (n, c, upsample * h, upsample * w)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
