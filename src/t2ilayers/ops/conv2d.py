"""Convolution whose second derivatives are as fast as its first: what a gradient penalty spends its time on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .masked_affine_norm import transformed


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0) -> Tensor:
    r"""``torch.nn.functional.conv2d``, to be differentiated twice.

    .. math:: y_{no} = b_o + \sum_i w_{oi} \star x_{ni}

    A gradient penalty needs the derivative by ``weight`` of the gradient by ``x``. Torch takes it by a convolution
    with kernels as large as the map, of batch and channels exchanged, after copying both. Here it is an ordinary
    gradient by the weights:

    .. math::
        \frac{\partial}{\partial w} \Big\langle v, \frac{\partial}{\partial x}
        \langle u, w \star x \rangle \Big\rangle = \frac{\partial}{\partial w} \langle u, w \star v \rangle

    Values and first derivatives are torch's own, and derivatives of any order are right.

    Under autocast, ``torch.compile`` and ``torch.func`` it is torch's convolution.

    Args:
        x: ``(N, C_in, H, W)``, floating point.
        weight: ``(C_out, C_in, K, K)``, in the dtype of ``x``.
        bias: ``(C_out,)`` or None.
        stride: >= 1, of both sides.
        padding: zeros on every side, >= 0.

    Returns:
        ``(N, C_out, H', W')`` with ``H' = (H + 2 * padding - K) // stride + 1``.

    Raises:
        RuntimeError: torch's, where shapes or dtypes do not fit.

    Source: the idea of StyleGAN2-ADA's ``conv2d_gradfix`` (arXiv 2006.06676, published code).

    Example:
        >>> x, w = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
        >>> (slope,) = torch.autograd.grad(conv2d(x, w, padding=1).square().sum(), x, create_graph=True)
        >>> slope.square().sum().backward()
        >>> w.grad.shape
        torch.Size([4, 3, 3, 3])
    """
    ordinary = torch.compiler.is_compiling() or transformed() or torch.is_autocast_enabled(x.device.type)
    if ordinary or not torch.is_grad_enabled():
        return F.conv2d(x, weight, bias, stride, padding)
    y: Tensor = _convolution(x, weight, bias, stride, padding)
    return y


_no_weight_gradients = False


@contextmanager
def without_weight_gradients() -> Iterator[None]:
    """Within, gradients taken with ``create_graph=True`` leave those of :func:`conv2d` by weight and bias out.

    For ``torch.autograd.grad(..., inputs, create_graph=True)`` with ``inputs`` that are no weights: autograd does
    not tell a custom function which of its gradients are wanted, and half of the work would be thrown away.

    Example:
        >>> x, w = torch.randn(1, 1, 4, 4, requires_grad=True), torch.randn(1, 1, 3, 3, requires_grad=True)
        >>> y = conv2d(x, w).sum()
        >>> with without_weight_gradients():
        ...     (slope,) = torch.autograd.grad(y, x, create_graph=True)
    """
    global _no_weight_gradients
    before, _no_weight_gradients = _no_weight_gradients, True
    try:
        yield
    finally:
        _no_weight_gradients = before


def _gradients(dy: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, mask: list[bool]) -> Any:
    """By x, weight and bias, as far as ``mask`` asks for them."""
    return torch.ops.aten.convolution_backward(
        dy, x, weight, [weight.shape[0]], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, mask
    )


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        if not torch.is_grad_enabled():  # nobody asks for a second order
            stride, padding = ctx.geometry
            return *_gradients(dy, x, weight, stride, padding, [need_x, need_weight, need_bias]), None, None
        if _no_weight_gradients:
            need_weight = need_bias = False
        dx = _by_input(dy, x, weight, *ctx.geometry) if need_x else None
        dweight = _by_weight(dy, x, weight, *ctx.geometry) if need_weight else None
        return dx, dweight, dy.sum((0, 2, 3)) if need_bias else None, None, None


class _ByInput(torch.autograd.Function):
    """The gradient by x, linear in dy and in weight; of x it takes the shape."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, dy: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int
    ) -> Tensor:
        ctx.save_for_backward(dy, weight)
        ctx.geometry = stride, padding
        dx: Tensor = _gradients(dy, x, weight, stride, padding, [True, False, False])[0]
        return dx

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
        dy, weight = ctx.saved_tensors
        by_dy = _convolution(v, weight, None, *ctx.geometry) if ctx.needs_input_grad[0] else None
        by_weight = _by_weight(dy, v, weight, *ctx.geometry) if ctx.needs_input_grad[2] else None
        return by_dy, None, by_weight, None, None


class _ByWeight(torch.autograd.Function):
    """The gradient by weight, linear in dy and in x; of weight it takes the shape."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, dy: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int
    ) -> Tensor:
        ctx.save_for_backward(dy, x)
        ctx.geometry = stride, padding
        dweight: Tensor = _gradients(dy, x, weight, stride, padding, [False, True, False])[1]
        return dweight

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
        dy, x = ctx.saved_tensors
        by_dy = _convolution(x, v, None, *ctx.geometry) if ctx.needs_input_grad[0] else None
        by_x = _by_input(dy, x, v, *ctx.geometry) if ctx.needs_input_grad[1] else None
        return by_dy, by_x, None, None, None


_convolution: Callable[..., Any] = _Conv2d.apply
_by_input: Callable[..., Any] = _ByInput.apply
_by_weight: Callable[..., Any] = _ByWeight.apply
