"""Regularised canonical correlation: the linear maps after which two views of the same things are most alike."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LinearMap(NamedTuple):
    """``(x - mean) @ weight``: ``mean (D,)``, ``weight (D, K)``, float64."""

    mean: Tensor
    weight: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return (x.to(self.mean) - self.mean) @ self.weight


class Views:
    r"""Moments of pairs of rows ``x (N, D)`` and ``y (M, E)``, from which :meth:`maps` are had for any strength.

    Row j of y makes a pair with row ``owner[j]`` of x, which may be in several pairs, or in none. Each column is
    divided by its standard deviation first, so that one strength suits both views.

    Source: Hotelling, "Relations between two sets of variates", 1936; the regularisation, Vinod, "Canonical ridge
    and econometrics of joint production", 1976; the scaling by correlations, Gong et al., arXiv 1212.4522.
    """

    def __init__(self, x: Tensor, y: Tensor, owner: Tensor) -> None:
        pairs = owner.bincount(minlength=len(x)).to(x)
        self._mean_x, self._scale_x, x = _standardised(x, pairs / len(y))
        self._mean_y, self._scale_y, y = _standardised(y, torch.full_like(y[:, 0], 1 / len(y)))
        # Of one eigendecomposition a view there follow the inverse roots for every strength.
        self._values_x, self._axes_x = _principal_axes(x * (pairs / len(y)).sqrt()[:, None])
        self._values_y, self._axes_y = _principal_axes(y / len(y) ** 0.5)
        captions = x.new_zeros(len(x), y.shape[1]).index_add_(0, owner, y)
        self._cross = self._axes_x.T @ (x.T @ captions / len(y)) @ self._axes_y

    def maps(self, strength: float) -> tuple[LinearMap, LinearMap]:
        r"""Canonical directions :math:`(C + \lambda I)^{-1/2} u`, each times its correlation, best first."""
        root_x, root_y = ((values.clamp(min=0) + strength).rsqrt() for values in (self._values_x, self._values_y))
        u, correlations, vh = torch.linalg.svd(root_x[:, None] * self._cross * root_y, full_matrices=False)
        return (
            LinearMap(self._mean_x, self._axes_x @ (root_x[:, None] * u * correlations) / self._scale_x[:, None]),
            LinearMap(
                self._mean_y, self._axes_y @ (root_y[:, None] * vh.T * correlations) / self._scale_y[:, None]
            ),
        )


def _standardised(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation of the columns, rows counting by their weights, and x with 0 and 1 for them."""
    mean = weights @ x
    scale = (weights @ (x - mean).square()).sqrt()
    scale = torch.where(scale > 1e-6 * scale.max(), scale, 1.0)  # a column that never changes stays near 0
    return mean, scale, (x - mean) / scale


def _principal_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Eigenvalues ``(R,)`` and vectors ``(D, R)`` of :math:`x^\top x`; R is the smaller of N and D."""
    if len(x) < x.shape[1]:
        _, values, vh = torch.linalg.svd(x, full_matrices=False)
        return values**2, vh.T
    values, vectors = torch.linalg.eigh(x.T @ x)
    return values, vectors
