"""ActivatedBatchNorm: ordinary batch norm and its activation, in the passes of the fused op."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..ops import Activation, Impl, check_activation
from ._former_keys import take_former_keys
from .fused import FusedSequential


class ActivatedBatchNorm(FusedSequential):
    r"""``act(BatchNorm2d(x))``, by :func:`t2ilayers.ops.masked_affine_norm` without a mask.

    .. math:: y = \mathrm{act}(w\, \hat{x} + b)

    A :class:`FusedSequential` of ``norm``, an :class:`torch.nn.BatchNorm2d`, and ``activation``. Whatever looks
    for batch norms finds ``norm`` and leaves the activation alone. Checkpoints of ``nn.BatchNorm2d`` load.

    Args:
        num_features: C, the channels of ``x``.
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"`` or ``"silu"``.
        eps: added to the variance.
        momentum: weight of the new batch in the running statistics, or None for the mean over all batches.
        affine: whether there are a weight and a bias.
        track_running_stats: whether there are running statistics.
        negative_slope: of the leaky relu.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.
        device: of parameters and buffers.
        dtype: of parameters and buffers.

    Attributes:
        process_group: the ranks that share batch statistics while training, or None.

    Shapes:
        ``x (N, C, H, W)``, returns the same.

    Raises:
        ValueError: an unknown activation; from ``forward``, a shape that does not fit.

    Source: batch norm, arXiv 1502.03167.

    Example:
        >>> import torch
        >>> norm, x = ActivatedBatchNorm(8, "relu"), torch.randn(2, 8, 4, 4)
        >>> bool(torch.allclose(norm(x), nn.BatchNorm2d(8)(x).relu(), atol=1e-5))
        True
    """

    norm: nn.BatchNorm2d
    # Those of an nn.BatchNorm2d, which this layer had before, too.
    former_keys: ClassVar = {
        key: f"norm.{key}" for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }

    def __init__(
        self,
        num_features: int,
        activation: Activation,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        negative_slope: float = 0.2,
        impl: Impl = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_activation(activation)
        children: OrderedDict[str, nn.Module] = OrderedDict(
            norm=nn.BatchNorm2d(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        )
        if activation == "relu":
            children["activation"] = nn.ReLU()
        elif activation == "leaky_relu":
            children["activation"] = nn.LeakyReLU(negative_slope)
        elif activation == "silu":
            children["activation"] = nn.SiLU()
        super().__init__(children, impl=impl)
        self.register_load_state_dict_pre_hook(take_former_keys)  # type: ignore[no-untyped-call]

    @property
    def running_mean(self) -> Tensor | None:
        """``norm.running_mean``."""
        return self.norm.running_mean

    @property
    def running_var(self) -> Tensor | None:
        """``norm.running_var``."""
        return self.norm.running_var
