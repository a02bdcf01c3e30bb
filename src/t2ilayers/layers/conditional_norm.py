"""ConditionalNorm2d: a norm whose scale and shift come from a condition, in any of the field's forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..ops import Activation, Impl, Scale, Stats
from ..ops._fast import is_plain, joint_mlps
from ..ops._options import RunningCount, check_word
from ._affine_norm import AffineNorm2d
from ._former_keys import take_former_keys
from ._mlp import mlp, start_at

Condition = Literal["mlp", "linear", "embedding"]


class ConditionalNorm2d(AffineNorm2d):
    r"""Normalise, then scale and shift by what a condition says, where a mask says.

    .. math::
        y &= \mathrm{act}\big((1 + \gamma(e)\, m)\, \hat{x} + \beta(e)\, m\big) && \text{scale="residual"} \\
        y &= \mathrm{act}\big((1 - m + \gamma(e)\, m)\, \hat{x} + \beta(e)\, m\big) && \text{scale="absolute"}

    Without a mask, :math:`m = 1`. The layer starts as plain normalisation: what makes :math:`\gamma` starts at 0,
    or at 1 where the scale is absolute, and what makes :math:`\beta` at 0.

    The children are torch's own modules: ``normalize`` gives :math:`\hat{x}` (``nn.BatchNorm2d``,
    ``nn.InstanceNorm2d`` or ``nn.GroupNorm`` without affine, or ``nn.Identity``), ``gamma`` and ``beta`` take the
    condition. Any of them may be converted, wrapped, hooked or replaced; then it is called. Where ``normalize`` is
    plain, everything behind it is one :func:`t2ilayers.ops.masked_affine_norm`.

    Args:
        num_features: C, the channels of ``x``.
        cond_dim: D, the length of the condition; for ``condition="embedding"`` the number of classes.
        stats: what one mean and variance is taken over: ``"batch"``, ``"instance"``, ``"group"``, or ``"none"``,
            where :math:`\hat{x} = x`.
        groups: number of channel groups, with ``stats="group"`` only.
        condition: ``"mlp"`` is Linear(D, hidden) -> ReLU -> Linear(hidden, C), ``"linear"`` is Linear(D, C), and
            ``"embedding"`` one row per class.
        hidden_dim: width of the two MLPs.
        bias: whether ``condition="linear"`` has biases. Without them an absolute scale starts at 0.
        scale: ``"residual"`` or ``"absolute"``, see above.
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"`` or ``"silu"``, applied last.
        negative_slope: of the leaky relu.
        eps: added to the variance.
        momentum: weight of the new batch in the running statistics, in [0, 1], or None for the mean over all
            batches. Only with ``stats="batch"``.
        running_count: see :func:`~t2ilayers.ops.masked_affine_norm`: ``"output"`` upsamples and then normalises,
            ``"input"`` normalises and then upsamples.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.
        device: of parameters and buffers.
        dtype: of parameters and buffers.

    Attributes:
        process_group: the ranks that share batch statistics while training, or None.

    Shapes:
        ``x (N, C, H, W)``; ``cond (N, D)``, or for an embedding ``(N,)`` of whole numbers in [0, D);
        ``mask (N, 1, s*H, s*W)`` in [0, 1] or None (ones). Returns ``(N, C, s*H, s*W)`` with ``s = upsample``.
        ``affine``: ``gamma (N, C)`` and ``beta (N, C)`` where they were predicted before, instead of ``cond``.

    Raises:
        ValueError: an unknown word or a combination that does not go together; from ``forward``, shapes that do
            not fit; the message says which.

    Example:
        >>> norm = ConditionalNorm2d(
        ...     16, 10, stats="instance", condition="embedding", activation="relu"
        ... )
        >>> norm(torch.randn(4, 16, 8, 8), torch.tensor([0, 3, 9, 3]), upsample=2).shape
        torch.Size([4, 16, 16, 16])
    """

    def __init__(
        self,
        num_features: int,
        cond_dim: int,
        *,
        stats: Stats = "batch",
        groups: int | None = None,
        condition: Condition = "mlp",
        hidden_dim: int = 256,
        bias: bool = True,
        scale: Scale = "residual",
        activation: Activation = "none",
        negative_slope: float = 0.2,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        running_count: RunningCount = "output",
        impl: Impl = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_features,
            stats=stats,
            groups=groups,
            scale=scale,
            activation=activation,
            negative_slope=negative_slope,
            eps=eps,
            momentum=momentum,
            running_count=running_count,
            impl=impl,
            device=device,
            dtype=dtype,
        )
        self.cond_dim = cond_dim
        self.hidden_dim = hidden_dim
        self.condition: Condition = condition
        self.gamma, self.beta = (self._of_condition(bias, device, dtype) for _ in range(2))
        self._start()

    def _of_condition(self, bias: bool, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.Module:
        if self.condition == "mlp":
            return mlp(self.cond_dim, self.hidden_dim, self.num_features, device=device, dtype=dtype)
        if self.condition == "linear":
            return nn.Linear(self.cond_dim, self.num_features, bias, device=device, dtype=dtype)
        check_word("condition", self.condition, ("mlp", "linear", "embedding"))
        return nn.Embedding(self.cond_dim, self.num_features, device=device, dtype=dtype)

    def _start(self) -> None:
        start_at(self.gamma, 0.0 if self.scale == "residual" else 1.0)
        start_at(self.beta, 0.0)

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
        return self._modulate(x, gamma, beta, mask, upsample)

    def _predict(self, cond: Tensor) -> tuple[Tensor, Tensor]:
        self._check(cond)
        gamma, beta = joint_mlps(cond, (self.gamma, self.beta))
        return gamma, beta

    def _check(self, cond: Tensor) -> None:
        if self.condition == "embedding":
            if cond.dim() != 1 or cond.is_floating_point():
                raise ValueError(
                    f"cond must be (N,), a class in [0, {self.cond_dim}) each, got {tuple(cond.shape)} of "
                    f"{cond.dtype}"
                )
        elif cond.dim() != 2 or cond.shape[1] != self.cond_dim:
            raise ValueError(f"cond must be (N, D) with D = cond_dim = {self.cond_dim}, got {tuple(cond.shape)}")

    def extra_repr(self) -> str:
        hidden = f", hidden_dim={self.hidden_dim}" if self.condition == "mlp" else ""
        return (
            f"{self.num_features}, cond_dim={self.cond_dim}{hidden}, scale={self.scale!r}, "
            f"activation={self.activation!r}, impl={self.impl!r}"
        )


class SemanticAffineBN(ConditionalNorm2d):
    r"""Batch norm with affine parameters predicted from a condition, applied where a mask says.

    .. math::
        y = \mathrm{act}\big((1 + \gamma(e)\, m)\, \mathrm{BN}(x) + \beta(e)\, m\big)

    A :class:`ConditionalNorm2d` of batch statistics: :math:`\gamma(e)` and :math:`\beta(e)` are two MLPs,
    Linear(D, hidden) -> ReLU -> Linear(hidden, C), whose last layer starts at zero. The Module twin of
    :func:`t2ilayers.ops.masked_affine_norm`.

    Args:
        num_features: C, the channels of ``x``.
        cond_dim: D, the length of the condition (a sentence embedding, a class embedding, ...).
        hidden_dim: width of the two MLPs.
        eps: added to the variance.
        momentum: weight of the new batch in the running statistics, in [0, 1], or None for the mean over all
            batches.
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"`` or ``"silu"``, applied last.
        negative_slope: of the leaky relu.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.
        device: of parameters and buffers.
        dtype: of parameters and buffers.

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
        >>> y = norm(
        ...     torch.randn(4, 16, 8, 8),
        ...     torch.randn(4, 32),
        ...     torch.rand(4, 1, 16, 16),
        ...     upsample=2,
        ... )
        >>> y.shape
        torch.Size([4, 16, 16, 16])
    """

    # Names of entries in files from before the statistics moved into ``normalize``.
    former_keys: ClassVar = {name: f"normalize.{name}" for name in ("running_mean", "running_var")}

    def __init__(
        self,
        num_features: int,
        cond_dim: int = 256,
        hidden_dim: int = 256,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        activation: Activation = "none",
        negative_slope: float = 0.2,
        impl: Impl = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_features,
            cond_dim,
            hidden_dim=hidden_dim,
            eps=eps,
            momentum=momentum,
            activation=activation,
            negative_slope=negative_slope,
            impl=impl,
            device=device,
            dtype=dtype,
        )
        self.register_load_state_dict_pre_hook(take_former_keys)  # type: ignore[no-untyped-call]


def affine_parameters(norms: Sequence[ConditionalNorm2d], cond: Tensor) -> list[tuple[Tensor, Tensor] | None]:
    """``gamma (N, C)`` and ``beta (N, C)`` of several norms for one condition, in few matrix products.

    For ``norm(x, cond, mask, affine=...)``. A norm with something on it (a subclass of its own, hooks, sharded
    weights) gets None: it must predict for itself when it is called.

    Args:
        norms: :class:`SemanticAffineBN` and other :class:`ConditionalNorm2d`.
        cond: ``(N, D)``.

    Raises:
        ValueError: ``cond`` does not fit a norm.

    Example:
        >>> norms = [SemanticAffineBN(c, cond_dim=32) for c in (16, 8, 16)]
        >>> [
        ...     tuple(gamma.shape)
        ...     for gamma, beta in affine_parameters(norms, torch.randn(4, 32))
        ... ]
        [(4, 16), (4, 8), (4, 16)]
    """
    plain = [norm for norm in norms if is_plain(norm, ConditionalNorm2d) or is_plain(norm, SemanticAffineBN)]
    mlps: list[nn.Module] = []
    for norm in plain:
        norm._check(cond)
        mlps += [norm.gamma, norm.beta]
    found = iter(joint_mlps(cond, mlps))
    predicted = {id(norm): (next(found), next(found)) for norm in plain}
    return [predicted.get(id(norm)) for norm in norms]
