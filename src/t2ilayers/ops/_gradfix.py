"""Functions of a discriminator whose second derivatives cost no more than they must.

A gradient penalty differentiates a gradient, and torch's double backward of these functions does much for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._torch import transformed


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
        stride: of both sides, at least 1.
        padding: zeros on every side, at least 0.

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
    if _ordinary() or torch.is_autocast_enabled(x.device.type):
        return F.conv2d(x, weight, bias, stride, padding)
    y: Tensor = _convolution(x, weight, bias, stride, padding)
    return y


def leaky_relu(x: Tensor, negative_slope: float = 0.2) -> Tensor:
    r"""``torch.nn.functional.leaky_relu``, to be differentiated twice.

    .. math:: y = \max(x, 0) + s \min(x, 0)

    Its second derivative is zero almost everywhere. Torch returns it as a tensor of zeros, with which a gradient
    penalty then runs backward through the whole network. Here there is no such path: what depends on ``x`` through
    second derivatives of this function only, such as the biases before it, has no gradient (None) instead of zero.

    Under ``torch.compile`` and ``torch.func`` it is torch's function.

    Args:
        x: floating point, of any shape ``(N, ...)``.
        negative_slope: s, any number.

    Returns:
        The shape of ``x``.

    Source: leaky relu, Maas, Hannun, Ng, *Rectifier Nonlinearities Improve Neural Network Acoustic Models*, 2013.

    Example:
        >>> x = torch.tensor([-1.0, 2.0], requires_grad=True)
        >>> leaky_relu(x)
        tensor([-0.2000,  2.0000], grad_fn=<_LeakyReLUBackward>)
        >>> (slope,) = torch.autograd.grad(leaky_relu(x).sum(), x, create_graph=True)
        >>> slope
        tensor([0.2000, 1.0000])
    """
    if _ordinary():
        return F.leaky_relu(x, negative_slope)
    y: Tensor = _LeakyReLU.apply(x, negative_slope)  # type: ignore[no-untyped-call]
    return y


def average_pool2d(x: Tensor) -> Tensor:
    r"""``torch.nn.functional.avg_pool2d(x, 2)``, to be differentiated twice.

    .. math:: y_{ncij} = \tfrac14 \sum_{a, b \in \{0, 1\}} x_{nc, 2i+a, 2j+b}

    It is linear, so its gradient does not depend on ``x``. Torch's says by zeros that it does not; see
    :func:`leaky_relu`.

    Args:
        x: ``(N, C, H, W)`` with even H and W, floating point.

    Returns:
        ``(N, C, H/2, W/2)``.

    Raises:
        ValueError: an odd side.

    Source: the shortcut of DF-GAN's discriminator, arXiv 2008.05865.

    Example:
        >>> average_pool2d(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]))
        tensor([[[[3.]]]])
    """
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        raise ValueError(f"x must be (N, C, H, W) with even H and W, got {tuple(x.shape)}")
    if _ordinary():
        return F.avg_pool2d(x, 2)
    y: Tensor = _AveragePool2d.apply(x)  # type: ignore[no-untyped-call]
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


def _ordinary() -> bool:
    """Whether torch's own function will do, or must: nobody differentiates, or something looks into the graph."""
    return not torch.is_grad_enabled() or torch.compiler.is_compiling() or transformed()


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
        dx = _by_input(dy, x.detach(), weight, *ctx.geometry) if need_x else None
        dweight = _by_weight(dy, x, weight.detach(), *ctx.geometry) if need_weight else None
        return dx, dweight, dy.sum((0, 2, 3)) if need_bias else None, None, None


class _ByInput(torch.autograd.Function):
    """The gradient by x, linear in dy and weight. Of x it takes the shape; detached, or backward would go on."""

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
        by_weight = _by_weight(dy, v, weight.detach(), *ctx.geometry) if ctx.needs_input_grad[2] else None
        return by_dy, None, by_weight, None, None


class _ByWeight(torch.autograd.Function):
    """The gradient by weight, linear in dy and in x. Of weight it takes the shape."""

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
        by_x = _by_input(dy, x.detach(), v, *ctx.geometry) if ctx.needs_input_grad[1] else None
        return by_dy, by_x, None, None, None


_convolution: Callable[..., Any] = _Conv2d.apply
_by_input: Callable[..., Any] = _ByInput.apply
_by_weight: Callable[..., Any] = _ByWeight.apply


class _LeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, negative_slope: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        ctx.negative_slope = negative_slope
        return F.leaky_relu(x, negative_slope)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        # Detached: as a function of x this is constant almost everywhere.
        return torch.ops.aten.leaky_relu_backward(dy, x.detach(), ctx.negative_slope, False), None


class _AveragePool2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return F.interpolate(dy / 4, scale_factor=2, mode="nearest")
