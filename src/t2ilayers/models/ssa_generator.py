"""SSA-GAN's generator, and what it returns.

Source: Liao et al., *Text to Image Generation with Semantic-Spatial Aware GAN*, arXiv 2104.00567.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from torch import Tensor, nn

from ..figures import mask_sheet, sample_sheet, to_picture
from ..layers import FusedSequential, SSAConv
from ..layers.conditional_norm import affine_parameters
from ..ops import Impl
from ..ops._fast import fastest_layout, is_plain
from ..ops._torch import exportable
from ._pictures import ToPicture, check_image_size

if TYPE_CHECKING:
    from PIL import Image


@exportable
class SSAGeneratorOutput(NamedTuple):
    """What the generator returns.

    Attributes:
        images: ``(N, 3, S, S)`` in [-1, 1].
        masks: one mask per block, coarse to fine, ``(N, 1, s, s)`` for s = 4, 8, ..., S, in [0, 1].

    Example:
        >>> import torch
        >>> output = SSAGenerator(16, ngf=4)(torch.randn(2, 100), torch.randn(2, 256))
        >>> [tuple(mask.shape) for mask in output.masks]
        [(2, 1, 4, 4), (2, 1, 8, 8), (2, 1, 16, 16)]
        >>> output.pictures()[0].size, output.sheet(["a red star", "a ring"]).mode
        ((16, 16), 'RGB')
    """

    images: Tensor
    masks: tuple[Tensor, ...]

    def pictures(self) -> list[Image.Image]:
        """The images as ``PIL.Image``, one each. Needs Pillow."""
        return [to_picture(image) for image in self.images]

    def sheet(self, captions: Sequence[str] | None = None, *, masks: bool = True) -> Image.Image:
        """All images on one sheet. Needs Pillow.

        Args:
            captions: N, to stand below them.
            masks: a row per image with its masks beside it, see :func:`~t2ilayers.figures.mask_sheet`; False draws
                the images alone in a grid, see :func:`~t2ilayers.figures.sample_sheet`.
        """
        captions = [""] * len(self.images) if captions is None else captions
        if masks and self.masks:
            return mask_sheet(self.images, self.masks, captions)
        return sample_sheet(self.images, captions)

    def _repr_png_(self) -> bytes:
        """How a notebook shows it."""
        content = io.BytesIO()
        self.sheet().save(content, "PNG")
        return content.getvalue()


class SSAGenerator(nn.Module):
    r"""Noise and a sentence to a picture, through one :class:`~t2ilayers.layers.SSAConv` a scale.

    .. math::
        h_0 = \mathrm{fc}(z), \quad (h_{i+1}, m_i) = \mathrm{SSAConv}_i(h_i, e), \quad
        \mathrm{image} = \tanh(\mathrm{conv}(\mathrm{lrelu}(\mathrm{BN}(h))))

    Blocks work at 4, 8, ..., S px; the one whose output is r px wide has ``ngf * min(8, S / r)`` channels.

    Args:
        image_size: S, a power of two from 16.
        ngf: base width.
        z_dim: length of the noise.
        cond_dim: D, the length of the sentence.
        mask_channels: hidden channels of the mask predictors; 0 for a generator without masks.
        hidden_dim: width of the MLPs that turn the sentence into affine parameters.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Shapes:
        ``z (N, z_dim)`` from N(0, I), ``cond (N, D)``, ``masks`` a sequence with one entry per block, coarse
        to fine, each ``(N, 1, s, s)`` in [0, 1], or None where the block predicts its own. Returns
        :class:`SSAGeneratorOutput`: images ``(N, 3, S, S)`` in [-1, 1] and the masks used, none of them without
        predictors.

    Raises:
        ValueError: a size that is no power of two, or shapes that do not fit.

    Source: arXiv 2104.00567.

    Example:
        >>> import torch
        >>> generator = SSAGenerator(image_size=32, ngf=8)
        >>> images, masks = generator(torch.randn(2, 100), torch.randn(2, 256))
        >>> images.shape, len(masks)
        (torch.Size([2, 3, 32, 32]), 4)
        >>> everywhere = torch.ones(2, 1, 32, 32)
        >>> images, masks = generator(
        ...     torch.randn(2, 100), torch.randn(2, 256), [None, None, None, everywhere]
        ... )
    """

    def __init__(
        self,
        image_size: int = 256,
        ngf: int = 64,
        z_dim: int = 100,
        cond_dim: int = 256,
        *,
        mask_channels: int = 100,
        hidden_dim: int = 256,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        check_image_size(image_size)
        self.image_size = image_size
        self.z_dim = z_dim
        self.impl: Impl = impl
        sides = [2**i for i in range(2, image_size.bit_length())]  # 4, 8, ..., image_size
        widths = [ngf * min(8, image_size // side) for side in sides]
        self.fc = nn.Linear(z_dim, 8 * ngf * 4 * 4)
        self.blocks = nn.ModuleList(
            SSAConv(
                c_in,
                c_out,
                cond_dim,
                upsample=side > 4,
                mask_channels=mask_channels,
                hidden_dim=hidden_dim,
                impl=impl,
            )
            for side, c_in, c_out in zip(sides, [8 * ngf, *widths], widths, strict=False)
        )
        self.to_image = FusedSequential(
            nn.BatchNorm2d(widths[-1]),
            nn.LeakyReLU(0.2),
            ToPicture(widths[-1], 3, 3, padding=1),
            nn.Tanh(),
            impl=impl,
        )

    def forward(self, z: Tensor, cond: Tensor, masks: Sequence[Tensor | None] | None = None) -> SSAGeneratorOutput:
        if z.dim() != 2 or z.shape[1] != self.z_dim or z.shape[0] != cond.shape[0]:
            raise ValueError(
                f"z must be (N, z_dim) = {(cond.shape[0], self.z_dim)}, one row per sentence, got {tuple(z.shape)}"
            )
        if masks is None:
            masks = [None] * len(self.blocks)
        if len(masks) != len(self.blocks):
            raise ValueError(f"masks must have one entry per block, {len(self.blocks)}, got {len(masks)}")
        x = fastest_layout(self.fc(z).unflatten(1, (-1, 4, 4)), self.impl)  # (N, 8·ngf, 4, 4)
        blocks = cast(Sequence[SSAConv], self.blocks)
        # All blocks' gammas and betas at once, but for blocks that must not be looked into before they are called.
        plain = [block for block in blocks if is_plain(block, SSAConv)]
        predicted = iter(affine_parameters([norm for block in plain for norm in (block.norm1, block.norm2)], cond))
        used = []
        for block, given in zip(blocks, masks, strict=True):
            affine = (next(predicted), next(predicted)) if block in plain else None
            x, mask = block(x, cond, given, affine=affine)
            used.append(mask)
        return SSAGeneratorOutput(self.to_image(x).contiguous(), tuple(mask for mask in used if mask is not None))

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, z_dim={self.z_dim}"
