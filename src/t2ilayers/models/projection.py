"""cGAN-PD, SNGAN and SAGAN: residual GANs of classes, as in the code of mimicry.

Sources: Miyato, Koyama, *cGANs with Projection Discriminator*, arXiv 1802.05637; Miyato et al., *Spectral
Normalization for Generative Adversarial Networks*, arXiv 1802.05957; Zhang et al., *Self-Attention Generative
Adversarial Networks*, arXiv 1805.08318; Lee, Town, *Mimicry*, arXiv 2005.02494.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import (
    ActivatedBatchNorm,
    ConditionalBatchNorm2d,
    PreActivationBlock,
    ProjectionHead,
    SelfAttention2d,
    SpectralConv2d,
    SpectralEmbedding,
    SpectralLinear,
)
from ..layers._reset import reset_parts
from ..ops import Impl
from ..ops._fast import fastest_layout
from ._pictures import SpectralToPicture, ToPicture
from ._residual import ResidualDiscriminator, attend, places
from .dfgan import GeneratorOutput

# By image size: side of the first map, and what the widest width is divided by after each block.
_GENERATORS = {32: (4, (1, 1, 1)), 48: (6, (2, 4, 8)), 64: (4, (2, 4, 8, 16)), 128: (4, (1, 2, 4, 8, 16))}
# The same of discriminators, and how many blocks halve the size.
_DISCRIMINATORS = {
    32: (2, (1, 1, 1, 1)),
    48: (4, (16, 8, 4, 2, 1)),
    64: (5, (16, 8, 4, 2, 1)),
    128: (5, (16, 8, 4, 2, 1, 1)),
}


class ProjectionBlock(nn.Module):
    r"""Residual block that upsamples by interpolation; its batch norms may belong to classes.

    .. math::
        y = \mathrm{shortcut}(\mathrm{up}(x))
            + \mathrm{conv}(\mathrm{relu}(\mathrm{norm}_2(\mathrm{conv}(\mathrm{up}(\mathrm{relu}(
            \mathrm{norm}_1(x, c)))), c)))

    ``up`` is bilinear. The shortcut is a 1x1 convolution where the width or the size changes, else the identity.

    Args:
        in_channels: channels of ``x``.
        out_channels: channels of ``y``.
        num_classes: K, for :class:`~t2ilayers.layers.ConditionalBatchNorm2d`; 0 for ordinary batch norm.
        upsample: whether ``y`` is twice as large as ``x``.
        spectral_norm: whether convolutions are spectrally normalised, as in SAGAN.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Shapes:
        ``x (N, C_in, H, W)``; ``classes (N,)`` of whole numbers in [0, K), or left out with ``num_classes=0``.
        Returns ``(N, C_out, s*H, s*W)``, s = 2 with ``upsample``, else 1.

    Source: arXiv 1802.05637; the code of mimicry.

    Example:
        >>> import torch
        >>> ProjectionBlock(8, 4, 10)(
        ...     torch.randn(2, 8, 8, 8), torch.tensor([3, 7])
        ... ).shape
        torch.Size([2, 4, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_classes: int = 0,
        *,
        upsample: bool = True,
        spectral_norm: bool = False,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.num_classes = num_classes
        convolution = SpectralConv2d if spectral_norm else nn.Conv2d
        self.norm1 = self._norm(in_channels, impl)
        self.conv1 = convolution(in_channels, out_channels, 3, padding=1)
        self.norm2 = self._norm(out_channels, impl)
        self.conv2 = convolution(out_channels, out_channels, 3, padding=1)
        self.shortcut: nn.Module = nn.Identity()
        if upsample or in_channels != out_channels:
            self.shortcut = convolution(in_channels, out_channels, 1)
        self._start()

    def _norm(self, channels: int, impl: Impl) -> nn.Module:
        if not self.num_classes:
            return ActivatedBatchNorm(channels, "relu", impl=impl)
        return ConditionalBatchNorm2d(channels, self.num_classes, activation="relu", impl=impl)

    def _start(self) -> None:
        start_convolutions(self)
        for norm in (self.norm1, self.norm2):
            if isinstance(norm, ConditionalBatchNorm2d):
                nn.init.normal_(cast(nn.Embedding, norm.gamma).weight, 1, 0.02)

    def reset_parameters(self) -> None:
        """As a fresh block: new random weights, no running statistics."""
        reset_parts(self)
        self._start()

    def forward(self, x: Tensor, classes: Tensor | None = None) -> Tensor:
        cond = () if classes is None else (classes,)
        residual = self.conv1(self._up(self.norm1(x, *cond)))
        residual = self.conv2(self.norm2(residual, *cond))
        return self._up(self.shortcut(x)) + residual  # convolved before upsampling, with which it commutes

    def _up(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear") if self.upsample else x

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, upsample={self.upsample}"


class ProjectionGenerator(nn.Module):
    r"""Noise and a class to a picture, through one :class:`ProjectionBlock` a scale.

    .. math:: h_0 = \mathrm{fc}(z), \quad h_{i+1} = \mathrm{block}_i(h_i, c), \quad
        \mathrm{image} = \tanh(\mathrm{conv}(\mathrm{relu}(\mathrm{BN}(h))))

    cGAN-PD as it stands; SNGAN with ``num_classes=0``; SAGAN with ``spectral_norm=True`` and ``attention``: 16 for
    pictures of 32 px, 32 for those of 128. Published widths are 256 at 32 px, 512 at 48, 1024 at 64 and 128.

    Args:
        image_size: S: 32, 48, 64 or 128.
        ngf: width of the widest block.
        z_dim: length of the noise.
        num_classes: K; 0 for pictures of no class.
        attention: sides of the maps that attend to themselves (:class:`~t2ilayers.layers.SelfAttention2d`).
        spectral_norm: whether convolutions and the Linear are spectrally normalised.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Shapes:
        ``z (N, z_dim)`` from N(0, I); ``cond (N,)`` of whole numbers in [0, K), or None with ``num_classes=0``.
        Returns :class:`GeneratorOutput`: images ``(N, 3, S, S)`` in [-1, 1].

    Raises:
        ValueError: another size, attention on maps that there are not, or shapes that do not fit.

    Source: arXiv 1802.05637, arXiv 1802.05957, arXiv 1805.08318; the code of mimicry, arXiv 2005.02494.

    Example:
        >>> import torch
        >>> generator = ProjectionGenerator(32, ngf=16, num_classes=10)
        >>> generator(torch.randn(2, 128), torch.tensor([3, 7])).images.shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        image_size: int = 32,
        ngf: int = 256,
        z_dim: int = 128,
        num_classes: int = 10,
        *,
        attention: Sequence[int] = (),
        spectral_norm: bool = False,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        self.first_side, divisors = _GENERATORS.get(image_size, (0, ()))
        _check(image_size, ngf, "ngf", divisors)
        self.image_size = image_size
        self.z_dim = z_dim
        self.num_classes = num_classes
        self.attention = tuple(sorted(set(attention)))
        self.spectral_norm = spectral_norm
        self.impl: Impl = impl
        widths = [ngf, *(ngf // divisor for divisor in divisors)]
        sides = [self.first_side * 2**i for i in range(1, len(widths))]
        linear, to_picture = (SpectralLinear, SpectralToPicture) if spectral_norm else (nn.Linear, ToPicture)
        self.fc = linear(z_dim, ngf * self.first_side**2)
        self.blocks = nn.ModuleList(
            ProjectionBlock(c_in, c_out, num_classes, spectral_norm=spectral_norm, impl=impl)
            for c_in, c_out in pairwise(widths)
        )
        self.attentions = nn.ModuleDict(
            {key: SelfAttention2d(widths[i + 1]) for key, i in places(attention, sides).items()}
        )
        self.to_image = nn.Sequential(
            ActivatedBatchNorm(widths[-1], "relu", impl=impl), to_picture(widths[-1], 3, 3, padding=1), nn.Tanh()
        )
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.xavier_uniform_(self.to_image[1].weight)  # type: ignore[arg-type]

    def forward(self, z: Tensor, cond: Tensor | None = None) -> GeneratorOutput:
        n = z.shape[0]
        classes = () if cond is None else (cond,)
        if z.shape != (n, self.z_dim) or [c.shape for c in classes] != [(n,)] * (self.num_classes > 0):
            expected = "(N,)" if self.num_classes else "None, there are no classes"
            raise ValueError(
                f"z must be (N, z_dim) with z_dim = {self.z_dim} and cond {expected}, got {tuple(z.shape)} and "
                f"{None if cond is None else tuple(cond.shape)}"
            )
        x = fastest_layout(self.fc(z).unflatten(1, (-1, self.first_side, self.first_side)), self.impl)
        x = attend(self.blocks, self.attentions, x, [classes] * len(self.blocks))
        return GeneratorOutput(self.to_image(x).contiguous())

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, z_dim={self.z_dim}, num_classes={self.num_classes}"


class ProjectionDiscriminator(ResidualDiscriminator):
    r"""One logit for "this is a real picture of this class".

    .. math:: D(I, c) = \mathrm{head}(\mathrm{features}(I), c)

    :class:`~t2ilayers.layers.PreActivationBlock`\ s, then :class:`~t2ilayers.layers.ProjectionHead`, all
    spectrally normalised. cGAN-PD's as it stands; SNGAN's with ``num_classes=0``; SAGAN's with ``attention``: 8
    for pictures of 32 px, 32 for those of 128. Published widths are 128 at 32 px and 1024 at the other sizes;
    cGAN-PD's and SAGAN's code has 128 at 128 px by default.

    Args:
        image_size: S: 32, 48, 64 or 128.
        ndf: width of the widest block.
        num_classes: K; 0 for pictures of no class.
        attention: sides of the maps that attend to themselves (:class:`~t2ilayers.layers.SelfAttention2d`).

    Shapes:
        :meth:`features`: ``images (N, 3, S, S)`` in [-1, 1] to ``(N, ndf, h, w)``; :meth:`match`: these and
        ``cond (N,)`` of whole numbers in [0, K), or None with ``num_classes=0``, to logits ``(N,)``;
        ``forward(images, cond)``: both.

    Raises:
        ValueError: another size, attention on maps that there are not, or shapes that do not fit.

    Source: arXiv 1802.05637, arXiv 1802.05957, arXiv 1805.08318; the code of mimicry, arXiv 2005.02494.

    Example:
        >>> import torch
        >>> discriminator = ProjectionDiscriminator(32, ndf=16, num_classes=10)
        >>> discriminator(torch.rand(2, 3, 32, 32) * 2 - 1, torch.tensor([3, 7])).shape
        torch.Size([2])
    """

    def __init__(
        self, image_size: int = 32, ndf: int = 128, num_classes: int = 10, *, attention: Sequence[int] = ()
    ) -> None:
        halvings, divisors = _DISCRIMINATORS.get(image_size, (0, ()))
        _check(image_size, ndf, "ndf", divisors)
        widths = [3, *(ndf // divisor for divisor in divisors)]
        sides = [image_size // 2 ** min(i, halvings) for i in range(1, len(widths))]
        block = partial(PreActivationBlock, activated_shortcut=True, convolution=SpectralConv2d)
        blocks = [block(3, widths[1], first=True)]
        for i, (c_in, c_out) in enumerate(pairwise(widths[1:]), start=1):
            blocks.append(block(c_in, c_out, c_in, downsample=i < halvings))
        head = ProjectionHead(ndf, num_classes)
        head.linear = SpectralLinear(ndf, 1)
        nn.init.xavier_uniform_(head.linear.weight)
        if head.embed is not None:
            head.embed = SpectralEmbedding(num_classes, ndf)
            nn.init.xavier_uniform_(head.embed.weight)
        for part in blocks:
            start_convolutions(part)
        attentions = {key: SelfAttention2d(widths[i + 1]) for key, i in places(attention, sides).items()}
        super().__init__(image_size, blocks, attentions, attention, head)


def _check(image_size: int, width: int, name: str, divisors: Sequence[int]) -> None:
    if image_size not in _GENERATORS:
        raise ValueError(f"image_size must be one of {sorted(_GENERATORS)}, got {image_size}")
    if width < 1 or width % max(divisors):
        raise ValueError(f"{name} must be a multiple of {max(divisors)} at {image_size} px, got {width}")


def start_convolutions(block: ProjectionBlock | PreActivationBlock) -> None:
    """Let the convolutions of a residual block begin as in the published code."""
    for name, gain in (("conv1", 2**0.5), ("conv2", 2**0.5), ("shortcut", 1.0)):
        part = getattr(block, name)
        if isinstance(part, nn.Conv2d):
            nn.init.xavier_uniform_(part.weight, gain)
