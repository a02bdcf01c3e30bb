"""The ops in plain PyTorch: their definitions, with which native kernels must agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ._options import Options, Running
from .collectives import merge_over_ranks


def reference(
    x: Tensor,  # (N, C, H, W)
    gamma: Tensor,  # (N, C), or a map (N, C, sH, sW)
    beta: Tensor,  # as gamma
    mask: Tensor | None,  # (N or 1, 1, sH, sW)
    options: Options,
    *,
    given: tuple[Tensor, Tensor] | None = None,
    running: Running | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Normalise by the statistics of x or by ``given`` ones, (mean, var), then modulate and activate.

    Normalising before upsampling is the same arithmetic on a quarter of the values.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    xs = x.to(dtype)
    if options.groups < 0 or (x.numel() == 0 and process_group is None):
        xhat = xs
    elif given is not None:
        xhat = F.batch_norm(xs, given[0].to(dtype), given[1].to(dtype), eps=options.eps)
    elif options.groups:
        xhat = F.group_norm(xs, options.groups, eps=options.eps)
    else:
        xhat = _batch_norm(xs, options.eps, running, process_group)
    if options.upsample == 2:
        xhat = _twice_as_large(xhat)
    gamma, beta = _over_pixels(gamma.to(dtype)), _over_pixels(beta.to(dtype))
    if mask is None:
        z = torch.addcmul(beta, gamma if options.absolute else 1 + gamma, xhat)
    else:
        mask = mask.to(dtype)
        scale = torch.addcmul(1 - mask if options.absolute else torch.ones_like(mask), gamma, mask)
        z = torch.addcmul(xhat * scale, beta, mask)  # xhat first: the result has its memory layout
    return _activated(z, options.slope, options.silu).to(x.dtype)


def reference_chain(
    x: Tensor,  # (N, C, H, W)
    gammas: Sequence[Tensor],  # (N, C) each
    betas: Sequence[Tensor],
    slope: float,
    silu: bool,
    upsample: int,
) -> Tensor:
    """``x <- act(gamma x + beta)`` for each pair, and then upsampled: that changes no value of it."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    y = x.to(dtype)
    for gamma, beta in zip(gammas, betas, strict=True):
        y = torch.addcmul(_over_pixels(beta.to(dtype)), _over_pixels(gamma.to(dtype)), y)
        y = _activated(y, slope, silu)
    y = y.to(x.dtype)
    return _twice_as_large(y) if upsample == 2 else y


def _over_pixels(parameter: Tensor) -> Tensor:
    return parameter if parameter.dim() == 4 else parameter[:, :, None, None]


def _twice_as_large(x: Tensor) -> Tensor:
    if x.numel() == 0:  # torch interpolates no empty side
        return x.reshape(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _activated(z: Tensor, slope: float, silu: bool) -> Tensor:
    if silu:
        return F.silu(z)
    if slope == 1:
        return z
    return F.relu(z) if slope == 0 else F.leaky_relu(z, slope)


def _batch_norm(
    xs: Tensor, eps: float, running: Running | None, process_group: dist.ProcessGroup | None
) -> Tensor:
    """Normalise by the batch's statistics and update the running ones."""
    local = values_per_channel(xs)
    count: int | Tensor = local
    if process_group is None:
        mean, var = xs.new_zeros(xs.shape[1]), xs.new_zeros(xs.shape[1])
        # Momentum 1 leaves the batch's own mean and unbiased variance behind.
        xhat = F.batch_norm(xs, mean, var, training=True, momentum=1.0, eps=eps)
        var = var * ((local - 1) / max(local, 1))
    else:
        mean = xs.sum((0, 2, 3)) / max(local, 1)
        m2 = (xs - mean[:, None, None]).square().sum((0, 2, 3))
        mean, var, count = merge_over_ranks(local, mean, m2, process_group)
        check_count(int(count))
        xhat = (xs - mean[:, None, None]) * torch.rsqrt(var + eps)[:, None, None]
    if running is not None:
        update_running(running, mean.detach(), var.detach(), count)
    return xhat


def update_running(running: Running, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
    """Move running statistics towards those of a batch, of ``count`` values a channel before upsampling.

    Args:
        running: changed in place. Without any value nothing changes.
        mean: of the batch, ``(C,)``, not part of a graph.
        var: of the batch, biased. The running variance takes the unbiased one, of ``count * repeats`` values:
            upsampling repeats values, which leaves mean and biased variance as they are.
        count: on the device where it is that of all ranks.
    """
    if isinstance(count, Tensor):
        total = count * running.repeats
        unbiased = var * (total / (total - 1).clamp(min=1))
        weight: float | Tensor = running.momentum * (count > 0)
    elif count == 0:
        return
    else:
        unbiased = var * (count * running.repeats / max(count * running.repeats - 1, 1))
        weight = running.momentum
    for old, new in ((running.mean, mean), (running.var, unbiased)):
        old.lerp_(new.to(old.dtype), weight.to(old.dtype) if isinstance(weight, Tensor) else weight)


def values_per_channel(x: Tensor) -> int:
    """N * H * W."""
    return x.shape[0] * x.shape[2] * x.shape[3]


def check_count(count: int) -> None:
    """ValueError where one value is all that a statistic has: its variance would say nothing."""
    if count == 1:
        raise ValueError(
            "statistics need more than one value of x each, got 1; "
            "use a larger batch or map, or training=False with running statistics"
        )
