"""The blocks and the head of the one-way, matching-aware discriminator."""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor, nn

from ..ops import average_pool2d
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

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(average_pool2d(x)) + self.gamma * self.residual(x)


class MatchingHead(nn.Module):
    r"""Scores whether 4x4 image features and a condition belong together.

    .. math:: \mathrm{logit} = \mathrm{conv}_{4\times4}(\mathrm{lrelu}(\mathrm{conv}_{3\times3}([f, e])))

    The condition is repeated over the 4x4 places and concatenated to the features; no biases.

    Args:
        in_channels: C, the channels of the features.
        hidden_channels: channels between the two convolutions.
        cond_dim: D, the length of the condition.

    Shapes:
        ``features (N, C, 4, 4)``, ``cond (N, D)``, returns logits ``(N,)``.

    Raises:
        ValueError: from ``forward``, if the shapes do not fit.

    Source: DF-GAN, arXiv 2008.05865, "one-way output"; used by SSA-GAN, arXiv 2104.00567.

    Example:
        >>> MatchingHead(128, 16, cond_dim=32)(torch.randn(2, 128, 4, 4), torch.randn(2, 32)).shape
        torch.Size([2])
    """

    def __init__(self, in_channels: int, hidden_channels: int, cond_dim: int = 256) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.cond_dim = cond_dim
        self.layers = nn.Sequential(
            Conv2d(in_channels + cond_dim, hidden_channels, 3, padding=1, bias=False),
            LeakyReLU(0.2),
            Conv2d(hidden_channels, 1, 4, bias=False),
        )

    def forward(self, features: Tensor, cond: Tensor) -> Tensor:
        if features.dim() != 4 or features.shape[1:] != (self.in_channels, 4, 4):
            raise ValueError(
                f"features must be (N, {self.in_channels}, 4, 4), got {tuple(features.shape)}; "
                "they come from the discriminator's features() on images of its image_size"
            )
        if cond.shape != (features.shape[0], self.cond_dim):
            raise ValueError(
                f"cond must be (N, D) = {(features.shape[0], self.cond_dim)}, one row a picture, "
                f"got {tuple(cond.shape)}"
            )
        joint = torch.cat([features, repeat(cond, "n d -> n d 4 4").to(features.dtype)], dim=1)
        return self.layers(joint).flatten()

    def extra_repr(self) -> str:
        return f"in_channels={self.in_channels}, cond_dim={self.cond_dim}"
