"""What every norm with a scale and a shift from elsewhere is made of."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import Activation, Impl, Scale, Stats, check_activation, masked_affine_norm
from ..ops._fast import is_plain
from ..ops._options import COUNTS, SCALES, STATS, RunningCount, check_word
from ._reset import reset_parts
from ._statistics import SharesStatistics, batch_statistics


class AffineNorm2d(SharesStatistics):
    """Normalises by its child ``normalize``; gamma and beta come from a subclass.

    ``normalize`` is a module of torch's and may be converted, frozen, hooked or replaced; then it is called. Where
    it is plain, all is one call of the fused op.
    """

    def __init__(
        self,
        num_features: int,
        *,
        stats: Stats,
        groups: int | None,
        scale: Scale,
        activation: Activation,
        negative_slope: float,
        eps: float,
        momentum: float | None,
        running_count: RunningCount,
        impl: Impl,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        check_word("scale", scale, SCALES)
        check_word("running_count", running_count, COUNTS)
        check_activation(activation)
        self.num_features = num_features
        self.scale: Scale = scale
        self.activation: Activation = activation
        self.negative_slope = negative_slope
        self.running_count: RunningCount = running_count
        self.impl: Impl = impl
        self.normalize = normalization(
            num_features, stats, groups=groups, eps=eps, momentum=momentum, device=device, dtype=dtype
        )

    def _start(self) -> None:
        """Let gamma and beta begin where they change nothing."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """As a fresh layer: new random weights, gamma and beta that change nothing, no running statistics."""
        reset_parts(self)
        self._start()

    def _modulate(
        self, x: Tensor, gamma: Tensor, beta: Tensor, mask: Tensor | None, upsample: Literal[1, 2]
    ) -> Tensor:
        """Normalise by ``normalize``; then scale, shift and activate."""
        if x.dim() != 4 or x.shape[1] != self.num_features:
            raise ValueError(
                f"x must be (N, C, H, W) with C = num_features = {self.num_features}, got {tuple(x.shape)}"
            )
        statistics = _statistics(self.normalize)
        if statistics is None:
            if upsample == 2 and self.running_count == "output":
                x, upsample = F.interpolate(x, scale_factor=2, mode="nearest"), 1
            x, statistics = self.normalize(x), {"stats": "none"}
        return masked_affine_norm(
            x,
            gamma,
            beta,
            mask,
            **statistics,
            scale=self.scale,
            activation=self.activation,
            negative_slope=self.negative_slope,
            upsample=upsample,
            running_count=self.running_count,
            process_group=self.process_group if statistics.get("training") else None,
            impl=self.impl,
        )

    @property
    def running_mean(self) -> Tensor | None:
        """``normalize.running_mean``, of batch norm."""
        return cast("Tensor | None", getattr(self.normalize, "running_mean", None))

    @property
    def running_var(self) -> Tensor | None:
        """``normalize.running_var``, of batch norm."""
        return cast("Tensor | None", getattr(self.normalize, "running_var", None))

    def reset_running_stats(self) -> None:
        """Forget the running statistics, as ``nn.BatchNorm2d.reset_running_stats`` does."""
        if isinstance(self.normalize, nn.modules.batchnorm._NormBase):
            self.normalize.reset_running_stats()


def normalization(
    num_features: int,
    stats: Stats,
    *,
    groups: int | None = None,
    eps: float = 1e-5,
    momentum: float | None = 0.1,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Torch's module that takes mean and variance away and does nothing else.

    Example:
        >>> normalization(8, "group", groups=2).num_groups
        2
    """
    if (groups is not None) != (stats == "group"):
        raise ValueError(f'groups goes with stats="group" and only there, got {groups=} with {stats=}')
    if stats == "batch":
        return nn.BatchNorm2d(num_features, eps, momentum, affine=False, device=device, dtype=dtype)
    if stats == "instance":
        return nn.InstanceNorm2d(num_features, eps)
    if groups is not None:
        return nn.GroupNorm(groups, num_features, eps, affine=False)
    check_word("stats", stats, STATS)
    return nn.Identity()


def _statistics(norm: nn.Module) -> dict[str, Any] | None:
    """Options with which the op normalises as ``norm`` would; None for a module that must be called."""
    if is_plain(norm, nn.BatchNorm2d) and not norm.affine:
        return batch_statistics(cast(nn.BatchNorm2d, norm))
    if is_plain(norm, nn.Identity):
        return {"stats": "none"}
    if is_plain(norm, nn.InstanceNorm2d) and not (norm.affine or norm.track_running_stats):
        return {"stats": "instance", "eps": norm.eps}
    if is_plain(norm, nn.GroupNorm) and not norm.affine:
        return {"stats": "group", "groups": norm.num_groups, "eps": norm.eps}
    return None
