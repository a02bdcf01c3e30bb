"""BigGAN: residual GAN of classes whose noise enters at every scale, and the deeper block of its successor.

Source: Brock, Donahue, Simonyan, *Large Scale GAN Training for High Fidelity Natural Image Synthesis*,
arXiv 1809.11096, in the published PyTorch code.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
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
from ..ops._fast import add_upsampled, fastest_layout, is_plain, upsampled_conv2d, upsamples
from ._pictures import SpectralToPicture
from ._residual import ResidualDiscriminator, attend, places
from .dfgan import GeneratorOutput

# By image size, the widths after each block in multiples of the base width.
_GENERATORS = {
    32: (4, 4, 4),
    64: (16, 8, 4, 2),
    128: (16, 8, 4, 2, 1),
    256: (16, 8, 8, 4, 2, 1),
    512: (16, 8, 8, 4, 2, 1, 1),
}
# The same of discriminators; all blocks but the last halve the size, at 32 px all but the last two.
_DISCRIMINATORS = {
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
    512: (1, 1, 2, 4, 8, 8, 16, 16),
}
# Spectral norm as in the published code, with the least length of its scripts.
SPECTRAL: dict[str, Any] = {"eps": 1e-6, "step_in_eval": True}
convolution = partial(SpectralConv2d, **SPECTRAL)

Condition = Literal["linear", "embedding"]


def _norm(channels: int, cond_dim: int, condition: Condition, impl: Impl) -> ConditionalBatchNorm2d:
    """Batch norm and relu, with ``1 + gain``, whose statistics are taken before upsampling."""
    norm = ConditionalBatchNorm2d(
        channels, cond_dim, condition=condition, bias=False, scale="residual",
        activation="relu", running_count="input", impl=impl,
    )  # fmt: skip
    if condition == "linear":
        norm.gamma, norm.beta = (SpectralLinear(cond_dim, channels, bias=False, **SPECTRAL) for _ in range(2))
    return norm


def _upsampled(x: Tensor, cond: Tensor, norm: ConditionalBatchNorm2d, conv: SpectralConv2d) -> Tensor:
    """``conv`` of ``norm`` of ``x``, twice as large."""
    if upsamples(x, conv, SpectralConv2d) and is_plain(norm, ConditionalBatchNorm2d):
        return upsampled_conv2d(norm(x, cond), conv.normalized_weight(), conv.bias)
    y: Tensor = conv(norm(x, cond, upsample=2))
    return y


class BigGANBlock(nn.Module):
    r"""Residual block of BigGAN's generator.

    .. math::
        y = \mathrm{shortcut}(\mathrm{up}(x)) + \mathrm{conv}(\mathrm{relu}(\mathrm{norm}_2(\mathrm{conv}(
            \mathrm{up}(\mathrm{relu}(\mathrm{norm}_1(x, c)))), c)))

    ``norm`` is :class:`~t2ilayers.layers.ConditionalBatchNorm2d` with a residual scale,
    :math:`(1 + G c)\, \hat{x} + B c`; ``up`` is nearest. The shortcut is a 1x1 convolution where the width or the
    size changes, else the identity. Convolutions, G and B are spectrally normalised; tables of classes are not.

    Args:
        in_channels: channels of ``x``.
        out_channels: channels of ``y``.
        cond_dim: D, the length of the condition; for ``condition="embedding"`` the number of classes.
        upsample: whether ``y`` is twice as large as ``x``.
        condition: ``"linear"``, G and B without bias, or ``"embedding"``, a row per class.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Shapes:
        ``x (N, C_in, H, W)``; ``cond (N, D)``, or ``(N,)`` of whole numbers in [0, D). Returns
        ``(N, C_out, s*H, s*W)``, s = 2 with ``upsample``, else 1.

    Source: arXiv 1809.11096, figure 15.

    Example:
        >>> BigGANBlock(8, 4, cond_dim=16)(
        ...     torch.randn(2, 8, 8, 8), torch.randn(2, 16)
        ... ).shape
        torch.Size([2, 4, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        cond_dim: int,
        *,
        upsample: bool = True,
        condition: Condition = "linear",
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.norm1 = _norm(in_channels, cond_dim, condition, impl)
        self.conv1 = convolution(in_channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels, cond_dim, condition, impl)
        self.conv2 = convolution(out_channels, out_channels, 3, padding=1)
        self.shortcut: nn.Module = nn.Identity()
        if upsample or in_channels != out_channels:
            self.shortcut = convolution(in_channels, out_channels, 1)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        if self.upsample:
            residual = _upsampled(x, cond, self.norm1, self.conv1)
        else:
            residual = self.conv1(self.norm1(x, cond))
        residual = self.conv2(self.norm2(residual, cond))
        shortcut: Tensor = self.shortcut(x)  # before upsampling, with which it commutes
        return add_upsampled(shortcut, residual) if self.upsample else shortcut + residual

    def extra_repr(self) -> str:
        return f"upsample={self.upsample}"


class BigGANDeepBlock(nn.Module):
    r"""Bottleneck block of BigGAN-deep's generator.

    .. math::
        y = \mathrm{up}(x_{1 \dots C_\mathrm{out}}) + (\mathrm{conv}_{1\times1} \circ n_4 \circ
            \mathrm{conv}_{3\times3} \circ n_3 \circ \mathrm{conv}_{3\times3} \circ \mathrm{up} \circ n_2 \circ
            \mathrm{conv}_{1\times1} \circ n_1)(x), \qquad n_i = \mathrm{relu}(\mathrm{norm}_i(\cdot, c))

    Norms and convolutions are those of :class:`BigGANBlock`; between them are a quarter of ``in_channels``. The
    shortcut drops channels and has no convolution. The code's author calls it untested.

    Args:
        in_channels: channels of ``x``, a multiple of 4.
        out_channels: channels of ``y``, at most ``in_channels``.
        cond_dim: D, the length of the condition.
        upsample: whether ``y`` is twice as large as ``x``.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Shapes:
        ``x (N, C_in, H, W)``, ``cond (N, D)``. Returns ``(N, C_out, s*H, s*W)``, s = 2 with ``upsample``, else 1.

    Raises:
        ValueError: more channels of ``y`` than of ``x``.

    Source: arXiv 1809.11096, figure 16.

    Example:
        >>> BigGANDeepBlock(8, 4, cond_dim=16)(
        ...     torch.randn(2, 8, 8, 8), torch.randn(2, 16)
        ... ).shape
        torch.Size([2, 4, 16, 16])
    """

    def __init__(
        self, in_channels: int, out_channels: int, cond_dim: int, *, upsample: bool = True, impl: Impl = "auto"
    ) -> None:
        super().__init__()
        if out_channels > in_channels:
            raise ValueError(f"out_channels must be at most in_channels = {in_channels}, got {out_channels}")
        hidden = in_channels // 4
        self.out_channels = out_channels
        self.upsample = upsample
        self.norm1 = _norm(in_channels, cond_dim, "linear", impl)
        self.conv1 = convolution(in_channels, hidden, 1)
        self.norm2 = _norm(hidden, cond_dim, "linear", impl)
        self.conv2 = convolution(hidden, hidden, 3, padding=1)
        self.norm3 = _norm(hidden, cond_dim, "linear", impl)
        self.conv3 = convolution(hidden, hidden, 3, padding=1)
        self.norm4 = _norm(hidden, cond_dim, "linear", impl)
        self.conv4 = convolution(hidden, out_channels, 1)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        residual = self.conv1(self.norm1(x, cond))
        if self.upsample:
            residual = _upsampled(residual, cond, self.norm2, self.conv2)
        else:
            residual = self.conv2(self.norm2(residual, cond))
        residual = self.conv3(self.norm3(residual, cond))
        residual = self.conv4(self.norm4(residual, cond))
        kept = x[:, : self.out_channels]
        return add_upsampled(kept, residual) if self.upsample else kept + residual

    def extra_repr(self) -> str:
        return f"upsample={self.upsample}"


class BigGANGenerator(nn.Module):
    r"""Noise and a class to a picture, through one :class:`BigGANBlock` a scale.

    .. math:: h_0 = \mathrm{fc}(z_0), \quad h_i = \mathrm{block}_i(h_{i-1}, [e_c, z_i]), \quad
        \mathrm{image} = \tanh(\mathrm{conv}(\mathrm{relu}(\mathrm{BN}(h))))

    The noise is cut into equal parts, one for the first map and one for each block; :math:`e_c` is a row of one
    table of classes, which all blocks share.

    Args:
        image_size: S: 32, 64, 128, 256 or 512.
        ngf: base width.
        z_dim: length of the noise, a multiple of the number of its parts (6 at 128 px, one more per doubling).
        num_classes: K.
        shared_dim: length of :math:`e_c`; None for tables of K rows in every norm instead, and the noise in one
            part, as in the scripts of that code for SNGAN and SAGAN.
        hierarchical: whether the noise enters at every block; if not, it is one part.
        attention: sides of the maps that attend to themselves (:class:`~t2ilayers.layers.SelfAttention2d`).
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Shapes:
        ``z (N, z_dim)`` from N(0, I); ``cond (N,)`` of whole numbers in [0, K), or ``(N, shared_dim)``, rows of
        ``classes.weight`` or what lies between them. Returns :class:`GeneratorOutput`: images ``(N, 3, S, S)`` in
        [-1, 1].

    Raises:
        ValueError: another size, noise that cannot be cut, attention on maps that there are not, or shapes that do
            not fit.

    Source: arXiv 1809.11096, and its published PyTorch code.

    Example:
        >>> generator = BigGANGenerator(
        ...     64, ngf=4, z_dim=20, num_classes=10, shared_dim=8, attention=(32,)
        ... )
        >>> generator(torch.randn(2, 20), torch.tensor([3, 7])).images.shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(
        self,
        image_size: int = 128,
        ngf: int = 96,
        z_dim: int = 120,
        num_classes: int = 1000,
        *,
        shared_dim: int | None = 128,
        hierarchical: bool = True,
        attention: Sequence[int] = (64,),
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        widths = [ngf * width for width in _widths(_GENERATORS, image_size)]
        self.parts = len(widths) + 1 if hierarchical and shared_dim else 1
        if z_dim % self.parts:
            likely = z_dim // self.parts * self.parts
            raise ValueError(f"z_dim must be a multiple of {self.parts}, such as {likely}, got {z_dim}")
        self.image_size = image_size
        self.z_dim = z_dim
        self.num_classes = num_classes
        self.shared_dim = shared_dim
        self.attention = tuple(sorted(set(attention)))
        self.impl: Impl = impl
        part = z_dim // self.parts
        self.classes = nn.Embedding(num_classes, shared_dim) if shared_dim else None
        self.fc = SpectralLinear(part, widths[0] * 4 * 4, **SPECTRAL)
        condition: Condition = "linear" if shared_dim else "embedding"
        cond_dim = num_classes if not shared_dim else shared_dim + (part if self.parts > 1 else 0)
        self.blocks = nn.ModuleList(
            BigGANBlock(c_in, c_out, cond_dim, condition=condition, impl=impl)
            for c_in, c_out in pairwise([widths[0], *widths])
        )
        sides = [4 * 2**i for i in range(1, len(widths) + 1)]
        self.attentions = nn.ModuleDict(
            {key: SelfAttention2d(widths[i], **SPECTRAL) for key, i in places(attention, sides).items()}
        )
        self.to_image = nn.Sequential(
            ActivatedBatchNorm(widths[-1], "relu", impl=impl),
            SpectralToPicture(widths[-1], 3, 3, padding=1, **SPECTRAL),
            nn.Tanh(),
        )
        orthogonal(self)

    def reset_parameters(self) -> None:
        """As a fresh network: new random weights, no running statistics."""
        reset_parts(self)
        orthogonal(self)

    def forward(self, z: Tensor, cond: Tensor) -> GeneratorOutput:
        n = z.shape[0]
        embedded = self.classes is not None and cond.is_floating_point()
        if z.shape != (n, self.z_dim) or cond.shape != ((n, self.shared_dim) if embedded else (n,)):
            raise ValueError(
                f"z must be (N, z_dim) with z_dim = {self.z_dim} and cond (N,), a class in [0, {self.num_classes})"
                f" each, got {tuple(z.shape)} and {tuple(cond.shape)}"
            )
        if self.classes is not None and not embedded:
            cond = self.classes(cond)
        first, *rest = z.chunk(self.parts, dim=1)
        conditions = [torch.cat([cond, part], dim=1) for part in rest] or [cond] * len(self.blocks)
        x = fastest_layout(self.fc(first).unflatten(1, (-1, 4, 4)), self.impl)  # (N, 16·ngf, 4, 4)
        x = attend(self.blocks, self.attentions, x, [(condition,) for condition in conditions])
        return GeneratorOutput(self.to_image(x).contiguous())

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, z_dim={self.z_dim}, parts={self.parts}"


class BigGANDiscriminator(ResidualDiscriminator):
    r"""One logit for "this is a real picture of this class", with BigGAN's blocks.

    .. math:: D(I, c) = \mathrm{head}(\mathrm{features}(I), c)

    :class:`~t2ilayers.layers.PreActivationBlock`\ s, then :class:`~t2ilayers.layers.ProjectionHead`, all
    spectrally normalised.

    Args:
        image_size: S: 32, 64, 128, 256 or 512.
        ndf: base width.
        num_classes: K.
        attention: sides of the maps that attend to themselves (:class:`~t2ilayers.layers.SelfAttention2d`).
        wide: whether a block widens in its first convolution, as in BigGAN and SAGAN, or in its second, as in
            SNGAN.

    Shapes:
        :meth:`features`: ``images (N, 3, S, S)`` in [-1, 1] to ``(N, C, h, w)``; :meth:`match`: these and
        ``cond (N,)`` of whole numbers in [0, K) to logits ``(N,)``; ``forward(images, cond)``: both.

    Raises:
        ValueError: another size, attention on maps that there are not, or shapes that do not fit.

    Source: arXiv 1809.11096, and its published PyTorch code.

    Example:
        >>> discriminator = BigGANDiscriminator(32, ndf=4, num_classes=10, attention=())
        >>> discriminator(torch.rand(2, 3, 32, 32) * 2 - 1, torch.tensor([3, 7])).shape
        torch.Size([2])
    """

    def __init__(
        self,
        image_size: int = 128,
        ndf: int = 96,
        num_classes: int = 1000,
        *,
        attention: Sequence[int] = (64,),
        wide: bool = True,
    ) -> None:
        widths = [3, *(ndf * width for width in _widths(_DISCRIMINATORS, image_size))]
        halvings = len(widths) - (3 if image_size == 32 else 2)
        sides = [image_size // 2 ** min(i, halvings) for i in range(1, len(widths))]
        blocks = [
            PreActivationBlock(
                c_in, c_out, None if wide else c_in, downsample=i < halvings, first=i == 0, convolution=convolution
            )
            for i, (c_in, c_out) in enumerate(pairwise(widths))
        ]
        attentions = {
            key: SelfAttention2d(widths[i + 1], **SPECTRAL) for key, i in places(attention, sides).items()
        }
        head = ProjectionHead(widths[-1], num_classes)
        head.linear = SpectralLinear(widths[-1], 1, **SPECTRAL)
        head.embed = SpectralEmbedding(num_classes, widths[-1], **SPECTRAL)
        super().__init__(image_size, blocks, attentions, attention, head)
        orthogonal(self)

    def reset_parameters(self) -> None:
        """As a fresh network: new random weights."""
        reset_parts(self)
        orthogonal(self)


def orthogonal(network: nn.Module) -> None:
    """Let every convolution, Linear and table begin with an orthogonal weight, as in the published code."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear | nn.Embedding):
            nn.init.orthogonal_(part.weight)


def _widths(table: dict[int, tuple[int, ...]], image_size: int) -> tuple[int, ...]:
    if image_size not in table:
        raise ValueError(f"image_size must be one of {list(table)}, got {image_size}")
    return table[image_size]
