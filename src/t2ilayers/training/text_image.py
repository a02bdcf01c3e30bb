"""Losses of a generator that ask whether its pictures fit their captions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from ..data import Batch
from ..encoders import EncoderPair, TextFeatures
from ..losses import damsm_loss, sentence_loss
from ..models import CLIPImageEncoder
from .processes import Processes


class TextImageLoss(Protocol):
    """What a generator's loss may have besides the discriminator's verdict: do pictures fit their captions?

    Attributes:
        name: of the loss, in what the step returns.
        weight: in the generator's loss.
    """

    name: str
    weight: float

    def parameters(self) -> Iterable[nn.Parameter]:
        """What it is computed with, which the generator's step leaves without gradients."""

    def __call__(self, fake: Tensor, condition: Any, batch: Batch, /) -> Tensor:
        """The loss ``()`` of generated pictures, this process's, with the condition of the whole batch."""


class DAMSM:
    """The DAMSM loss of generated pictures with the captions of their batch, a :class:`TextImageLoss`.

    Args:
        encoders: in evaluation mode when it is called.
        weight: in the generator's loss, at least 0.
        processes: those that share a batch.
        words: False leaves out the half that compares words with regions of pictures. Encoders that were
            pre-trained without it have learned nothing to compare them by.
    """

    name = "damsm"

    def __init__(
        self, encoders: EncoderPair, weight: float, processes: Processes | None = None, *, words: bool = True
    ) -> None:
        self.encoders = encoders
        self.weight = weight
        self.words = words
        self.processes = Processes() if processes is None else processes

    def parameters(self) -> list[nn.Parameter]:
        """Those of both encoders."""
        return list(self.encoders.parameters())

    def __call__(self, fake: Tensor, text: TextFeatures, batch: Batch) -> Tensor:
        """The loss ``()`` of this process's pictures ``(n, 3, S, S)``, with ``text`` of the whole batch."""
        regions, code = map(self.processes.gather, self.encoders.image_encoder(fake))
        if not self.words:
            return sentence_loss(code, text.sentence, batch["class_ids"]).total
        return damsm_loss(regions, code, text.words, text.sentence, batch["lengths"], batch["class_ids"]).total


class CLIPSimilarity:
    r"""How little generated pictures fit their sentences by a CLIP, a :class:`TextImageLoss`.

    .. math:: -\frac1N \sum_n \cos(\mathrm{code}(I_n), e_n)

    Args:
        encoder: of the same CLIP as the sentences that the step is conditioned on.
        weight: in the generator's loss, at least 0.
        processes: those that share a batch.

    Source: Tao et al., GALIP, arXiv 2301.12959, the generator's objective.
    """

    name = "clip"

    def __init__(self, encoder: CLIPImageEncoder, weight: float = 4.0, processes: Processes | None = None) -> None:
        self.encoder = encoder
        self.weight = weight
        self.processes = Processes() if processes is None else processes

    def parameters(self) -> list[nn.Parameter]:
        """Those of the encoder."""
        return list(self.encoder.parameters())

    def __call__(self, fake: Tensor, sentence: Tensor, batch: Batch) -> Tensor:
        """The loss ``()`` of this process's pictures ``(n, 3, S, S)``, with ``sentence (N, D)`` of all."""
        code = self.processes.gather(self.encoder(fake).code)
        return -F.cosine_similarity(code, sentence, dim=1).mean()
