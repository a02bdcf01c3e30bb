"""The ops in float64 NumPy, in the order of the papers, every gradient as a sum: the truth of all their tests."""

import numpy as np
import torch

TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Of an implementation in each dtype: relative, by the norm of a result (see ``worst``)."""


def norm(
    dy, x, gamma, beta, mask=None, *,
    groups=0, eps=1e-5, slope=1.0, silu=False, absolute=False, upsample=1, given=None,
):  # fmt: skip
    """y and the gradients by x, gamma, beta and mask (None without one) of <dy, y>.

    Options are those of the native ops: ``groups`` 0 for the statistics of a batch, n for those of n groups of a
    sample's channels, -1 for none; ``given`` is (mean, var) instead, of (C,) or (N, C).
    """
    dy, x, gamma, beta = (float64(t) for t in (dy, x, gamma, beta))
    wide = x.repeat(upsample, 2).repeat(upsample, 3)
    n, c, h, w = wide.shape
    m = np.ones((1, 1, h, w)) if mask is None else float64(mask)
    g, b = over_pixels(gamma), over_pixels(beta)
    if given is not None:
        mean, var = (over_pixels(float64(t)) for t in given)
        rstd = 1 / np.sqrt(var + eps)
        xhat = (wide - mean) * rstd
    elif groups < 0:
        rstd, xhat = 1.0, wide
    else:
        sets = (1, n, c, 1, h * w) if groups == 0 else (n, 1, groups, c // groups, h * w)
        over = (1, 3, 4)
        values = wide.reshape(sets)
        mean = values.mean(over, keepdims=True)
        rstd = 1 / np.sqrt(((values - mean) ** 2).mean(over, keepdims=True) + eps)
        xhat = ((values - mean) * rstd).reshape(wide.shape)
    a = (1 - m) + g * m if absolute else 1 + g * m
    y, slopes = activated(a * xhat + b * m, slope, silu)
    dz = dy * slopes
    dx = dz * a
    if given is None and groups >= 0:
        d, hat = dx.reshape(sets), xhat.reshape(sets)
        dx = rstd * (d - d.mean(over, keepdims=True) - hat * (d * hat).mean(over, keepdims=True))
    else:
        dx = rstd * dx
    dx = dx.reshape(n, c, h // upsample, upsample, w // upsample, upsample).sum((3, 5))
    dmask = summed_to(dz * ((g - 1 if absolute else g) * xhat + b), m.shape)
    dgamma = summed_to(dz * m * xhat, g.shape).reshape(gamma.shape)
    dbeta = summed_to(dz * m, b.shape).reshape(beta.shape)
    return y, dx, dgamma, dbeta, None if mask is None else dmask


def chain(dy, x, gammas, betas, *, slope=0.2, silu=False, upsample=1):
    """y and the gradients by x, each gamma and each beta of <dy, y>."""
    d = float64(dy)
    y = float64(x).repeat(upsample, 2).repeat(upsample, 3)
    gammas, betas = ([over_pixels(float64(t)) for t in tensors] for tensors in (gammas, betas))
    steps = []
    for gamma, beta in zip(gammas, betas, strict=True):
        before = y
        y, slopes = activated(gamma * y + beta, slope, silu)
        steps.append((before, slopes, gamma))
    dgammas, dbetas = [], []
    for before, slopes, gamma in reversed(steps):
        d = d * slopes
        dgammas.insert(0, summed_to(d * before, gamma.shape)[..., 0, 0])
        dbetas.insert(0, summed_to(d, gamma.shape)[..., 0, 0])
        d = d * gamma
    n, c, h, w = d.shape
    dx = d.reshape(n, c, h // upsample, upsample, w // upsample, upsample).sum((3, 5))
    return y, dx, *dgammas, *dbetas


def activated(z, slope, silu):
    """The activation and its derivative."""
    if silu:
        s = 1 / (1 + np.exp(-z))
        return z * s, s * (1 + z * (1 - s))
    return np.where(z > 0, z, slope * z), np.where(z > 0, 1.0, slope)


def over_pixels(parameter):
    if parameter.ndim == 4:
        return parameter
    return np.atleast_2d(parameter)[:, :, None, None]


def summed_to(values, shape):
    """The gradient by what was broadcast to the shape of ``values``."""
    axes = tuple(i for i, side in enumerate(shape) if side != values.shape[i])
    return values.sum(axes, keepdims=True)


def float64(t):
    return np.ascontiguousarray(t.detach().double().numpy() if hasattr(t, "detach") else t, dtype=np.float64)


def worst(results, truths):
    """Largest relative error, by the norm of each result; what is None in the truth is left out."""
    return max(
        np.linalg.norm(float64(r) - t) / max(np.linalg.norm(t), 1e-30)
        for r, t in zip(results, truths, strict=True)
        if t is not None
    )
