"""What the discriminators of cGAN-PD, SNGAN, SAGAN and BigGAN have in common: residual blocks and a projection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from ..layers import PreActivationBlock, ProjectionHead, SelfAttention2d
from ..ops._fast import channels_last
from ._pictures import check_images


class ResidualDiscriminator(nn.Module):
    """Residual blocks, attention after some of them, and a head that takes a condition.

    Attributes:
        image_size: S.
        attention: sides of the maps that attend to themselves.
        blocks: the residual blocks.
        attentions: by the number of the block before.
        head: scores the features.
    """

    def __init__(
        self,
        image_size: int,
        blocks: Iterable[PreActivationBlock],
        attentions: Mapping[str, SelfAttention2d],
        attention: Sequence[int],
        head: ProjectionHead,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.attention = tuple(sorted(set(attention)))
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleDict(attentions)
        self.head = head

    def features(self, images: Tensor) -> Tensor:
        """What the head looks at: ``images (N, 3, S, S)`` in [-1, 1] to ``(N, C, h, w)``."""
        check_images(images, self.image_size)
        return attend(self.blocks, self.attentions, channels_last(images))

    def match(self, features: Tensor, cond: Tensor | None = None) -> Tensor:
        """Score ``features (N, C, h, w)`` against ``cond``: logits ``(N,)``."""
        logits: Tensor = self.head(features, cond)
        return logits

    def forward(self, images: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.match(self.features(images), cond)

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, attention={self.attention}"


def attend(
    blocks: nn.ModuleList, attentions: nn.ModuleDict, x: Tensor, conditions: Sequence[tuple[Tensor, ...]] = ()
) -> Tensor:
    """``x`` through ``blocks``, each with its condition, and through the attention after each, if there is one."""
    for i, block in enumerate(blocks):
        x = block(x, *(conditions[i] if conditions else ()))
        if str(i) in attentions:
            x = attentions[str(i)](x)
    return x


def places(attention: Sequence[int], sides: Sequence[int]) -> dict[str, int]:
    """For each side, the first block whose result is that many pixels wide, as a key, and its number.

    Raises:
        ValueError: no block has that side.

    Example:
        >>> places([8], [16, 8, 8])
        {'1': 1}
    """
    absent = [side for side in attention if side not in sides]
    if absent:
        raise ValueError(f"attention must be sides of maps, {sorted(set(sides))}, got {absent}")
    return {str(i): i for i in sorted(sides.index(side) for side in set(attention))}
