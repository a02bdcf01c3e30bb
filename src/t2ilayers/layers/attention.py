"""Attention among the places of a map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._reset import reset_parts
from .spectral import SpectralConv2d


class SelfAttention2d(nn.Module):
    r"""Adds to every place what the other places say, weighed by how well they fit.

    .. math::
        a_{ij} = \mathrm{softmax}_j\big(\theta(x)_i^\top\, \mathrm{pool}(\phi(x))_j\big), \qquad
        y_i = x_i + g\, o\Big(\sum_j a_{ij}\, \mathrm{pool}(v(x))_j\Big)

    :math:`\theta, \phi` (C/8 channels), v (C/2) and o (C) are spectrally normalised 1x1 convolutions without bias;
    ``pool`` is the maximum over 2x2 places, and g one learned scalar that starts at 0.

    Args:
        channels: C, a multiple of 8.
        eps: see :class:`SpectralConv2d`.
        step_in_eval: see :class:`SpectralConv2d`.

    Shapes:
        ``x (N, C, H, W)`` with even H and W, returns the same.

    Raises:
        ValueError: channels that 8 does not divide.

    Source: Zhang et al., *Self-Attention Generative Adversarial Networks*, arXiv 1805.08318, in the form of its
    code and of BigGAN, arXiv 1809.11096.

    Example:
        >>> SelfAttention2d(16)(torch.randn(2, 16, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
    """

    def __init__(self, channels: int, *, eps: float = 1e-12, step_in_eval: bool = False) -> None:
        super().__init__()
        if channels % 8 or channels < 8:
            raise ValueError(f"channels must be a multiple of 8, got {channels}")

        def convolution(c_in: int, c_out: int) -> SpectralConv2d:
            return SpectralConv2d(c_in, c_out, 1, bias=False, eps=eps, step_in_eval=step_in_eval)

        self.query = convolution(channels, channels // 8)
        self.key = convolution(channels, channels // 8)
        self.value = convolution(channels, channels // 2)
        self.out = convolution(channels // 2, channels)
        self.gamma = nn.Parameter(torch.zeros(()))

    def reset_parameters(self) -> None:
        """As a fresh layer: new random weights, a gate of 0."""
        reset_parts(self)
        nn.init.zeros_(self.gamma)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2)  # (N, C/8, H*W)
        key = F.max_pool2d(self.key(x), 2).flatten(2)  # (N, C/8, H*W/4)
        value = F.max_pool2d(self.value(x), 2).flatten(2)  # (N, C/2, H*W/4)
        weight = torch.softmax(query.mT @ key, dim=2)  # (N, H*W, H*W/4)
        found = (weight @ value.mT).mT.view(*value.shape[:2], *x.shape[2:])  # in this order no gradient is copied
        return x + self.gamma * self.out(found)
