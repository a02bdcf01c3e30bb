"""Batch statistics that a layer normalises by: whose they are, and who shares them."""

from __future__ import annotations

import copy
from typing import Any

import torch.distributed as dist
from torch import nn
from typing_extensions import Self


class SharesStatistics(nn.Module):
    """A layer whose batch statistics may be those of several processes.

    Attributes:
        process_group: the ranks that share batch statistics while training, or None.
    """

    process_group: dist.ProcessGroup | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.process_group = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A process group stands for the processes. A copy of the layer shares with the same ones.
        memo[id(self.process_group)] = self.process_group
        new = self.__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(self.__dict__, memo))  # type: ignore[no-untyped-call]
        return new

    def __getstate__(self) -> dict[str, Any]:
        if self.process_group is not None:
            raise TypeError(
                f"{type(self).__name__} shares statistics over a process group, which cannot be pickled; save its "
                "state_dict(), or call synchronize_statistics(module, None) before"
            )
        return self.__dict__


def batch_statistics(norm: nn.BatchNorm2d) -> dict[str, Any]:
    """Options with which ``masked_affine_norm`` normalises as ``norm`` would; counts the batch, as a call would.

    Args:
        norm: its own mode decides, not that of the module that holds it: frozen norms stay frozen.

    Example:
        >>> batch_statistics(nn.BatchNorm2d(3, momentum=None))["momentum"]
        1.0
    """
    momentum = norm.momentum
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:  # the plain mean over all batches
            momentum = 1.0 / float(norm.num_batches_tracked)
    running = norm.track_running_stats or not norm.training
    return {
        "running_mean": norm.running_mean if running else None,
        "running_var": norm.running_var if running else None,
        "training": norm.training or (norm.running_mean is None and norm.running_var is None),
        "momentum": 0.0 if momentum is None else momentum,
        "eps": norm.eps,
    }
