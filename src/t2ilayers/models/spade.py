"""SPADE: a generator of pictures from maps of labels.

Source: Park et al., *Semantic Image Synthesis with Spatially-Adaptive Normalization*, arXiv 1903.07291.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import SPADE2d, SpectralConv2d
from ..layers._reset import reset_parts
from ..ops import Impl, Stats
from ..ops._fast import add_upsampled, channels_last, fastest_layout
from ._pictures import ToPicture
from .dfgan import GeneratorOutput

Upsampling = Literal["normal", "more", "most"]


class SPADEBlock(nn.Module):
    r"""Residual block whose norms are drawn from a map of labels.

    .. math::
        x' &= \mathrm{up}(x), \qquad n_i = \mathrm{lrelu}(\mathrm{SPADE}_i(\cdot, s)) \\
        y &= \mathrm{shortcut}(x') + \mathrm{conv}(n_2(\mathrm{conv}(n_1(x'))))

    Where the width changes, the shortcut is a SPADE without activation and a 1x1 convolution without bias, else
    the identity; between the two 3x3 convolutions is the smaller width. ``up`` is nearest.

    Args:
        in_channels: channels of ``x``.
        out_channels: channels of ``y``.
        label_channels: L, the channels of the label map.
        upsample: whether ``y`` is twice as large as ``x``.
        kernel_size: of the convolutions in :class:`~t2ilayers.layers.SPADE2d`.
        stats: of :class:`~t2ilayers.layers.SPADE2d`.
        spectral_norm: whether the block's own convolutions are spectrally normalised.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Shapes:
        ``x (N, C_in, H, W)``, ``labels (N, L, h, w)`` of any size. Returns ``(N, C_out, s*H, s*W)``, s = 2 with
        ``upsample``, else 1.

    Source: arXiv 1903.07291, figure 4.

    Example:
        >>> import torch
        >>> block = SPADEBlock(8, 4, 7, upsample=True)
        >>> block(torch.randn(2, 8, 8, 8), torch.rand(2, 7, 32, 32)).shape
        torch.Size([2, 4, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        label_channels: int,
        *,
        upsample: bool = False,
        kernel_size: int = 3,
        stats: Stats = "batch",
        spectral_norm: bool = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        hidden = min(in_channels, out_channels)
        options: dict[str, Any] = {"kernel_size": kernel_size, "stats": stats, "impl": impl}
        convolution = SpectralConv2d if spectral_norm else nn.Conv2d
        self.upsample = upsample
        self.norm1 = SPADE2d(in_channels, label_channels, activation="leaky_relu", **options)
        self.conv1 = convolution(in_channels, hidden, 3, padding=1)
        self.norm2 = SPADE2d(hidden, label_channels, activation="leaky_relu", **options)
        self.conv2 = convolution(hidden, out_channels, 3, padding=1)
        self.shortcut_norm: nn.Module | None = None
        self.shortcut: nn.Module | None = None
        if in_channels != out_channels:
            self.shortcut_norm = SPADE2d(in_channels, label_channels, **options)
            self.shortcut = convolution(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        scale: Literal[1, 2] = 2 if self.upsample else 1
        residual: Tensor = self.conv1(self.norm1(x, labels, upsample=scale))
        residual = self.conv2(self.norm2(residual, labels))
        if self.shortcut is not None and self.shortcut_norm is not None:
            return residual + self.shortcut(self.shortcut_norm(x, labels, upsample=scale))
        return add_upsampled(x, residual) if self.upsample else x + residual

    def extra_repr(self) -> str:
        return f"upsample={self.upsample}"


class SPADEGenerator(nn.Module):
    r"""A map of labels, and noise if wanted, to a picture, through :class:`SPADEBlock`\ s.

    .. math:: h_0 = \mathrm{conv}(\mathrm{resize}(s)) \text{ or } \mathrm{fc}(z), \quad
        h_{i+1} = \mathrm{block}_i(h_i, s), \quad \mathrm{image} = \tanh(\mathrm{conv}(\mathrm{lrelu}(h)))

    Published numbers of label channels: 184 for COCO (182, unknown, edges of instances), 151 for ADE20K, 36 for
    Cityscapes (35 and edges).

    Args:
        image_size: S, or height and width; multiples of 32, or 64 and 128 for more and most upsampling.
        label_channels: L, the channels of the label map.
        ngf: base width.
        z_dim: length of the noise, 256 in the published form with a VAE; 0 starts from the label map instead.
        upsampling: ``"normal"`` upsamples 5 times, ``"more"`` 6 times, ``"most"`` 7 times, with one more block.
        kernel_size: of :class:`~t2ilayers.layers.SPADE2d`.
        stats: of :class:`~t2ilayers.layers.SPADE2d`.
        spectral_norm: whether convolutions of the blocks are spectrally normalised.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Shapes:
        ``z (N, z_dim)`` from N(0, I), or None with ``z_dim=0``; ``cond (N, L, h, w)``, the label map, one-hot and
        of any size. Returns :class:`GeneratorOutput`: images ``(N, 3, H, W)`` in [-1, 1].

    Raises:
        ValueError: an unknown word, a size that does not divide, or shapes that do not fit.

    Source: arXiv 1903.07291 and its published code.

    Example:
        >>> import torch
        >>> generator = SPADEGenerator((32, 64), label_channels=7, ngf=4)
        >>> generator(None, torch.rand(2, 7, 32, 64)).images.shape
        torch.Size([2, 3, 32, 64])
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 256,
        label_channels: int = 184,
        ngf: int = 64,
        z_dim: int = 0,
        *,
        upsampling: Upsampling = "normal",
        kernel_size: int = 3,
        stats: Stats = "batch",
        spectral_norm: bool = True,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        doublings = {"normal": 5, "more": 6, "most": 7}.get(upsampling, 0)
        if not doublings:
            raise ValueError(f'upsampling must be "normal", "more" or "most", got {upsampling!r}')
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, width) < 1 or height % 2**doublings or width % 2**doublings:
            raise ValueError(f"image_size must be multiples of {2**doublings}, got {(height, width)}")
        self.image_size = (height, width)
        self.first_size = (height // 2**doublings, width // 2**doublings)
        self.label_channels = label_channels
        self.z_dim = z_dim
        self.upsampling: Upsampling = upsampling
        self.impl: Impl = impl
        widths = [16 * ngf, 16 * ngf, 16 * ngf, 16 * ngf, 8 * ngf, 4 * ngf, 2 * ngf, ngf]
        if upsampling == "most":
            widths.append(ngf // 2)
        still = (0, 2) if upsampling == "normal" else (0,)  # blocks that do not upsample
        self.fc: nn.Module = (
            nn.Linear(z_dim, widths[0] * self.first_size[0] * self.first_size[1])
            if z_dim
            else nn.Conv2d(label_channels, widths[0], 3, padding=1)
        )
        self.blocks = nn.ModuleList(
            SPADEBlock(
                c_in, c_out, label_channels, upsample=i not in still,
                kernel_size=kernel_size, stats=stats, spectral_norm=spectral_norm, impl=impl,
            )
            for i, (c_in, c_out) in enumerate(pairwise(widths))
        )  # fmt: skip
        self.to_image = nn.Sequential(nn.LeakyReLU(0.2), ToPicture(widths[-1], 3, 3, padding=1), nn.Tanh())
        start_small(self)

    def reset_parameters(self) -> None:
        """As a fresh network: new random weights, no running statistics."""
        reset_parts(self)
        start_small(self)

    def forward(self, z: Tensor | None, cond: Tensor) -> GeneratorOutput:
        n = cond.shape[0]
        if cond.dim() != 4 or cond.shape[1] != self.label_channels or not cond.is_floating_point():
            raise ValueError(
                f"cond must be a label map (N, L, h, w) with L = {self.label_channels}, floating point, got "
                f"{tuple(cond.shape)} of {cond.dtype}; class numbers become channels by F.one_hot"
            )
        if (tuple(z.shape) if z is not None else (n, 0)) != (n, self.z_dim):
            raise ValueError(f"z must be (N, {self.z_dim}), got {None if z is None else tuple(z.shape)}")
        if self.z_dim:
            x = self.fc(z).unflatten(1, (-1, *self.first_size))
        else:
            x = self.fc(F.interpolate(cond, size=self.first_size, mode="nearest"))
        x, cond = fastest_layout(x, self.impl), channels_last(cond)
        for block in self.blocks:
            x = block(x, cond)
        return GeneratorOutput(self.to_image(x).contiguous())

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, label_channels={self.label_channels}, z_dim={self.z_dim}"


def start_small(network: nn.Module) -> None:
    """Let every convolution and Linear begin as in the published code: Xavier normal of gain 0.02, biases of 0."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(part.weight, 0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
