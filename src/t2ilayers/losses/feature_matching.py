"""Feature matching: what a discriminator sees on its way, alike for real and generated pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ._arguments import full


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    r"""How far the features of generated pictures lie from those of the real ones.

    .. math:: \frac1K \sum_{k=1}^K \sum_i \mathrm{mean}(|f_{ki}(G) - f_{ki}(x)|)

    Gradients flow into ``fake`` alone. The published weight is 10.

    Args:
        real: for each of K scales the maps of a discriminator for real pictures, ``(N, C, H, W)`` each.
        fake: the same for generated pictures of the same conditions.

    Returns:
        A scalar in [0, inf).

    Raises:
        ValueError: no scales, or other numbers of scales or maps.

    Source: Wang et al., *pix2pixHD*, arXiv 1711.11585, equation 4; as in SPADE, arXiv 1903.07291.

    Example:
        >>> import torch
        >>> feature_matching_loss(
        ...     [[torch.zeros(2, 4, 8, 8)]], [[torch.ones(2, 4, 8, 8)]]
        ... )
        tensor(1.)
    """
    counts = [len(maps) for maps in real]
    if not counts or counts != [len(maps) for maps in fake]:
        raise ValueError(f"real and fake must have as many scales and maps, got {counts} and {[*map(len, fake)]}")
    pairs = [(a, b) for ours, theirs in zip(real, fake, strict=True) for a, b in zip(ours, theirs, strict=True)]
    return torch.stack([F.l1_loss(full(b), full(a.detach())) for a, b in pairs]).sum() / len(counts)
