"""SemanticAffineBN: batch norm whose affine parameters come from text and act where a mask says."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..ops import masked_affine_norm
from ..ops.masked_affine_norm import Activation, Impl, check_activation


def _affine_mlp(cond_dim: int, hidden_dim: int, num_features: int) -> nn.Sequential:
    """Linear -> ReLU -> Linear, the last starting at zero so that the layer starts as plain batch norm."""
    last = nn.Linear(hidden_dim, num_features)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(cond_dim, hidden_dim), nn.ReLU(), last)


class SemanticAffineBN(nn.Module):
    r"""Batch norm with affine parameters predicted from a condition, applied where a mask says.

    .. math::
        y = \mathrm{act}\big((1 + \gamma(e)\, m)\, \mathrm{BN}(x) + \beta(e)\, m\big)

    :math:`\gamma(e)` and :math:`\beta(e)` are two MLPs, Linear(D, hidden) -> ReLU -> Linear(hidden, C),
    whose last layer starts at zero. The Module twin of :func:`t2ilayers.ops.masked_affine_norm`.

    Args:
        num_features: C, the channels of ``x``.
        cond_dim: D, the length of the condition (a sentence embedding, a class embedding, ...).
        hidden_dim: width of the two MLPs.
        eps: added to the variance.
        momentum: weight of the new batch in the running statistics, in [0, 1].
        activation: ``"none"``, ``"relu"`` or ``"leaky_relu"`` (slope 0.2), applied last.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Shapes:
        ``x (N, C, H, W)``, ``cond (N, D)``, ``mask (N, 1, s*H, s*W)`` in [0, 1] or None (ones), returns
        ``(N, C, s*H, s*W)`` with ``s = upsample``.

    Raises:
        ValueError: an unknown activation; from ``forward``, shapes that do not fit; the message says which.

    Source: arXiv 2104.00567, "Semantic-Spatial Condition Batch Normalization".

    Example:
        >>> norm = SemanticAffineBN(16, cond_dim=32, activation="relu")
        >>> y = norm(torch.randn(4, 16, 8, 8), torch.randn(4, 32), torch.rand(4, 1, 16, 16), upsample=2)
        >>> y.shape
        torch.Size([4, 16, 16, 16])
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        cond_dim: int = 256,
        hidden_dim: int = 256,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        activation: Activation = "none",
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        check_activation(activation)
        self.num_features = num_features
        self.cond_dim = cond_dim
        self.hidden_dim = hidden_dim
        self.eps = eps
        self.momentum = momentum
        self.activation: Activation = activation
        self.impl: Impl = impl
        self.gamma = _affine_mlp(cond_dim, hidden_dim, num_features)
        self.beta = _affine_mlp(cond_dim, hidden_dim, num_features)
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(
        self, x: Tensor, cond: Tensor, mask: Tensor | None = None, *, upsample: Literal[1, 2] = 1
    ) -> Tensor:
        if cond.dim() != 2 or cond.shape[1] != self.cond_dim:
            raise ValueError(f"cond must be (N, D) with D = cond_dim = {self.cond_dim}, got {tuple(cond.shape)}")
        return masked_affine_norm(
            x,
            self.gamma(cond),
            self.beta(cond),
            mask,
            running_mean=self.running_mean,
            running_var=self.running_var,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
            activation=self.activation,
            upsample=upsample,
            impl=self.impl,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, cond_dim={self.cond_dim}, hidden_dim={self.hidden_dim}, eps={self.eps}, "
            f"momentum={self.momentum}, activation={self.activation!r}, impl={self.impl!r}"
        )
