"""SSAConv: one semantic-spatial aware block of the generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..ops import Impl
from ..ops._fast import add_upsampled, scaled_conv2d
from ._reset import reset_parts
from .conditional_norm import SemanticAffineBN, affine_parameters
from .mask import MaskPredictor


class SSAConv(nn.Module):
    r"""Semantic-spatial aware block: predict a mask, upsample, and add a text-conditioned residual.

    .. math::
        m &= \sigma(\mathrm{up}_{\mathrm{bilinear}}(\mathrm{predictor}(x))) \\
        r &= \mathrm{conv}(\mathrm{SABN}(\mathrm{conv}(\mathrm{SABN}(\mathrm{up}(x), e, m)), e, m)) \\
        y &= \mathrm{up}(\mathrm{shortcut}(x)) + g\, r

    Both SABNs (:class:`SemanticAffineBN` with ReLU) share the mask; ``g`` is one learned scalar that starts
    at 0, so the block starts as its shortcut: the identity, or a 1x1 convolution where the width changes.

    The published code keeps the mask predictor in the block before; here a block predicts its mask from its
    own input, which is the same arithmetic and makes the block usable alone. The published shortcut comes after
    nearest upsampling; a 1x1 convolution commutes with it, and here has a quarter of the pixels.

    Args:
        in_channels: channels of ``x``.
        out_channels: channels of ``y``.
        cond_dim: D, the length of the condition.
        upsample: whether the block doubles the size (``s = 2``) or keeps it (``s = 1``).
        mask_channels: hidden channels of the mask predictor; 0 for a block without one, whose affine parameters
            act everywhere.
        hidden_dim: width of the MLPs of both norms.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Shapes:
        ``x (N, C_in, H, W)``, ``cond (N, D)``, ``mask (N, 1, s*H, s*W)`` in [0, 1] or None. Returns
        ``(y (N, C_out, s*H, s*W), mask (N, 1, s*H, s*W))``. A mask that is given replaces the predicted one
        (editing, supervision) and is returned as it is; a block without a predictor returns None where none is
        given. ``affine``: ``gamma (N, C)`` and ``beta (N, C)`` of each of the two norms where they were predicted
        before, by :func:`affine_parameters` with those of other blocks; None for a norm that predicts for itself.

    Raises:
        ValueError: from ``forward``, for shapes that do not fit; the message says which.

    Source: arXiv 2104.00567, "Semantic-Spatial Aware block".

    Example:
        >>> block = SSAConv(32, 16, cond_dim=64)
        >>> y, mask = block(torch.randn(2, 32, 8, 8), torch.randn(2, 64))
        >>> y.shape, mask.shape
        (torch.Size([2, 16, 16, 16]), torch.Size([2, 1, 16, 16]))
        >>> painted = torch.ones(2, 1, 16, 16)
        >>> y, mask = block(torch.randn(2, 32, 8, 8), torch.randn(2, 64), painted)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        cond_dim: int = 256,
        *,
        upsample: bool = True,
        mask_channels: int = 100,
        hidden_dim: int = 256,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.mask_predictor = MaskPredictor(in_channels, mask_channels, impl=impl) if mask_channels else None
        self.norm1 = SemanticAffineBN(in_channels, cond_dim, hidden_dim, activation="relu", impl=impl)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = SemanticAffineBN(out_channels, cond_dim, hidden_dim, activation="relu", impl=impl)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def reset_parameters(self) -> None:
        """As a fresh block: new random weights, a gate of 0, no running statistics."""
        reset_parts(self)
        nn.init.zeros_(self.gamma)

    def forward(
        self,
        x: Tensor,
        cond: Tensor,
        mask: Tensor | None = None,
        *,
        affine: Sequence[tuple[Tensor, Tensor] | None] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        affine1, affine2 = affine_parameters((self.norm1, self.norm2), cond) if affine is None else affine
        s: Literal[1, 2] = 2 if self.upsample else 1
        if mask is None and self.mask_predictor is not None:
            mask = MaskPredictor.to_mask(self.mask_predictor(x), s)
        residual = self.conv1(self.norm1(x, cond, mask, upsample=s, affine=affine1))
        residual = self.norm2(residual, cond, mask, affine=affine2)
        residual = scaled_conv2d(residual, self.conv2, self.gamma)
        shortcut = self.shortcut(x)
        return (add_upsampled(shortcut, residual) if self.upsample else shortcut + residual), mask

    def extra_repr(self) -> str:
        return f"upsample={self.upsample}"
