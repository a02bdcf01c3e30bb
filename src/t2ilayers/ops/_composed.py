"""Derivatives of the kernels made of ordinary operations: torch differentiates the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Compute = Callable[..., Tensor]
"""The reference as a function of its tensors alone."""


def first_order(
    compute: Compute, inputs: Sequence[Tensor | None], needs: Sequence[bool], dy: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of <dy, y> by the inputs that need one, to be differentiated again where that is enabled."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        if not create_graph:
            both = zip(inputs, needs, strict=True)
            inputs = [None if t is None else t.detach().requires_grad_(need) for t, need in both]
        y = compute(*inputs)
        wanted = [t for t, need in zip(inputs, needs, strict=True) if need and t is not None]
        found = iter(torch.autograd.grad(y, wanted, dy, create_graph=create_graph))
    return tuple(next(found) if need else None for need in needs)


def second_order(
    compute: Compute, dy: Tensor, inputs: Sequence[Tensor | None], gradients: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Gradients by dy and the inputs of <gradients, first order>, where ``gradients`` has one for each input."""
    found: tuple[Tensor | None, ...] = _SecondOrder.apply(  # type: ignore[no-untyped-call]
        compute, dy, *inputs, *gradients
    )
    return found


class _SecondOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compute: Compute, dy: Tensor, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        count = len(tensors) // 2
        with torch.enable_grad():
            leaves = [None if t is None else t.detach().requires_grad_() for t in (dy, *tensors[:count])]
            present = [t for t in leaves[1:] if t is not None]
            gradients = [g for g, t in zip(tensors[count:], leaves[1:], strict=True) if t is not None]
            first = torch.autograd.grad(compute(*leaves[1:]), present, leaves[0], create_graph=True)
            pairs = [(d, g) for d, g in zip(first, gradients, strict=True) if g is not None]
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
            "native kernels have first and second derivatives, a third was asked for; "
            'use impl="reference", which has all'
        )
