"""What a batch norm of torch's would normalize by, as options of the fused op."""

from __future__ import annotations

from typing import Any

from torch import nn


def batch_statistics(norm: nn.BatchNorm2d) -> dict[str, Any]:
    """Options with which ``masked_affine_norm`` normalizes as ``norm`` would; counts the batch, as a call would.

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
