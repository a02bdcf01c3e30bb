"""The inception score: are the pictures each of one class, and together of many?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class InceptionScore(NamedTuple):
    """Mean over the splits and their (population) standard deviation; 1 to the number of classes.

    Example:
        >>> InceptionScore(mean=5.17, std=0.08).mean
        5.17
    """

    mean: float
    std: float


def inception_score(logits: Tensor, splits: int = 10) -> InceptionScore:
    r"""The inception score of pictures, by their classifier's logits.

    .. math:: \exp \frac1n \sum_i \mathrm{KL}\big(p(y \mid x_i)\,\|\,\tfrac1n \textstyle\sum_j p(y \mid x_j)\big)

    over the n pictures of a split; splits are consecutive and of almost equal size. It depends on the number of
    pictures and splits: name both.

    Args:
        logits: ``(N, K)``, in the order in which the pictures were drawn.
        splits: 1 to N.

    Raises:
        ValueError: another shape, splits outside of this range, or logits that are not finite.

    Source: Salimans et al., arXiv 1606.03498, section 4.

    Example:
        >>> inception_score(torch.zeros(20, 8))
        InceptionScore(mean=1.0, std=0.0)
    """
    if logits.dim() != 2:
        raise ValueError(f"logits must be (N, K), got {tuple(logits.shape)}")
    if not 1 <= splits <= len(logits):
        raise ValueError(f"splits must be 1 to N = {len(logits)}, got {splits}")
    if not logits.isfinite().all():
        raise ValueError("logits must be finite, got inf or nan; did the generator diverge?")
    scores = []
    for part in logits.detach().cpu().double().log_softmax(1).tensor_split(splits):
        marginal = part.exp().mean(0).log()
        # Where a probability underflows, so may the marginal: 0 log 0 = 0.
        divergence = torch.where(part.exp() > 0, part.exp() * (part - marginal), 0.0).sum(1)
        scores.append(divergence.mean().exp())
    means = torch.stack(scores)
    return InceptionScore(mean=means.mean().item(), std=means.std(correction=0).item())
