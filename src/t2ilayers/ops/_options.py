"""What a call of the ops asks for besides its tensors."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from torch import Tensor

Activation = Literal["none", "relu", "leaky_relu", "silu"]
"""What an op applies last."""
Impl = Literal["auto", "reference", "native"]
"""Which implementation runs: native kernels where they can, plain PyTorch, or native kernels or an error."""
RunningCount = Literal["output", "input"]
"""Which values the running variance counts."""
Scale = Literal["residual", "absolute"]
"""Whether gamma 0 or gamma 1 leaves normalised features as they are."""
Stats = Literal["batch", "instance", "group", "none"]
"""What one mean and variance is taken over."""

ACTIVATIONS: tuple[str, ...] = get_args(Activation)
IMPLS: tuple[str, ...] = get_args(Impl)
SCALES: tuple[str, ...] = get_args(Scale)
STATS: tuple[str, ...] = get_args(Stats)
COUNTS: tuple[str, ...] = get_args(RunningCount)


class Options(NamedTuple):
    """How to compute, in the order in which the native ops take it."""

    groups: int  # 0: statistics of each channel over the batch; n: of n groups of a sample's channels; -1: none
    eps: float
    slope: float  # act(z) = z > 0 ? z : slope * z, unless silu
    silu: bool
    absolute: bool  # scale by 1 - m + gamma m instead of 1 + gamma m
    upsample: int


class Running(NamedTuple):
    """Running statistics, to be updated in place by those of a batch."""

    mean: Tensor  # (C,)
    var: Tensor  # (C,)
    momentum: float
    repeats: int  # how often each value of x counts


def check_word(name: str, value: object, words: tuple[str, ...]) -> None:
    """ValueError unless ``value`` is one of ``words``."""
    if value not in words:
        *others, last = (f'"{word}"' for word in words)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")


def check_activation(activation: str) -> None:
    """ValueError unless ``activation`` is one that the ops know."""
    check_word("activation", activation, ACTIVATIONS)


def slope_of(activation: Activation, negative_slope: float) -> float:
    """Of act(z) = z > 0 ? z : slope * z."""
    return negative_slope if activation == "leaky_relu" else 0.0 if activation == "relu" else 1.0
