"""A discriminator that looks at a frozen network's features instead of pixels, and sees the sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ..layers import Conv2d, DownBlock, LeakyReLU, MatchingHead
from ._pictures import check_images
from .discriminators import Projected

_SIDE = 4  # of every map that a head sees


class FeatureDiscriminator(Projected):
    r"""One logit for "this is a real picture of this sentence", by heads on maps of a frozen trunk.

    .. math:: f_i = \mathrm{neck}_i(\mathrm{trunk}_i(I)), \qquad
        D(I, e) = \frac1m \sum_{i=1}^m \mathrm{head}_i(f_i, e)

    A neck is a 1x1 convolution to ``width`` channels, leaky ReLU, and :class:`~t2ilayers.layers.DownBlock`\ s to
    4x4 px; smaller maps are enlarged, and what does not halve to 4x4 is pooled. A head is
    :class:`~t2ilayers.layers.MatchingHead`. Features do not depend on the sentence, so
    :class:`~t2ilayers.training.MatchingAwareStep` takes it as it takes
    :class:`~t2ilayers.models.MatchingAwareDiscriminator`.

    The trunk is not trained: it is put into evaluation mode and stays there whatever :meth:`train` is told, its
    parameters take no gradients, and pictures do. It follows ``.to()``, but is no part of :meth:`parameters` or
    the state dict, as GALIP keeps CLIP out of its checkpoints: whoever loads one gives the same trunk.

    Args:
        trunk: pictures ``(N, 3, S, S)`` to a list of maps ``(N, C_i, h_i, w_i)``, as
            :class:`~t2ilayers.encoders.EfficientNetLite0`.
        cond_dim: D, the length of the sentence.
        image_size: S.
        width: of the features that each head sees.
        projection: whether the logit has an inner product besides, of the sentence's direction and a linear code
            of all features; ``contrast_weight`` of :class:`~t2ilayers.training.MatchingAwareConfig` needs it.

    Shapes:
        :meth:`features`: ``images (N, 3, S, S)`` in [-1, 1] to ``(N, m * width, 4, 4)``; :meth:`match`: these and
        ``cond (N, D)`` to logits ``(N,)``; ``forward(images, cond)``: both.

    Raises:
        ValueError: a trunk that does not return maps, or pictures of another shape.

    Source: Sauer et al., Projected GANs, arXiv 2111.01007; GALIP, arXiv 2301.12959; LADD, arXiv 2403.12015. They
    differ in heads, and train each with a loss of its own; random mixing of the maps (Projected GANs) is left out.

    Example:
        >>> from t2ilayers.encoders import EfficientNetLite0
        >>> trunk = EfficientNetLite0()  # .pretrained() has ImageNet's weights
        >>> discriminator = FeatureDiscriminator(trunk, 16, image_size=64, width=8)
        >>> images, cond = torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 16)
        >>> discriminator.features(images).shape, discriminator(images, cond).shape
        (torch.Size([2, 32, 4, 4]), torch.Size([2]))
        >>> any("stem" in key for key in discriminator.state_dict())
        False
    """

    def __init__(
        self,
        trunk: nn.Module,
        cond_dim: int = 256,
        *,
        image_size: int = 64,
        width: int = 128,
        projection: bool = False,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.width = width
        # In a tuple it is no submodule: neither optimizers nor checkpoints find it.
        self._trunk = (trunk.requires_grad_(False).eval(),)
        self.necks, self.heads = nn.ModuleList(), nn.ModuleList()
        for channels, height, across in self._shapes():
            self.necks.append(_neck(channels, width, height, across))
            self.heads.append(MatchingHead(width, width, cond_dim, size=_SIDE))
        if projection:
            self.projection = self.linear_code(len(self.heads) * width * _SIDE**2, cond_dim)

    @property
    def trunk(self) -> nn.Module:
        """The frozen network."""
        return self._trunk[0]

    def features(self, images: Tensor) -> Tensor:
        """What the heads look at: ``images (N, 3, S, S)`` in [-1, 1] to ``(N, m * width, 4, 4)``.

        Example: see the class.
        """
        check_images(images, self.image_size)
        maps = self.trunk(images)
        return torch.cat([neck(one) for neck, one in zip(self.necks, maps, strict=True)], dim=1)

    def match(self, features: Tensor, cond: Tensor) -> Tensor:
        """Score ``features (N, m * width, 4, 4)`` against ``cond (N, D)``: logits ``(N,)``.

        Example: see the class.
        """
        parts = torch.split(features, self.width, dim=1)
        scores = [head(part, cond) for head, part in zip(self.heads, parts, strict=True)]
        return self.projected(torch.stack(scores).mean(0), features, cond)

    def forward(self, images: Tensor, cond: Tensor) -> Tensor:
        return self.match(self.features(images), cond)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.trunk._apply(fn)  # type: ignore[no-untyped-call]
        return self

    def _shapes(self) -> list[tuple[int, int, int]]:
        some = next(self.trunk.parameters(), torch.zeros(()))
        with torch.no_grad():
            maps = self.trunk(some.new_zeros(1, 3, self.image_size, self.image_size))
        if not isinstance(maps, Sequence) or not maps or any(one.dim() != 4 for one in maps):
            raise ValueError(
                f"trunk must return a list of maps (N, C, h, w), got {type(maps).__name__}; wrap it in a module "
                "that does"
            )
        return [tuple(one.shape[1:]) for one in maps]

    def extra_repr(self) -> str:
        return f"trunk={type(self.trunk).__name__}, image_size={self.image_size}, width={self.width}"


def _neck(channels: int, width: int, height: int, across: int) -> nn.Sequential:
    neck = nn.Sequential(Conv2d(channels, width, 1), LeakyReLU(0.2))
    while min(height, across) >= 2 * _SIDE and height % 2 == across % 2 == 0:
        neck.append(DownBlock(width, width))
        height, across = height // 2, across // 2
    if (height, across) != (_SIDE, _SIDE):
        neck.append(nn.AdaptiveAvgPool2d(_SIDE))
    return neck
