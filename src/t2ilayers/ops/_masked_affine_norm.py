"""Masked affine normalisation: the public function, its rules for statistics."""

from __future__ import annotations

from typing import Literal

import torch.distributed as dist
from torch import Tensor

from ._arguments import as_4d, check_features, check_tensor, mask_of, parameter
from ._choice import runs_native
from ._native import lacks, native
from ._options import (
    COUNTS,
    SCALES,
    STATS,
    Activation,
    Impl,
    Options,
    Running,
    RunningCount,
    Scale,
    Stats,
    check_activation,
    check_word,
    slope_of,
)
from ._reference import check_count, reference, values_per_channel


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
    scale: Scale = "residual",
    running_count: RunningCount = "output",
    process_group: dist.ProcessGroup | None = None,
    impl: Impl = "auto",
) -> Tensor:
    r"""Normalise, then scale and shift each sample where its mask says.

    .. math::
        y_{nchw} = \mathrm{act}\big(a_{nchw}\, \hat{x}_{nchw} + \beta_{nc} m_{nhw}\big),
        \qquad \hat{x} = \frac{x - \mathrm{mean}}{\sqrt{\mathrm{var} + \epsilon}}

    .. math::
        a_{nchw} = \begin{cases} 1 + \gamma_{nc} m_{nhw} & \text{scale="residual"} \\
        (1 - m_{nhw}) + \gamma_{nc} m_{nhw} & \text{scale="absolute"} \end{cases}

    ``x`` is upsampled first where ``upsample=2`` (nearest neighbour), so the op is equivalent to ::

        x = F.interpolate(x, scale_factor=upsample, mode="nearest")
        xhat = F.batch_norm(x, running_mean, running_var, None, None, training, momentum, eps)
        y = act((1 + gamma[:, :, None, None] * mask) * xhat + beta[:, :, None, None] * mask)

    Where the mask is 0 it is plain normalisation. Without a mask it is the norm of many models:

    ====================================================  ====================================================
    conditional batch norm (BigGAN, arXiv 1809.11096)     the defaults
    adaptive instance norm (arXiv 1703.06868)             ``stats="instance"``
    adaptive group norm (arXiv 2105.05233)                ``stats="group", groups=32, activation="silu"``
    FiLM (arXiv 1709.07871)                               ``stats="none", scale="absolute"``
    SPADE (arXiv 1903.07291)                              gamma and beta as maps
    ====================================================  ====================================================

    Most code starts gamma at 1 and multiplies by it: that is ``scale="absolute"``, not ``gamma - 1``, which costs
    digits. For several affines in a row without statistics (DF-GAN) see :func:`affine_chain`.

    Args:
        x: features ``(N, C, H, W)``, floating point, or ``(N, C, L)`` or ``(N, C, D, H, W)`` without upsampling.
            Statistics and arithmetic are float32 for float16 and bfloat16 features, and those of ``x`` otherwise.
        gamma: scale ``(N, C)``; ``(C,)`` or ``(1, C)`` where samples share it; or a map of its own for each
            channel, ``(N, C, s*H, s*W)`` with ``s = upsample``. Any floating dtype.
        beta: shift, of the same kind as gamma.
        mask: ``(N, 1, s*H, s*W)``, or ``(1, 1, s*H, s*W)`` for all samples, usually in [0, 1], or bool; None means
            ones.
        running_mean: ``(C,)``, only with ``stats="batch"``. Updated in place while training,
            ``running = (1 - momentum) * running + momentum * batch``; used instead of batch statistics
            otherwise.
        running_var: ``(C,)``, as ``running_mean``; takes the unbiased variance.
        training: whether batch statistics come from ``x``. Instance and group statistics always do.
        momentum: weight of the new batch in the running statistics, in [0, 1].
        eps: added to the variance, > 0.
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"`` or ``"silu"``.
        negative_slope: of the leaky relu.
        upsample: 1, or 2 to return a map twice as large; the statistics are those of the upsampled map.
        stats: what one mean and variance is taken over: ``"batch"`` (N, H, W), ``"instance"`` (H, W),
            ``"group"`` (C/groups, H, W); or ``"none"``, where ``xhat`` is ``x``.
        groups: number of channel groups, with ``stats="group"`` only; divides C.
        scale: whether gamma 0 (``"residual"``) or gamma 1 (``"absolute"``) leaves ``xhat`` as it is. With
            ``"absolute"`` the factor where the mask is 1 is exactly gamma.
        running_count: the number of values for which the running variance is unbiased: ``"output"``, those of the
            upsampled map (upsample, then normalize, as in SSA-GAN), or ``"input"``, those of x (normalize, then
            upsample, as in BigGAN). Everything else is the same for both orders.
        process_group: share batch statistics over its ranks. Shards may differ in size and may be empty,
            but every rank must call forward and backward.
        impl: ``"auto"`` takes native kernels where they can run and warns once a reason where they cannot,
            ``"reference"`` is plain PyTorch, ``"native"`` raises where the native kernels cannot run. The first
            use of a native kernel compiles it (:mod:`t2ilayers.ops.build`). ``torch.export``, ``torch.jit.trace``,
            ``torch.func`` and forward-mode derivatives get the reference.

    Returns:
        ``(N, C, s*H, s*W)``, or the shape of ``x`` without upsampling, in the dtype of ``x``. A side of 0 gives an
        empty map.

    Raises:
        ValueError: a shape, a device, a number out of its range, a combination of options, or a channel with one
            value in training mode.
        TypeError: a tensor that is not floating point.
        RuntimeError: ``impl="native"`` where no native implementation can run; third derivatives of one.

    Source: SSA-GAN, *Text to Image Generation with Semantic-Spatial Aware GAN*, arXiv 2104.00567,
    "Semantic-Spatial Condition Batch Normalization".

    Example:
        >>> import torch
        >>> x = torch.randn(2, 8, 4, 4)
        >>> gamma, beta = torch.zeros(2, 8), torch.ones(2, 8)
        >>> mask = torch.zeros(2, 1, 8, 8)
        >>> mask[:, :, :, 4:] = 1  # text acts on the right half only
        >>> y = masked_affine_norm(x, gamma, beta, mask, upsample=2)
        >>> y.shape
        torch.Size([2, 8, 8, 8])
        >>> round((y[..., 4:].mean() + y[..., :4].mean()).item(), 4)
        1.0
    """
    check_features(x, upsample)
    check_activation(activation)
    check_word("scale", scale, SCALES)
    gamma = parameter("gamma", gamma, x, upsample=upsample, maps=True)
    beta = parameter("beta", beta, x, upsample=upsample, maps=True)
    if gamma.dim() != beta.dim():
        raise ValueError("gamma and beta must both be maps or both vectors, got one of each; expand the vector")
    if mask is not None:
        mask = mask_of(mask, x, upsample=upsample)
    features = x if x.dim() == 4 else as_4d(x)
    _check_statistics(features, running_mean, running_var, training, momentum, eps, stats, groups, process_group)
    options = Options(
        groups=0 if stats == "batch" else -1 if stats == "none" else groups or max(x.shape[1], 1),
        eps=eps,
        slope=slope_of(activation, negative_slope),
        silu=activation == "silu",
        absolute=scale == "absolute",
        upsample=upsample,
    )
    check_word("running_count", running_count, COUNTS)
    given, running = None, None
    if running_mean is not None and running_var is not None:
        if training:
            repeats = upsample**2 if running_count == "output" else 1
            running = Running(running_mean, running_var, momentum=momentum, repeats=repeats)
        else:
            given = running_mean, running_var
    missing = lacks(x, gamma, beta, mask)
    implementation = native if runs_native(x.device.type, x.dtype, impl, missing) else reference
    y = implementation(
        features, gamma, beta, mask, options, given=given, running=running, process_group=process_group
    )
    return y if x.dim() == 4 else y.reshape(x.shape)


def _check_statistics(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    stats: Stats,
    groups: int | None,
    process_group: dist.ProcessGroup | None,
) -> None:
    check_word("stats", stats, STATS)
    if not eps > 0:
        raise ValueError(f"eps must be > 0, got {eps}")
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be in [0, 1], got {momentum}")
    c = x.shape[1]
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
            check_tensor(name, tensor, x)
            if tensor.shape != (c,):
                raise ValueError(f"{name} must be (C,) = ({c},), got {tuple(tensor.shape)}")
    elif stats == "batch" and not training:
        raise ValueError("training=False normalises by running statistics, got none; pass both of them")
    if process_group is not None and stats != "batch":
        raise ValueError(f'process_group shares batch statistics, got {stats=}; use stats="batch"')
    if stats == "batch":
        if training and process_group is None:
            check_count(values_per_channel(x))
    elif stats != "none" and x.shape[0]:
        check_count(x.shape[2] * x.shape[3] * (c // groups if groups else 1))
