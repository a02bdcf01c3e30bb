"""Pictures and captions of a batch must find each other: as wholes, and by words besides (DAMSM)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ._arguments import check_ids, full


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
_SAME = 1 - 1e-5  # from this cosine on two sentences count as one: float32 rounds it by some 1e-6


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
    # The norms would also follow from the Gram matrix of the regions. This way is faster for many regions, where
    # it matters, and a sum of squares cannot round to below zero.
    attended = (attention.flatten(1, 2) @ places.transpose(1, 2)).view(n, n, t, -1)  # (image, caption, T, D)
    norms = torch.linalg.vector_norm(attended, dim=-1) * torch.linalg.vector_norm(by_word, dim=-1)
    cosines = (attended * by_word).sum(dim=-1) / norms.clamp(min=_EPS)  # (image, caption, T)
    return torch.logsumexp((gamma2 * cosines).masked_fill(padding, -torch.inf), dim=-1)


def _both_ways(similarities: Tensor, left_out: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the diagonal, of rows (an image over captions) and of as many columns."""
    if left_out is not None:
        similarities = similarities.masked_fill(left_out, -torch.inf)
    n = len(similarities)
    own = torch.arange(n, device=similarities.device)
    return F.cross_entropy(similarities, own), F.cross_entropy(similarities[:, :n].T, own)


class SentenceLoss(NamedTuple):
    """The terms of :func:`sentence_loss`, each ``()``: ``i2t`` an image among captions, ``t2i`` the reverse.

    Example:
        >>> import torch
        >>> from t2ilayers.losses import SentenceLoss
        >>> SentenceLoss(*torch.tensor([3.0, 4.0])).total
        tensor(7.)
    """

    sentence_i2t: Tensor
    sentence_t2i: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of the two."""
        return self.sentence_i2t + self.sentence_t2i


def sentence_loss(
    code: Tensor,
    sentence: Tensor,
    class_ids: Tensor | None = None,
    *,
    others: Tensor | None = None,
    others_class_ids: Tensor | None = None,
    gamma3: float = 10.0,
) -> SentenceLoss:
    r"""The half of :func:`damsm_loss` that needs no words, at a price that large batches can pay.

    .. math:: L = \mathrm{CE}(\gamma_3 S) + \mathrm{CE}(\gamma_3 S^\top), \qquad
        S_{ij} = \cos(\mathrm{code}_i, \mathrm{sentence}_j)

    with i = j as the target. The more captions a batch has, the more alike are the most similar two of them: a
    large batch teaches what a small one never asks for.

    Args:
        code: ``(N, D)``, N >= 1.
        sentence: ``(N, D)``.
        class_ids: ``(N,)`` integers; two different samples of one class are left out. None: each its own class.
        others: ``(M, D)``, M >= 0: further sentences that each image is told apart from, such as those of earlier
            batches, which make up for a small one. Where one is the image's own (cosine above 1 - 1e-5), it is
            left out.
        others_class_ids: ``(M,)`` integers, with ``class_ids``: those of the image's class are left out too.
        gamma3: inverse temperature.

    Returns:
        :class:`SentenceLoss`, whose ``total`` is the loss to minimise.

    Raises:
        ValueError: shapes do not agree, or others have class ids and the samples have none.
        TypeError: features are not of a floating dtype, or class ids are not integers.

    Source: Xu et al., AttnGAN, arXiv 1711.10485, section 3.2; alone and with large batches, Zhang et al., ConVIRT,
    arXiv 2010.00747; negatives of earlier batches, He et al., MoCo, arXiv 1911.05722.

    Example:
        >>> import torch
        >>> from t2ilayers.losses import sentence_loss
        >>> bool(sentence_loss(torch.eye(4), torch.eye(4)).total < 0.001)
        True
    """
    if code.ndim != 2 or code.shape != sentence.shape or code.numel() == 0:
        raise ValueError(
            f"code and sentence must be (N, D), alike and not empty, got {tuple(code.shape)} and "
            f"{tuple(sentence.shape)}; were both encoders made with one cond_dim?"
        )
    if others is not None and others.shape[1:] != sentence.shape[1:]:
        raise ValueError(
            f"others must be (M, D) with the D = {sentence.shape[1]} of sentence, got {tuple(others.shape)}"
        )
    if others_class_ids is not None and (others is None or class_ids is None):
        raise ValueError("others_class_ids go with others and class_ids, got them without; leave them out")
    for name, ids, of in (("class_ids", class_ids, code), ("others_class_ids", others_class_ids, others)):
        if ids is None or of is None:
            continue
        if ids.shape != of.shape[:1]:
            raise ValueError(f"{name} must be ({len(of)},), one for each sample, got {tuple(ids.shape)}")
        check_ids(name, ids)
    for name, x in (("code", code), ("sentence", sentence), ("others", others)):
        if x is not None and not x.is_floating_point():
            raise TypeError(f"{name} must be of a floating dtype, got {x.dtype}.")
    code, sentence = full(code), full(sentence)
    with torch.autocast(code.device.type, enabled=False):
        left_out = _others_of_class(code, class_ids)
        among = sentence
        if others is not None:
            further = full(others)
            among = torch.cat([sentence, further])
            left_out = _with_others(left_out, sentence, further, class_ids, others_class_ids)
        cosines = code @ among.T / (code.norm(dim=1)[:, None] * among.norm(dim=1)).clamp(min=_EPS)
        return SentenceLoss(*_both_ways(gamma3 * cosines, left_out))  # (image, caption)


def _with_others(
    left_out: Tensor | None,
    sentence: Tensor,
    others: Tensor,
    class_ids: Tensor | None,
    others_class_ids: Tensor | None,
) -> Tensor:
    """(N, N + M): which of the batch's and of further sentences an image is not compared with."""
    n = len(sentence)
    own = left_out if left_out is not None else torch.zeros(n, n, dtype=torch.bool, device=sentence.device)
    same = F.normalize(sentence.detach(), dim=1) @ F.normalize(others.detach(), dim=1).T > _SAME
    if class_ids is not None and others_class_ids is not None:
        same |= class_ids.to(same.device)[:, None] == others_class_ids.to(same.device)
    return torch.cat([own, same], dim=1)


def _others_of_class(code: Tensor, class_ids: Tensor | None) -> Tensor | None:
    """(N, N): whether two samples are of one class and not the same."""
    if class_ids is None:
        return None
    class_ids = class_ids.to(code.device)
    itself = torch.eye(len(code), dtype=torch.bool, device=code.device)
    return (class_ids[:, None] == class_ids) & ~itself


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
        >>> loss = damsm_loss(
        ...     eye[:, :, None, None], eye, words, eye, torch.tensor([3, 1, 2, 3])
        ... )
        >>> bool(loss.sentence_i2t < 0.001), bool(loss.words_i2t < 0.001)
        (True, True)
    """
    _check_damsm(regions, code, words, sentence, lengths, class_ids)
    regions, code, words, sentence = map(full, (regions, code, words, sentence))
    with torch.autocast(code.device.type, enabled=False):
        by_words = _word_similarities(regions, words, lengths.to(code.device), gamma1, gamma2)
        words_i2t, words_t2i = _both_ways(gamma3 * by_words, _others_of_class(code, class_ids))
    return DAMSMLoss(words_i2t, words_t2i, *sentence_loss(code, sentence, class_ids, gamma3=gamma3))


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
        got = ", ".join(
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
            "shapes must be regions (N, D, h, w), code (N, D), words (N, D, T), sentence (N, D), lengths (N,) and "
            f"class_ids (N,), no size 0, got {got}; were both encoders made with one cond_dim?"
        )
    for name, x in (("regions", regions), ("code", code), ("words", words), ("sentence", sentence)):
        if not x.is_floating_point():
            raise TypeError(f"{name} must be of a floating dtype, got {x.dtype}.")
    check_ids("lengths", lengths)
    if class_ids is not None:
        check_ids("class_ids", class_ids)
    if lengths.device.type == "cpu":
        shortest, longest = int(lengths.min()), int(lengths.max())
        if shortest < 1 or longest > words.shape[2]:
            raise ValueError(
                f"lengths must be in 1..T with T = {words.shape[2]}, got {shortest}..{longest}; "
                "words and lengths must come from the same batch."
            )
