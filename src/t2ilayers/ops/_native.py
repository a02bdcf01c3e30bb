"""The native kernels as torch sees them: shapes, first and second derivative, synchronised statistics."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ._composed import first_order, second_order
from ._memory import empty_map, memory_format
from ._options import Options, Running
from ._reference import check_count, reference, update_running, values_per_channel
from ._torch import below_autograd, direct_apply, is_batched
from .collectives import merge_over_ranks

_OPS = torch.ops.t2ilayers
_DTYPES = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))

# What every call needs, found once: after a large map the interpreter's tables are out of the caches, and each
# name looked up in torch's modules costs a microsecond or two.
_forward: Any
_forward_running: Any
_backward: Any
_is_compiling = torch.compiler.is_compiling
_is_grad_enabled = torch.is_grad_enabled


def lacks(x: Tensor, gamma: Tensor, beta: Tensor, mask: Tensor | None) -> str | None:
    """One sentence on what of a call the kernels of its device do not have, or None."""
    if gamma.dim() == 4 and x.is_cuda and (mask is not None or not gamma.dtype == beta.dtype == x.dtype):
        return "the CUDA kernels take gamma and beta as maps in the dtype of x and without a mask only"
    return None


def register() -> None:
    """Tell torch the shapes and gradients of the ops, once they are loaded."""
    global _forward, _forward_running, _backward
    _forward = _OPS.masked_affine_norm_forward.default
    _forward_running = _OPS.masked_affine_norm_forward_running.default
    _backward = _OPS.masked_affine_norm_backward.default
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
        "t2ilayers::masked_affine_norm_forward", _traced_gradient, setup_context=_save_traced
    )
    torch.library.register_autograd(
        "t2ilayers::masked_affine_norm_backward", _backward_gradient, setup_context=_save_backward
    )


def native(
    x: Tensor,  # (N, C, H, W)
    gamma: Tensor,  # (N, C), or a map (N, C, sH, sW)
    beta: Tensor,  # as gamma
    mask: Tensor | None,  # (N, 1, sH, sW)
    options: Options,
    *,
    given: tuple[Tensor, Tensor] | None = None,
    running: Running | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The reference's result by the kernels."""
    if x.numel() == 0 and process_group is None:
        return reference(x, gamma, beta, mask, options, given=given, running=running)
    if mask is not None and gamma.dim() == 4:  # the kernels take maps without a mask, which is a factor of both
        mask = mask.to(torch.promote_types(gamma.dtype, torch.float32))
        gamma = torch.addcmul(1 - mask, gamma, mask) if options.absolute else gamma * mask
        beta, mask = beta * mask, None
    if process_group is not None and given is None:
        return _synchronized(x, gamma, beta, mask, options, running, process_group)
    if _is_compiling():
        y, mean, var = _forward(x, gamma, beta, mask, *_doubles(given), *options)
        if running is not None:
            update_running(running, mean, var, values_per_channel(x))
    elif _is_grad_enabled():
        y = _eager(x, gamma, beta, mask, given, running, options)
    else:
        y = _run_forward(x, gamma, beta, mask, given, running, options)[0]
    result: Tensor = y
    return result


def _doubles(given: tuple[Tensor, Tensor] | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if given is None else (given[0].double(), given[1].double())


def _run_forward(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mask: Tensor | None,
    given: tuple[Tensor, Tensor] | None,
    running: Running | None,
    options: Options,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and var, past torch's wrapper of a registered gradient, which costs as much as a small map."""
    with below_autograd():
        if fused := running is not None and _written_by_kernels(running):
            torch.autograd.graph.increment_version((running.mean, running.var))
            result = _forward_running(x, gamma, beta, mask, *running, *options)
        else:
            result = _forward(x, gamma, beta, mask, *_doubles(given), *options)
        y, mean, var = result
        if running is not None and not fused:
            update_running(running, mean, var, values_per_channel(x))
    return y, mean, var


def _written_by_kernels(running: Running) -> bool:
    mean, var = running.mean, running.var
    return (
        mean.dtype == var.dtype and mean.dtype in _DTYPES
        and mean.is_contiguous() and var.is_contiguous() and not mean.is_inference()
    )  # fmt: skip


# Shape rules. The last arguments are always Options.


def _statistic(x: Tensor, groups: int) -> Tensor:
    count = 0 if groups < 0 else x.shape[0] * groups if groups else x.shape[1]
    return x.new_empty(count, dtype=torch.float64)


def _gradient_of(parameter: Tensor, x: Tensor) -> Tensor:
    if parameter.dim() == 4:
        return torch.empty_like(parameter, memory_format=memory_format(x))
    return parameter.new_empty(parameter.shape)


def _fake_statistics(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    return _statistic(x, groups), _statistic(x, groups)


def _fake_forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    options = Options(*rest[5:])
    return empty_map(x, options.upsample), _statistic(x, options.groups), _statistic(x, options.groups)


def _fake_backward(dy: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors, (constant, need_dx, need_parameters, need_dmask, *tail) = rest[:5], rest[5:]
    reduce = need_parameters or need_dmask or (need_dx and not constant and Options(*tail).groups >= 0)
    _, dgamma, dbeta, dmask = _fake_backward_sums(dy, x, *tensors, need_dmask and reduce, *tail)
    if not reduce:
        dgamma, dbeta = dgamma.new_empty(0), dbeta.new_empty(0)
    return empty_map(x, 1) if need_dx else x.new_empty(0), dgamma, dbeta, dmask


def _fake_backward_sums(dy: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gamma, beta, mask, _, _, need_dmask, *tail = rest
    sums = x.new_empty((2, _statistic(x, Options(*tail).groups).shape[0]), dtype=torch.float64)
    like = gamma if mask is None else mask
    dmask = like.new_empty(mask.shape if need_dmask and mask is not None else 0)
    return sums, _gradient_of(gamma, x), _gradient_of(beta, x), dmask


def _fake_backward_input(dy: Tensor, x: Tensor, *rest: Any) -> Tensor:
    return empty_map(x, 1)


# First order: fused. One feature map, x, is kept; what the activation hid is computed again from it.


def _compute(ctx: Any) -> Callable[..., Tensor]:
    """The reference as a function of x, gamma, beta and mask."""
    given = tuple(ctx.saved_tensors[-2:]) if ctx.constant else None
    return functools.partial(reference, options=ctx.options, given=given)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by x, gamma, beta and mask that are needed."""
    x, gamma, beta, mask, mean, var = ctx.saved_tensors
    need_dx, need_dgamma, need_dbeta, need_dmask = needs = ctx.needs_input_grad[:4]
    if is_batched(dy):
        return first_order(_compute(ctx), (x, gamma, beta, mask), needs, dy)
    arguments = (
        dy, x, gamma, beta, mask, mean, var, ctx.constant, need_dx, need_dgamma or need_dbeta, need_dmask,
        *ctx.options,
    )  # fmt: skip
    if _is_grad_enabled() or _is_compiling():
        dx, dgamma, dbeta, dmask = _backward(*arguments)
    else:  # nobody asks for a second order
        with below_autograd():
            dx, dgamma, dbeta, dmask = _backward(*arguments)
    return (
        dx if need_dx else None,
        dgamma if need_dgamma else None,
        dbeta if need_dbeta else None,
        dmask if need_dmask else None,
    )


class _Eager(torch.autograd.Function):
    """The kernels outside of graphs that are traced.

    Small maps are bound by the Python that runs, and it runs cold after a large one. So there is no setup_context,
    for which ``apply`` inspects a signature at every call, and no look for torch.func's transforms, which the
    public function keeps away.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        mask: Tensor | None,
        given: tuple[Tensor, Tensor] | None,
        running: Running | None,
        options: Options,
    ) -> Tensor:
        y, mean, var = _run_forward(x, gamma, beta, mask, given, running, options)
        ctx.options, ctx.constant = options, given is not None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, gamma, beta, mask, mean, var)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Any, ...]:
        if dy is None:
            return (None,) * 7
        return *_gradients(ctx, dy), None, None, None


_eager = direct_apply(_Eager)


def _save_traced(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, gamma, beta, mask, given_mean, _, *options = inputs
    ctx.options, ctx.constant = Options(*options), given_mean is not None
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, gamma, beta, mask, output[1], output[2])


def _traced_gradient(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Any, ...]:
    nothing = (None,) * (6 + len(Options._fields))
    return nothing if dy is None else (*_gradients(ctx, dy), *nothing[4:])


# Second order: composed of ordinary operations.


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, (ctx.constant, _, _, _, *options) = inputs[:7], inputs[7:]
    ctx.options = Options(*options)
    ctx.computed = [result.numel() > 0 for result in output]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _backward_gradient(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
    dy, *inputs, _, _ = ctx.saved_tensors
    known = [g if there else None for g, there in zip(gradients, ctx.computed, strict=True)]
    return *second_order(_compute(ctx), dy, inputs, known), *(None,) * (6 + len(Options._fields))


# Synchronised statistics: one collective forward and one backward, around the kernels.


def _synchronized(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mask: Tensor | None,
    options: Options,
    running: Running | None,
    group: dist.ProcessGroup,
) -> Tensor:
    y, mean, var, count = _Synchronized.apply(  # type: ignore[no-untyped-call]
        x, gamma, beta, mask, options, group
    )
    if values_per_channel(x) <= 1:  # only a rank with at most one value each can be part of a group with one
        check_count(int(count))
    if running is not None:
        update_running(running, mean, var, count)
    result: Tensor = y
    return result


class _Synchronized(torch.autograd.Function):
    """``(y, mean, var, count)`` with batch statistics over all ranks of ``group``.

    ``count ()`` is the number of values behind each statistic, on the device: nothing here waits for it.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        mask: Tensor | None,
        options: Options,
        group: dist.ProcessGroup,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var = _OPS.masked_affine_norm_statistics(x, options.groups)
        local = values_per_channel(x)
        mean, var, count = merge_over_ranks(local, mean, var * local, group)
        y, _, _ = _OPS.masked_affine_norm_forward(x, gamma, beta, mask, mean, var, *options)
        ctx.options, ctx.group = options, group
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, var, count)
        ctx.save_for_backward(x, gamma, beta, mask, mean, var, count)
        return y, mean, var, count

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Any, ...]:
        x, gamma, beta, mask, mean, var, count = ctx.saved_tensors
        options: Options = ctx.options
        needs = ctx.needs_input_grad[:4]
        if dy is None:  # every rank joins the collective, whatever its loss used
            dy = x.new_zeros((*x.shape[:2], *(options.upsample * side for side in x.shape[2:])))
        if torch.is_grad_enabled() or is_batched(dy):
            tensors = x, gamma, beta, mask
            compute = functools.partial(reference, options=options, process_group=ctx.group)
            return *first_order(compute, tensors, needs, dy), None, None
        arguments = dy, x, gamma, beta, mask, mean, var
        sums, *gradients = _OPS.masked_affine_norm_backward_sums(*arguments, needs[3], *options)
        dist.all_reduce(sums, group=ctx.group)
        dx = _OPS.masked_affine_norm_backward_input(*arguments, sums / count, *options) if needs[0] else None
        return dx, *(g if need else None for g, need in zip(gradients, needs[1:], strict=True)), None, None
