"""The learned scalars before residual branches, all at once."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized


def set_gates(module: nn.Module, value: float) -> None:
    r"""Set the learned scalar ``g`` of every block in ``module`` that computes ``shortcut(x) + g * residual(x)``.

    Published models start at ``g = 0``: each block as its shortcut, which in a generator does not see the
    sentence, and in a discriminator pools the picture. Adam moves a scalar by about its rate a step, so with a
    rate of 0.001 it takes hundreds of steps until the residual counts. In long runs that is nothing; in runs of
    minutes start at 1.

    The blocks are those with a scalar ``gamma``: :class:`SSAConv`, :class:`DownBlock`, :class:`SelfAttention2d`,
    :class:`~t2ilayers.models.DFBlock` of 2020 and in RAT-GAN, :class:`~t2ilayers.models.CLIPBlock`.

    Args:
        module: a layer or a whole model.
        value: finite.

    Raises:
        ValueError: a value that is not finite, or a module without such blocks.

    Source: 0, as published, is that of ReZero, arXiv 2003.04887, and SkipInit, arXiv 2002.10444.

    Example:
        >>> from t2ilayers.layers import DownBlock, set_gates
        >>> block = DownBlock(8, 16)
        >>> block.gamma.item()
        0.0
        >>> set_gates(block, 1.0)
        >>> block.gamma.item()
        1.0
    """
    if not math.isfinite(value):
        raise ValueError(f"value must be finite, got {value}")
    found = False
    with torch.no_grad():
        for part in module.modules():
            gate = getattr(part, "gamma", None)
            if not isinstance(gate, torch.Tensor) or gate.numel() != 1:
                continue
            found = True
            if is_parametrized(part, "gamma"):
                part.gamma = torch.full_like(gate, value)
            else:
                gate.fill_(value)
    if not found:
        raise ValueError(
            f"module must have blocks with a learned scalar gamma, got {type(module).__name__} without"
        )
