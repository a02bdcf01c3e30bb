"""FusedSequential: torch's own modules one after the other, neighbours in one pass."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import Activation, Impl, masked_affine_norm
from ..ops._fast import folded_conv2d, folds, is_plain
from ._statistics import SharesStatistics, batch_statistics


class FusedSequential(SharesStatistics, nn.Sequential):
    r"""``nn.Sequential`` in which a batch norm and the activation behind it are one pass over the map.

    .. math:: y = f_k(\dots f_2(f_1(x)))

    The children are torch's own modules and stay in charge: whoever converts, freezes, averages, wraps or replaces
    them finds what they are used to. Where an ``nn.BatchNorm2d`` and the ``nn.ReLU``, ``nn.LeakyReLU`` or
    ``nn.SiLU`` behind it are plain, they run as one :func:`t2ilayers.ops.masked_affine_norm`, whose backward keeps
    one map instead of three. In evaluation mode without gradients, a batch norm becomes part of the plain
    ``nn.Conv2d`` before it. Everything else is called.

    Args:
        modules: as of :class:`torch.nn.Sequential`: modules, or one ``OrderedDict`` of them.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.

    Attributes:
        process_group: the ranks that share batch statistics while training, or None.

    Shapes:
        Those of the children.

    Example:
        >>> import torch
        >>> layers = FusedSequential(
        ...     nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        ... )
        >>> layers(torch.randn(2, 3, 4, 4)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, *modules: Any, impl: Impl = "auto") -> None:
        super().__init__(*modules)
        self.impl: Impl = impl

    def forward(self, input: Tensor) -> Tensor:
        x, rest = input, list(self)
        while rest:
            first = rest[0]
            second, third = (*rest[1:], None, None)[:2]
            if second is not None and folds(first, second):
                x = folded_conv2d(x, cast(nn.Conv2d, first), cast(nn.BatchNorm2d, second))
                activation, slope = _activation(third)
                if activation == "relu":
                    x = F.relu_(x)
                elif activation == "leaky_relu":
                    x = F.leaky_relu_(x, slope)
                elif activation == "silu":
                    x = F.silu(x, inplace=True)
                del rest[: 2 if activation == "none" else 3]
            elif is_plain(first, nn.BatchNorm2d):
                activation, slope = _activation(second)
                x = self._normalize(x, cast(nn.BatchNorm2d, first), activation, slope)
                del rest[: 1 if activation == "none" else 2]
            else:
                x = first(x)
                del rest[0]
        return x

    def _normalize(self, x: Tensor, norm: nn.BatchNorm2d, activation: Activation, slope: float) -> Tensor:
        if x.dim() != 4 or x.shape[1] != norm.num_features:
            raise ValueError(f"x must be (N, C, H, W) with C = {norm.num_features}, got {tuple(x.shape)}")
        statistics = batch_statistics(norm)
        c = x.shape[1]
        gamma, beta = (norm.weight, norm.bias) if norm.affine else (x.new_ones(c), x.new_zeros(c))
        return masked_affine_norm(
            x,
            gamma,
            beta,
            **statistics,
            scale="absolute",
            activation=activation,
            negative_slope=slope,
            process_group=self.process_group if statistics["training"] else None,
            impl=self.impl,
        )

    def __getitem__(self, idx: slice | int) -> Any:
        # Of nn.Sequential, but a part keeps the settings.
        if not isinstance(idx, slice):
            return super().__getitem__(idx)
        part = type(self)(OrderedDict(list(self._modules.items())[idx]), impl=self.impl)
        part.process_group = self.process_group
        return part


def _activation(module: nn.Module | None) -> tuple[Activation, float]:
    """An activation that the op can take over, and its slope below zero; "none" of anything else."""
    if module is not None and is_plain(module, nn.ReLU):
        return "relu", 0.0
    if module is not None and is_plain(module, nn.LeakyReLU):
        return "leaky_relu", float(cast(nn.LeakyReLU, module).negative_slope)
    if module is not None and is_plain(module, nn.SiLU):
        return "silu", 0.0
    return "none", 1.0
