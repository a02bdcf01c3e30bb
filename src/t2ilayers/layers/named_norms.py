"""ConditionalNorm2d in the forms that have names in the literature."""

from __future__ import annotations

from typing import Any

from .conditional_norm import ConditionalNorm2d


class ConditionalBatchNorm2d(ConditionalNorm2d):
    r"""Batch norm with a scale and a shift of the sample's class.

    .. math:: y = \mathrm{act}\big(\gamma_c\, \mathrm{BN}(x) + \beta_c\big)

    A :class:`ConditionalNorm2d` with ``stats="batch"``, ``condition="embedding"`` and ``scale="absolute"``, as in
    cGAN-PD and SAGAN. BigGAN's is ``condition="linear", bias=False, scale="residual"``, where the condition is the
    class embedding joined with a part of the noise.

    Args:
        num_features: C, the channels of ``x``.
        cond_dim: number of classes; the length of the condition for other conditions.
        options: those of :class:`ConditionalNorm2d`, by keyword.

    Shapes:
        ``x (N, C, H, W)``, ``cond (N,)`` of whole numbers in [0, cond_dim), returns ``(N, C, H, W)``.

    Raises:
        ValueError: as :class:`ConditionalNorm2d`.

    Source: Dumoulin et al., *A Learned Representation for Artistic Style*, arXiv 1610.07629; de Vries et al.,
    arXiv 1707.00683; as in Miyato, Koyama, *cGANs with Projection Discriminator*, arXiv 1802.05637.

    Example:
        >>> import torch
        >>> norm = ConditionalBatchNorm2d(16, 10, activation="relu")
        >>> norm(torch.randn(4, 16, 8, 8), torch.tensor([0, 3, 9, 3])).shape
        torch.Size([4, 16, 8, 8])
    """

    def __init__(self, num_features: int, cond_dim: int, **options: Any) -> None:
        defaults = {"stats": "batch", "condition": "embedding", "scale": "absolute"}
        super().__init__(num_features, cond_dim, **{**defaults, **options})


class AdaptiveInstanceNorm2d(ConditionalNorm2d):
    r"""AdaIN: instance norm with a scale and a shift of the sample's style.

    .. math:: y = \mathrm{act}\big(\gamma(e)\, \mathrm{IN}(x) + \beta(e)\big)

    A :class:`ConditionalNorm2d` with ``stats="instance"``, ``condition="linear"`` and ``scale="absolute"``.

    Args:
        num_features: C, the channels of ``x``.
        cond_dim: D, the length of the style.
        options: those of :class:`ConditionalNorm2d`, by keyword.

    Shapes:
        ``x (N, C, H, W)``, ``cond (N, D)``, returns ``(N, C, H, W)``.

    Raises:
        ValueError: as :class:`ConditionalNorm2d`.

    Source: Huang, Belongie, arXiv 1703.06868; StyleGAN, arXiv 1812.04948.

    Example:
        >>> import torch
        >>> AdaptiveInstanceNorm2d(16, 32)(
        ...     torch.randn(4, 16, 8, 8), torch.randn(4, 32)
        ... ).shape
        torch.Size([4, 16, 8, 8])
    """

    def __init__(self, num_features: int, cond_dim: int, **options: Any) -> None:
        defaults = {"stats": "instance", "condition": "linear", "scale": "absolute"}
        super().__init__(num_features, cond_dim, **{**defaults, **options})


class AdaptiveGroupNorm2d(ConditionalNorm2d):
    r"""AdaGN: group norm with a scale and a shift of an embedding, such as that of a diffusion step.

    .. math:: y = \mathrm{act}\big((1 + \gamma(e))\, \mathrm{GN}(x) + \beta(e)\big)

    A :class:`ConditionalNorm2d` with ``stats="group"``, ``condition="linear"`` and ``scale="residual"``. An
    activation of the embedding, which most codes have, comes before: ``norm(x, F.silu(e))``.

    Args:
        num_features: C, the channels of ``x``.
        cond_dim: D, the length of the embedding.
        groups: number of channel groups; divides C.
        options: those of :class:`ConditionalNorm2d`, by keyword.

    Shapes:
        ``x (N, C, H, W)``, ``cond (N, D)``, returns ``(N, C, H, W)``.

    Raises:
        ValueError: as :class:`ConditionalNorm2d`.

    Source: Dhariwal, Nichol, *Diffusion Models Beat GANs on Image Synthesis*, arXiv 2105.05233.

    Example:
        >>> import torch
        >>> norm = AdaptiveGroupNorm2d(64, 32, activation="silu")
        >>> norm(torch.randn(4, 64, 8, 8), torch.randn(4, 32)).shape
        torch.Size([4, 64, 8, 8])
    """

    def __init__(self, num_features: int, cond_dim: int, *, groups: int = 32, **options: Any) -> None:
        defaults = {"stats": "group", "condition": "linear", "scale": "residual"}
        super().__init__(num_features, cond_dim, groups=groups, **{**defaults, **options})


class FiLM2d(ConditionalNorm2d):
    r"""Feature-wise linear modulation: a scale and a shift of the condition, without normalisation.

    .. math:: y = \mathrm{act}\big(\gamma(e)\, x + \beta(e)\big)

    A :class:`ConditionalNorm2d` with ``stats="none"``, ``condition="linear"`` and ``scale="absolute"``.

    Args:
        num_features: C, the channels of ``x``.
        cond_dim: D, the length of the condition.
        options: those of :class:`ConditionalNorm2d`, by keyword.

    Shapes:
        ``x (N, C, H, W)``, ``cond (N, D)``, returns ``(N, C, H, W)``.

    Raises:
        ValueError: as :class:`ConditionalNorm2d`.

    Source: Perez et al., arXiv 1709.07871.

    Example:
        >>> import torch
        >>> FiLM2d(16, 32, activation="relu")(
        ...     torch.randn(4, 16, 8, 8), torch.randn(4, 32)
        ... ).shape
        torch.Size([4, 16, 8, 8])
    """

    def __init__(self, num_features: int, cond_dim: int, **options: Any) -> None:
        defaults = {"stats": "none", "condition": "linear", "scale": "absolute"}
        super().__init__(num_features, cond_dim, **{**defaults, **options})
