"""Residual blocks of discriminators."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
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


class PreActivationBlock(nn.Module):
    r"""Residual block that activates before it convolves: of SNGAN, SAGAN and BigGAN.

    .. math::
        y = \mathrm{shortcut}(\mathrm{pool}_2(x))
            + \mathrm{pool}_2(\mathrm{conv}_{3\times3}(\mathrm{relu}(\mathrm{conv}_{3\times3}(\mathrm{relu}(x)))))

    The shortcut is a 1x1 convolution where the width or the size changes, else the identity. Published code has it
    before the pooling, with which it commutes; here it has a quarter of the pixels.

    Args:
        in_channels: channels of ``x``.
        out_channels: channels of ``y``.
        hidden_channels: between the two convolutions; None takes ``out_channels``.
        downsample: whether to pool, which halves the size.
        first: whether ``x`` is a picture, and so goes into the first convolution without activation.
        activated_shortcut: whether the shortcut sees :math:`\mathrm{relu}(x)`. It does in mimicry's code, where
            the first activation changes ``x`` itself; not in BigGAN's.
        convolution: makes a convolution from the arguments of :class:`torch.nn.Conv2d`, such as
            :class:`SpectralConv2d`.

    Shapes:
        ``x (N, C_in, H, W)``, with even H and W to downsample; returns ``(N, C_out, H/s, W/s)``, s = 2 with
        ``downsample``, else 1.

    Source: Miyato et al., arXiv 1802.05957; BigGAN, arXiv 1809.11096.

    Example:
        >>> PreActivationBlock(8, 16)(torch.randn(2, 8, 32, 32)).shape
        torch.Size([2, 16, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int | None = None,
        *,
        downsample: bool = True,
        first: bool = False,
        activated_shortcut: bool = False,
        convolution: Callable[..., nn.Conv2d] = Conv2d,
    ) -> None:
        super().__init__()
        hidden = out_channels if hidden_channels is None else hidden_channels
        self.downsample = downsample
        self.first = first
        self.activated_shortcut = activated_shortcut
        self.conv1 = convolution(in_channels, hidden, 3, padding=1)
        self.conv2 = convolution(hidden, out_channels, 3, padding=1)
        self.shortcut: nn.Module = nn.Identity()
        if downsample or in_channels != out_channels:
            self.shortcut = convolution(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        activated = x if self.first else F.relu(x)
        residual = self.conv2(F.relu(self.conv1(activated)))
        x = activated if self.activated_shortcut else x
        if self.downsample:
            x, residual = average_pool2d(x), average_pool2d(residual)
        return self.shortcut(x) + residual

    def extra_repr(self) -> str:
        return f"downsample={self.downsample}, first={self.first}, activated_shortcut={self.activated_shortcut}"
