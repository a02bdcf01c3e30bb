"""Discriminators of a picture and its condition."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import AttentionMatchingHead, Conv2d, DownBlock, LeakyReLU, MatchingHead
from ..ops._fast import channels_last
from ._pictures import check_image_size, check_images


class Projected(nn.Module):
    """An inner product of the sentence's direction and a linear code of all features, beside the head.

    Attributes:
        projection: features to codes, or None.
    """

    def __init__(self) -> None:
        super().__init__()
        self.projection: nn.Sequential | None = None

    @staticmethod
    def linear_code(size: int, cond_dim: int) -> nn.Sequential:
        """Features of ``size`` values to codes ``(N, D)``."""
        return nn.Sequential(LeakyReLU(0.2), nn.Flatten(), nn.Linear(size, cond_dim, bias=False))

    def projected(self, logits: Tensor, features: Tensor, cond: Tensor) -> Tensor:
        """``logits (N,)`` of the head, and the inner product if there is one."""
        if self.projection is None:
            return logits
        return logits + (self.code(features) * F.normalize(cond, dim=1)).sum(1)

    def code(self, features: Tensor) -> Tensor:
        """What of the ``features (N, C, h, w)`` the sentence is compared with, ``(N, D)``.

        Raises:
            ValueError: the discriminator was made without ``projection``.

        Example:
            >>> import torch
            >>> discriminator = MatchingAwareDiscriminator(16, ndf=4, projection=True)
            >>> discriminator.code(torch.zeros(2, 16, 4, 4)).shape
            torch.Size([2, 256])
        """
        if self.projection is None:
            raise ValueError("codes need a discriminator with a projection, got one without; pass projection=True")
        code: Tensor = self.projection(features)
        return code


class MatchingAwareDiscriminator(Projected):
    r"""One logit for "this is a real picture of this sentence".

    .. math:: D(I, e) = \mathrm{head}(\mathrm{features}(I), e)

    A 3x3 convolution, then :class:`~t2ilayers.layers.DownBlock`\ s to 4x4 px, as wide as
    ``ndf * min(max_width, 2^i)`` after the i-th, then :class:`~t2ilayers.layers.MatchingHead`. Features do not
    depend on the sentence, so one pass over real pictures scores them against several sentences.

    Args:
        image_size: S, a power of two from 16.
        ndf: base width.
        cond_dim: D, the length of the sentence.
        max_width: of the widest blocks, in multiples of ``ndf``: 16 in SSA-GAN, RAT-GAN and DF-GAN's code of 2020,
            8 in DF-GAN's code of 2022.
        attention: whether features end at 8x8 px and the head is
            :class:`~t2ilayers.layers.AttentionMatchingHead`, as in RAT-GAN's code until June 2023.
        projection: whether the logit has an inner product besides, of the sentence's direction and a linear code
            of all features. A head that concatenates is slow to find which words go with what; this is not, and
            ``contrast_weight`` of :class:`~t2ilayers.training.MatchingAwareConfig` trains it.

    Shapes:
        :meth:`features`: ``images (N, 3, S, S)`` in [-1, 1] to ``(N, C, 4, 4)``, or 8x8; :meth:`match`: these and
        ``cond (N, D)`` to logits ``(N,)``; ``forward(images, cond)``: both; :meth:`code`, with ``projection``:
        features to ``(N, D)``.

    Raises:
        ValueError: a size that is no power of two, or shapes that do not fit.

    Source: arXiv 2104.00567; DF-GAN, arXiv 2008.05865; the projection, arXiv 1802.05637 and XMC-GAN, arXiv
    2101.04702.

    Example:
        >>> import torch
        >>> discriminator = MatchingAwareDiscriminator(image_size=32, ndf=8)
        >>> images, cond = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, 256)
        >>> features = discriminator.features(images)
        >>> (
        ...     discriminator.match(features, cond).shape,
        ...     discriminator.match(features, cond.roll(1, 0)).shape,
        ... )
        (torch.Size([4]), torch.Size([4]))
    """

    def __init__(
        self,
        image_size: int = 256,
        ndf: int = 64,
        cond_dim: int = 256,
        *,
        max_width: int = 16,
        attention: bool = False,
        projection: bool = False,
    ) -> None:
        super().__init__()
        check_image_size(image_size)
        self.image_size = image_size
        self.max_width = max_width
        self.attention = attention
        halvings = image_size.bit_length() - (4 if attention else 3)  # image_size -> 8 or 4
        widths = [ndf * min(max_width, 2**i) for i in range(halvings + 1)]
        self.from_image = Conv2d(3, ndf, 3, padding=1)
        self.blocks = nn.Sequential(*(DownBlock(c_in, c_out) for c_in, c_out in pairwise(widths)))
        self.head = (AttentionMatchingHead if attention else MatchingHead)(widths[-1], 2 * ndf, cond_dim)
        if projection:
            self.projection = self.linear_code((64 if attention else 16) * widths[-1], cond_dim)

    def features(self, images: Tensor) -> Tensor:
        """What the head looks at: ``images (N, 3, S, S)`` in [-1, 1] to ``(N, C, 4, 4)``.

        Example:
            >>> import torch
            >>> MatchingAwareDiscriminator(16, ndf=4).features(
            ...     torch.zeros(2, 3, 16, 16)
            ... ).shape
            torch.Size([2, 16, 4, 4])
        """
        check_images(images, self.image_size)
        return self.blocks(self.from_image(channels_last(images)))

    def match(self, features: Tensor, cond: Tensor) -> Tensor:
        """Score ``features (N, C, 4, 4)`` against ``cond (N, D)``: logits ``(N,)``.

        Example:
            >>> import torch
            >>> MatchingAwareDiscriminator(16, ndf=4).match(
            ...     torch.zeros(2, 16, 4, 4), torch.zeros(2, 256)
            ... ).shape
            torch.Size([2])
        """
        return self.projected(self.head(features, cond), features, cond)

    def forward(self, images: Tensor, cond: Tensor) -> Tensor:
        return self.match(self.features(images), cond)

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, max_width={self.max_width}, attention={self.attention}"
