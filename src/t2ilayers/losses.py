r"""Losses of matching-aware conditional GANs: hinge, gradient penalty, DAMSM.

Letters: ``N`` batch, ``D`` embedding, ``T`` words, ``h w`` grid of image regions, ``C H W`` image. Losses are
computed in float32 at least, also under autocast: half inputs are cast up, float64 stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .ops._gradfix import without_weight_gradients

__all__ = [
    "DAMSMLoss",
    "HingeLoss",
    "damsm_loss",
    "gradient_penalty",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "matching_aware_gradient_penalty",
    "mismatched_pairs",
]


def _full(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is in float64."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _check_logits(name: str, logits: Tensor, *, empty: bool = False) -> None:
    if not logits.is_floating_point():
        raise TypeError(f"{name} must be logits of a floating dtype, received {logits.dtype}.")
    if logits.numel() == 0 and not empty:
        raise ValueError(
            f"{name} must hold at least one logit, received shape {tuple(logits.shape)}: "
            "the mean of nothing is NaN; skip the step for an empty batch."
        )


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
        >>> loss = hinge_discriminator_loss(torch.tensor([0.5, 2.0]), torch.tensor([-2.0, 0.0]))
        >>> loss.real, loss.fake, loss.total
        (tensor(0.2500), tensor(0.5000), tensor(0.7500))
    """
    _check_logits("real", real)
    _check_logits("fake", fake)
    terms = [F.relu(1 - _full(real)).mean(), F.relu(1 + _full(fake)).mean()]
    if mismatched is None:
        return HingeLoss(terms[0], terms[1], None)
    _check_logits("mismatched", mismatched, empty=True)
    # sum / max(count, 1) is the mean, and 0 instead of NaN for no pairs.
    return HingeLoss(terms[0], terms[1], F.relu(1 + _full(mismatched)).sum() / max(mismatched.numel(), 1))


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
    _check_logits("fake", fake)
    return -_full(fake).mean()


def _check_ids(name: str, ids: Tensor) -> None:
    if ids.is_floating_point() or ids.is_complex():
        raise TypeError(f"{name} must be integers, received {ids.dtype}; use {name}.long().")


def mismatched_pairs(class_ids: Tensor, tokens: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""For every image of a batch, a caption of the batch that does not describe it.

    Image ``i`` gets the first caption ``j = i + 1, i + 2, ... (mod N)`` with ``class_ids[j] != class_ids[i]``
    and, where tokens are given, ``tokens[j] != tokens[i]`` as rows. Images for which there is none are left
    out. Rolling the batch by one, as published code does, calls some matching pairs mismatched; this never
    does.

    Args:
        class_ids: ``(N,)`` integers, N >= 1; without classes use ``torch.arange(N)``.
        tokens: ``(N, T)`` integers, padded alike (rows are compared whole), on the device of ``class_ids``.

    Returns:
        ``(images, captions)``, int64 ``(M,)`` each, M <= N: pair ``m`` is the image ``images[m]`` (ascending)
        with the caption ``captions[m]``. M depends on the values, so on a GPU this waits for the device once;
        class ids and tokens still on the CPU spare that.

    Raises:
        ValueError: ``class_ids`` is not ``(N,)`` with N >= 1, or ``tokens`` is not ``(N, T)``.
        TypeError: ``class_ids`` or ``tokens`` are not integers.

    Source: the mismatched pairs of Reed et al., arXiv 1605.05396, section 4.2 (GAN-CLS), restricted to
    other classes.

    Example:
        >>> import torch
        >>> from t2ilayers.losses import mismatched_pairs
        >>> mismatched_pairs(torch.tensor([7, 7, 3]))
        (tensor([0, 1, 2]), tensor([2, 2, 0]))
        >>> mismatched_pairs(torch.tensor([7, 7, 7]))
        (tensor([], dtype=torch.int64), tensor([], dtype=torch.int64))
    """
    if class_ids.ndim != 1 or class_ids.numel() == 0:
        raise ValueError(f"class_ids must be (N,) with N >= 1, received shape {tuple(class_ids.shape)}.")
    _check_ids("class_ids", class_ids)
    n = class_ids.shape[0]
    admissible = class_ids[:, None] != class_ids  # (N, N): image, caption
    if tokens is not None:
        if tokens.ndim != 2 or tokens.shape[0] != n:
            raise ValueError(
                f"tokens must be (N, T) with the N = {n} of class_ids, received shape {tuple(tokens.shape)}."
            )
        _check_ids("tokens", tokens)
        admissible &= (tokens[:, None] != tokens).any(dim=-1)
    image = torch.arange(n, device=class_ids.device)
    # Column k looks at caption i + k; column 0 is the image's own caption, which is never admissible.
    in_order = admissible.gather(1, (image[:, None] + image) % n)
    offset = in_order.int().argmax(dim=1)  # the first True, by argmax's rule for ties
    found = in_order.any(dim=1)
    return image[found], ((image + offset) % n)[found]


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
        >>> gradient_penalty(x.square().sum(dim=1) / 2, [x], weight=1.0, power=2.0)  # the gradient is x
        tensor(25., grad_fn=<MulBackward0>)
    """
    if power < 2:
        raise ValueError(
            f"power must be at least 2, received {power}: below 2 the penalty's derivative at a zero "
            "gradient is infinite; the published value is 6."
        )
    if logits.ndim != 1 or logits.numel() == 0:
        raise ValueError(
            f"logits must be (N,), one a sample, with N >= 1, received shape {tuple(logits.shape)}; "
            "for (N, 1, 1, 1) use logits.flatten()."
        )
    for k, x in enumerate(inputs):
        if x.ndim == 0 or x.shape[0] != logits.shape[0]:
            raise ValueError(
                f"inputs must be (N, ...) with the N = {logits.shape[0]} of the logits, received shape "
                f"{tuple(x.shape)} as inputs[{k}]."
            )
        if not x.requires_grad:
            raise ValueError(
                f"inputs[{k}] does not require gradients; call x.requires_grad_() on it before the forward pass."
            )
    unused = "use the tensors the logits were computed from, with gradients enabled and no detach between."
    if not logits.requires_grad:
        raise ValueError(f"logits do not depend on any input; {unused}")
    with torch.autocast(logits.device.type, enabled=False), without_weight_gradients():
        # Sample n's logit depends on sample n only, so the gradient of the sum holds every sample's gradient.
        grads = torch.autograd.grad(logits.sum(), tuple(inputs), create_graph=True, allow_unused=True)
        squared = []
        for k, grad in enumerate(grads):
            if grad is None:
                raise ValueError(f"logits do not depend on inputs[{k}]; {unused}")
            squared.append(_full(grad).flatten(1).square().sum(dim=1))
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
        >>> images, cond = torch.zeros(2, 3, 2, 2), torch.zeros(2, 4)  # every gradient: 12 + 4 ones
        >>> matching_aware_gradient_penalty(discriminator, images, cond).item()  # 2 * sqrt(16) ** 6
        8192.0
    """
    if images.ndim < 1 or cond.ndim < 1 or images.shape[0] != cond.shape[0]:
        raise ValueError(
            "images (N, C, H, W) and cond (N, D) must agree in N, received "
            f"{tuple(images.shape)} and {tuple(cond.shape)}."
        )
    for name, x in (("images", images), ("cond", cond)):
        if not x.is_floating_point():
            raise TypeError(f"{name} must be of a floating dtype, received {x.dtype}.")
    leaves = tuple(_full(x.detach()).requires_grad_() for x in (images, cond))
    with torch.autocast(images.device.type, enabled=False), torch.enable_grad():
        return gradient_penalty(discriminator(*leaves), leaves, weight=weight, power=power)


class DAMSMLoss(NamedTuple):
    """The terms of :func:`damsm_loss`, each ``()``: ``i2t`` an image among captions, ``t2i`` the reverse.

    Example:
        >>> import torch
        >>> from t2ilayers.losses import DAMSMLoss
        >>> DAMSMLoss(*torch.tensor([1.0, 2.0, 3.0, 4.0])).total
        tensor(10.)
    """

    words_i2t: Tensor
    words_t2i: Tensor
    sentence_i2t: Tensor
    sentence_t2i: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of the four."""
        return self.words_i2t + self.words_t2i + self.sentence_i2t + self.sentence_t2i


_EPS = 1e-8  # below it a product of norms counts as it in a cosine


def _word_similarities(regions: Tensor, words: Tensor, lengths: Tensor, gamma1: float, gamma2: float) -> Tensor:
    """``(N, N)``: how well the regions of image i (row) account for the words of caption j (column)."""
    n, _, t = words.shape
    padding = torch.arange(t, device=words.device) >= lengths[:, None]  # (N, T)
    places = regions.flatten(2)  # (N, D, hw)
    by_word = words.transpose(1, 2)  # (N, T, D)
    # One matrix product an image against all words of the batch. Places come last, so the reductions over
    # them, the long ones, read contiguous memory.
    scores = (by_word.reshape(n * t, -1) @ places).view(n, n, t, -1)  # (image, caption, T, hw)
    attention = scores.masked_fill(padding[:, :, None], -torch.inf).softmax(dim=2)
    attention = (gamma1 * attention).softmax(dim=3)
    # The norm of an attended region would also follow from the Gram matrix of the regions, and its product
    # with the word from the scores. Forward and backward on 2 CPU cores, that takes 114 ms instead of 81 at
    # (N, h·w, T, D) = (24, 289, 18, 256), and 17 instead of 23 at (32, 64, 18, 128): the plain way wins where
    # it costs most, and its norm is a sum of squares, which rounding cannot make negative.
    attended = (attention.flatten(1, 2) @ places.transpose(1, 2)).view(n, n, t, -1)  # (image, caption, T, D)
    norms = torch.linalg.vector_norm(attended, dim=-1) * torch.linalg.vector_norm(by_word, dim=-1)
    cosines = (attended * by_word).sum(dim=-1) / norms.clamp(min=_EPS)  # (image, caption, T)
    return torch.logsumexp((gamma2 * cosines).masked_fill(padding, -torch.inf), dim=-1)


def _both_ways(similarities: Tensor, other_of_class: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the diagonal, of rows (an image over captions) and of columns."""
    if other_of_class is not None:
        similarities = similarities.masked_fill(other_of_class, -torch.inf)
    own = torch.arange(len(similarities), device=similarities.device)
    return F.cross_entropy(similarities, own), F.cross_entropy(similarities.T, own)


def damsm_loss(
    regions: Tensor,
    code: Tensor,
    words: Tensor,
    sentence: Tensor,
    lengths: Tensor,
    class_ids: Tensor | None = None,
    *,
    gamma1: float = 5.0,
    gamma2: float = 5.0,
    gamma3: float = 10.0,
) -> DAMSMLoss:
    r"""The DAMSM loss: images and captions of a batch must find each other, by words and as wholes.

    For image i and caption j, with regions :math:`v_r` of i and words :math:`e_t` of j:

    .. math::
        s_{rt} = \mathrm{softmax}_t(v_r \cdot e_t), \quad \alpha_{rt} = \mathrm{softmax}_r(\gamma_1 s_{rt}),
        \quad c_t = \sum_r \alpha_{rt} v_r, \quad R_{ij} = \log \sum_t \exp(\gamma_2 \cos(c_t, e_t))

    The word losses are the cross-entropies of :math:`\gamma_3 R` with i = j as the target, over captions
    (``i2t``) and over images (``t2i``); the sentence losses are those of :math:`\gamma_3
    \cos(\mathrm{code}_i, \mathrm{sentence}_j)`. Two different samples of one class are left out of both:
    neither is wrong for the other. A cosine's product of norms counts as 1e-8 where it is smaller. Padding
    takes part in no softmax and no sum. As the published code does, R leaves out the exponent
    :math:`1 / \gamma_2` of eq. 10.

    Args:
        regions: ``(N, D, h, w)``, N >= 1.
        code: ``(N, D)``.
        words: ``(N, D, T)``, finite in the padding too.
        sentence: ``(N, D)``.
        lengths: ``(N,)`` integers in [1, T], on any device (values are checked on the CPU only: elsewhere it
            would wait for the device in every step).
        class_ids: ``(N,)`` integers, or None where every sample is its own class.
        gamma1: sharpness of the attention over regions.
        gamma2: how far the best-matching words dominate.
        gamma3: inverse temperature of the cross-entropies.

    Returns:
        :class:`DAMSMLoss`, whose ``total`` is the loss to minimise; each term in [0, inf). Memory grows with
        ``N * N * T * (h * w + D)``.

    Raises:
        ValueError: shapes do not agree, or a length is outside [1, T].
        TypeError: features are not of a floating dtype, or lengths or class ids are not integers.

    Source: Xu et al., AttnGAN, arXiv 1711.10485, section 3.2, eq. 7-13. gamma 5, 5, 10 are the values of
    SSA-GAN's training (arXiv 2104.00567).

    Example:
        >>> import torch
        >>> from t2ilayers.losses import damsm_loss
        >>> eye = torch.eye(4)  # four samples, each of its own direction
        >>> words = eye[:, :, None].expand(4, 4, 3)
        >>> loss = damsm_loss(eye[:, :, None, None], eye, words, eye, torch.tensor([3, 1, 2, 3]))
        >>> bool(loss.sentence_i2t < 0.001), bool(loss.words_i2t < 0.001)
        (True, True)
    """
    _check_damsm(regions, code, words, sentence, lengths, class_ids)
    regions, code, words, sentence = map(_full, (regions, code, words, sentence))
    other_of_class = None
    if class_ids is not None:
        class_ids = class_ids.to(code.device)
        itself = torch.eye(len(code), dtype=torch.bool, device=code.device)
        other_of_class = (class_ids[:, None] == class_ids) & ~itself
    with torch.autocast(code.device.type, enabled=False):
        by_words = _word_similarities(regions, words, lengths.to(code.device), gamma1, gamma2)
        norms = code.norm(dim=1)[:, None] * sentence.norm(dim=1)
        cosines = code @ sentence.T / norms.clamp(min=_EPS)  # (image, caption)
        return DAMSMLoss(
            *_both_ways(gamma3 * by_words, other_of_class), *_both_ways(gamma3 * cosines, other_of_class)
        )


def _check_damsm(
    regions: Tensor, code: Tensor, words: Tensor, sentence: Tensor, lengths: Tensor, class_ids: Tensor | None
) -> None:
    n = code.shape[:1]
    fits = (
        code.ndim == 2
        and regions.ndim == 4
        and words.ndim == 3
        and regions.shape[:2] == words.shape[:2] == sentence.shape == code.shape
        and regions.numel() > 0
        and words.numel() > 0
        and lengths.shape == n
        and (class_ids is None or class_ids.shape == n)
    )
    if not fits:
        received = ", ".join(
            f"{name} {tuple(x.shape)}"
            for name, x in (
                ("regions", regions),
                ("code", code),
                ("words", words),
                ("sentence", sentence),
                ("lengths", lengths),
                ("class_ids", class_ids),
            )
            if x is not None
        )
        raise ValueError(
            "damsm_loss takes regions (N, D, h, w), code (N, D), words (N, D, T), sentence (N, D), lengths "
            f"(N,) and class_ids (N,) or None, no size 0, received {received}; were both encoders made with "
            "one cond_dim?"
        )
    for name, x in (("regions", regions), ("code", code), ("words", words), ("sentence", sentence)):
        if not x.is_floating_point():
            raise TypeError(f"{name} must be of a floating dtype, received {x.dtype}.")
    _check_ids("lengths", lengths)
    if class_ids is not None:
        _check_ids("class_ids", class_ids)
    if lengths.device.type == "cpu":
        shortest, longest = int(lengths.min()), int(lengths.max())
        if shortest < 1 or longest > words.shape[2]:
            raise ValueError(
                f"lengths must be in 1..T with T = {words.shape[2]}, received {shortest}..{longest}; "
                "words and lengths must come from the same batch."
            )
