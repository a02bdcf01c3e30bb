"""What a call of the op asks for besides its tensors."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

Activation = Literal["none", "relu", "leaky_relu"]
Stats = Literal["batch", "instance", "group"]
Impl = Literal["auto", "reference", "native"]


class Options(NamedTuple):
    """How to compute, in the order in which the native ops take it."""

    groups: int  # 0: statistics of each channel over the batch; n: of each of n groups of a sample's channels
    eps: float
    slope: float  # act(z) = z > 0 ? z : slope * z
    upsample: int


class Running(NamedTuple):
    """Running statistics, to be updated in place by those of a batch."""

    mean: Tensor  # (C,)
    var: Tensor  # (C,)
    momentum: float
    repeats: int  # how often each value of x counts


def check_activation(activation: str) -> None:
    """ValueError unless ``activation`` is one that the op knows."""
    if activation not in ("none", "relu", "leaky_relu"):
        raise ValueError(f'activation must be "none", "relu" or "leaky_relu", got {activation!r}')
