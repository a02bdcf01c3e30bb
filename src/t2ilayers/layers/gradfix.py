"""Conv2d and LeakyReLU: what discriminators that are trained with a gradient penalty are made of."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import conv2d, leaky_relu


class Conv2d(nn.Conv2d):
    r"""``nn.Conv2d`` by :func:`t2ilayers.ops.conv2d`, whose second derivatives are fast.

    .. math:: y_{no} = b_o + \sum_i w_{oi} \star x_{ni}

    Parameters and defaults are those of :class:`torch.nn.Conv2d`, whose checkpoints load.

    Arguments are those of :class:`torch.nn.Conv2d`, all of them.

    Shapes:
        ``x (N, C_in, H, W)``, returns ``(N, C_out, H', W')``, see :func:`t2ilayers.ops.conv2d`.

    Source: see :func:`t2ilayers.ops.conv2d`.

    Example:
        >>> import torch
        >>> Conv2d(3, 8, 4, stride=2, padding=1)(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 8, 8, 8])
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        stride: Any = self.stride
        dilation: Any = self.dilation
        return conv2d(input, weight, bias, stride, padding, dilation, self.groups)


class LeakyReLU(nn.Module):
    r"""``nn.LeakyReLU`` by :func:`t2ilayers.ops.leaky_relu`, without a second derivative.

    .. math:: y = \max(x, 0) + s \min(x, 0)

    Args:
        negative_slope: s.

    Shapes:
        ``x (N, ...)`` of any shape, returns the same.

    Source: see :func:`t2ilayers.ops.leaky_relu`.

    Example:
        >>> import torch
        >>> LeakyReLU()(torch.tensor([-1.0, 2.0]))
        tensor([-0.2000,  2.0000])
    """

    def __init__(self, negative_slope: float = 0.2) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"
