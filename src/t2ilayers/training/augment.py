"""DiffAugment: what a discriminator sees when pictures are few."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F


class DiffAugment:
    r"""Random changes that every picture goes through before the discriminator sees it, generated ones too.

    A discriminator that sees the same few pictures a hundred times learns them by heart, and then tells the
    generator nothing. Changed at random it never sees one twice. Since generated pictures are changed in the same
    way, and gradients pass through the changes, the generator does not learn to draw them.

    With :math:`u_i` uniform in [0, 1), its own for each picture, and S the side of the pictures:

    - ``"color"``: brightness :math:`x + u_1 - \tfrac12`, then saturation
      :math:`m + 2 u_2 (x - m)` with m the mean over channels, then contrast
      :math:`\mu + (u_3 + \tfrac12)(x - \mu)` with :math:`\mu` the mean of the picture. Where captions name
      colours, leave it out: a red bird that is made grey no longer fits "a red bird".
    - ``"translation"``: moved by up to S/8 px down or up, right or left; what was outside is 0.
    - ``"cutout"``: a square with sides of S/2, its centre anywhere, is set to 0.

    Args:
        policy: which of the three, in any order; they are applied in the order above.

    Shapes:
        Images ``(N, C, S, S)`` in [-1, 1], draws ``(N, 7)`` in [0, 1); the result is ``(N, C, S, S)``.

    Raises:
        ValueError: an unknown name in ``policy``, or draws of another shape.

    Source: Differentiable Augmentation for Data-Efficient GAN Training, arXiv 2006.10738, and its code.

    Example:
        >>> augment = DiffAugment(["translation", "cutout"])
        >>> images = torch.rand(4, 3, 32, 32) * 2 - 1
        >>> augment(images, augment.draw(4)).shape
        torch.Size([4, 3, 32, 32])
    """

    names = ("color", "translation", "cutout")

    def __init__(self, policy: Iterable[str]) -> None:
        self.policy = tuple(policy)
        unknown = [name for name in self.policy if name not in self.names]
        if unknown:
            raise ValueError(f"policy must name some of {self.names}, got {unknown}")

    def draw(self, n: int, device: torch.device | None = None) -> Tensor:
        """Numbers for ``n`` pictures, ``(n, 7)``, from torch's global generator.

        Example: see the class.
        """
        return torch.rand(n, 7, device=device)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change each picture as its row of draws says."""
        if draws.shape != (len(images), 7):
            raise ValueError(f"draws must be ({len(images)}, 7), a row per picture, got {tuple(draws.shape)}")
        color, translation, cutout = draws[:, :3], draws[:, 3:5], draws[:, 5:]
        if "color" in self.policy:
            images = _recolor(images, color)
        if "translation" in self.policy:
            images = _translate(images, translation)
        if "cutout" in self.policy:
            images = _cut(images, cutout)
        return images


def _recolor(images: Tensor, draws: Tensor) -> Tensor:
    brightness, saturation, contrast = draws.to(images.dtype)[:, :, None, None, None].unbind(1)
    images = images + (brightness - 0.5)
    mean = images.mean(dim=1, keepdim=True)
    images = mean + 2 * saturation * (images - mean)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (contrast + 0.5) * (images - mean)


def _translate(images: Tensor, draws: Tensor) -> Tensor:
    side = images.shape[-1]
    most = int(side / 8 + 0.5)
    shifts = (draws * (2 * most + 1)).long() - most
    # Where each row and each column comes from, in pictures with a margin of zeros.
    rows, columns = (torch.arange(side, device=images.device) - shifts[:, :, None] + most).unbind(1)
    margin = F.pad(images, (most,) * 4).permute(0, 2, 3, 1)
    every = torch.arange(len(images), device=images.device)[:, None, None]
    return margin[every, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def _cut(images: Tensor, draws: Tensor) -> Tensor:
    side = images.shape[-1]
    size = int(side / 2 + 0.5)
    first = (draws * (side + 1 - size % 2)).long() - size // 2  # the centre is anywhere, also on the border
    distance = torch.arange(side, device=images.device) - first[:, :, None]
    rows, columns = ((distance >= 0) & (distance < size)).unbind(1)
    kept = ~(rows[:, :, None] & columns[:, None])[:, None]
    return images * kept.to(images.dtype)
