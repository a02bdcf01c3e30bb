"""Masked affine normalization: the op, the reference that defines it, and its rules for shapes."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from . import _native as kernels
from . import build

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
        impl: ``"auto"`` takes native kernels where they can run and warns once a reason where they cannot,
            ``"reference"`` is plain PyTorch, ``"native"`` raises where the native kernels cannot run. The first
            use of a native kernel compiles it (:mod:`t2ilayers.ops.build`). ``torch.export``, ``torch.func`` and
            forward-mode derivatives get the reference.

    Returns:
        ``(N, C, s*H, s*W)`` in the dtype of ``x``.

    Raises:
        ValueError: a shape, a combination of options, or a channel with one value in training mode.
        TypeError: a tensor that is not floating point.
        RuntimeError: ``impl="native"`` where no native implementation can run; third derivatives of one.

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
    tracing = _is_compiling()
    # An exported program must run where this library is not, so it gets ordinary operations.
    ordinary = torch.compiler.is_exporting() if tracing else transformed()
    if ordinary and impl == "native" and not tracing:
        raise RuntimeError(
            'impl="native" was asked for, but torch.func transforms and forward-mode derivatives need ordinary '
            'operations; use impl="auto" or impl="reference"'
        )
    if not ordinary and takes_native(x.device.type, x.dtype, impl):
        return _native(
            x, gamma, beta, mask, running_mean, running_var, training, momentum, eps, activation, negative_slope,
            upsample, stats, groups, process_group, tracing,
        )  # fmt: skip
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


# Found once; see kernels.
_is_compiling = torch.compiler.is_compiling
_peek_interpreter_stack = torch._C._functorch.peek_interpreter_stack

_DTYPES = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))  # those of the native kernels
_warned: set[str] = set()


def takes_native(device: str, dtype: torch.dtype, impl: Impl) -> bool:
    """Whether native kernels run here. A first call may compile them, which must not be traced."""
    if impl == "reference":
        return False
    if dtype not in _DTYPES:
        reason: str | None = f"native kernels know no {dtype}"
    elif device == "cuda" and dtype == torch.float64:
        reason = "the CUDA kernels compute in float32 and take no float64"
    else:
        reason = build.why_not(device)
    if reason is None:
        return True
    if impl == "native":
        raise RuntimeError(f'impl="native" was asked for, but {reason}; use impl="auto" or impl="reference"')
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(f"masked_affine_norm runs its slower reference: {reason}", RuntimeWarning, stacklevel=3)
    return False


def transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work, of which custom gradients know nothing.

    Example:
        >>> transformed()
        False
    """
    return _peek_interpreter_stack() is not None or forward_ad._current_level >= 0


# What torch.compiler.assume_constant_result sets. Calling it would import torch._dynamo, for seconds.
takes_native._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _native(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mask: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    activation: Activation,
    negative_slope: float,
    upsample: int,
    stats: Stats,
    groups: int | None,
    process_group: dist.ProcessGroup | None,
    tracing: bool,
) -> Tensor:
    """The reference's result by fused kernels; running statistics are updated here, outside of them."""
    slope = {"none": 1.0, "relu": 0.0, "leaky_relu": negative_slope}[activation]
    if stats == "batch" and training and process_group is not None:
        y, mean, var, total = kernels.normalize_synchronized(
            x, gamma, beta, mask, eps, slope, upsample, process_group
        )
        count: int | Tensor = total
        if x.numel() <= x.shape[1]:  # only a rank with at most one value each can be part of a group with one
            _check_count(int(total))
    else:
        fixed = stats == "batch" and not training
        divisions = 0 if stats == "batch" else x.shape[1] if groups is None else groups
        given = (running_mean, running_var) if fixed else (None, None)
        y, mean, var = kernels.normalize(x, gamma, beta, mask, *given, divisions, eps, slope, upsample, tracing)
        count = x.numel() // x.shape[1]
    if training and running_mean is not None and running_var is not None:
        _update_running(running_mean, running_var, mean, var, count, upsample**2, momentum)
    return y


@torch.no_grad()
def _update_running(
    running_mean: Tensor,  # (C,)
    running_var: Tensor,  # (C,)
    mean: Tensor,  # (C,)
    var: Tensor,  # (C,), biased
    count: int | Tensor,
    repeats: int,
    momentum: float,
) -> None:
    """Upsampling repeats each of ``count`` values ``repeats`` times.

    Mean and biased variance stay; the unbiased variance, which the running one takes, has ``repeats`` times
    the count. Without any value nothing changes.
    """
    if isinstance(count, Tensor):
        total = count * repeats
        unbiased = var * (total / (total - 1).clamp(min=1))
        weight: float | Tensor = (momentum * (count > 0)).to(running_mean.dtype)
    elif count == 0:
        return
    else:
        unbiased = var * (count * repeats / max(count * repeats - 1, 1))
        weight = momentum
    running_mean.lerp_(mean.to(running_mean.dtype), weight)
    running_var.lerp_(unbiased.to(running_var.dtype), weight)


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
    """Normalize by the batch's statistics and update the running ones."""
    if process_group is None:
        count: int | Tensor = xs.numel() // xs.shape[1]
        mean, var = xs.new_zeros(xs.shape[1]), xs.new_zeros(xs.shape[1])
        # Momentum 1 leaves the batch's own mean and unbiased variance behind.
        xhat = F.batch_norm(xs, mean, var, training=True, momentum=1.0, eps=eps)
        var = var * ((count - 1) / max(count, 1))
    else:
        local = xs.numel() // xs.shape[1]
        mean = xs.sum((0, 2, 3)) / max(local, 1)
        m2 = (xs - mean[:, None, None]).square().sum((0, 2, 3))
        mean, var, count = merge_over_ranks(local, mean, m2, process_group)
        _check_count(int(count))
        xhat = (xs - mean[:, None, None]) * torch.rsqrt(var + eps)[:, None, None]
    if running_mean is not None and running_var is not None:
        _update_running(running_mean, running_var, mean, var, count, repeats, momentum)
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
        return all_reduce_sum(grad, ctx.group), None


def all_reduce_sum(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum of ``value``, of any one shape ``(N, ...)``, over the ranks; differentiable to any order."""
    total: Tensor = _AllReduceSum.apply(value, group)  # type: ignore[no-untyped-call]
    return total


def merge_over_ranks(
    count: int, mean: Tensor, m2: Tensor, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``(C,)``, biased variance ``(C,)`` and count ``()`` over all ranks, in one collective a direction.

    Args:
        count: values behind each of this rank's statistics, may be 0.
        mean: of this rank, ``(C,)``.
        m2: sums of this rank's squared deviations from its mean, ``(C,)``.
        group: the ranks.

    Each rank puts its own into its row of a zero table; the sum over ranks is then every rank's table, which
    Chan's formula merges without the cancellation of E[x²] - E[x]².
    """
    c = len(mean)
    row = torch.cat([mean.new_tensor([count]), mean, m2])  # (1 + 2C,)
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    table = all_reduce_sum(F.pad(row[None], (0, 0, rank, world - 1 - rank)), group)  # (world, 1 + 2C)
    counts, means, m2s = table[:, :1], table[:, 1 : 1 + c], table[:, 1 + c :]
    total = counts.sum()
    divisor = total.clamp(min=1)
    mean = (counts * means).sum(0) / divisor
    var = (m2s + counts * (means - mean).square()).sum(0) / divisor
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
    floating = x.is_floating_point() and gamma.is_floating_point() and beta.is_floating_point()
    if not (floating and (mask is None or mask.is_floating_point())):
        tensors = {"x": x, "gamma": gamma, "beta": beta, "mask": mask}
        name, dtype = next((k, t.dtype) for k, t in tensors.items() if t is not None and not t.is_floating_point())
        raise TypeError(f"{name} must be floating point, got {dtype}; convert it with .float()")
    if gamma.shape != (n, c) or beta.shape != (n, c):
        name, shape = ("beta", beta.shape) if gamma.shape == (n, c) else ("gamma", gamma.shape)
        raise ValueError(f"{name} must be (N, C) = {(n, c)} for x of shape {tuple(x.shape)}, got {tuple(shape)}")
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
            if tensor.shape != (c,) or not tensor.is_floating_point():
                raise ValueError(
                    f"{name} must be (C,) = ({c},), floating point, got {tuple(tensor.shape)} of {tensor.dtype}"
                )
    elif stats == "batch" and not training:
        raise ValueError("training=False normalizes by running statistics, got none; pass both of them")
    if stats != "batch":
        _check_count(h * w * (c // groups if groups else 1))
    elif training and process_group is None:
        _check_count(n * h * w)
    if process_group is not None and stats != "batch":
        raise ValueError(f'process_group shares batch statistics, got {stats=}; use stats="batch"')
