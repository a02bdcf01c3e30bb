"""ActivatedBatchNorm: ordinary batch norm and its activation, in the passes of the fused op."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn

from ..ops import Activation, Impl, check_activation, masked_affine_norm


class ActivatedBatchNorm(nn.BatchNorm2d):
    r"""``act(BatchNorm2d(x))``, by :func:`t2ilayers.ops.masked_affine_norm` without a mask.

    .. math:: y = \mathrm{act}(w\, \hat{x} + b)

    Parameters, buffers and defaults are those of :class:`torch.nn.BatchNorm2d`, whose checkpoints load. Backward
    keeps ``x`` alone, where batch norm and activation apart keep two maps more.

    Args:
        num_features: C, the channels of ``x``.
        activation: ``"none"``, ``"relu"`` or ``"leaky_relu"`` (slope 0.2).
        eps: added to the variance.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Attributes:
        process_group: the ranks that share batch statistics while training, or None.

    Shapes:
        ``x (N, C, H, W)``, returns the same.

    Raises:
        ValueError: an unknown activation; from ``forward``, a shape that does not fit.

    Source: batch norm, arXiv 1502.03167.

    Example:
        >>> import torch
        >>> norm, x = ActivatedBatchNorm(8, "relu"), torch.randn(2, 8, 4, 4)
        >>> bool(torch.allclose(norm(x), nn.BatchNorm2d(8)(x).relu(), atol=1e-5))
        True
    """

    def __init__(
        self, num_features: int, activation: Activation, *, eps: float = 1e-5, impl: Impl = "auto"
    ) -> None:
        super().__init__(num_features, eps=eps)
        check_activation(activation)
        self.activation: Activation = activation
        self.impl: Impl = impl
        self.process_group: dist.ProcessGroup | None = None

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 4 or input.shape[1] != self.num_features:
            raise ValueError(f"x must be (N, C, H, W) with C = {self.num_features}, got {tuple(input.shape)}")
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        n = len(input)
        return masked_affine_norm(
            input,
            (self.weight - 1).expand(n, -1),
            self.bias.expand(n, -1),
            running_mean=self.running_mean,
            running_var=self.running_var,
            training=self.training,
            momentum=0.1 if self.momentum is None else self.momentum,
            eps=self.eps,
            activation=self.activation,
            process_group=self.process_group if self.training else None,
            impl=self.impl,
        )

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, activation={self.activation!r}, impl={self.impl!r}"
