"""Faster forms of what plain modules compute, each beside the plain form that defines it.

A fast form reads the parameters of modules instead of calling them. So it misses whatever else acts on a module:
hooks, parametrizations, adapters, quantized or sharded weights. It is taken only where :func:`is_plain` finds
nothing of the kind; everywhere else the modules are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._choice import takes_native
from ._options import Impl
from ._torch import ORDINARY, hooks_on_all_modules, transformed

# What people put on one module to replace a part of it: its forward, a convolution's padding, a computed weight.
_REPLACED = frozenset(
    ("forward", "_conv_forward", "_call_impl", "_wrapped_call_impl", "_compiled_call_impl", "weight", "bias")
)


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling ``module`` runs torch's forward of ``kind`` on its own parameters, and nothing else.

    False for subclasses (parametrized modules are such), with hooks on the module or on all modules, where the
    forward of the module or of its class was replaced, where a parameter is no ordinary tensor (sharded,
    quantized, missing), and under torch.func and forward-mode differentiation.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> (
        ...     is_plain(linear, nn.Linear),
        ...     is_plain(torch.nn.utils.spectral_norm(linear), nn.Linear),
        ... )
        (True, False)
    """
    own = module.__dict__
    for parameter in own["_parameters"].values():
        if type(parameter) not in ORDINARY:
            return False
    return (
        type(module) is kind
        and not own["_forward_pre_hooks"]
        and not own["_forward_hooks"]
        and not own["_backward_pre_hooks"]
        and not own["_backward_hooks"]
        and _REPLACED.isdisjoint(own)
        and any(kind.forward.__globals__["__name__"] == base.__module__ for base in kind.__mro__)
        and not hooks_on_all_modules()
        and not transformed()
    )


def scaled_conv2d(x: Tensor, conv: nn.Module, gamma: Tensor) -> Tensor:
    """``gamma * conv(x)`` in the dtype of ``conv(x)``.

    Args:
        x: ``(N, C, H, W)``.
        conv: any module; for a plain ``nn.Conv2d``, ``gamma`` is multiplied into the weights, which are few.
        gamma: ``()`` or ``(1,)``.
    """
    if is_plain(conv, nn.Conv2d) and type(gamma) in ORDINARY and gamma.dtype == conv.weight.dtype:
        conv = cast(nn.Conv2d, conv)
        bias = None if conv.bias is None else gamma * conv.bias
        return conv._conv_forward(x, gamma * conv.weight, bias)
    y: Tensor = conv(x)
    return gamma.to(y.dtype) * y


def add_upsampled(small: Tensor, large: Tensor) -> Tensor:
    """``F.interpolate(small, scale_factor=2, mode="nearest") + large``.

    Args:
        small: ``(N, C, H, W)``.
        large: ``(N, C, 2*H, 2*W)``.
    """
    if small.dtype != large.dtype or type(small) is not Tensor or type(large) is not Tensor or transformed():
        return F.interpolate(small, scale_factor=2, mode="nearest") + large
    if torch.is_grad_enabled():
        # In place: the upsampled map becomes the sum. Its backward is the one of upsampling, which is fast.
        return F.interpolate(small, scale_factor=2, mode="nearest").add_(large)
    # Where nobody differentiates, in one pass: a pixel of the small map goes to four of the large one.
    h, w = small.shape[2:]
    pixels = large.view(*large.shape[:2], h, 2, w, 2)
    return (pixels + small[:, :, :, None, :, None]).flatten(4, 5).flatten(2, 3)


def few_channels_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=1)`` for 3x3 kernels and few output channels.

    A CPU adds up 16 output channels at once, and a picture has 3. In float32 on a CPU four neighbouring pixels of
    a row are therefore computed as 12 channels: the kernel at its four places within a row of 6, in steps of 4.

    Args:
        x: ``(N, C, H, W)``.
        weight: ``(C_out, C, 3, 3)``.
        bias: ``(C_out,)`` or None.
    """
    four_at_once = x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[3] % 4 == 0
    if not four_at_once or type(weight) not in ORDINARY:
        return F.conv2d(x, weight, bias, padding=1)
    wide = torch.cat([F.pad(weight, (place, 3 - place)) for place in range(4)])  # (4 C_out, C, 3, 6)
    y = F.conv2d(
        x, wide, None if bias is None else bias.repeat(4), stride=(1, 4), padding=1
    )  # (N, 4 C_out, H, W/4)
    return y.view(y.shape[0], 4, len(weight), *y.shape[2:]).permute(0, 2, 3, 4, 1).flatten(3)


def upsamples(x: Tensor, conv: nn.Module, kind: type[nn.Conv2d] = nn.Conv2d) -> bool:
    """Whether ``conv`` of the upsampled ``x`` is one of its weights by :func:`upsampled_conv2d`, and faster.

    It was measured on CPUs in float32, and is no faster there for maps below 16 pixels.

    Args:
        x: ``(N, C, H, W)``, before upsampling.
        conv: a 3x3 convolution that keeps the size, if it is to be.
        kind: its class, whose forward is a convolution by some weight and the bias.

    Example:
        >>> upsamples(torch.zeros(1, 3, 16, 16), nn.Conv2d(3, 4, 3, padding=1))
        True
    """
    if not is_plain(conv, kind):
        return False
    conv = cast(nn.Conv2d, conv)
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and min(x.shape[2:]) >= 16
        and (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and conv.groups == 1
        and conv.padding_mode == "zeros"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_exporting()
    )


def upsampled_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)`` for 3x3 kernels.

    A pixel of ``x`` is four of the upsampled map, so some of nine products have a factor in common. With their
    weights added up first there are four: those of a transposed convolution with stride 2 and 4x4 kernels.

    Args:
        x: ``(N, C, H, W)``.
        weight: ``(C_out, C, 3, 3)``.
        bias: ``(C_out,)`` or None.
    """
    kernel = F.avg_pool2d(weight.flip(2, 3), 2, stride=1, padding=1, divisor_override=1)  # (C_out, C, 4, 4), sums
    return F.conv_transpose2d(x, channels_last(kernel.transpose(0, 1)), bias, stride=2, padding=1)


def folds(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether a batch norm can become part of the convolution before it; see :func:`folded_conv2d`.

    Example:
        >>> with torch.no_grad():
        ...     folds(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4).eval())
        True
    """
    return (
        not torch.is_grad_enabled()
        and not norm.training
        and is_plain(norm, nn.BatchNorm2d)
        and norm.running_mean is not None
        and norm.running_var is not None
        and is_plain(conv, nn.Conv2d)
    )


def folded_conv2d(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """``norm(conv(x))`` where :func:`folds`: where statistics are fixed and nobody differentiates.

    Args:
        x: ``(N, C, H, W)``.
        conv: its output has the channels of ``norm``.
        norm: with running statistics, in evaluation mode.
    """
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    scale = torch.rsqrt(var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    bias = -mean * scale if conv.bias is None else (conv.bias - mean) * scale
    if norm.affine:
        bias = bias + norm.bias
    dtype = conv.weight.dtype
    return conv._conv_forward(x, (conv.weight * scale[:, None, None, None]).to(dtype), bias.to(dtype))


def joint_mlps(cond: Tensor | Sequence[Tensor], mlps: Sequence[nn.Module]) -> list[Tensor]:
    """``[mlp(e) for e, mlp in zip(conds, mlps)]``, in few matrix products.

    First layers of one condition are one product, of several conditions one for each shape. Last layers of one
    shape are another product.

    Args:
        cond: ``(N, D)`` for all, or one for each of the modules.
        mlps: any modules; those joined are plain ``nn.Sequential(nn.Linear, nn.ReLU, nn.Linear)`` with biases.
    """
    conds = [cond] * len(mlps) if isinstance(cond, Tensor) else cond
    results: dict[int, Tensor] = {}
    alike: dict[object, list[int]] = {}
    for i, (e, mlp) in enumerate(zip(conds, mlps, strict=True)):
        if _is_mlp(mlp):
            weight = mlp[0].weight  # type: ignore[index]
            shape = weight.shape[1:] if isinstance(cond, Tensor) else (weight.shape, e.shape, e.dtype)
            alike.setdefault((shape, weight.dtype, weight.device), []).append(i)
        else:
            results[i] = mlp(e)
    for joined in alike.values():
        firsts = [mlps[i][0] for i in joined]  # type: ignore[index]
        if isinstance(cond, Tensor):
            weight, bias = torch.cat([m.weight for m in firsts]), torch.cat([m.bias for m in firsts])
            hidden = torch.split(F.relu(F.linear(cond, weight, bias)), [len(m.weight) for m in firsts], dim=1)
        else:
            given = torch.stack([conds[i] for i in joined])  # (k, N, D)
            hidden = F.relu(_products(given, firsts)).unbind()
        lasts = [mlps[i][2] for i in joined]  # type: ignore[index]
        for shape in dict.fromkeys(m.weight.shape for m in lasts):
            chosen = [k for k, m in enumerate(lasts) if m.weight.shape == shape]
            out = _products(torch.stack([hidden[k] for k in chosen]), [lasts[k] for k in chosen])  # (j, N, C)
            results |= zip((joined[k] for k in chosen), out, strict=True)
    return [results[i] for i in range(len(mlps))]


def _products(x: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    """What Linears of one shape make of ``x (k, N, D)``, each of its own rows: ``(k, N, C)``."""
    weight = torch.stack([cast(nn.Linear, layer).weight for layer in layers])  # (k, C, D)
    bias = torch.stack([cast(nn.Linear, layer).bias for layer in layers])  # (k, C)
    return torch.baddbmm(bias[:, None], x, weight.mT)


def _is_mlp(module: nn.Module) -> bool:
    if not is_plain(module, nn.Sequential) or len(module._modules) != 3:
        return False
    first, relu, last = module._modules.values()
    return (
        first is not None and relu is not None and last is not None
        and is_plain(first, nn.Linear) and first.bias is not None
        and is_plain(relu, nn.ReLU)
        and is_plain(last, nn.Linear) and last.bias is not None
    )  # fmt: skip


def channels_last(x: Tensor) -> Tensor:
    """``x (N, C, H, W)`` in the memory format of fast convolutions; as it is under torch.func, which has none.

    Example:
        >>> channels_last(torch.zeros(2, 3, 4, 4)).stride()
        (48, 1, 12, 3)
    """
    return x if transformed() else x.contiguous(memory_format=torch.channels_last)


def fastest_layout(x: Tensor, impl: Impl = "auto") -> Tensor:
    """``x (N, C, H, W)`` in the memory format in which convolutions and norms by ``impl`` are fastest together.

    Every layer keeps the layout that it is given, and convolutions are fastest in channels last. Torch's own batch
    norm, which the reference takes, is not: on a CPU it is slower there, and its float32 results are less exact.

    Example:
        >>> fastest_layout(torch.zeros(2, 3, 4, 4), impl="reference").stride()
        (48, 16, 4, 1)
    """
    return channels_last(x) if takes_native(x.device.type, x.dtype, impl) else x
