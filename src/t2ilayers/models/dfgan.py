"""DF-GAN: the generator of deep text-image fusion, in its code of 2022 and of 2020.

Source: Tao et al., *DF-GAN: A Simple and Effective Baseline for Text-to-Image Synthesis*, arXiv 2008.05865.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import DFAffineBlock, chain_parameters
from ..layers._reset import reset_parts
from ..ops import Impl
from ..ops._fast import add_upsampled, fastest_layout, is_plain, scaled_conv2d, upsampled_conv2d, upsamples
from ..ops._torch import exportable
from ._pictures import ToPicture, check_image_size

Affines = tuple[list[Tensor], list[Tensor]]


@exportable
class GeneratorOutput(NamedTuple):
    """What a generator returns that has nothing but pictures to return.

    Attributes:
        images: ``(N, 3, S, S)`` in [-1, 1].
    """

    images: Tensor


class DFBlock(nn.Module):
    r"""Upsamples and fuses a condition into features, without any statistics.

    .. math::
        y = \mathrm{shortcut}(\mathrm{up}(x)) + g\, \mathrm{conv}(\mathrm{fuse}_2(\mathrm{conv}(
            \mathrm{fuse}_1(\mathrm{up}(x), e)), e))

    Convolutions of the residual are 3x3; the shortcut is a 1x1 convolution where the width changes, else the
    identity. ``fuse`` is :class:`~t2ilayers.layers.DFAffineBlock`.

    Args:
        in_channels: channels of ``x``.
        out_channels: channels of ``y``.
        cond_dim: D, the length of the condition.
        hidden_dim: width of the MLPs; None takes the channels they modulate.
        upsample: whether ``y`` is twice as large as ``x``.
        size: the side of ``y``, by nearest neighbour, where it is not twice that of ``x`` (GALIP).
        affines: in a row, in each of the two.
        gated: whether ``g`` is a learned scalar that starts at 0, as in the code of 2020; else it is 1.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Shapes:
        ``x (N, C_in, H, W)``, ``cond (N, D)`` or ``2 * affines`` of them, one for each affine. Returns
        ``(N, C_out, s*H, s*W)``, s = 2 with ``upsample``, else 1, or ``(N, C_out, size, size)``. ``affines``: of
        both, where they were predicted before, by :func:`~t2ilayers.layers.chain_parameters` with those of other
        blocks.

    Source: arXiv 2008.05865, "UPBlock".

    Example:
        >>> DFBlock(8, 4, cond_dim=16)(
        ...     torch.randn(2, 8, 8, 8), torch.randn(2, 16)
        ... ).shape
        torch.Size([2, 4, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        cond_dim: int,
        hidden_dim: int | None = None,
        *,
        upsample: bool = True,
        size: int | None = None,
        affines: int = 2,
        gated: bool = False,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.size = size
        self.fuse1 = DFAffineBlock(in_channels, cond_dim, hidden_dim, affines=affines, impl=impl)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.fuse2 = DFAffineBlock(out_channels, cond_dim, hidden_dim, affines=affines, impl=impl)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1)) if gated else None

    def reset_parameters(self) -> None:
        """As a fresh block: new random weights, a gate of 0."""
        reset_parts(self)
        if self.gamma is not None:
            nn.init.zeros_(self.gamma)

    def forward(
        self,
        x: Tensor,
        cond: Tensor | Sequence[Tensor],
        *,
        affines: Sequence[Affines | None] | None = None,
    ) -> Tensor:
        fuses, conds = (self.fuse1, self.fuse2), split(cond)
        affine1, affine2 = chain_parameters(fuses, conds) if affines is None else affines
        doubled = self.upsample if self.size is None else x.shape[2] * 2 == x.shape[3] * 2 == self.size
        later = doubled and upsamples(x, self.conv1) and is_plain(self.fuse1, DFAffineBlock)
        residual = self.fuse1(x, conds[0], upsample=2 if doubled and not later else 1, affines=affine1)
        if later:
            residual = upsampled_conv2d(residual, self.conv1.weight, self.conv1.bias)
        else:
            residual = self.conv1(residual if doubled else self._sized(residual))
        residual = self.fuse2(residual, conds[1], affines=affine2)
        residual = self.conv2(residual) if self.gamma is None else scaled_conv2d(residual, self.conv2, self.gamma)
        shortcut = self.shortcut(x)  # before upsampling, with which it commutes
        return add_upsampled(shortcut, residual) if doubled else self._sized(shortcut) + residual

    def _sized(self, x: Tensor) -> Tensor:
        """``x`` with :attr:`size` pixels a side."""
        return x if self.size is None else F.interpolate(x, (self.size, self.size), mode="nearest")

    def extra_repr(self) -> str:
        return f"upsample={self.upsample}" if self.size is None else f"size={self.size}"


def split(cond: Tensor | Sequence[Tensor]) -> tuple[Tensor | Sequence[Tensor], Tensor | Sequence[Tensor]]:
    """The conditions of a block's two rows of affines."""
    half = 0 if isinstance(cond, Tensor) else len(cond) // 2
    return (cond, cond) if isinstance(cond, Tensor) else (cond[:half], cond[half:])


def through(
    blocks: Iterable[nn.Module],
    x: Tensor,
    conds: Sequence[Tensor | Sequence[Tensor]],
    kind: type[nn.Module] = DFBlock,
) -> Tensor:
    """``x`` after one block after the other, each with its condition.

    The affines of all are predicted at once, but for blocks that must not be looked into before they are called.
    """
    pairs = [(block, cond, is_plain(block, kind)) for block, cond in zip(blocks, conds, strict=True)]
    fuses: list[Any] = [fuse for block, _, plain in pairs if plain for fuse in (block.fuse1, block.fuse2)]
    predicted = iter(chain_parameters(fuses, [part for _, cond, plain in pairs if plain for part in split(cond)]))
    for block, cond, plain in pairs:
        x = block(x, cond, affines=(next(predicted), next(predicted))) if plain else block(x, cond)
    return x


def check_inputs(z: Tensor, cond: Tensor, z_dim: int, cond_dim: int) -> None:
    """ValueError unless noise and sentences are as many and as long as a generator needs them."""
    n = cond.shape[0]
    if z.shape != (n, z_dim) or cond.shape != (n, cond_dim):
        raise ValueError(
            f"z must be (N, z_dim) and cond (N, D) with z_dim = {z_dim} and D = {cond_dim}, got "
            f"{tuple(z.shape)} and {tuple(cond.shape)}"
        )


class DFGenerator(nn.Module):
    r"""Noise and a sentence to a picture, through one :class:`DFBlock` a scale.

    .. math:: h_0 = \mathrm{fc}(z), \quad h_{i+1} = \mathrm{DFBlock}_i(h_i, c), \quad
        \mathrm{image} = \tanh(\mathrm{conv}(\mathrm{lrelu}(h)))

    ``version="2022"`` conditions every affine on noise and sentence, :math:`c = [z, e]`, and its blocks upsample
    from 4 px to 8, 16, ..., S. ``"2020"`` conditions on the sentence alone, :math:`c = e`, has a first block at
    4 px, MLPs of width 256 and a learned scalar on each residual. Neither has a norm or dropout, so training and
    evaluation mode agree. A block whose output is r px wide has ``ngf * min(8, S / r)`` channels.

    Args:
        image_size: S, a power of two from 16.
        ngf: base width.
        z_dim: length of the noise.
        cond_dim: D, the length of the sentence.
        version: of the published code.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Shapes:
        ``z (N, z_dim)`` from N(0, I), ``cond (N, D)``. Returns :class:`GeneratorOutput`: images ``(N, 3, S, S)``
        in [-1, 1].

    Raises:
        ValueError: a size that is no power of two, an unknown version, or shapes that do not fit.

    Source: arXiv 2008.05865 and its published code.

    Example:
        >>> generator = DFGenerator(image_size=32, ngf=4)
        >>> generator(torch.randn(2, 100), torch.randn(2, 256)).images.shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        image_size: int = 256,
        ngf: int = 32,
        z_dim: int = 100,
        cond_dim: int = 256,
        *,
        version: Literal["2022", "2020"] = "2022",
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        check_image_size(image_size)
        if version not in ("2022", "2020"):
            raise ValueError(f'version must be "2022" or "2020", got {version!r}')
        self.image_size = image_size
        self.z_dim = z_dim
        self.cond_dim = cond_dim
        self.version = version
        self.impl: Impl = impl
        first = 8 if version == "2022" else 4
        sides = [2**i for i in range(2, image_size.bit_length()) if 2**i >= first]
        widths = [ngf * min(8, image_size // side) for side in sides]
        fused, hidden = (z_dim + cond_dim, None) if version == "2022" else (cond_dim, 256)
        self.fc = nn.Linear(z_dim, 8 * ngf * 4 * 4)
        self.blocks = nn.ModuleList(
            DFBlock(c_in, c_out, fused, hidden, upsample=side > 4, gated=version == "2020", impl=impl)
            for side, c_in, c_out in zip(sides, [8 * ngf, *widths], widths, strict=False)
        )
        self.to_image = nn.Sequential(nn.LeakyReLU(0.2), ToPicture(widths[-1], 3, 3, padding=1), nn.Tanh())

    def forward(self, z: Tensor, cond: Tensor) -> GeneratorOutput:
        check_inputs(z, cond, self.z_dim, self.cond_dim)
        x = fastest_layout(self.fc(z).unflatten(1, (-1, 4, 4)), self.impl)  # (N, 8·ngf, 4, 4)
        condition = torch.cat([z, cond], dim=1) if self.version == "2022" else cond
        x = through(self.blocks, x, [condition] * len(self.blocks))
        return GeneratorOutput(self.to_image(x).contiguous())

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, z_dim={self.z_dim}, version={self.version!r}"
