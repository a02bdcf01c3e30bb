"""SemanticAffineBN: batch norm whose affine parameters come from text and act where a mask says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..ops import Activation, Impl, check_activation, masked_affine_norm


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
        self.process_group: dist.ProcessGroup | None = None
        self.gamma = _affine_mlp(cond_dim, hidden_dim, num_features)
        self.beta = _affine_mlp(cond_dim, hidden_dim, num_features)
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(
        self, x: Tensor, cond: Tensor, mask: Tensor | None = None, *, upsample: Literal[1, 2] = 1
    ) -> Tensor:
        ((gamma, beta),) = affine_parameters([self], cond)
        return self.modulate(x, gamma, beta, mask, upsample=upsample)

    def modulate(
        self, x: Tensor, gamma: Tensor, beta: Tensor, mask: Tensor | None = None, *, upsample: Literal[1, 2] = 1
    ) -> Tensor:
        """``forward`` with parameters ``(N, C)`` that were predicted before, by :func:`affine_parameters`.

        Example:
            >>> norm, x, cond = SemanticAffineBN(16, cond_dim=32), torch.randn(4, 16, 8, 8), torch.randn(4, 32)
            >>> ((gamma, beta),) = affine_parameters([norm], cond)
            >>> bool((norm.modulate(x, gamma, beta) == norm(x, cond)).all())
            True
        """
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

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, cond_dim={self.cond_dim}, hidden_dim={self.hidden_dim}, eps={self.eps}, "
            f"momentum={self.momentum}, activation={self.activation!r}, impl={self.impl!r}"
        )


def affine_parameters(norms: Sequence[SemanticAffineBN], cond: Tensor) -> list[tuple[Tensor, Tensor]]:
    """``gamma (N, C)`` and ``beta (N, C)`` of several norms for one condition, in few matrix products.

    All first layers are one product; last layers of equal width are another.

    Args:
        norms: layers of one ``cond_dim`` and one ``hidden_dim``.
        cond: ``(N, D)``.

    Raises:
        ValueError: ``cond`` does not fit, or the norms differ in the two sizes.

    Example:
        >>> norms = [SemanticAffineBN(c, cond_dim=32) for c in (16, 8, 16)]
        >>> [tuple(gamma.shape) for gamma, beta in affine_parameters(norms, torch.randn(4, 32))]
        [(4, 16), (4, 8), (4, 16)]
    """
    sizes = {(norm.cond_dim, norm.hidden_dim) for norm in norms}
    if len(sizes) != 1:
        raise ValueError(f"norms must share cond_dim and hidden_dim, got {sorted(sizes)}")
    ((cond_dim, hidden_dim),) = sizes
    if cond.dim() != 2 or cond.shape[1] != cond_dim:
        raise ValueError(f"cond must be (N, D) with D = cond_dim = {cond_dim}, got {tuple(cond.shape)}")
    mlps: list[Any] = [mlp for norm in norms for mlp in (norm.gamma, norm.beta)]
    hidden = F.relu(F.linear(cond, torch.cat([m[0].weight for m in mlps]), torch.cat([m[0].bias for m in mlps])))
    hidden = rearrange(hidden, "n (k h) -> k n h", h=hidden_dim)
    results: dict[int, Tensor] = {}
    for width in dict.fromkeys(norm.num_features for norm in norms):
        chosen = [i for i, mlp in enumerate(mlps) if mlp[2].out_features == width]
        weight = torch.stack([mlps[i][2].weight for i in chosen])  # (k, C, hidden)
        bias = torch.stack([mlps[i][2].bias for i in chosen])  # (k, C)
        out = torch.baddbmm(bias[:, None], hidden[chosen], weight.mT)  # (k, N, C)
        results |= zip(chosen, out, strict=True)
    return [(results[2 * i], results[2 * i + 1]) for i in range(len(norms))]
