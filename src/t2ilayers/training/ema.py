"""Exponential moving average of a module's weights, for sampling."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class EMA(Generic[ModuleT]):
    r"""A copy of a module whose weights and running statistics follow it slowly.

    .. math:: \bar\theta_t = d_t \bar\theta_{t-1} + (1 - d_t)\, \theta_t, \qquad
        d_t = \min\!\big(d, \tfrac{1 + t}{10 + t}\big)

    The rising :math:`d_t` makes the average forget the random start, in short runs too. With
    ``torch.optim.swa_utils.AveragedModel`` this would take a host synchronisation in every step.

    Args:
        module: what to follow.
        decay: :math:`d` in [0, 1); 0 is the module itself.

    Attributes:
        module: the averaged copy, in evaluation mode and without gradients.

    Raises:
        ValueError: a decay outside [0, 1).

    Source: EMA of generator weights, arXiv 1806.04498.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> ema = EMA(linear, decay=0.999)
        >>> with torch.no_grad():
        ...     _ = linear.weight.fill_(1.0)
        >>> for step in range(50):
        ...     ema.update(linear, step)
        >>> bool((ema.module.weight - 1).abs().max() < 0.01)
        True
    """

    def __init__(self, module: ModuleT, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.module: ModuleT = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: ModuleT, step: int) -> None:
        """Take one step towards ``module``; ``step`` counts from 0.

        Example: see the class.
        """
        new_weight = 1 - min(self.decay, (1 + step) / (10 + step))
        old, new = self._floats(self.module), self._floats(module)
        torch._foreach_lerp_(old, new, new_weight)

    @staticmethod
    def _floats(module: nn.Module) -> list[Tensor]:
        # Integer buffers (batch counters) mean nothing to an average and are left alone.
        return [t.detach() for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
