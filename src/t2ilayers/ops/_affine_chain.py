"""Affines with activations in a row, without statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ._arguments import as_4d, check_features, parameter
from ._choice import runs_native
from ._native_chain import lacks_chain, native_chain
from ._options import Activation, Impl, check_activation, slope_of
from ._reference import reference_chain


def affine_chain(
    x: Tensor,
    gammas: Sequence[Tensor],
    betas: Sequence[Tensor],
    *,
    activation: Activation = "leaky_relu",
    negative_slope: float = 0.2,
    upsample: Literal[1, 2] = 1,
    impl: Impl = "auto",
) -> Tensor:
    r"""Scale, shift and activate a few times in a row, each sample in its own way.

    .. math::
        x^{(0)} = \mathrm{up}(x), \qquad
        x^{(p+1)}_{nchw} = \mathrm{act}\big(\gamma^{(p)}_{nc} x^{(p)}_{nchw} + \beta^{(p)}_{nc}\big)

    Two pairs with leaky relu are the fusion block of DF-GAN. Nearest upsampling repeats values and changes none,
    so it comes last here, at a quarter of the work.

    Args:
        x: features ``(N, C, H, W)``, floating point, or ``(N, C, L)`` or ``(N, C, D, H, W)`` without upsampling.
            Arithmetic is float32 for float16 and bfloat16 features, from the first pair to the last.
        gammas: the factors, at least one, each ``(N, C)``, ``(C,)`` or ``(1, C)``.
        betas: the shifts, as many, of the same shapes.
        activation: after each pair, ``"none"``, ``"relu"``, ``"leaky_relu"`` or ``"silu"``.
        negative_slope: of the leaky relu.
        upsample: 1, or 2 to return a map twice as large, by nearest neighbour.
        impl: as in :func:`masked_affine_norm`. Native kernels take up to three pairs.

    Returns:
        ``(N, C, s*H, s*W)`` with ``s = upsample``, or the shape of ``x``, in the dtype of ``x``.

    Raises:
        ValueError: a shape, a device, an unknown word, no pairs or not as many betas as gammas.
        TypeError: a tensor that is not floating point.
        RuntimeError: ``impl="native"`` where no native implementation can run; third derivatives of one.

    Source: DF-GAN, *A Simple and Effective Baseline for Text-to-Image Synthesis*, arXiv 2008.05865, "Deep
    Text-Image Fusion Block".

    Example:
        >>> import torch
        >>> x, ones, zeros = (
        ...     torch.tensor([[[[1.0, -1.0]]]]),
        ...     torch.ones(1),
        ...     torch.zeros(1),
        ... )
        >>> affine_chain(x, [ones, ones], [zeros, zeros])
        tensor([[[[ 1.0000, -0.0400]]]])
    """
    check_features(x, upsample)
    check_activation(activation)
    if len(gammas) != len(betas) or len(gammas) == 0:
        raise ValueError(
            f"gammas and betas must be equally many, at least one, got {len(gammas)} and {len(betas)}"
        )
    gammas, betas = (
        [parameter(f"{name}[{p}]", t, x, upsample=upsample, maps=False) for p, t in enumerate(tensors)]
        for name, tensors in (("gammas", gammas), ("betas", betas))
    )
    features = x if x.dim() == 4 else as_4d(x)
    slope = slope_of(activation, negative_slope)
    kernels = runs_native(x.device.type, x.dtype, impl, lacks_chain(len(gammas)))
    y = (native_chain if kernels else reference_chain)(
        features, gammas, betas, slope, activation == "silu", upsample
    )
    return y if x.dim() == 4 else y.reshape(x.shape)
