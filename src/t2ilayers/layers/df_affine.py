"""DFAffineBlock: the deep text-image fusion of DF-GAN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..ops import Activation, Impl, affine_chain, check_activation
from ..ops._fast import is_plain, joint_mlps
from ._mlp import mlp, start_at
from ._reset import reset_parts


class DFAffineBlock(nn.Module):
    r"""Affines of the condition, each with its activation, in a row; no statistics.

    .. math::
        x^{(0)} = \mathrm{up}(x), \qquad
        x^{(p+1)} = \mathrm{act}\big(\gamma_p(e)\, x^{(p)} + \beta_p(e)\big)

    Each :math:`\gamma_p` and :math:`\beta_p` is an MLP, Linear(D, hidden) -> ReLU -> Linear(hidden, C), whose last
    layer starts at 1 and at 0. The Module twin of :func:`t2ilayers.ops.affine_chain`.

    Args:
        num_features: C, the channels of ``x``.
        cond_dim: D, the length of the condition.
        hidden_dim: width of the MLPs; None takes C, as DF-GAN's code of 2022 and GALIP do. The code of 2020 and
            RAT-GAN take 256.
        affines: how many, at least 1.
        activation: after each, ``"none"``, ``"relu"``, ``"leaky_relu"`` or ``"silu"``.
        negative_slope: of the leaky relu.
        impl: see :func:`~t2ilayers.ops.masked_affine_norm`.
        device: of the parameters.
        dtype: of the parameters.

    Shapes:
        ``x (N, C, H, W)``; ``cond (N, D)``, or a sequence with one for each affine (RAT-GAN's states). Returns
        ``(N, C, s*H, s*W)`` with ``s = upsample``. ``affines``: gammas and betas, each ``(N, C)``, where they were
        predicted before, by :func:`chain_parameters` with those of other blocks; ``cond`` is then not used.

    Raises:
        ValueError: an unknown activation, no affines; from ``forward``, shapes that do not fit.

    Source: DF-GAN, arXiv 2008.05865, "Deep text-image Fusion Block".

    Example:
        >>> fuse = DFAffineBlock(16, 32)
        >>> fuse(torch.randn(4, 16, 8, 8), torch.randn(4, 32), upsample=2).shape
        torch.Size([4, 16, 16, 16])
    """

    def __init__(
        self,
        num_features: int,
        cond_dim: int,
        hidden_dim: int | None = None,
        *,
        affines: int = 2,
        activation: Activation = "leaky_relu",
        negative_slope: float = 0.2,
        impl: Impl = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_activation(activation)
        if affines < 1:
            raise ValueError(f"affines must be at least 1, got {affines}")
        self.num_features = num_features
        self.cond_dim = cond_dim
        self.activation: Activation = activation
        self.negative_slope = negative_slope
        self.impl: Impl = impl
        hidden = num_features if hidden_dim is None else hidden_dim
        self.gammas, self.betas = (
            nn.ModuleList(mlp(cond_dim, hidden, num_features, device=device, dtype=dtype) for _ in range(affines))
            for _ in range(2)
        )
        self._start()

    def _start(self) -> None:
        for gamma, beta in zip(self.gammas, self.betas, strict=True):
            start_at(gamma, 1.0)
            start_at(beta, 0.0)

    def reset_parameters(self) -> None:
        """As a fresh layer: new random weights, affines that change nothing."""
        reset_parts(self)
        self._start()

    def forward(
        self,
        x: Tensor,
        cond: Tensor | Sequence[Tensor],
        *,
        upsample: Literal[1, 2] = 1,
        affines: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
    ) -> Tensor:
        gammas, betas = _predicted([self], [cond])[0] if affines is None else affines
        return affine_chain(
            x,
            gammas,
            betas,
            activation=self.activation,
            negative_slope=self.negative_slope,
            upsample=upsample,
            impl=self.impl,
        )

    def _check(self, conds: Sequence[Tensor]) -> None:
        count = len(self.gammas)
        if len(conds) != count or any(e.dim() != 2 or e.shape[1] != self.cond_dim for e in conds):
            raise ValueError(
                f"cond must be (N, D) with D = cond_dim = {self.cond_dim}, or {count} of them, one for each "
                f"affine, got {[tuple(e.shape) for e in conds]}"
            )

    def extra_repr(self) -> str:
        return f"{self.num_features}, cond_dim={self.cond_dim}, activation={self.activation!r}, impl={self.impl!r}"


def chain_parameters(
    blocks: Sequence[DFAffineBlock], conds: Sequence[Tensor | Sequence[Tensor]]
) -> list[tuple[list[Tensor], list[Tensor]] | None]:
    """Gammas and betas of several blocks, each ``(N, C)``, in few matrix products.

    For ``block(x, cond, affines=...)``. A block with something on it (a subclass of its own, hooks, sharded
    weights) gets None: it must predict for itself when it is called.

    Args:
        blocks: any of them.
        conds: as of :class:`DFAffineBlock`, one for each block; fastest where it is one tensor for all.

    Raises:
        ValueError: a condition does not fit its block.

    Example:
        >>> blocks, cond = (
        ...     [DFAffineBlock(c, cond_dim=32) for c in (16, 8, 16)],
        ...     torch.randn(4, 32),
        ... )
        >>> [
        ...     [tuple(gamma.shape) for gamma in gammas]
        ...     for gammas, betas in chain_parameters(blocks, 3 * [cond])
        ... ]
        [[(4, 16), (4, 16)], [(4, 8), (4, 8)], [(4, 16), (4, 16)]]
    """
    plain = [i for i, block in enumerate(blocks) if is_plain(block, DFAffineBlock)]
    predicted = dict(zip(plain, _predicted([blocks[i] for i in plain], [conds[i] for i in plain]), strict=True))
    return [predicted.get(i) for i in range(len(blocks))]


def _predicted(
    blocks: Sequence[DFAffineBlock], conds: Sequence[Tensor | Sequence[Tensor]]
) -> list[tuple[list[Tensor], list[Tensor]]]:
    mlps: list[nn.Module] = []
    each: list[Tensor] = []
    for block, cond in zip(blocks, conds, strict=True):
        own = [cond] * len(block.gammas) if isinstance(cond, Tensor) else list(cond)
        block._check(own)
        mlps += [*block.gammas, *block.betas]
        each += [*own, *own]
    shared = bool(each) and all(e is each[0] for e in each)
    found = iter(joint_mlps(each[0] if shared else each, mlps))
    return [([next(found) for _ in block.gammas], [next(found) for _ in block.betas]) for block in blocks]
