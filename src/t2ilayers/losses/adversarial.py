"""Adversarial losses of logits other than the hinge: logistic and Wasserstein."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from ._arguments import check_logits, full


class AdversarialLoss(NamedTuple):
    """The terms of a discriminator's loss, each of shape ``()``.

    Example:
        >>> import torch
        >>> AdversarialLoss(torch.tensor(1.0), torch.tensor(0.5)).total
        tensor(1.5000)
    """

    real: Tensor
    fake: Tensor

    @property
    def total(self) -> Tensor:
        """``real + fake``."""
        return self.real + self.fake


def logistic_discriminator_loss(real: Tensor, fake: Tensor) -> AdversarialLoss:
    r"""The loss of the first GAN, of logits: cross entropy of "real" and "generated".

    .. math:: \mathrm{mean}(-\log \sigma(D(x))) + \mathrm{mean}(-\log(1 - \sigma(D(G(z)))))

    Args:
        real: logits of real images, of any shape, usually ``(N,)``.
        fake: logits of generated images; the count may differ.

    Returns:
        :class:`AdversarialLoss`, whose ``total`` is the loss to minimise; in [0, inf).

    Raises:
        ValueError: ``real`` or ``fake`` is empty.
        TypeError: logits are not of a floating dtype.

    Source: Goodfellow et al., *Generative Adversarial Nets*, arXiv 1406.2661.

    Example:
        >>> import torch
        >>> logistic_discriminator_loss(torch.zeros(2), torch.zeros(2)).total
        tensor(1.3863)
    """
    check_logits("real", real)
    check_logits("fake", fake)
    return AdversarialLoss(F.softplus(-full(real)).mean(), F.softplus(full(fake)).mean())


def logistic_generator_loss(fake: Tensor) -> Tensor:
    r"""The generator's loss for :func:`logistic_discriminator_loss`, in the form that does not saturate.

    .. math:: \mathrm{mean}(-\log \sigma(D(G(z))))

    Args:
        fake: logits of generated images, of any shape, usually ``(N,)``.

    Returns:
        A scalar in [0, inf).

    Raises:
        ValueError: ``fake`` is empty.
        TypeError: ``fake`` is not of a floating dtype.

    Source: arXiv 1406.2661, section 3.

    Example:
        >>> import torch
        >>> logistic_generator_loss(torch.zeros(2))
        tensor(0.6931)
    """
    check_logits("fake", fake)
    return F.softplus(-full(fake)).mean()


def wasserstein_discriminator_loss(real: Tensor, fake: Tensor) -> AdversarialLoss:
    r"""The critic's loss of a Wasserstein GAN; the generator's is that of the hinge.

    .. math:: -\mathrm{mean}(D(x)) + \mathrm{mean}(D(G(z)))

    The critic must be Lipschitz, by spectral norm or by a :func:`gradient_penalty`.

    Args:
        real: logits of real images, of any shape, usually ``(N,)``.
        fake: logits of generated images; the count may differ.

    Returns:
        :class:`AdversarialLoss`, whose ``total`` is the loss to minimise.

    Raises:
        ValueError: ``real`` or ``fake`` is empty.
        TypeError: logits are not of a floating dtype.

    Source: Arjovsky et al., *Wasserstein GAN*, arXiv 1701.07875.

    Example:
        >>> import torch
        >>> wasserstein_discriminator_loss(
        ...     torch.tensor([1.0, 3.0]), torch.tensor([-1.0])
        ... ).total
        tensor(-3.)
    """
    check_logits("real", real)
    check_logits("fake", fake)
    return AdversarialLoss(-full(real).mean(), full(fake).mean())
