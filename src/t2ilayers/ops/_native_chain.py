"""The kernels of affine_chain as torch sees them: shapes, first and second derivative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._composed import first_order, second_order
from ._memory import empty_map
from ._reference import reference_chain
from ._torch import below_autograd, direct_apply, is_batched

_OPS = torch.ops.t2ilayers
_MOST_PAIRS = 3
_forward: Any
_backward: Any


def lacks_chain(pairs: int) -> str | None:
    """One sentence on what of a call the kernels do not have, or None."""
    if pairs > _MOST_PAIRS:
        return f"native kernels take up to {_MOST_PAIRS} pairs, got {pairs}"
    return None


def register() -> None:
    """Tell torch the shapes and gradients of the ops, once they are loaded."""
    global _forward, _backward
    _forward, _backward = _OPS.affine_chain_forward.default, _OPS.affine_chain_backward.default
    torch.library.register_fake("t2ilayers::affine_chain_forward", _fake_forward)
    torch.library.register_fake("t2ilayers::affine_chain_backward", _fake_backward)
    torch.library.register_autograd("t2ilayers::affine_chain_forward", _gradient, setup_context=_save_traced)
    torch.library.register_autograd(
        "t2ilayers::affine_chain_backward", _backward_gradient, setup_context=_save_backward
    )


def native_chain(
    x: Tensor, gammas: Sequence[Tensor], betas: Sequence[Tensor], slope: float, silu: bool, upsample: int
) -> Tensor:
    """The result of :func:`reference_chain` by the kernels."""
    call = _forward if torch.compiler.is_compiling() else _eager
    y: Tensor = call(x, torch.stack(list(gammas)), torch.stack(list(betas)), slope, silu, upsample)
    return y


def _fake_forward(x: Tensor, gammas: Tensor, betas: Tensor, slope: float, silu: bool, upsample: int) -> Tensor:
    return empty_map(x, upsample)


def _fake_backward(dy: Tensor, x: Tensor, gammas: Tensor, betas: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *_, need_dx, need_parameters = rest
    return (
        empty_map(x, 1) if need_dx else x.new_empty(0),
        gammas.new_empty(gammas.shape if need_parameters else 0),
        betas.new_empty(betas.shape if need_parameters else 0),
    )


def _save(ctx: Any, x: Tensor, gammas: Tensor, betas: Tensor, *options: Any) -> None:
    ctx.options = options  # slope, silu, upsample
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, gammas, betas)


def _save_traced(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _save(ctx, *inputs)


def _gradient(ctx: Any, dy: Tensor | None) -> tuple[Any, ...]:
    nothing = None, None, None
    if dy is None:
        return *nothing, *nothing
    tensors = ctx.saved_tensors
    need_dx, need_dgammas, need_dbetas = needs = ctx.needs_input_grad[:3]
    if is_batched(dy):
        return *first_order(_compute(*ctx.options), tensors, needs, dy), *nothing
    arguments = dy, *tensors, *ctx.options, need_dx, need_dgammas or need_dbetas
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        dx, dgammas, dbetas = _backward(*arguments)
    else:  # nobody asks for a second order
        with below_autograd():
            dx, dgammas, dbetas = _backward(*arguments)
    return dx if need_dx else None, dgammas if need_dgammas else None, dbetas if need_dbetas else None, *nothing


class _Eager(torch.autograd.Function):
    """The kernels outside of graphs that are traced, without torch's wrapper of a registered gradient."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        with below_autograd():
            y: Tensor = _forward(*arguments)
        _save(ctx, *arguments)
        return y

    backward = staticmethod(_gradient)


_eager = direct_apply(_Eager)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, (*ctx.options, need_dx, need_parameters) = inputs[:4], inputs[4:]
    ctx.computed = need_dx, need_parameters, need_parameters
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _backward_gradient(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
    dy, *inputs = ctx.saved_tensors
    known = [g if there else None for g, there in zip(gradients, ctx.computed, strict=True)]
    return *second_order(_compute(*ctx.options), dy, inputs, known), *(None,) * 5


def _compute(slope: float, silu: bool, upsample: int) -> Any:
    def chain(x: Tensor, gammas: Tensor, betas: Tensor) -> Tensor:
        return reference_chain(x, gammas.unbind(), betas.unbind(), slope, silu, upsample)

    return chain
