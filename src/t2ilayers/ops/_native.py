"""The native kernels as torch sees them: shapes, first and second derivative, synchronised statistics."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import build
from ._options import Options, Running
from ._reference import check_count, reference, update_running, values_per_channel
from ._torch import below_autograd, direct_apply
from .collectives import merge_over_ranks

_OPS = torch.ops.t2ilayers
_DTYPES = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))
_lock = threading.Lock()

# What every call needs, found once: after a large map the interpreter's tables are out of the caches, and each
# name looked up in torch's modules costs a microsecond or two.
_forward: Any
_backward: Any
_is_compiling = torch.compiler.is_compiling


def why_not(device: str, dtype: torch.dtype) -> str | None:
    """One sentence on why the kernels cannot run on such an x, or None; a first call may compile them."""
    if dtype not in _DTYPES:
        return f"native kernels know no {dtype}"
    if device == "cuda" and dtype == torch.float64:
        return "the CUDA kernels compute in float32 and take no float64"
    if reason := build.why_not(device):
        return reason
    with _lock:  # of threads that come here first, one registers
        return _register()


def lacks(options: Options, *, maps: bool) -> str | None:
    """One sentence on what of a call the kernels do not have, or None."""
    if options.groups < 0 or options.silu or options.absolute or maps:
        return 'native kernels have no stats="none", scale="absolute", activation="silu" or maps yet'
    return None


@functools.cache
def _register() -> str | None:
    """Tell torch the shapes and gradients of the ops, once they are loaded."""
    global _forward, _backward
    fakes: dict[str, Callable[..., Any]] = {
        "statistics": _fake_statistics,
        "forward": _fake_forward,
        "backward": _fake_backward,
        "backward_sums": _fake_backward_sums,
        "backward_input": _fake_backward_input,
    }
    try:
        _forward, _backward = _OPS.masked_affine_norm_forward.default, _OPS.masked_affine_norm_backward.default
        for name, fake in fakes.items():
            torch.library.register_fake(f"t2ilayers::masked_affine_norm_{name}", fake)
    except (AttributeError, RuntimeError) as error:
        return f"the library that was loaded lacks an op ({error}); delete it to build it anew"
    torch.library.register_autograd(
        "t2ilayers::masked_affine_norm_forward", _forward_gradient, setup_context=_save_forward
    )
    torch.library.register_autograd(
        "t2ilayers::masked_affine_norm_backward", _backward_gradient, setup_context=_save_backward
    )
    return None


def native(
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
    """The reference's result by the kernels."""
    # In the dtype that the kernels compute in. Written out: each call less is felt on small maps.
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if gamma.dtype != dtype:
        gamma = gamma.to(dtype)
    if beta.dtype != dtype:
        beta = beta.to(dtype)
    if mask is not None and mask.dtype != dtype:
        mask = mask.to(dtype)
    count: int | Tensor = values_per_channel(x)
    if process_group is not None and given is None:
        y, mean, var, total = _Synchronized.apply(  # type: ignore[no-untyped-call]
            x, gamma, beta, mask, options, process_group
        )
        if count <= 1:  # only a rank with at most one value each can be part of a group with one
            check_count(int(total))
        count = total
    else:
        statistics = (None, None) if given is None else (given[0].double(), given[1].double())
        # Torch's wrapper of a registered gradient costs as much as a small map. It is for graphs that are traced.
        call: Any = _forward if _is_compiling() else _eager
        y, mean, var = call(x, gamma, beta, mask, *statistics, *options)
    if running is not None:
        update_running(running, mean, var, count)
    result: Tensor = y
    return result


# Shape rules. A map is channels last exactly where the kernels make it so; Inductor plans by these strides.
# The last arguments are always Options.


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


def _fake_forward(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    options = Options(*rest[-len(Options._fields) :])
    return _map(x, options.upsample), _statistic(x, options.groups), _statistic(x, options.groups)


def _fake_backward(dy: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors, (constant, need_dx, need_parameters, need_dmask, *options) = rest[:5], rest[5:]
    reduce = need_parameters or need_dmask or (need_dx and not constant)
    _, dgamma, dbeta, dmask = _fake_backward_sums(dy, x, *tensors, need_dmask and reduce, *options)
    if not reduce:
        dgamma, dbeta = dgamma.new_empty(0), dbeta.new_empty(0)
    return _map(x, 1) if need_dx else x.new_empty(0), dgamma, dbeta, dmask


def _fake_backward_sums(dy: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gamma, beta, mask, _, _, need_dmask, *options = rest
    sums = x.new_empty((2, _statistic(x, Options(*options).groups).shape[0]), dtype=torch.float64)
    dmask = mask.new_empty(mask.shape) if need_dmask and mask is not None else gamma.new_empty(0)
    return sums, gamma.new_empty(gamma.shape), beta.new_empty(beta.shape), dmask


def _fake_backward_input(dy: Tensor, x: Tensor, *rest: Any) -> Tensor:
    return _map(x, 1)


# First order: fused. One feature map, x, is kept; what the activation hid is computed again from it.


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, gamma, beta, mask, mean, _, *ctx.options = inputs
    ctx.constant = mean is not None
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, gamma, beta, mask, output[1], output[2])


def _forward_gradient(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Any, ...]:
    nothing = (None,) * (6 + len(Options._fields))
    if dy is None:
        return nothing
    x, gamma, beta, mask, mean, var = ctx.saved_tensors
    need_dx, need_dgamma, need_dbeta, need_dmask = ctx.needs_input_grad[:4]
    needs = need_dx, need_dgamma or need_dbeta, need_dmask
    tensors = dy, x, gamma, beta, mask, mean, var
    if torch.is_grad_enabled() or _is_compiling():
        dx, dgamma, dbeta, dmask = _backward(*tensors, ctx.constant, *needs, *ctx.options)
    else:  # nobody asks for a second order
        with below_autograd():
            dx, dgamma, dbeta, dmask = _backward(*tensors, ctx.constant, *needs, *ctx.options)
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
    for which ``apply`` inspects a signature at every call, and no look for torch.func's transforms, which the
    public function keeps away.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        with below_autograd():
            result: tuple[Tensor, Tensor, Tensor] = _forward(*arguments)
        _save_forward(ctx, arguments, result)
        return result

    backward = staticmethod(_forward_gradient)


_eager = direct_apply(_Eager)


# Second order: composed of ordinary operations.


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, (ctx.constant, _, _, _, *options) = inputs[:7], inputs[7:]
    ctx.options = Options(*options)
    ctx.computed = [result.numel() > 0 for result in output]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _backward_gradient(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
    known = (g if there else None for g, there in zip(gradients, ctx.computed, strict=True))
    second = _SecondOrder.apply(  # type: ignore[no-untyped-call]
        ctx.options, ctx.constant, *ctx.saved_tensors, *known
    )
    return *second, *(None,) * (6 + len(Options._fields))


class _SecondOrder(torch.autograd.Function):
    """Gradients of <gradients, (dx, dgamma, dbeta, dmask)> by dy, x, gamma, beta and mask."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, options: Options, constant: bool, *tensors: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        (*arguments, mean, var), gradients = tensors[:7], tensors[7:]
        with torch.enable_grad():
            leaves = [None if t is None else t.detach().requires_grad_() for t in arguments]
            dy, *inputs = leaves
            y = reference(*inputs, options=options, given=(mean, var) if constant else None)  # type: ignore[misc, arg-type]
            present = [(i, t) for i, t in enumerate(inputs) if t is not None]
            first = torch.autograd.grad(y, [t for _, t in present], dy, create_graph=True)
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


# Synchronised statistics: one collective forward and one backward, around the kernels.


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
        if dy is None:  # every rank joins the collective, whatever its loss used
            dy = x.new_zeros((*x.shape[:2], *(options.upsample * side for side in x.shape[2:])))
        if torch.is_grad_enabled():  # for a second order, compose the first
            inputs = [t for t in (x, gamma, beta, mask) if t is not None and t.requires_grad]
            y = reference(x, gamma, beta, mask, options, process_group=ctx.group)
            found = iter(torch.autograd.grad(y, inputs, dy, create_graph=True))
            first = (next(found) if t is not None and t.requires_grad else None for t in (x, gamma, beta, mask))
            return *first, None, None
        tensors = dy, x, gamma, beta, mask, mean, var
        sums, dgamma, dbeta, dmask = _OPS.masked_affine_norm_backward_sums(
            *tensors, ctx.needs_input_grad[3], *options
        )
        dx = None
        dist.all_reduce(sums, group=ctx.group)
        if ctx.needs_input_grad[0]:
            dx = _OPS.masked_affine_norm_backward_input(*tensors, sums / count, *options)
        return dx, dgamma, dbeta, dmask if ctx.needs_input_grad[3] else None, None, None
