"""What torch must know of the native ops beyond their kernels: shapes, gradients, synchronised statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_OPS = torch.ops.t2ilayers
_Optional = Tensor | None

# What every call needs, found once: after a large map the interpreter's tables are out of the caches, and each
# name looked up in torch's modules costs a microsecond or two.
_forward: Any
_backward: Any
_BelowAutograd = torch._C._AutoDispatchBelowAutograd


def register() -> None:
    """Register shape rules and gradients; to be called once, when the library that defines the ops is loaded."""
    global _forward, _backward
    _forward, _backward = _OPS.masked_affine_norm_forward.default, _OPS.masked_affine_norm_backward.default
    fakes: dict[str, Callable[..., Any]] = {
        "statistics": _fake_statistics,
        "forward": _fake_forward,
        "backward": _fake_backward,
        "backward_sums": _fake_backward_sums,
        "backward_input": _fake_backward_input,
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"t2ilayers::masked_affine_norm_{name}", fake)
    torch.library.register_autograd(
        "t2ilayers::masked_affine_norm_forward", _forward_gradient, setup_context=_save_forward
    )
    torch.library.register_autograd(
        "t2ilayers::masked_affine_norm_backward", _backward_gradient, setup_context=_save_backward
    )


def normalize(
    x: Tensor,  # (N, C, H, W)
    gamma: Tensor,  # (N, C)
    beta: Tensor,  # (N, C)
    mask: _Optional,  # (N, 1, sH, sW)
    mean: _Optional,  # (C,), where statistics are given
    var: _Optional,
    groups: int,
    eps: float,
    slope: float,
    upsample: int,
    tracing: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(y, mean, var)`` by the native kernels; mean and biased variance are ``(C,)`` or ``(N * groups,)``."""
    # Torch's wrapper of a registered gradient costs as much as a small map. It is for graphs that are traced.
    call: Any = _forward if tracing else _Eager.call
    gamma, beta, mask = _parameters(x, gamma, beta, mask)
    if mean is not None and var is not None:
        mean, var = mean.double(), var.double()
    result: tuple[Tensor, Tensor, Tensor] = call(x, gamma, beta, mask, mean, var, groups, eps, slope, upsample)
    return result


def _parameters(x: Tensor, gamma: Tensor, beta: Tensor, mask: _Optional) -> tuple[Tensor, Tensor, _Optional]:
    """In the dtype that the kernels compute in. Written out: each call less is felt on small maps."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if gamma.dtype != dtype:
        gamma = gamma.to(dtype)
    if beta.dtype != dtype:
        beta = beta.to(dtype)
    if mask is not None and mask.dtype != dtype:
        mask = mask.to(dtype)
    return gamma, beta, mask


# Shape rules. A map is channels last exactly where the kernels make it so; Inductor plans by these strides.


def _memory_format(x: Tensor) -> torch.memory_format:
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _map(x: Tensor, upsample: int) -> Tensor:
    n, c, h, w = x.shape
    return torch.empty(
        (n, c, upsample * h, upsample * w), dtype=x.dtype, device=x.device, memory_format=_memory_format(x)
    )


def _statistic(x: Tensor, groups: int) -> Tensor:
    return x.new_empty(x.shape[0] * groups if groups else x.shape[1], dtype=torch.float64)


def _fake_statistics(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    return _statistic(x, groups), _statistic(x, groups)


def _fake_forward(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mask: _Optional,
    mean: _Optional,
    var: _Optional,
    groups: int,
    eps: float,
    slope: float,
    upsample: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return _map(x, upsample), _statistic(x, groups), _statistic(x, groups)


def _fake_backward(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mask: _Optional,
    mean: Tensor,
    var: Tensor,
    groups: int,
    eps: float,
    slope: float,
    upsample: int,
    constant: bool,
    need_dx: bool,
    need_parameters: bool,
    need_dmask: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    reduce = need_parameters or need_dmask or (need_dx and not constant)
    sums = _fake_backward_sums(
        dy, x, gamma, beta, mask, mean, var, groups, eps, slope, upsample, need_dmask and reduce
    )
    _, dgamma, dbeta, dmask = sums
    if not reduce:
        dgamma, dbeta = gamma.new_empty(0), gamma.new_empty(0)
    return _map(x, 1) if need_dx else x.new_empty(0), dgamma, dbeta, dmask


def _fake_backward_sums(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mask: _Optional,
    mean: Tensor,
    var: Tensor,
    groups: int,
    eps: float,
    slope: float,
    upsample: int,
    need_dmask: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sums = x.new_empty((2, _statistic(x, groups).shape[0]), dtype=torch.float64)
    dmask = mask.new_empty(mask.shape) if need_dmask and mask is not None else gamma.new_empty(0)
    return sums, gamma.new_empty(gamma.shape), beta.new_empty(beta.shape), dmask


def _fake_backward_input(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mask: _Optional,
    mean: Tensor,
    var: Tensor,
    k: Tensor,
    groups: int,
    eps: float,
    slope: float,
    upsample: int,
) -> Tensor:
    return _map(x, 1)


# First order: fused. One feature map, x, is kept; what the activation hid is computed again from it.


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, gamma, beta, mask, mean, _, *ctx.options = inputs
    ctx.constant = mean is not None
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, gamma, beta, mask, output[1], output[2])


def _forward_gradient(ctx: Any, dy: _Optional, *_: Any) -> tuple[Any, ...]:
    nothing = (None,) * 10
    if dy is None:
        return nothing
    x, gamma, beta, mask, mean, var = ctx.saved_tensors
    need_dx, need_dgamma, need_dbeta, need_dmask = ctx.needs_input_grad[:4]
    needs = need_dx, need_dgamma or need_dbeta, need_dmask
    tensors = dy, x, gamma, beta, mask, mean, var
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        dx, dgamma, dbeta, dmask = _backward(*tensors, *ctx.options, ctx.constant, *needs)
    else:  # nobody asks for a second order
        with _BelowAutograd():
            dx, dgamma, dbeta, dmask = _backward(*tensors, *ctx.options, ctx.constant, *needs)
    return (
        dx if need_dx else None,
        dgamma if need_dgamma else None,
        dbeta if need_dbeta else None,
        dmask if need_dmask else None,
        *nothing[4:],
    )


class _Eager(torch.autograd.Function):
    """The forward op with its registered gradient, without torch's wrapper of it.

    Small maps are bound by the Python that runs, and it runs cold after a large one. So there is no setup_context,
    for which ``apply`` inspects a signature at every call, and ``call`` is the ``apply`` behind ``apply``, which
    does not look for torch.func's transforms; the public function keeps those away.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        with _BelowAutograd():
            result: tuple[Tensor, Tensor, Tensor] = _forward(*arguments)
        _save_forward(ctx, arguments, result)
        return result

    backward = staticmethod(_forward_gradient)
    call: Callable[..., tuple[Tensor, Tensor, Tensor]]


_Eager.call = super(torch.autograd.Function, _Eager).apply


# Second order: composed of ordinary operations.


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, groups, eps, slope, upsample, constant, _, _, _ = inputs
    ctx.computed = [result.numel() > 0 for result in output]
    ctx.options = groups, eps, slope, upsample, constant
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _backward_gradient(ctx: Any, *gradients: _Optional) -> tuple[Any, ...]:
    known = (g if there else None for g, there in zip(gradients, ctx.computed, strict=True))
    second = _SecondOrder.apply(ctx.options, *ctx.saved_tensors, *known)  # type: ignore[no-untyped-call]
    return *second, *(None,) * 10


class _SecondOrder(torch.autograd.Function):
    """Gradients of <gradients, (dx, dgamma, dbeta, dmask)> by dy, x, gamma, beta and mask."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        options: tuple[int, float, float, int, bool],
        dy: Tensor,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        mask: _Optional,
        mean: Tensor,
        var: Tensor,
        *gradients: _Optional,
    ) -> tuple[_Optional, ...]:
        with torch.enable_grad():
            leaves = [None if t is None else t.detach().requires_grad_() for t in (dy, x, gamma, beta, mask)]
            dy_leaf, *inputs = leaves
            y = _composed(*inputs, mean, var, *options)  # type: ignore[arg-type, call-arg]
            present = [(i, t) for i, t in enumerate(inputs) if t is not None]
            first = torch.autograd.grad(y, [t for _, t in present], dy_leaf, create_graph=True)
            pairs = [
                (d, gradients[i]) for (i, _), d in zip(present, first, strict=True) if gradients[i] is not None
            ]
            wanted = [t for t in leaves if t is not None]
            second = iter(
                torch.autograd.grad(
                    [d for d, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True, materialize_grads=True
                )
                if pairs
                else [torch.zeros_like(t) for t in wanted]
            )
        return tuple(None if t is None else next(second) for t in leaves)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(
            "the native masked_affine_norm has first and second derivatives, a third was asked for; "
            'use impl="reference", which has all'
        )


def _composed(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mask: _Optional,
    mean: Tensor,
    var: Tensor,
    groups: int,
    eps: float,
    slope: float,
    upsample: int,
    constant: bool,
) -> Tensor:
    """The reference, by the options that the native ops have."""
    from ._masked_affine_norm import _reference

    dtype = torch.promote_types(x.dtype, torch.float32)
    return _reference(
        x, gamma, beta, mask, mean.to(dtype) if constant else None, var.to(dtype) if constant else None,
        not constant, 0.0, eps, "leaky_relu", slope, upsample, "group" if groups else "batch", groups or None,
        None,
    )  # fmt: skip


# Synchronised statistics: one collective forward and one backward, around the kernels.


class SynchronizedNorm(torch.autograd.Function):
    """``(y, mean, var, count)`` with batch statistics over all ranks of ``group``.

    ``count ()`` is the number of values behind each statistic, on the device: nothing here waits for it.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        mask: _Optional,
        eps: float,
        slope: float,
        upsample: int,
        group: dist.ProcessGroup,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        from ._masked_affine_norm import merge_over_ranks

        mean, var = _OPS.masked_affine_norm_statistics(x, 0)
        local = x.numel() // x.shape[1]
        mean, var, count = merge_over_ranks(local, mean, var * local, group)
        y, _, _ = _OPS.masked_affine_norm_forward(x, gamma, beta, mask, mean, var, 0, eps, slope, upsample)
        ctx.options = 0, eps, slope, upsample
        ctx.group = group
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, var, count)
        ctx.save_for_backward(x, gamma, beta, mask, mean, var, count)
        return y, mean, var, count

    @staticmethod
    def backward(ctx: Any, dy: _Optional, *_: Any) -> tuple[Any, ...]:
        x, gamma, beta, mask, mean, var, count = ctx.saved_tensors
        if dy is None:  # every rank joins the collective, whatever its loss used
            dy = x.new_zeros((*x.shape[:2], *(ctx.options[-1] * side for side in x.shape[2:])))
        if torch.is_grad_enabled():  # for a second order, compose the first
            from ._masked_affine_norm import _reference

            _, eps, slope, upsample = ctx.options
            inputs = [t for t in (x, gamma, beta, mask) if t is not None and t.requires_grad]
            y = _reference(
                x, gamma, beta, mask, None, None, True, 0.0, eps, "leaky_relu", slope, upsample, "batch", None,
                ctx.group,
            )  # fmt: skip
            found = iter(torch.autograd.grad(y, inputs, dy, create_graph=True))
            first = (next(found) if t is not None and t.requires_grad else None for t in (x, gamma, beta, mask))
            return *first, *(None,) * 4
        tensors = dy, x, gamma, beta, mask, mean, var
        sums, dgamma, dbeta, dmask = _OPS.masked_affine_norm_backward_sums(
            *tensors, *ctx.options, ctx.needs_input_grad[3]
        )
        dx = None
        dist.all_reduce(sums, group=ctx.group)
        if ctx.needs_input_grad[0]:
            dx = _OPS.masked_affine_norm_backward_input(*tensors, sums / count, *ctx.options)
        return dx, dgamma, dbeta, dmask if ctx.needs_input_grad[3] else None, *(None,) * 4


def normalize_synchronized(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mask: _Optional,
    eps: float,
    slope: float,
    upsample: int,
    group: dist.ProcessGroup,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``normalize``, with the statistics of all ranks and their count; see ``SynchronizedNorm``."""
    gamma, beta, mask = _parameters(x, gamma, beta, mask)
    result: tuple[Tensor, Tensor, Tensor, Tensor] = SynchronizedNorm.apply(  # type: ignore[no-untyped-call]
        x, gamma, beta, mask, eps, slope, upsample, group
    )
    return result
