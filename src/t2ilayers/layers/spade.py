"""SPADE2d: normalisation whose scale and shift are maps, drawn from a map of labels."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import Activation, Impl, Stats
from ..ops._options import RunningCount
from ._affine_norm import AffineNorm2d


class SPADE2d(AffineNorm2d):
    r"""Spatially-adaptive normalisation.

    .. math::
        h &= \mathrm{ReLU}(\mathrm{conv}(\mathrm{resize}(s))) \\
        y &= \mathrm{act}\big((1 + \mathrm{conv}_\gamma(h))\, \hat{x} + \mathrm{conv}_\beta(h)\big)

    The label map s is resized to the result by nearest neighbour. The children ``normalize``, ``shared``,
    ``gamma`` and ``beta`` are torch's own modules and may be converted, wrapped, hooked or replaced.

    Args:
        num_features: C, the channels of ``x``.
        label_channels: L, the channels of the label map, such as one for each class.
        hidden_channels: channels between the convolutions.
        kernel_size: odd side of all kernels.
        stats: ``"batch"``, ``"instance"``, ``"group"`` or ``"none"``; see :class:`ConditionalNorm2d`.
        groups: number of channel groups, with ``stats="group"`` only.
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"`` or ``"silu"``, applied last.
        negative_slope: of the leaky relu.
        eps: added to the variance.
        momentum: of the running statistics; see :class:`ConditionalNorm2d`.
        running_count: see :func:`~t2ilayers.ops.masked_affine_norm`.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.
        device: of parameters and buffers.
        dtype: of parameters and buffers.

    Attributes:
        process_group: the ranks that share batch statistics while training, or None.

    Shapes:
        ``x (N, C, H, W)``, ``labels (N, L, h, w)`` of any size, floating point; returns ``(N, C, s*H, s*W)`` with
        ``s = upsample``.

    Raises:
        ValueError: an unknown word, an even kernel; from ``forward``, shapes that do not fit.

    Source: Park et al., *Semantic Image Synthesis with Spatially-Adaptive Normalization*, arXiv 1903.07291.

    Example:
        >>> norm = SPADE2d(16, 7, activation="leaky_relu")
        >>> norm(torch.randn(2, 16, 8, 8), torch.rand(2, 7, 32, 32), upsample=2).shape
        torch.Size([2, 16, 16, 16])
    """

    def __init__(
        self,
        num_features: int,
        label_channels: int,
        hidden_channels: int = 128,
        *,
        kernel_size: int = 3,
        stats: Stats = "batch",
        groups: int | None = None,
        activation: Activation = "none",
        negative_slope: float = 0.2,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        running_count: RunningCount = "output",
        impl: Impl = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_features,
            stats=stats,
            groups=groups,
            scale="residual",
            activation=activation,
            negative_slope=negative_slope,
            eps=eps,
            momentum=momentum,
            running_count=running_count,
            impl=impl,
            device=device,
            dtype=dtype,
        )
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that maps keep their size, got {kernel_size}")
        self.label_channels = label_channels

        def convolution(c_in: int, c_out: int) -> nn.Conv2d:
            return nn.Conv2d(c_in, c_out, kernel_size, padding=kernel_size // 2, device=device, dtype=dtype)

        self.shared = nn.Sequential(convolution(label_channels, hidden_channels), nn.ReLU())
        self.gamma = convolution(hidden_channels, num_features)
        self.beta = convolution(hidden_channels, num_features)

    def _start(self) -> None:
        """Nothing: the convolutions begin as torch's do, here as in the published code."""

    def forward(self, x: Tensor, labels: Tensor, *, upsample: Literal[1, 2] = 1) -> Tensor:
        if labels.dim() != 4 or labels.shape[1] != self.label_channels or labels.shape[0] != x.shape[0]:
            raise ValueError(
                f"labels must be (N, L, h, w) with (N, L) = {(x.shape[0], self.label_channels)}, got "
                f"{tuple(labels.shape)}; class numbers become channels by F.one_hot"
            )
        size = [upsample * side for side in x.shape[2:]]
        hidden = self.shared(F.interpolate(labels, size=size, mode="nearest"))
        return self._modulate(x, self.gamma(hidden), self.beta(hidden), None, upsample)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, label_channels={self.label_channels}, activation={self.activation!r}, "
            f"impl={self.impl!r}"
        )
