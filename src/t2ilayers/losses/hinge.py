"""The hinge losses of a matching-aware discriminator and its generator."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from ._arguments import check_logits, full


class HingeLoss(NamedTuple):
    """The terms of :func:`hinge_discriminator_loss`, each of shape ``()``.

    ``mismatched`` is None where no mismatched logits were given.

    Example:
        >>> import torch
        >>> from t2ilayers.losses import HingeLoss
        >>> HingeLoss(torch.tensor(1.0), torch.tensor(0.5), torch.tensor(0.25)).total
        tensor(1.3750)
    """

    real: Tensor
    fake: Tensor
    mismatched: Tensor | None

    @property
    def total(self) -> Tensor:
        """``real + (fake + mismatched) / 2``, or ``real + fake`` without mismatched pairs."""
        if self.mismatched is None:
            return self.real + self.fake
        return self.real + (self.fake + self.mismatched) / 2


def hinge_discriminator_loss(real: Tensor, fake: Tensor, mismatched: Tensor | None = None) -> HingeLoss:
    r"""The hinge loss of a matching-aware discriminator.

    .. math::
        \mathrm{mean}(\max(0, 1 - D(x, e))) + \tfrac12 \big[\mathrm{mean}(\max(0, 1 + D(G(z, e), e)))
        + \mathrm{mean}(\max(0, 1 + D(x, \hat e)))\big]

    Args:
        real: logits of real images with their captions, of any shape, usually ``(N,)``.
        fake: logits of generated images with their captions; the count may differ from that of ``real``.
        mismatched: logits of real images with captions of others (see :func:`mismatched_pairs`), of any
            count. An *empty* tensor, a batch in which nothing could be mismatched, contributes 0 and the
            fakes keep their weight 1/2: the balance of the terms does not jump from step to step. None means
            that mismatched pairs are not used at all, and the fakes then weigh 1.

    Returns:
        :class:`HingeLoss`, whose ``total`` is the loss to minimise; in [0, inf).

    Raises:
        ValueError: ``real`` or ``fake`` is empty.
        TypeError: logits are not of a floating dtype.

    Source: Liao et al., SSA-GAN, arXiv 2104.00567, the discriminator's objective without its gradient
    penalty; Tao et al., DF-GAN, arXiv 2008.05865.

    Example:
        >>> import torch
        >>> from t2ilayers.losses import hinge_discriminator_loss
        >>> loss = hinge_discriminator_loss(
        ...     torch.tensor([0.5, 2.0]), torch.tensor([-2.0, 0.0])
        ... )
        >>> loss.real, loss.fake, loss.total
        (tensor(0.2500), tensor(0.5000), tensor(0.7500))
    """
    check_logits("real", real)
    check_logits("fake", fake)
    terms = [F.relu(1 - full(real)).mean(), F.relu(1 + full(fake)).mean()]
    if mismatched is None:
        return HingeLoss(terms[0], terms[1], None)
    check_logits("mismatched", mismatched, empty=True)
    # sum / max(count, 1) is the mean, and 0 instead of NaN for no pairs.
    return HingeLoss(terms[0], terms[1], F.relu(1 + full(mismatched)).sum() / max(mismatched.numel(), 1))


def hinge_generator_loss(fake: Tensor) -> Tensor:
    r"""The adversarial loss of the generator: ``-mean(D(G(z, e), e))``.

    Args:
        fake: logits of generated images with their captions, of any shape, usually ``(N,)``.

    Returns:
        A scalar in (-inf, inf).

    Raises:
        ValueError: ``fake`` is empty.
        TypeError: ``fake`` is not of a floating dtype.

    Source: Liao et al., SSA-GAN, arXiv 2104.00567, the generator's objective without DAMSM.

    Example:
        >>> import torch
        >>> from t2ilayers.losses import hinge_generator_loss
        >>> hinge_generator_loss(torch.tensor([1.0, -4.0]))
        tensor(1.5000)
    """
    check_logits("fake", fake)
    return -full(fake).mean()
