"""Masked affine normalization: the op, the reference that defines it, and its rules for shapes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["none", "relu", "leaky_relu"]
Stats = Literal["batch", "instance", "group"]
Impl = Literal["auto", "reference", "native"]


def masked_affine_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mask: Tensor | None = None,
    *,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: Activation = "none",
    negative_slope: float = 0.2,
    upsample: Literal[1, 2] = 1,
    stats: Stats = "batch",
    groups: int | None = None,
    process_group: dist.ProcessGroup | None = None,
    impl: Impl = "auto",
) -> Tensor:
    r"""Normalize, then scale and shift each sample where its mask says.

    .. math::
        y_{nchw} = \mathrm{act}\big((1 + \gamma_{nc} m_{nhw})\, \hat{x}_{nchw} + \beta_{nc} m_{nhw}\big),
        \qquad \hat{x} = \frac{x - \mathrm{mean}}{\sqrt{\mathrm{var} + \epsilon}}

    ``x`` is upsampled first where ``upsample=2`` (nearest neighbour), so the op is equivalent to ::

        x = F.interpolate(x, scale_factor=upsample, mode="nearest")
        xhat = F.batch_norm(x, running_mean, running_var, None, None, training, momentum, eps)
        y = act((1 + gamma[:, :, None, None] * mask) * xhat + beta[:, :, None, None] * mask)

    With a mask of ones it is conditional batch norm (BigGAN, arXiv 1809.11096; DF-GAN, arXiv 2008.05865);
    with ``stats="instance"`` besides, adaptive instance norm (arXiv 1703.06868). Where the mask is 0 it is
    plain normalization.

    Args:
        x: features ``(N, C, H, W)``, floating point. Statistics and arithmetic are float32 for float16 and
            bfloat16 features, and those of ``x`` otherwise.
        gamma: scale ``(N, C)``, applied as ``1 + gamma * mask``.
        beta: shift ``(N, C)``.
        mask: ``(N, 1, s*H, s*W)`` with ``s = upsample``, usually in [0, 1]; None means ones.
        running_mean: ``(C,)``, only with ``stats="batch"``. Updated in place while training,
            ``running = (1 - momentum) * running + momentum * batch``; used instead of batch statistics
            otherwise.
        running_var: ``(C,)``, as ``running_mean``; takes the unbiased variance.
        training: whether batch statistics come from ``x``. Instance and group statistics always do.
        momentum: weight of the new batch in the running statistics, in [0, 1].
        eps: added to the variance, > 0.
        activation: ``"none"``, ``"relu"`` or ``"leaky_relu"``.
        negative_slope: of the leaky relu.
        upsample: 1, or 2 to return a map twice as large; the statistics are those of the upsampled map.
        stats: what one mean and variance is taken over: ``"batch"`` (N, H, W), ``"instance"`` (H, W) or
            ``"group"`` (C/groups, H, W).
        groups: number of channel groups, with ``stats="group"`` only; divides C.
        process_group: share batch statistics over its ranks. Shards may differ in size and may be empty,
            but every rank must call forward and backward.
        impl: ``"auto"`` takes native kernels where they can run, ``"reference"`` the plain PyTorch below,
            ``"native"`` raises where the native kernels cannot run.

    Returns:
        ``(N, C, s*H, s*W)`` in the dtype of ``x``.

    Raises:
        ValueError: a shape, a combination of options, or a channel with one value in training mode.
        TypeError: a tensor that is not floating point.
        RuntimeError: ``impl="native"`` where no native implementation can run.

    Source: SSA-GAN, *Text to Image Generation with Semantic-Spatial Aware GAN*, arXiv 2104.00567,
    "Semantic-Spatial Condition Batch Normalization".

    Example:
        >>> x, gamma, beta = torch.randn(2, 8, 4, 4), torch.zeros(2, 8), torch.ones(2, 8)
        >>> mask = torch.zeros(2, 1, 8, 8)
        >>> mask[:, :, :, 4:] = 1  # text acts on the right half only
        >>> y = masked_affine_norm(x, gamma, beta, mask, upsample=2)
        >>> y.shape
        torch.Size([2, 8, 8, 8])
        >>> round((y[..., 4:].mean() + y[..., :4].mean()).item(), 4)
        1.0
    """
    _check(x, gamma, beta, mask, running_mean, running_var, training, upsample, stats, groups, process_group)
    check_activation(activation)
    if impl not in ("auto", "reference", "native"):
        raise ValueError(f'impl must be "auto", "reference" or "native", got {impl!r}')
    if impl == "native":
        raise RuntimeError(
            'impl="native" was asked for, but this version of t2ilayers carries no native kernels; '
            'use impl="auto" or impl="reference"'
        )

    return _reference(
        x, gamma, beta, mask, running_mean, running_var, training, momentum, eps, activation, negative_slope,
        upsample, stats, groups, process_group,
    )  # fmt: skip


def check_activation(activation: str) -> None:
    """ValueError unless ``activation`` is one that the op knows.

    Example:
        >>> check_activation("relu")
    """
    if activation not in ("none", "relu", "leaky_relu"):
        raise ValueError(f'activation must be "none", "relu" or "leaky_relu", got {activation!r}')


def _reference(
    x: Tensor,  # (N, C, H, W)
    gamma: Tensor,  # (N, C)
    beta: Tensor,  # (N, C)
    mask: Tensor | None,  # (N, 1, sH, sW)
    running_mean: Tensor | None,  # (C,)
    running_var: Tensor | None,  # (C,)
    training: bool,
    momentum: float,
    eps: float,
    activation: Activation,
    negative_slope: float,
    upsample: int,
    stats: Stats,
    groups: int | None,
    process_group: dist.ProcessGroup | None,
) -> Tensor:
    """The definition. Normalizing before upsampling is the same arithmetic on a quarter of the values."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    xs = x.to(dtype)
    if stats != "batch":
        xhat = F.group_norm(xs, x.shape[1] if groups is None else groups, eps=eps)
    elif not training:
        xhat = F.batch_norm(xs, running_mean, running_var, eps=eps)
    else:
        xhat = _batch_norm(xs, running_mean, running_var, momentum, eps, upsample**2, process_group)
    if upsample == 2:
        xhat = F.interpolate(xhat, scale_factor=2, mode="nearest")
    # (1 + gamma m) xhat + beta m = xhat + m (gamma xhat + beta): fewer passes, and xhat's memory layout stays.
    z = torch.addcmul(beta.to(dtype)[:, :, None, None], gamma.to(dtype)[:, :, None, None], xhat)
    z = xhat + z if mask is None else torch.addcmul(xhat, mask.to(dtype), z)
    if activation == "relu":
        z = F.relu(z)
    elif activation == "leaky_relu":
        z = F.leaky_relu(z, negative_slope)
    return z.to(x.dtype)


def _batch_norm(
    xs: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    repeats: int,
    process_group: dist.ProcessGroup | None,
) -> Tensor:
    """Normalize by the batch's statistics and update the running ones.

    Upsampling repeats every value ``repeats`` times. Mean and biased variance do not change; the unbiased
    variance, which the running one takes, has ``repeats`` times the count.
    """
    if process_group is None:
        count = xs.numel() // xs.shape[1]
        mean, unbiased = xs.new_zeros(xs.shape[1]), xs.new_zeros(xs.shape[1])
        # Momentum 1 leaves the batch's own mean and unbiased variance behind.
        xhat = F.batch_norm(xs, mean, unbiased, training=True, momentum=1.0, eps=eps)
    else:
        mean, var, count = _synchronized(xs, process_group)
        xhat = (xs - mean[:, None, None]) * torch.rsqrt(var + eps)[:, None, None]
        unbiased = var * (count / max(count - 1, 1))
    if running_mean is not None and running_var is not None and count > 0:
        with torch.no_grad():
            unbiased = unbiased * (repeats * (count - 1) / (repeats * count - 1))
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return xhat


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks; its gradient is the sum of the ranks' gradients, and so on to any order."""

    @staticmethod
    def forward(ctx, value: Tensor, group: dist.ProcessGroup) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.group = group
        value = value.contiguous().clone()
        dist.all_reduce(value, group=group)
        return value

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return _all_reduce_sum(grad, ctx.group), None


def _all_reduce_sum(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    total: Tensor = _AllReduceSum.apply(value, group)  # type: ignore[no-untyped-call]
    return total


def _synchronized(xs: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor, int]:
    """Mean ``(C,)``, biased variance ``(C,)`` and count over all ranks, in one collective a direction.

    Each rank puts (count, mean, M2) into its own row of a zero table; the sum over ranks is then every
    rank's table, which Chan's formula merges without the cancellation of E[x²] - E[x]².
    """
    c = xs.shape[1]
    count = xs.numel() // c
    mean = xs.sum((0, 2, 3)) / max(count, 1)
    m2 = (xs - mean.view(1, -1, 1, 1)).square().sum((0, 2, 3))
    row = torch.cat([mean.new_tensor([count]), mean, m2])  # (1 + 2C,)
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    table = _all_reduce_sum(F.pad(row[None], (0, 0, rank, world - 1 - rank)), group)  # (world, 1 + 2C)
    counts, means, m2s = table[:, :1], table[:, 1 : 1 + c], table[:, 1 + c :]
    total = int(counts.sum())
    _check_count(total)
    mean = (counts * means).sum(0) / max(total, 1)
    var = (m2s + counts * (means - mean).square()).sum(0) / max(total, 1)
    return mean, var, total


def _check_count(count: int) -> None:
    if count == 1:
        raise ValueError(
            "statistics need more than one value of x each, got 1; "
            "use a larger batch or map, or training=False with running statistics"
        )


def _check(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mask: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    upsample: int,
    stats: str,
    groups: int | None,
    process_group: dist.ProcessGroup | None,
) -> None:
    if x.dim() != 4:
        raise ValueError(f"x must be (N, C, H, W), got shape {tuple(x.shape)}")
    n, c, h, w = x.shape
    if upsample not in (1, 2):
        raise ValueError(f"upsample must be 1 or 2, got {upsample!r}")
    tensors = {"x": x, "gamma": gamma, "beta": beta, "mask": mask}
    tensors |= {"running_mean": running_mean, "running_var": running_var}
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {tensor.dtype}; convert it with .float()")
    for name, tensor in (("gamma", gamma), ("beta", beta)):
        if tensor.shape != (n, c):
            raise ValueError(
                f"{name} must be (N, C) = {(n, c)} for x of shape {tuple(x.shape)}, got {tuple(tensor.shape)}"
            )
    side = (n, 1, upsample * h, upsample * w)
    if mask is not None and mask.shape != side:
        raise ValueError(
            f"mask must be (N, 1, s*H, s*W) = {side} for x of shape {tuple(x.shape)} and s = upsample = "
            f"{upsample}, got {tuple(mask.shape)}; resize it with MaskPredictor.to_mask or F.interpolate"
        )
    if stats not in ("batch", "instance", "group"):
        raise ValueError(f'stats must be "batch", "instance" or "group", got {stats!r}')
    if (groups is not None) != (stats == "group"):
        raise ValueError(f'groups goes with stats="group" and only there, got {groups=} with {stats=}')
    if groups is not None and (groups < 1 or c % groups):
        raise ValueError(f"groups must divide the channels, got {groups} for C = {c}")
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var come together, got only one of them")
    if running_mean is not None and running_var is not None:
        if stats != "batch":
            raise ValueError(f'running statistics go with stats="batch", got {stats=}')
        for name, tensor in (("running_mean", running_mean), ("running_var", running_var)):
            if tensor.shape != (c,):
                raise ValueError(f"{name} must be (C,) = ({c},), got {tuple(tensor.shape)}")
    elif stats == "batch" and not training:
        raise ValueError("training=False normalizes by running statistics, got none; pass both of them")
    if stats != "batch":
        _check_count(h * w * (c // groups if groups else 1))
    elif training and process_group is None:
        _check_count(n * h * w)
    if process_group is not None and stats != "batch":
        raise ValueError(f'process_group shares batch statistics, got {stats=}; use stats="batch"')
