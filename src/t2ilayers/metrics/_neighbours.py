"""By nearest neighbours among features: density and coverage, and whether training pictures are copied."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._features import check_features, check_same_space

_ROWS = 1024  # rows of the (N, M) distances that are held at a time


class DensityCoverage(NamedTuple):
    """Both are 1 in expectation where the two distributions are the same and there are many neighbours.

    Attributes:
        density: how densely the generated features lie where real ones are; may exceed 1.
        coverage: the share of real features that have a generated one near them.

    Example:
        >>> DensityCoverage(density=0.9, coverage=0.8).coverage
        0.8
    """

    density: float
    coverage: float


def density_coverage(real: Tensor, generated: Tensor, *, neighbours: int = 5) -> DensityCoverage:
    r"""Density, how faithful generated features are, and coverage, how varied.

    .. math:: \mathrm{density} = \frac{1}{kM} \sum_{i, j} \big[\|x_i - y_j\| \le r_i\big], \qquad
        \mathrm{coverage} = \frac1N \sum_i \big[\min_j \|x_i - y_j\| \le r_i\big]

    with :math:`r_i` the distance from :math:`x_i` to its k-th nearest neighbour among the other real features.

    Args:
        real: ``(N, D)``, x.
        generated: ``(M, D)``, y.
        neighbours: k, 1 to N - 1.

    Raises:
        ValueError: shapes that do not fit, k outside its range, or features that are not finite.

    Source: Naeem et al., arXiv 2002.09797, section 3.

    Example:
        >>> x, y = torch.randn(2, 500, 8, generator=torch.Generator().manual_seed(0))
        >>> min(density_coverage(x, y)) > 0.9, density_coverage(x, y + 50)
        (True, DensityCoverage(density=0.0, coverage=0.0))
    """
    x, y = check_features(real=real, generated=generated)
    check_same_space(real=x, generated=y)
    if not 1 <= neighbours < len(x):
        raise ValueError(f"neighbours must be 1 to N - 1 = {len(x) - 1}, got {neighbours}")
    inside = covered = 0
    for rows in torch.split(torch.arange(len(x), device="cpu"), _ROWS):
        among = _distances(x[rows], x)
        among[torch.arange(len(rows), device="cpu"), rows] = torch.inf  # a picture is no neighbour of itself
        radius = among.kthvalue(neighbours, dim=1, keepdim=True).values
        near = _distances(x[rows], y) <= radius
        inside += int(near.sum())
        covered += int(near.any(1).sum())
    return DensityCoverage(inside / (neighbours * len(y)), covered / len(x))


class Nearest(NamedTuple):
    """For each query its nearest reference.

    Attributes:
        distances: ``(N,)`` float64.
        indices: ``(N,)`` int64, of the references.

    Example:
        >>> Nearest(torch.tensor([0.5]), torch.tensor([3])).indices.tolist()
        [3]
    """

    distances: Tensor
    indices: Tensor


def nearest_features(queries: Tensor, references: Tensor) -> Nearest:
    """The nearest of the references to each query, by Euclidean distance.

    Args:
        queries: ``(N, D)``.
        references: ``(M, D)``.

    Raises:
        ValueError: shapes that do not fit, or features that are not finite.

    Example:
        >>> nearest_features(
        ...     torch.tensor([[0.0], [9.0]]), torch.tensor([[1.0], [4.0], [7.0]])
        ... )
        Nearest(distances=tensor([1., 2.], dtype=torch.float64), indices=tensor([0, 2]))
    """
    x, y = check_features(1, queries=queries, references=references)
    check_same_space(queries=x, references=y)
    found = [_distances(part, y).min(1) for part in torch.split(x, _ROWS)]
    return Nearest(*(torch.cat(column) for column in zip(*found, strict=True)))


def data_copying(generated: Tensor, train: Tensor, held_out: Tensor) -> float:
    r"""Do generated pictures lie nearer to the training pictures than unseen real ones do?

    .. math:: P\big(d(y, T) < d(x, T)\big) + \tfrac12 P\big(d(y, T) = d(x, T)\big), \qquad
        d(\cdot, T) = \min_{t \in T} \|\cdot - t\|

    over pairs of a generated y and a held-out real x: the Mann-Whitney statistic of their distances. 0.5: as near
    as pictures that training never saw. Towards 1: training pictures are copied. Below 0.5: generated pictures
    are farther from the training pictures than real ones, as bad ones are.

    Args:
        generated: ``(N, D)``.
        train: ``(M, D)``, T.
        held_out: ``(K, D)``, of the distribution of T.

    Raises:
        ValueError: shapes that do not fit, or features that are not finite.

    Source: Meehan, Chaudhuri, Dasgupta, arXiv 2004.05675, section 3, over the whole space.

    Example:
        >>> train, held_out, drawn = torch.randn(
        ...     3, 200, 8, generator=torch.Generator().manual_seed(0)
        ... )
        >>> (
        ...     data_copying(train, train, held_out),
        ...     0.4 < data_copying(drawn, train, held_out) < 0.6,
        ... )
        (1.0, True)
    """
    own = nearest_features(generated, train).distances
    unseen = nearest_features(held_out, train).distances.sort().values
    farther = len(unseen) - torch.searchsorted(unseen, own, right=True)
    ties = len(unseen) - farther - torch.searchsorted(unseen, own)
    return ((farther + ties / 2).mean() / len(unseen)).item()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # The exact form: by inner products a picture would lie at some distance from its own copy.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
