"""Masked affine normalization in plain PyTorch: the definition, with which native kernels must agree."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ._options import Options, Running
from .collectives import merge_over_ranks


def reference(
    x: Tensor,  # (N, C, H, W)
    gamma: Tensor,  # (N, C)
    beta: Tensor,  # (N, C)
    mask: Tensor | None,  # (N, 1, sH, sW)
    options: Options,
    *,
    given: tuple[Tensor, Tensor] | None = None,
    running: Running | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Normalize by the statistics of x or by ``given`` ones, (mean, var), then modulate and activate.

    Normalizing before upsampling is the same arithmetic on a quarter of the values.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    xs = x.to(dtype)
    if given is not None:
        xhat = F.batch_norm(xs, given[0].to(dtype), given[1].to(dtype), eps=options.eps)
    elif options.groups:
        xhat = F.group_norm(xs, options.groups, eps=options.eps)
    else:
        xhat = _batch_norm(xs, options.eps, running, process_group)
    if options.upsample == 2:
        xhat = F.interpolate(xhat, scale_factor=2, mode="nearest")
    # (1 + gamma m) xhat + beta m = xhat + m (gamma xhat + beta): fewer passes, and xhat's memory layout stays.
    z = torch.addcmul(beta.to(dtype)[:, :, None, None], gamma.to(dtype)[:, :, None, None], xhat)
    z = xhat + z if mask is None else torch.addcmul(xhat, mask.to(dtype), z)
    return _activated(z, options.slope).to(x.dtype)


def _activated(z: Tensor, slope: float) -> Tensor:
    if slope == 1:
        return z
    return F.relu(z) if slope == 0 else F.leaky_relu(z, slope)


def _batch_norm(
    xs: Tensor, eps: float, running: Running | None, process_group: dist.ProcessGroup | None
) -> Tensor:
    """Normalize by the batch's statistics and update the running ones."""
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
        weight: float | Tensor = (running.momentum * (count > 0)).to(running.mean.dtype)
    elif count == 0:
        return
    else:
        unbiased = var * (count * running.repeats / max(count * running.repeats - 1, 1))
        weight = running.momentum
    running.mean.lerp_(mean.to(running.mean.dtype), weight)
    running.var.lerp_(unbiased.to(running.var.dtype), weight)


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
