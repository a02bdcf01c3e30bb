"""The blocks and the head of the one-way, matching-aware discriminator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import average_pool2d
from ._reset import reset_parts
from .gradfix import Conv2d, LeakyReLU


class DownBlock(nn.Module):
    r"""Residual block that halves the size.

    .. math::
        y = \mathrm{shortcut}(\mathrm{pool}_2(x))
            + g\, \mathrm{lrelu}(\mathrm{conv}_{3\times3}(\mathrm{lrelu}(\mathrm{conv}_{4\times4, /2}(x))))

    Convolutions of the residual have no bias, ``lrelu`` has slope 0.2 and ``g`` is one learned scalar that
    starts at 0. The shortcut is a 1x1 convolution with bias where the width changes, else the identity. The
    published one comes before the pooling, with which it commutes; here it has a quarter of the pixels.

    Args:
        in_channels: channels of ``x``.
        out_channels: channels of ``y``.

    Shapes:
        ``x (N, C_in, H, W)`` with even H and W, returns ``(N, C_out, H/2, W/2)``.

    Source: DF-GAN, arXiv 2008.05865; used by SSA-GAN, arXiv 2104.00567.

    Example:
        >>> DownBlock(8, 16)(torch.randn(2, 8, 32, 32)).shape
        torch.Size([2, 16, 16, 16])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.residual = nn.Sequential(
            Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
            LeakyReLU(0.2),
            Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LeakyReLU(0.2),
        )
        self.shortcut = nn.Identity() if in_channels == out_channels else Conv2d(in_channels, out_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        """As a fresh block: new random weights, a gate of 0."""
        reset_parts(self)
        nn.init.zeros_(self.gamma)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(average_pool2d(x)) + self.gamma * self.residual(x)
