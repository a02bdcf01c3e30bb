"""The Fréchet distance between Gaussians, and the Gaussians of features that come a batch at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from .._files import open_regular, written_whole


@dataclass(frozen=True, eq=False)
class GaussianStatistics:
    """Mean and covariance of features, as Fréchet distances compare them and npz files hold them.

    Attributes:
        mu: ``(D,)`` float64.
        sigma: ``(D, D)`` float64, unbiased.
        count: how many features they are of; None where a file does not say.
        label: what they are of, in the writer's words; "" where a file does not say.

    Example:
        >>> statistics = GaussianStatistics(torch.zeros(2), torch.eye(2), count=10)
        >>> statistics.mu.shape, statistics.sigma.shape
        (torch.Size([2]), torch.Size([2, 2]))
    """

    mu: Tensor
    sigma: Tensor
    count: int | None = None
    label: str = ""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an npz file with ``mu`` and ``sigma``, which other evaluators read, ``count`` and ``label``."""
        entries = {"mu": self.mu.numpy(), "sigma": self.sigma.numpy(), "label": np.array(self.label)}
        if self.count is not None:
            entries["count"] = np.array(self.count)
        with written_whole(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **entries)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an npz file with ``mu`` and ``sigma``, whoever wrote it; nothing in it is run.

        Raises:
            FileNotFoundError: no such file.
            ValueError: no npz file, or no finite ``mu (D,)`` and ``sigma (D, D)`` in it.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     GaussianStatistics(torch.zeros(2), torch.eye(2), 10).save(
            ...         f"{folder}/reference.npz"
            ...     )
            ...     GaussianStatistics.load(f"{folder}/reference.npz").count
            10
        """
        try:
            with open_regular(path) as file, np.load(file, allow_pickle=False) as entries:
                mu, sigma = (torch.from_numpy(np.asarray(entries[name], np.float64)) for name in ("mu", "sigma"))
                count = int(entries["count"]) if "count" in entries else None
                label = str(entries["label"]) if "label" in entries else ""
            _check(mu, sigma)
        except OSError:
            raise
        except Exception as error:  # in a file that is none, numpy's reader may fail anywhere
            raise ValueError(
                f"{os.fspath(path)} holds no statistics (an npz file with mu and sigma): {error!s:.500}"
            ) from error
        return cls(mu, sigma, count, label)


class StreamingStatistics:
    r"""Mean and unbiased covariance of features that come a batch at a time, in float64 on the CPU.

    .. math:: \delta = \bar x_b - \bar x, \qquad \bar x \leftarrow \bar x + \frac{b}{n + b}\,\delta, \qquad
        M \leftarrow M + M_b + \frac{n b}{n + b}\,\delta \delta^T

    with ``n`` features so far, ``b`` in the batch and ``M`` the sum of squared deviations from the mean, which
    the covariance is ``n - 1`` times. No difference of large sums is taken, so features far from zero lose
    nothing.

    Args:
        dim: D.

    Source: Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983, eq. 2.1, for vectors.

    Example:
        >>> statistics = StreamingStatistics(3)
        >>> for batch in torch.arange(15.0).reshape(5, 3).split(2):
        ...     statistics.update(batch)
        >>> statistics.compute().mu
        tensor([6., 7., 8.], dtype=torch.float64)
    """

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.count = 0
        self._mean = torch.zeros(dim, dtype=torch.float64, device="cpu")
        self._deviations = torch.zeros(dim, dim, dtype=torch.float64, device="cpu")  # M

    def update(self, features: Tensor) -> None:
        """Take in ``(b, D)`` more features, of any floating dtype and device.

        Raises:
            ValueError: another shape, or features that are not finite.
        """
        if features.dim() != 2 or features.shape[1] != len(self._mean):
            raise ValueError(f"features must be (b, {len(self._mean)}), got {tuple(features.shape)}")
        if not features.isfinite().all():
            raise ValueError("features must be finite, got inf or nan; did the generator diverge?")
        batch = len(features)
        if batch == 0:
            return
        x = features.detach().cpu().double()
        mean = x.mean(0)
        delta = mean - self._mean
        total = self.count + batch
        self._deviations += (x - mean).T @ (x - mean) + (self.count * batch / total) * torch.outer(delta, delta)
        self._mean += batch / total * delta
        self.count = total

    def compute(self, label: str = "") -> GaussianStatistics:
        """The statistics of all features so far.

        Raises:
            ValueError: fewer than two features have no covariance.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 features, got {self.count}")
        return GaussianStatistics(self._mean.clone(), self._deviations / (self.count - 1), self.count, label)


def frechet_distance(mu1: Tensor, sigma1: Tensor, mu2: Tensor, sigma2: Tensor) -> float:
    r"""Squared Fréchet (2-Wasserstein) distance between two Gaussians; the FID if their features are Inception's.

    .. math:: \|\mu_1 - \mu_2\|^2 + \mathrm{tr}\,\Sigma_1 + \mathrm{tr}\,\Sigma_2
        - 2\,\mathrm{tr}\,(\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}

    The last trace is the sum of the singular values of :math:`R_1^T R_2` with :math:`\Sigma_i = R_i R_i^T`. It
    needs no matrix square root, has no imaginary part, and takes covariances of any rank, such as those of
    fewer features than they have dimensions, without adding anything to their diagonals.

    Args:
        mu1, mu2: ``(D,)``.
        sigma1, sigma2: ``(D, D)``, symmetric positive semi-definite.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.

    Source: Dowson and Landau, "The Fréchet Distance between Multivariate Normal Distributions", 1982; Heusel et
    al., arXiv 1706.08500, eq. 6.

    Example:
        >>> frechet_distance(
        ...     torch.zeros(2), torch.eye(2), torch.tensor([3.0, 0.0]), 4 * torch.eye(2)
        ... )
        11.0
    """
    _check(mu1, sigma1)
    _check(mu2, sigma2)
    if mu1.shape != mu2.shape:
        raise ValueError(f"both Gaussians must have as many dimensions, got {len(mu1)} and {len(mu2)}")
    mu1, sigma1, mu2, sigma2 = (part.detach().cpu().double() for part in (mu1, sigma1, mu2, sigma2))
    shared = torch.linalg.svdvals(_root(sigma1).T @ _root(sigma2)).sum()
    distance = (mu1 - mu2).square().sum() + sigma1.trace() + sigma2.trace() - 2 * shared
    return max(distance.item(), 0.0)  # equal Gaussians may come out below by rounding


def _root(sigma: Tensor) -> Tensor:
    """``R (D, r)`` with ``sigma = R R^T`` and r the rank: eigenvectors times the roots of their eigenvalues."""
    values, vectors = torch.linalg.eigh(sigma)
    # As for the rank of a matrix: what is below is rounding, and its roots would be far above it.
    kept = values > values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, kept] * values[kept].sqrt()


def _check(mu: Tensor, sigma: Tensor) -> None:
    if mu.dim() != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(f"mu must be (D,) and sigma (D, D), got {tuple(mu.shape)} and {tuple(sigma.shape)}")
    if not (mu.isfinite().all() and sigma.isfinite().all()):
        raise ValueError("mu and sigma must be finite, got inf or nan")
