"""SemanticAffineBN: batch norm whose affine parameters come from text and act where a mask says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..ops import Activation, Impl, check_activation, masked_affine_norm
from ..ops._fast import is_plain, joint_mlps


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

    Attributes:
        process_group: the ranks that share batch statistics while training, or None.

    Shapes:
        ``x (N, C, H, W)``, ``cond (N, D)``, ``mask (N, 1, s*H, s*W)`` in [0, 1] or None (ones), returns
        ``(N, C, s*H, s*W)`` with ``s = upsample``. ``affine``: ``gamma (N, C)`` and ``beta (N, C)`` where they
        were predicted before, by :func:`affine_parameters` with those of other norms; ``cond`` is then not used.

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
        self.process_group: dist.ProcessGroup | None = None
        self.gamma = _affine_mlp(cond_dim, hidden_dim, num_features)
        self.beta = _affine_mlp(cond_dim, hidden_dim, num_features)
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(
        self,
        x: Tensor,
        cond: Tensor,
        mask: Tensor | None = None,
        *,
        upsample: Literal[1, 2] = 1,
        affine: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        gamma, beta = self._predict(cond) if affine is None else affine
        return masked_affine_norm(
            x,
            gamma,
            beta,
            mask,
            running_mean=self.running_mean,
            running_var=self.running_var,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
            activation=self.activation,
            upsample=upsample,
            process_group=self.process_group if self.training else None,
            impl=self.impl,
        )

    def _predict(self, cond: Tensor) -> tuple[Tensor, Tensor]:
        self._check(cond)
        gamma, beta = joint_mlps(cond, (self.gamma, self.beta))
        return gamma, beta

    def _check(self, cond: Tensor) -> None:
        if cond.dim() != 2 or cond.shape[1] != self.cond_dim:
            raise ValueError(f"cond must be (N, D) with D = cond_dim = {self.cond_dim}, got {tuple(cond.shape)}")

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, cond_dim={self.cond_dim}, hidden_dim={self.hidden_dim}, eps={self.eps}, "
            f"momentum={self.momentum}, activation={self.activation!r}, impl={self.impl!r}"
        )


def affine_parameters(norms: Sequence[SemanticAffineBN], cond: Tensor) -> list[tuple[Tensor, Tensor] | None]:
    """``gamma (N, C)`` and ``beta (N, C)`` of several norms for one condition, in few matrix products.

    For ``norm(x, cond, mask, affine=...)``. A norm that is not plain (a subclass, hooks, sharded weights; see
    ``ops._fast.is_plain``) gets None: it must predict for itself, when it is called.

    Args:
        norms: :class:`SemanticAffineBN`.
        cond: ``(N, D)``.

    Raises:
        ValueError: ``cond`` does not fit a norm.

    Example:
        >>> norms = [SemanticAffineBN(c, cond_dim=32) for c in (16, 8, 16)]
        >>> [tuple(gamma.shape) for gamma, beta in affine_parameters(norms, torch.randn(4, 32))]
        [(4, 16), (4, 8), (4, 16)]
    """
    plain = [norm for norm in norms if is_plain(norm, SemanticAffineBN)]
    mlps: list[nn.Module] = []
    for norm in plain:
        norm._check(cond)
        mlps += [norm.gamma, norm.beta]
    found = iter(joint_mlps(cond, mlps))
    predicted = {id(norm): (next(found), next(found)) for norm in plain}
    return [predicted.get(id(norm)) for norm in norms]
