"""Functions of a discriminator whose second derivatives cost no more than they must.

A gradient penalty differentiates a gradient, and torch's double backward of these functions does much for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._torch import ORDINARY, is_batched, transformed, wanted

_Pair = int | tuple[int, int]


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Pair = 1,
    padding: _Pair | Literal["valid", "same"] = 0,
    dilation: _Pair = 1,
    groups: int = 1,
) -> Tensor:
    r"""``torch.nn.functional.conv2d``, to be differentiated twice.

    .. math:: y_{no} = b_o + \sum_i w_{oi} \star x_{ni}

    A gradient penalty needs the derivative by ``weight`` of the gradient by ``x``. Torch takes it by a convolution
    with kernels as large as the map, of batch and channels exchanged, after copying both. Here it is an ordinary
    gradient by the weights:

    .. math::
        \frac{\partial}{\partial w} \Big\langle v, \frac{\partial}{\partial x}
        \langle u, w \star x \rangle \Big\rangle = \frac{\partial}{\partial w} \langle u, w \star v \rangle

    Values and first derivatives are torch's own, and derivatives of any order are right. A backward pass computes
    only the gradients that it was asked for: where ``torch.autograd.grad`` wants those by ``x``, as a penalty
    does, there are none by ``weight``.

    Under autocast, ``torch.compile``, ``torch.func`` and ``torch.jit.trace``, for tensor subclasses and complex
    numbers it is torch's convolution.

    Args:
        x: ``(N, C_in, H, W)``.
        weight: ``(C_out, C_in / groups, K_h, K_w)``, in the dtype of ``x``.
        bias: ``(C_out,)`` or None.
        stride: of both sides, or one for each, at least 1.
        padding: zeros on every side, or a number for each of height and width; ``"valid"`` (none) or ``"same"``
            (H' = H and W' = W, with stride 1).
        dilation: of both sides, or one for each, at least 1.
        groups: divides C_in and C_out.

    Returns:
        ``(N, C_out, H', W')`` with ``H' = (H + 2 * padding - dilation * (K_h - 1) - 1) // stride + 1``.

    Raises:
        RuntimeError: torch's, where shapes or dtypes do not fit.

    Source: the idea of StyleGAN2-ADA's ``conv2d_gradfix`` (arXiv 2006.06676, published code).

    Example:
        >>> x, w = (
        ...     torch.randn(2, 3, 8, 8, requires_grad=True),
        ...     torch.randn(4, 3, 3, 3, requires_grad=True),
        ... )
        >>> (slope,) = torch.autograd.grad(
        ...     conv2d(x, w, padding=1).square().sum(), x, create_graph=True
        ... )
        >>> slope.square().sum().backward()
        >>> w.grad.shape
        torch.Size([4, 3, 3, 3])
    """
    if (
        _ordinary()
        or torch.is_autocast_enabled(x.device.type)
        or not x.is_floating_point()
        or x.dim() != 4
        or not all(type(t) in ORDINARY for t in (x, weight, bias))
    ):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    stride, dilation = _pair(stride), _pair(dilation)
    if padding == "same" and stride == (1, 1):
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        x = F.pad(x, (0, total[1] % 2, 0, total[0] % 2))  # an odd one goes to the right and the bottom
        padding = total[0] // 2, total[1] // 2
    elif isinstance(padding, str):
        if padding != "valid":  # torch says what is wrong
            return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        padding = 0
    y: Tensor = _convolution(x, weight, bias, _Geometry(stride, _pair(padding), dilation, groups))
    return y


def leaky_relu(x: Tensor, negative_slope: float = 0.2) -> Tensor:
    r"""``torch.nn.functional.leaky_relu``, to be differentiated twice.

    .. math:: y = \max(x, 0) + s \min(x, 0)

    Its second derivative is zero almost everywhere. Torch returns it as a tensor of zeros, with which a gradient
    penalty then runs backward through the whole network. Here there is no such path: what reaches the penalty only
    through second derivatives of this function has no gradient (None) instead of zero. (Biases of :func:`conv2d`
    have zeros.)

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


def _ordinary() -> bool:
    """Whether torch's own function will do, or must: nobody differentiates, or something looks into the graph."""
    return not torch.is_grad_enabled() or torch.compiler.is_compiling() or transformed()


class _Geometry(NamedTuple):
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def _pair(value: _Pair) -> tuple[int, int]:
    """Of both sides; torch takes lists, too, and lists of one."""
    if isinstance(value, int):
        return value, value
    first, last = value[0], value[-1]
    return first, last


def _gradients(dy: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry, mask: list[bool]) -> Any:
    """By x, weight and bias, as far as ``mask`` asks for them."""
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution_backward(
        dy, x, weight, [weight.shape[0]], stride, padding, dilation, False, [0, 0], groups, mask
    )


def _wanted(ctx: Any) -> list[bool]:
    """Which of the tensors that a function was called with this backward pass wants gradients of."""
    return [node is not None and wanted(node) for node, _ in ctx.next_functions]


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.geometry = geometry
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, weight, bias = ctx.saved_tensors
        need_x, need_weight, need_bias = [*_wanted(ctx), False][:3]
        if not torch.is_grad_enabled() or transformed() or is_batched(dy):  # no second order, or torch's own
            return *_gradients(dy, x, weight, ctx.geometry, [need_x, need_weight, need_bias]), None
        dx = _by_input(dy, x.detach(), weight, bias, ctx.geometry) if need_x else None
        dweight = _by_weight(dy, x, weight.detach(), ctx.geometry) if need_weight else None
        return dx, dweight, dy.sum((0, 2, 3)) if need_bias else None, None


class _ByInput(torch.autograd.Function):
    """The gradient by x, linear in dy and weight. Of x it takes the shape; detached, or backward would go on.

    It does not depend on the bias. That is said by zeros, as torch does, since wrappers such as
    DistributedDataParallel wait for a gradient of every parameter.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry
    ) -> Tensor:
        ctx.save_for_backward(dy, weight, bias)
        ctx.geometry = geometry
        dx: Tensor = _gradients(dy, x, weight, geometry, [True, False, False])[0]
        return dx

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
        dy, weight, bias = ctx.saved_tensors
        need_dy, _, need_weight, need_bias = [*_wanted(ctx), False][:4]
        if transformed() or is_batched(v):
            by_dy = F.conv2d(v, weight, None, *ctx.geometry) if need_dy else None
            by_weight = _gradients(dy, v, weight, ctx.geometry, [False, True, False])[1] if need_weight else None
        else:
            by_dy = _convolution(v, weight, None, ctx.geometry) if need_dy else None
            by_weight = _by_weight(dy, v, weight.detach(), ctx.geometry) if need_weight else None
        return by_dy, None, by_weight, torch.zeros_like(bias) if need_bias else None, None


class _ByWeight(torch.autograd.Function):
    """The gradient by weight, linear in dy and in x. Of weight it takes the shape."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, dy: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry
    ) -> Tensor:
        ctx.save_for_backward(dy, x)
        ctx.geometry = geometry
        dweight: Tensor = _gradients(dy, x, weight, geometry, [False, True, False])[1]
        return dweight

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
        dy, x = ctx.saved_tensors
        need_dy, need_x, _ = _wanted(ctx)
        if transformed() or is_batched(v):
            by_dy = F.conv2d(x, v, None, *ctx.geometry) if need_dy else None
            by_x = _gradients(dy, x, v, ctx.geometry, [True, False, False])[0] if need_x else None
        else:
            by_dy = _convolution(x, v, None, ctx.geometry) if need_dy else None
            by_x = _by_input(dy, x.detach(), v, None, ctx.geometry) if need_x else None
        return by_dy, by_x, None, None


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
