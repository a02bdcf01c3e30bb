"""MaskPredictor: where the text acts, learned without mask labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import Impl
from .fused import FusedSequential


class MaskPredictor(nn.Module):
    r"""Predicts a one-channel mask from the features of a stage; its only teacher is the GAN's loss.

    .. math:: \mathrm{logits} = \mathrm{conv}_{1\times1}(\mathrm{ReLU}(\mathrm{BN}(\mathrm{conv}_{3\times3}(x))))

    Args:
        in_channels: C, the channels of ``x``.
        hidden_channels: channels between the two convolutions.

    Shapes:
        ``x (N, C, H, W)``, returns *logits* ``(N, 1, H, W)``; :meth:`to_mask` makes a mask of them.

    Raises:
        ValueError: from ``forward``, if ``x`` is not ``(N, in_channels, H, W)``.

    Source: arXiv 2104.00567, "Weakly-supervised Semantic Mask Predictor".

    Example:
        >>> predictor = MaskPredictor(64)
        >>> logits = predictor(torch.randn(2, 64, 8, 8))
        >>> mask = predictor.to_mask(logits, scale=2)
        >>> mask.shape, bool(((0 < mask) & (mask < 1)).all())
        (torch.Size([2, 1, 16, 16]), True)
    """

    def __init__(self, in_channels: int, hidden_channels: int = 100, *, impl: Impl = "auto") -> None:
        super().__init__()
        self.in_channels = in_channels
        self.layers = FusedSequential(
            nn.Conv2d(in_channels, hidden_channels, 3, padding=1),
            nn.BatchNorm2d(hidden_channels),
            nn.ReLU(),
            nn.Conv2d(hidden_channels, 1, 1),
            impl=impl,
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"x must be (N, C, H, W) with C = in_channels = {self.in_channels}, got {tuple(x.shape)}"
            )
        return self.layers(x)

    def extra_repr(self) -> str:
        return f"in_channels={self.in_channels}"

    @staticmethod
    def to_mask(logits: Tensor, scale: int = 1) -> Tensor:
        """Upsample the logits ``(N, 1, H, W)`` bilinearly (``align_corners=True``), then take the sigmoid.

        Interpolating logits instead of probabilities keeps the edge of the mask sharp.

        Args:
            logits: ``(N, 1, H, W)``, any real value.
            scale: whole factor >= 1.

        Returns:
            ``(N, 1, scale*H, scale*W)`` in (0, 1).

        Example:
            >>> mask = MaskPredictor.to_mask(torch.tensor([[[[-9.0, 9.0]]]]), scale=2)
            >>> mask[0, 0, 0].round(decimals=2)
            tensor([0.0000, 0.0500, 0.9500, 1.0000])
        """
        if scale != 1:
            logits = F.interpolate(logits, scale_factor=scale, mode="bilinear", align_corners=True)
        return torch.sigmoid(logits)
