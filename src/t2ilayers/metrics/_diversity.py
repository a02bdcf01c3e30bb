"""How varied pictures are: all of them (Vendi score), and those of one prompt."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from ._features import check_features, unit_rows


def vendi_score(features: Tensor) -> float:
    r"""The number of pictures, all different from each other, that would be as varied: 1 to N.

    .. math:: \exp\Big(-\sum_i \lambda_i \log \lambda_i\Big), \qquad
        \lambda = \mathrm{eig}\big(K / N\big), \quad K_{ij} = \cos(x_i, x_j)

    No reference is needed, and none helps: noise is varied too. The score grows with N, and is at most D: compare
    it with that of as many real pictures. Eigenvalues are those of the smaller of ``K`` and the ``(D, D)``
    products, so that memory does not grow with the square of N.

    Args:
        features: ``(N, D)``, none of them zero.

    Raises:
        ValueError: another shape, a row of zeros, or features that are not finite.

    Source: Friedman, Dieng, arXiv 2210.02410, definition 3.1.

    Example:
        >>> round(vendi_score(torch.eye(4)), 6), round(vendi_score(torch.ones(4, 3)), 6)
        (4.0, 1.0)
    """
    x = _directions(features, 1)
    products = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    values = torch.linalg.eigvalsh(products / len(x)).clamp(min=0)  # rounding puts zeros below zero
    return torch.special.entr(values).sum().exp().item()


def prompt_diversity(features: Tensor, prompts: Sequence[Hashable]) -> float:
    r"""Mean cosine distance between two pictures of the same prompt; 0 where each prompt gives one picture.

    .. math:: \frac1P \sum_p \frac{1}{n_p (n_p - 1)} \sum_{i \ne j \in p} \big(1 - \cos(x_i, x_j)\big)

    A generator that does not listen to its noise scores 0, whatever else it can do.

    Args:
        features: ``(N, D)``, none of them zero.
        prompts: N captions, or anything else that says which pictures belong together. Prompts of one picture
            are left out.

    Raises:
        ValueError: another shape, a row of zeros, features that are not finite, or no prompt with two pictures.

    Source: the mean pairwise distance of Zhu et al., BicycleGAN, arXiv 1711.11586, section 5 (there LPIPS).

    Example:
        >>> pictures = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
        >>> round(prompt_diversity(pictures, ["a bird", "a bird", "a cat", "a cat"]), 6)
        0.5
    """
    x = _directions(features, 2)
    if len(prompts) != len(x):
        raise ValueError(f"prompts must be one per picture, {len(x)}, got {len(prompts)}")
    numbers: dict[Hashable, int] = {}
    groups = torch.tensor([numbers.setdefault(prompt, len(numbers)) for prompt in prompts], device="cpu")
    counts = groups.bincount().double()
    # The cosines of a group are those of its sum with itself, less the n of each picture with itself.
    sums = torch.zeros(len(counts), x.shape[1], dtype=x.dtype, device="cpu").index_add_(0, groups, x)
    several = counts > 1
    if not several.any():
        raise ValueError("prompts must have two pictures or more, got one each; draw each caption several times")
    n = counts[several]
    cosines = (sums[several].square().sum(1) - n) / (n * (n - 1))
    return (1 - cosines).mean().clamp(min=0).item()


def _directions(features: Tensor, least: int) -> Tensor:
    (x,) = check_features(least, features=features)
    if not x.any(1).all():
        raise ValueError("features must have a direction, got a row of zeros")
    return unit_rows(x)
