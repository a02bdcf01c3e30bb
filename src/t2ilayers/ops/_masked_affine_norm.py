"""Masked affine normalization: the op, its checks, and which implementation runs."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ._native import native, why_not
from ._options import Activation, Impl, Options, Running, Stats, check_activation
from ._reference import check_count, reference, values_per_channel
from ._torch import constant_result, transformed


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
    options = Options(
        groups=0 if stats == "batch" else x.shape[1] if groups is None else groups,
        eps=eps,
        slope={"none": 1.0, "relu": 0.0, "leaky_relu": negative_slope}[activation],
        upsample=upsample,
    )
    given, running = None, None
    if running_mean is not None and running_var is not None:
        if training:
            running = Running(running_mean, running_var, momentum=momentum, repeats=upsample**2)
        else:
            given = running_mean, running_var
    # An exported program must run where this library is not, so it gets ordinary operations.
    compiling = torch.compiler.is_compiling()
    ordinary = torch.compiler.is_exporting() if compiling else transformed()
    if ordinary and impl == "native" and not compiling:
        raise RuntimeError(
            'impl="native" was asked for, but torch.func transforms and forward-mode derivatives need ordinary '
            'operations; use impl="auto" or impl="reference"'
        )
    implementation = native if not ordinary and takes_native(x.device.type, x.dtype, impl) else reference
    return implementation(x, gamma, beta, mask, options, given=given, running=running, process_group=process_group)


_warned: set[str] = set()


@constant_result
def takes_native(device: str, dtype: torch.dtype, impl: Impl) -> bool:
    """Whether native kernels run here. A first call may compile them, which must not be traced."""
    if impl == "reference":
        return False
    reason = why_not(device, dtype)
    if reason is None:
        return True
    if impl == "native":
        raise RuntimeError(f'impl="native" was asked for, but {reason}; use impl="auto" or impl="reference"')
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(f"masked_affine_norm runs its slower reference: {reason}", RuntimeWarning, stacklevel=3)
    return False


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
        check_count(h * w * (c // groups if groups else 1))
    elif training and process_group is None:
        check_count(values_per_channel(x))
    if process_group is not None and stats != "batch":
        raise ValueError(f'process_group shares batch statistics, got {stats=}; use stats="batch"')
