"""The kernel inception distance (KID), on features that are handed in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._features import check_features, check_same_space


class KernelDistance(NamedTuple):
    """Mean over the subsets and their (population) standard deviation; 0 in expectation for equal distributions.

    Example:
        >>> KernelDistance(mean=0.02, std=0.001).mean
        0.02
    """

    mean: float
    std: float


def kernel_distance(
    real: Tensor, generated: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    r"""Squared maximum mean discrepancy of a cubic kernel, unbiased; the KID if the features are Inception's.

    .. math:: \frac{\sum_{i \ne j} k(x_i, x_j) + k(y_i, y_j)}{n (n - 1)} - \frac{2}{n^2} \sum_{i, j} k(x_i, y_j),
        \qquad k(x, y) = \left(\tfrac1D x^\top y + 1\right)^3

    Unlike the Fréchet distance it has no bias by the number of pictures; single values may be below 0. It is the
    mean over random subsets of both sets, which bounds memory and time.

    Args:
        real: ``(N, D)``.
        generated: ``(M, D)``.
        subsets: how many are drawn, without replacement within each, >= 1.
        subset_size: n, >= 2; of smaller sets as many as both have. Where that is all of both, it is one subset.
        seed: of the draw.

    Raises:
        ValueError: shapes that do not fit, fewer than two features, a number outside its range, or features that
            are not finite.

    Source: Bińkowski et al., arXiv 1801.01401, section 3.

    Example:
        >>> x, y = torch.randn(2, 500, 8, generator=torch.Generator().manual_seed(0))
        >>> abs(kernel_distance(x, y).mean) < 0.02 < kernel_distance(x, y + 0.5).mean
        True
    """
    x, y = check_features(real=real, generated=generated)
    check_same_space(real=x, generated=y)
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"subsets must be at least 1 and subset_size at least 2, got {subsets} and {subset_size}")
    n = min(subset_size, len(x), len(y))
    count = 1 if n == len(x) == len(y) else subsets
    random = torch.Generator("cpu").manual_seed(seed)
    distances = []
    for _ in range(count):
        rows = (torch.randperm(len(features), generator=random, device="cpu")[:n] for features in (x, y))
        distances.append(_discrepancy(*(features[chosen] for features, chosen in zip((x, y), rows, strict=True))))
    values = torch.stack(distances)
    return KernelDistance(values.mean().item(), values.std(correction=0).item())


def _discrepancy(x: Tensor, y: Tensor) -> Tensor:
    n = len(x)
    within = sum(kernel.sum() - kernel.trace() for kernel in (_kernel(x, x), _kernel(y, y)))
    return within / (n * (n - 1)) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
