"""The Fréchet distance of pictures given their captions."""

from __future__ import annotations

import torch
from torch import Tensor

from ._features import check_features, check_same_space
from .frechet import frechet_distance


def conditional_frechet_distance(cond: Tensor, real: Tensor, generated: Tensor) -> float:
    r"""Mean squared Fréchet distance between the Gaussians of real and generated pictures of one caption.

    .. math:: \|\mu_x - \mu_y\|^2 + \mathrm{tr}\big[(\Sigma_{xc} - \Sigma_{yc})\, \Sigma_{cc}^{+}\,
        (\Sigma_{cx} - \Sigma_{cy})\big] + F(\Sigma_{xx|c}, \Sigma_{yy|c}), \qquad
        \Sigma_{xx|c} = \Sigma_{xx} - \Sigma_{xc} \Sigma_{cc}^{+} \Sigma_{cx}

    with :math:`F(A, B) = \mathrm{tr} A + \mathrm{tr} B - 2\,\mathrm{tr}(A^{1/2} B A^{1/2})^{1/2}`, captions c, and
    captions and pictures jointly Gaussian. Where the Fréchet distance asks whether the pictures as a whole are
    alike, this one also asks whether each is where its caption says: pictures of other captions raise it.

    Args:
        cond: ``(N, C)`` codes of captions.
        real: ``(N, D)`` features of the real picture of each caption.
        generated: ``(N, D)`` features of the picture generated from it.

    Raises:
        ValueError: shapes that do not fit, no more captions than their codes have dimensions (then they
            explain everything; project them to fewer), or values that are not finite.

    Source: Soloveitchik et al., arXiv 2103.11521, theorem 2; as cFreD: Koo et al., arXiv 2503.21721.

    Example:
        >>> c, x = torch.randn(2, 100, 3, generator=torch.Generator().manual_seed(0))
        >>> pictures = c + 0.1 * x
        >>> round(conditional_frechet_distance(c, pictures, pictures), 6)
        0.0
        >>> conditional_frechet_distance(c, pictures, pictures.roll(1, 0)) > 1
        True
    """
    c, x, y = check_features(cond=cond, real=real, generated=generated)
    check_same_space(real=x, generated=y)
    n = len(c)
    if not n == len(x) == len(y):
        raise ValueError(f"cond, real and generated must be as many, got {n}, {len(x)} and {len(y)}")
    if n < c.shape[1] + 2:
        raise ValueError(
            f"there must be at least C + 2 = {c.shape[1] + 2} captions, got {n}; give more, or project their "
            "codes to fewer dimensions"
        )
    mu_x, mu_y = x.mean(0), y.mean(0)
    c, x, y = c - c.mean(0), x - mu_x, y - mu_y
    # Orthonormal columns that span the captions' codes: what a linear map of the captions can explain.
    u, s, _ = torch.linalg.svd(c, full_matrices=False)
    basis = u[:, s > s.max() * max(c.shape) * torch.finfo(s.dtype).eps]
    explained_x, explained_y = basis.T @ x, basis.T @ y  # (r, D)
    moved = (explained_x - explained_y).square().sum() / (n - 1)
    left_x, left_y = ((part - basis @ own) for part, own in ((x, explained_x), (y, explained_y)))
    spread = frechet_distance(mu_x, left_x.T @ left_x / (n - 1), mu_y, left_y.T @ left_y / (n - 1))
    return moved.item() + spread
