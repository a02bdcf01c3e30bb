"""One training iteration of the text-image encoders."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Batch
from ..encoders import EncoderPair
from ..losses import damsm_loss, sentence_loss
from .precision import Precision, autocast
from .processes import Processes, synchronize_statistics


class EncoderStep:
    r"""DAMSM steps of the text and the image encoder on real pictures: the pre-training, and the joint part.

    .. math:: L = L^w_{i2t} + L^w_{t2i} + L^s_{i2t} + L^s_{t2i}

    Args:
        encoders: trained in place.
        lr: Adam's rate, > 0.
        betas: Adam's; published (0.5, 0.999) while pre-training.
        gamma1: attention temperature of DAMSM; published 4 while pre-training, 5 in joint training.
        words: whether words have losses too, as in DAMSM. Without, a step over four times as many pictures takes
            about as long, and what only a few captions differ in is learned sooner.
        classes: whether pictures of one class are no negatives of each other, as published for classes such as
            species. Without, all others of the batch are: where captions tell apart what a class holds, the
            encoders learn it.
        precision: see :class:`StepConfig`.
        processes: those that share a batch, which then is one that :meth:`Processes.join` returned.

    Shapes:
        A batch holds ``image (N, 3, S, S)`` in [-1, 1], ``tokens (N, T)``, ``lengths (N,)``, best on the CPU,
        and ``class_ids (N,)``; see :class:`~t2ilayers.data.Batch`.

    Source: AttnGAN, arXiv 1711.10485, section 3.2; joint training, arXiv 2104.00567.

    Example:
        >>> from t2ilayers.data import BatchDataset, CaptionedShapes
        >>> from t2ilayers.encoders import ConvImageEncoder, LSTMTextEncoder
        >>> data = CaptionedShapes(64, image_size=32)
        >>> pair = EncoderPair(
        ...     LSTMTextEncoder(len(data.vocabulary)),
        ...     ConvImageEncoder(32),
        ...     data.vocabulary,
        ... )
        >>> step = EncoderStep(pair, lr=2e-3)
        >>> sorted(step(BatchDataset(data, 8, seed=0)[0]))
        ['encoders/sentence_i2t', 'encoders/sentence_t2i', 'encoders/words_i2t', 'encoders/words_t2i']
    """

    def __init__(
        self,
        encoders: EncoderPair,
        *,
        lr: float,
        betas: tuple[float, float] = (0.5, 0.999),
        gamma1: float = 4.0,
        words: bool = True,
        classes: bool = True,
        precision: Precision = "fp32",
        processes: Processes | None = None,
    ) -> None:
        self.encoders = encoders
        self.gamma1 = gamma1
        self.words = words
        self.classes = classes
        self.precision: Precision = precision
        self.processes = Processes() if processes is None else processes
        synchronize_statistics(encoders.image_encoder, self.processes.group)
        self.parameters = [p for p in encoders.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, betas=betas, fused=True)

    def __call__(self, batch: Batch, *, train_text: bool = True) -> dict[str, Tensor]:
        """Take one step on ``batch`` (on the encoders' device); the losses, detached scalars.

        Without ``train_text`` the text encoder stays as it is, and drops nothing out: the image encoder alone
        learns to agree with it. Trained from the first step on, a text encoder soon says the same of all words
        that the pictures' encoder does not tell apart yet, which then has nothing to learn the difference from.
        """
        self.encoders.train()
        self.encoders.text_encoder.train(train_text)
        with autocast(batch["image"].device, self.precision):
            with nullcontext() if train_text else torch.no_grad():
                text = self.encoders.text_encoder(batch["tokens"], batch["lengths"])
            image = self.encoders.image_encoder(batch["image"])
        code = self.processes.gather(image.code)
        class_ids = batch["class_ids"] if self.classes else None
        losses = (
            damsm_loss(
                self.processes.gather(image.regions),
                code,
                text.words,
                text.sentence,
                batch["lengths"],
                class_ids,
                gamma1=self.gamma1,
            )
            if self.words
            else sentence_loss(code, text.sentence, class_ids)
        )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.total)
        self.processes.average_gradients(self.parameters)
        # AttnGAN clips the recurrent network, whose gradients grow with the caption.
        nn.utils.clip_grad_norm_(self.encoders.text_encoder.parameters(), 0.25)
        self.optimizer.step()
        return {f"encoders/{name}": loss.detach() for name, loss in losses._asdict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on: the encoders and the optimizer."""
        return {"encoders": self.encoders.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            KeyError, RuntimeError: the state is of other encoders.

        Example:
            >>> from t2ilayers.encoders import ConvImageEncoder, LSTMTextEncoder
            >>> step = EncoderStep(
            ...     EncoderPair(LSTMTextEncoder(9), ConvImageEncoder(32)), lr=2e-3
            ... )
            >>> step.load_state_dict(step.state_dict())
        """
        self.encoders.load_state_dict(state["encoders"])
        self.optimizer.load_state_dict(state["optimizer"])
