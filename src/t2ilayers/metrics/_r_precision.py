"""R-precision: does a picture find its own sentence among those of other pictures?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..words import tokenize

_ROWS = 256  # rows of the (N, N) similarities that are held at a time


class RPrecision(NamedTuple):
    """Mean of R-precision over the folds and its (population) standard deviation, both in [0, 1].

    Example:
        >>> RPrecision(mean=0.75, std=0.01).mean
        0.75
    """

    mean: float
    std: float


def r_precision(
    image_codes: Tensor,
    sentences: Tensor,
    class_ids: Tensor,
    *,
    captions: Sequence[str] | None = None,
    candidates: int = 100,
    folds: int = 10,
    seed: int = 0,
) -> RPrecision:
    r"""R-precision with R = 1: how often a picture's own sentence is the nearest of ``candidates`` sentences.

    .. math:: \frac1N \sum_i \big[\cos(v_i, e_i) > \max_{j \in \mathcal N_i} \cos(v_i, e_j)\big]

    :math:`\mathcal N_i` are ``candidates - 1`` sentences, drawn without replacement from other classes. Where
    k sentences tie with the own one for the first place, the picture scores 1 / (k + 1), so that codes that
    say nothing score chance, ``1 / candidates``. The pictures are shuffled and split into folds of almost
    equal size; mean and standard deviation are taken over the folds.

    Args:
        image_codes: ``(N, D)``, one per picture.
        sentences: ``(N, D)``, row i the sentence of picture i.
        class_ids: ``(N,)`` integers.
        captions: N captions. Sentences with the words of the own one are then no candidates, whatever their
            class: they cannot be told from it.
        candidates: sentences to choose from, the own one included, >= 2.
        folds: 1 to N.
        seed: of the draw and of the shuffle.

    Raises:
        ValueError: shapes that do not fit, a number outside its range, codes that are not finite, or a
            picture for which there are fewer than ``candidates - 1`` other sentences.

    Source: Xu et al., AttnGAN, arXiv 1711.10485, section 4 ("Evaluation").

    Example:
        >>> codes = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
        >>> r_precision(codes, codes, torch.arange(200))
        RPrecision(mean=1.0, std=0.0)
        >>> r_precision(
        ...     torch.ones(200, 64), torch.ones(200, 64), torch.arange(200)
        ... ).mean
        0.01
    """
    _check(image_codes, sentences, class_ids, captions, candidates, folds)
    n = len(image_codes)
    random = torch.Generator().manual_seed(seed)
    images = F.normalize(image_codes.detach().double().cpu(), dim=1)
    texts = F.normalize(sentences.detach().double().cpu(), dim=1)
    classes = class_ids.cpu()
    every = torch.arange(n, device="cpu")
    wordings = every if captions is None else _wordings(captions)

    scores = []
    for rows in torch.split(every, _ROWS):
        cosine = images[rows] @ texts.T  # (rows, N)
        own = cosine.gather(1, rows[:, None])  # (rows, 1)
        barred = (classes[rows, None] == classes) | (wordings[rows, None] == wordings)
        allowed = n - int(barred.sum(1).max())
        if allowed < candidates - 1:
            raise ValueError(
                f"every picture needs candidates - 1 = {candidates - 1} sentences of other classes, got a "
                f"picture with {allowed} among {n}; give more pictures or lower candidates"
            )
        # The largest of i.i.d. keys are a draw without replacement.
        keys = torch.rand(barred.shape, generator=random, device="cpu").masked_fill_(barred, -1.0)
        rivals = cosine.gather(1, keys.topk(candidates - 1, dim=1).indices)  # (rows, candidates - 1)
        ties = (rivals == own).sum(1)
        scores.append((rivals <= own).all(1).double() / (1 + ties))

    shuffled = torch.cat(scores)[torch.randperm(n, generator=random, device="cpu")]
    means = torch.stack([fold.mean() for fold in shuffled.tensor_split(folds)])
    return RPrecision(mean=means.mean().item(), std=means.std(correction=0).item())


def _wordings(captions: Sequence[str]) -> Tensor:
    """A number for each caption ``(N,)``, the same for captions of the same words."""
    numbers: dict[tuple[str, ...], int] = {}
    found = [numbers.setdefault(tuple(tokenize(caption)), len(numbers)) for caption in captions]
    return torch.tensor(found, device="cpu")


def _check(
    image_codes: Tensor,
    sentences: Tensor,
    class_ids: Tensor,
    captions: Sequence[str] | None,
    candidates: int,
    folds: int,
) -> None:
    n = len(image_codes)
    if image_codes.dim() != 2 or image_codes.shape != sentences.shape or class_ids.shape != (n,):
        raise ValueError(
            "image_codes and sentences must be (N, D) and class_ids (N,), got "
            f"{tuple(image_codes.shape)}, {tuple(sentences.shape)} and {tuple(class_ids.shape)}"
        )
    if captions is not None and len(captions) != n:
        raise ValueError(f"captions must be one per picture, {n}, got {len(captions)}")
    if candidates < 2:
        raise ValueError(f"candidates must be at least 2, the own sentence and another, got {candidates}")
    if not 1 <= folds <= n:
        raise ValueError(f"folds must be 1 to N = {n}, got {folds}")
    if not (image_codes.isfinite().all() and sentences.isfinite().all()):
        raise ValueError("image_codes and sentences must be finite, got inf or nan; did training diverge?")
