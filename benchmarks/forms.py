"""The forms of the op that benchmarks/op.py times: as a family's published code writes each, and as one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from t2ilayers.ops import affine_chain, masked_affine_norm


class Form(NamedTuple):
    """``eager`` and ``native`` compute the same of x, parameters and the factor of upsampling.

    ``passes`` over a feature map of the size of y are those that no implementation can avoid, forward and forward
    with backward, by the factor of upsampling; with it, x and dx are a quarter.
    """

    eager: Callable[..., Tensor]
    native: Callable[..., Tensor]
    parameters: Callable[[int, int, int], list[Tensor]]  # of N, C and the side of y
    passes: dict[int, tuple[float, float]]


def upsampled(x: Tensor, upsample: int) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest") if upsample == 2 else x


def as_map(t: Tensor) -> Tensor:
    return t[:, :, None, None]


def masked(x: Tensor, gamma: Tensor, beta: Tensor, mask: Tensor, upsample: int) -> Tensor:
    xhat = F.batch_norm(upsampled(x, upsample), None, None, training=True)
    return F.relu(((as_map(gamma) * mask + 1) * xhat + as_map(beta) * mask).to(x.dtype))


def masked_op(x: Tensor, gamma: Tensor, beta: Tensor, mask: Tensor, upsample: int) -> Tensor:
    return masked_affine_norm(x, gamma, beta, mask, upsample=upsample, activation="relu", impl="native")


def pair(x: Tensor, gamma: Tensor, beta: Tensor, gamma2: Tensor, beta2: Tensor, upsample: int) -> Tensor:
    y = F.leaky_relu(as_map(gamma) * upsampled(x, upsample) + as_map(beta), 0.2)
    return F.leaky_relu(as_map(gamma2) * y + as_map(beta2), 0.2)


def pair_op(x: Tensor, gamma: Tensor, beta: Tensor, gamma2: Tensor, beta2: Tensor, upsample: int) -> Tensor:
    return affine_chain(x, (gamma, gamma2), (beta, beta2), upsample=upsample, impl="native")


def spade(x: Tensor, gamma: Tensor, beta: Tensor, upsample: int) -> Tensor:
    xhat = F.batch_norm(upsampled(x, upsample), None, None, training=True)
    return F.leaky_relu(xhat * (1 + gamma) + beta, 0.2)


def spade_op(x: Tensor, gamma: Tensor, beta: Tensor, upsample: int) -> Tensor:
    return masked_affine_norm(x, gamma, beta, upsample=upsample, activation="leaky_relu", impl="native")


def absolute(x: Tensor, gamma: Tensor, beta: Tensor, upsample: int) -> Tensor:
    xhat = F.batch_norm(upsampled(x, upsample), None, None, training=True)
    return F.relu(as_map(gamma) * xhat + as_map(beta))


def absolute_op(x: Tensor, gamma: Tensor, beta: Tensor, upsample: int) -> Tensor:
    return masked_affine_norm(
        x, gamma, beta, scale="absolute", upsample=upsample, activation="relu", impl="native"
    )


def vectors(count: int) -> Callable[[int, int, int], list[Tensor]]:
    return lambda n, c, side: [torch.randn(n, c) for _ in range(count)]


FORMS = {
    "masked": Form(  # SSA-GAN
        masked,
        masked_op,
        lambda n, c, side: [*vectors(2)(n, c, side), torch.rand(n, 1, side, side)],
        {1: (3, 8), 2: (1.5, 4.25)},
    ),
    "affine pair": Form(pair, pair_op, vectors(4), {1: (2, 5), 2: (1.25, 2.75)}),  # DF-GAN
    "SPADE": Form(
        spade, spade_op, lambda n, c, side: [torch.randn(n, c, side, side) for _ in range(2)], {1: (5, 15)}
    ),
    "absolute": Form(absolute, absolute_op, vectors(2), {1: (3, 8), 2: (1.5, 4.25)}),  # mimicry's batch norm
}
