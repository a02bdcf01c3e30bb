"""The matching-aware gradient penalty."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ._arguments import full


def gradient_penalty(
    logits: Tensor, inputs: Sequence[Tensor], *, weight: float = 2.0, power: float = 6.0
) -> Tensor:
    r"""The penalty on the gradient of logits with respect to inputs, for callers that hold the forward pass.

    .. math::
        w \cdot \frac1N \sum_n \Big( \sum_k \Big\| \frac{\partial\, \mathrm{logits}_n}{\partial\,
        \mathrm{inputs}_{k,n}} \Big\|_2^2 \Big)^{p/2}

    That is ``weight * mean(||g||_2 ** power)``, ``g`` the gradients of one sample with respect to all inputs
    concatenated. It is written with the squared norm, whose derivative is finite at ``g = 0``, and keeps the
    graph: the result can be differentiated with respect to the discriminator's parameters. The gradients are
    taken and summed outside of autocast, in float32 at least; the forward pass is what the caller made it.

    Args:
        logits: ``(N,)``, computed from ``inputs``; logit ``n`` depends on the inputs of sample ``n`` only.
        inputs: tensors ``(N, ...)`` that require gradients.
        weight: ``w``, any number.
        power: ``p >= 2``; below, the derivative at ``g = 0`` would be infinite.

    Returns:
        A scalar in [0, inf) for ``weight >= 0``.

    Raises:
        ValueError: ``power < 2``; ``logits`` is not ``(N,)`` with N >= 1; an input's first size is not N, it
            does not require gradients, or ``logits`` does not depend on it.

    Source: Tao et al., DF-GAN, arXiv 2008.05865, the matching-aware gradient penalty, with k = ``weight`` and
    p = ``power``. The paper adds the norms of the two gradients; the published code, and this, take the norm
    of both concatenated.

    Example:
        >>> import torch
        >>> from t2ilayers.losses import gradient_penalty
        >>> x = torch.tensor([[3.0, 4.0]], requires_grad=True)
        >>> gradient_penalty(
        ...     x.square().sum(dim=1) / 2, [x], weight=1.0, power=2.0
        ... )  # the gradient is x
        tensor(25., grad_fn=<MulBackward0>)
    """
    if power < 2:
        raise ValueError(
            f"power must be at least 2, got {power}: below 2 the penalty's derivative at a zero "
            "gradient is infinite; the published value is 6."
        )
    if logits.ndim != 1 or logits.numel() == 0:
        raise ValueError(
            f"logits must be (N,), one a sample, with N >= 1, got shape {tuple(logits.shape)}; "
            "for (N, 1, 1, 1) use logits.flatten()."
        )
    for k, x in enumerate(inputs):
        if x.ndim == 0 or x.shape[0] != logits.shape[0]:
            raise ValueError(
                f"inputs must be (N, ...) with the N = {logits.shape[0]} of the logits, got shape "
                f"{tuple(x.shape)} as inputs[{k}]."
            )
        if not x.requires_grad:
            raise ValueError(
                f"inputs[{k}] does not require gradients; call x.requires_grad_() on it before the forward pass."
            )
    unused = "use the tensors the logits were computed from, with gradients enabled and no detach between."
    if not logits.requires_grad:
        raise ValueError(f"logits do not depend on any input; {unused}")
    with torch.autocast(logits.device.type, enabled=False):
        # Sample n's logit depends on sample n only, so the gradient of the sum holds every sample's gradient.
        grads = torch.autograd.grad(logits.sum(), tuple(inputs), create_graph=True, allow_unused=True)
        squared = []
        for k, grad in enumerate(grads):
            if grad is None:
                raise ValueError(f"logits do not depend on inputs[{k}]; {unused}")
            squared.append(full(grad).flatten(1).square().sum(dim=1))
        penalties = torch.stack(squared).sum(dim=0).pow(power / 2)  # (N,)
        return weight * penalties.mean()


def matching_aware_gradient_penalty(
    discriminator: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    cond: Tensor,
    *,
    weight: float = 2.0,
    power: float = 6.0,
) -> Tensor:
    r"""MA-GP: the penalty on the discriminator's gradient at real images with their own captions.

    .. math::
        w \cdot \frac1N \sum_n \big\| \big[\nabla_x D(x_n, e_n),\, \nabla_e D(x_n, e_n)\big] \big\|_2^{\,p}

    The forward pass and both derivatives run outside of autocast, with half inputs cast up to float32
    (float64 stays): sixth powers do not fit into half precision. Images and condition are detached, so the
    penalty trains the discriminator only. Where the forward pass of the real pairs is shared, see
    :func:`gradient_penalty`.

    Args:
        discriminator: any ``discriminator(images, cond) -> (N,)``, differentiable twice, its parameters in
            float32 or float64.
        images: ``(N, C, H, W)``, N >= 1.
        cond: ``(N, D)``.
        weight: ``w``, any number.
        power: ``p >= 2``.

    Returns:
        A scalar in [0, inf) for ``weight >= 0``.

    Raises:
        ValueError: ``images`` and ``cond`` differ in N; ``power < 2``; the discriminator does not return
            ``(N,)``, or what it returns does not depend on both of its arguments.
        TypeError: ``images`` or ``cond`` is not of a floating dtype.

    Source: Tao et al., DF-GAN, arXiv 2008.05865; Liao et al., SSA-GAN, arXiv 2104.00567, the discriminator's
    objective.

    Example:
        >>> import torch
        >>> from t2ilayers.losses import matching_aware_gradient_penalty
        >>> def discriminator(images, cond):
        ...     return images.sum(dim=(1, 2, 3)) + cond.sum(dim=1)
        >>> images, cond = (
        ...     torch.zeros(2, 3, 2, 2),
        ...     torch.zeros(2, 4),
        ... )  # every gradient: 12 + 4 ones
        >>> matching_aware_gradient_penalty(
        ...     discriminator, images, cond
        ... ).item()  # 2 * sqrt(16) ** 6
        8192.0
    """
    if images.ndim < 1 or cond.ndim < 1 or images.shape[0] != cond.shape[0]:
        raise ValueError(
            "images (N, C, H, W) and cond (N, D) must agree in N, got "
            f"{tuple(images.shape)} and {tuple(cond.shape)}."
        )
    for name, x in (("images", images), ("cond", cond)):
        if not x.is_floating_point():
            raise TypeError(f"{name} must be of a floating dtype, got {x.dtype}.")
    leaves = tuple(full(x.detach()).requires_grad_() for x in (images, cond))
    with torch.autocast(images.device.type, enabled=False), torch.enable_grad():
        return gradient_penalty(discriminator(*leaves), leaves, weight=weight, power=power)
