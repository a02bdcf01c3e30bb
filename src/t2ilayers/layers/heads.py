"""Heads of discriminators: do these features and this condition belong together?"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .discriminator import DownBlock
from .gradfix import Conv2d, LeakyReLU


class MatchingHead(nn.Module):
    r"""Scores whether a grid of image features and a condition belong together, by convolutions.

    .. math:: \mathrm{logit} = \mathrm{conv}(\mathrm{lrelu}(\mathrm{conv}_{k \times k}([f, e])))

    The condition is repeated over the places of the grid and concatenated to the features; a condition that is a
    map is concatenated as it is. The last kernel is as large as what the first convolution leaves. No biases.

    Args:
        in_channels: C, the channels of the features.
        hidden_channels: channels between the two convolutions.
        cond_dim: D, the length of the condition.
        size: of the grid: its side, or height and width.
        kernel_size: k, of the first convolution.
        padding: of the first convolution.

    Shapes:
        ``features (N, C, h, w)``; ``cond (N, D)``, or ``(N, D, h, w)``. Returns logits ``(N,)``.

    Raises:
        ValueError: a kernel larger than the grid; from ``forward``, shapes that do not fit.

    Source: DF-GAN, arXiv 2008.05865, "one-way output"; used by SSA-GAN, arXiv 2104.00567. With ``size=7,
    kernel_size=4, padding=0`` that of GALIP, arXiv 2301.12959.

    Example:
        >>> MatchingHead(128, 16, cond_dim=32)(
        ...     torch.randn(2, 128, 4, 4), torch.randn(2, 32)
        ... ).shape
        torch.Size([2])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        cond_dim: int = 256,
        *,
        size: int | tuple[int, int] = 4,
        kernel_size: int = 3,
        padding: int = 1,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.cond_dim = cond_dim
        self.size = (size, size) if isinstance(size, int) else size
        left = [side + 2 * padding - kernel_size + 1 for side in self.size]
        if min(left) < 1:
            most = min(self.size) + 2 * padding
            raise ValueError(f"kernel_size must be at most size + 2 * padding = {most}, got {kernel_size}")
        self.layers = nn.Sequential(
            Conv2d(in_channels + cond_dim, hidden_channels, kernel_size, padding=padding, bias=False),
            LeakyReLU(0.2),
            Conv2d(hidden_channels, 1, (left[0], left[1]), bias=False),
        )

    def forward(self, features: Tensor, cond: Tensor) -> Tensor:
        if features.dim() != 4 or features.shape[1:] != (self.in_channels, *self.size):
            shape = f"{self.in_channels}, {self.size[0]}, {self.size[1]}"
            raise ValueError(
                f"features must be (N, {shape}), got {tuple(features.shape)}; "
                "they come from the discriminator's features() on images of its image_size"
            )
        n = features.shape[0]
        if cond.shape == (n, self.cond_dim):
            cond = cond[:, :, None, None].expand(-1, -1, *self.size)
        elif cond.shape != (n, self.cond_dim, *self.size):
            raise ValueError(
                f"cond must be (N, D) = {(n, self.cond_dim)}, one row per picture, or a map of {self.size}, "
                f"got {tuple(cond.shape)}"
            )
        joint = torch.cat([features, cond.to(features.dtype)], dim=1)
        return self.layers(joint).flatten()

    def extra_repr(self) -> str:
        return f"in_channels={self.in_channels}, cond_dim={self.cond_dim}, size={self.size}"


class AttentionMatchingHead(nn.Module):
    r"""Scores features and a condition where they fit best: the head of RAT-GAN's paper.

    .. math::
        p = \mathrm{softmax}_{ij}\big(\sigma(\mathrm{conv}_{1 \times 1}(\mathrm{lrelu}(\mathrm{conv}_{3 \times 3}(
        [f, e]))))\big), \qquad \mathrm{logit} = \mathrm{head}(\mathrm{down}([f, p\, e]), e)

    ``head`` is :class:`MatchingHead`, ``down`` :class:`DownBlock`. The published code gave it up in 2023 for that
    head alone, "for better stability".

    Args:
        in_channels: C, the channels of the features.
        hidden_channels: between two convolutions.
        cond_dim: D, the length of the condition.

    Shapes:
        ``features (N, C, 8, 8)``, ``cond (N, D)``. Returns logits ``(N,)``.

    Source: arXiv 2204.10482, "spatial attention", and its code until June 2023.

    Example:
        >>> AttentionMatchingHead(32, 4, cond_dim=16)(
        ...     torch.randn(2, 32, 8, 8), torch.randn(2, 16)
        ... ).shape
        torch.Size([2])
    """

    def __init__(self, in_channels: int, hidden_channels: int, cond_dim: int = 256) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            Conv2d(in_channels + cond_dim, hidden_channels, 3, padding=1, bias=False),
            LeakyReLU(0.2),
            Conv2d(hidden_channels, 1, 1, bias=False),
        )
        self.block = DownBlock(in_channels + cond_dim, in_channels)
        self.head = MatchingHead(in_channels, hidden_channels, cond_dim)

    def forward(self, features: Tensor, cond: Tensor) -> Tensor:
        everywhere = cond[:, :, None, None].expand(-1, -1, *features.shape[2:]).to(features.dtype)
        weights = self.attention(torch.cat([features, everywhere], dim=1)).sigmoid()
        places = F.softmax(weights.flatten(1), dim=1).view_as(weights)  # (N, 1, 8, 8)
        return self.head(self.block(torch.cat([features, places * everywhere], dim=1)), cond)


class ProjectionHead(nn.Module):
    r"""Scores features by themselves, and by their inner product with an embedding of the condition.

    .. math:: \mathrm{logit} = w^\top h + b + \langle v(e), h \rangle, \qquad h = \sum_{ij} \mathrm{ReLU}(f_{ij})

    Args:
        in_channels: C, the channels of the features.
        cond_dim: number of classes, or D, the length of the condition.
        condition: ``"embedding"``, one row per class, or ``"linear"``, a Linear(D, C) without bias. ``cond_dim=0``
            leaves the inner product out, as in SNGAN.

    Shapes:
        ``features (N, C, h, w)`` of any size; ``cond (N,)`` of whole numbers in [0, cond_dim), or ``(N, D)``, or
        None with ``cond_dim=0``. Returns logits ``(N,)``.

    Raises:
        ValueError: an unknown word; from ``forward``, shapes that do not fit.

    Source: Miyato, Koyama, *cGANs with Projection Discriminator*, arXiv 1802.05637; used by SAGAN and BigGAN.

    Example:
        >>> head = ProjectionHead(128, 10)
        >>> head(torch.randn(2, 128, 4, 4), torch.tensor([3, 7])).shape
        torch.Size([2])
    """

    def __init__(
        self, in_channels: int, cond_dim: int, *, condition: Literal["embedding", "linear"] = "embedding"
    ) -> None:
        super().__init__()
        if condition not in ("embedding", "linear"):
            raise ValueError(f'condition must be "embedding" or "linear", got {condition!r}')
        self.in_channels = in_channels
        self.cond_dim = cond_dim
        self.condition: Literal["embedding", "linear"] = condition
        self.linear = nn.Linear(in_channels, 1)
        self.embed: nn.Module | None = None
        if cond_dim and condition == "embedding":
            self.embed = nn.Embedding(cond_dim, in_channels)
        elif cond_dim:
            self.embed = nn.Linear(cond_dim, in_channels, bias=False)

    def forward(self, features: Tensor, cond: Tensor | None = None) -> Tensor:
        if features.dim() != 4 or features.shape[1] != self.in_channels:
            raise ValueError(f"features must be (N, {self.in_channels}, h, w), got {tuple(features.shape)}")
        n = features.shape[0]
        h = F.relu(features).sum((2, 3))  # (N, C)
        logits = self.linear(h).flatten()
        shape = (n,) if self.condition == "embedding" else (n, self.cond_dim)
        if (cond is None) != (self.embed is None) or (cond is not None and cond.shape != shape):
            expected = f"{shape}, one row per picture" if self.embed is not None else "None, there is no cond_dim"
            raise ValueError(f"cond must be {expected}, got {None if cond is None else tuple(cond.shape)}")
        if self.embed is None:
            return logits
        return logits + (self.embed(cond) * h).sum(1)

    def extra_repr(self) -> str:
        return f"in_channels={self.in_channels}, cond_dim={self.cond_dim}, condition={self.condition!r}"
