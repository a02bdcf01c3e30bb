"""One training iteration of SSA-GAN: the matching-aware step with DAMSM, and encoders that learn along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..data import Batch
from ..models import SSAGAN
from .encoders import EncoderStep
from .gan import MatchingAwareConfig, MatchingAwareStep
from .processes import Processes
from .text_image import DAMSM


@dataclass(frozen=True)
class StepConfig(MatchingAwareConfig):
    """How an iteration of :class:`SSAGANStep` is taken: a :class:`MatchingAwareConfig` and what the encoders need.

    Attributes:
        text_encoder: "joint" trains both encoders with DAMSM on the real pictures of every iteration, the
            paper's second idea; "frozen" leaves them as they are.
        lr_encoders: Adam's rate for the encoders, where they are trained; above 0.
        damsm_weight: weight of DAMSM in the generator's loss, at least 0, which leaves it out; published 0.1
            joint, 0.05 frozen.
        words: whether DAMSM compares words with regions too, as published. For encoders that were pre-trained
            without words (t2ilayers pretrain --no-words) and stay frozen, that half is noise: leave it out.

    Raises:
        ValueError: a setting outside its range.

    Source: arXiv 2104.00567 and its published code.

    Example:
        >>> StepConfig(text_encoder="frozen", damsm_weight=0.05).lr_discriminator
        0.0004
    """

    text_encoder: Literal["joint", "frozen"] = "joint"
    lr_encoders: float = 4e-5
    damsm_weight: float = 0.1
    words: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("text_encoder", ("joint", "frozen"))
        self._check_positive("lr_encoders")
        self._check_least("damsm_weight", 0)


class SSAGANStep(MatchingAwareStep[StepConfig]):
    """Iterations of generator, discriminator and, if joint, encoders.

    The order: encoder step on the real pictures, then :class:`MatchingAwareStep` with DAMSM. Sentences reach
    generator and discriminator detached. Unlike the published code, they come from the encoder *after* its step
    and without dropout, since that is the encoder which sampling will use.

    Args:
        model: an SSAGAN with a discriminator and an image encoder; made to train in place.
        config: see :class:`StepConfig`.
        processes: see :class:`MatchingAwareStep`.

    Shapes:
        A batch with ``image (N, 3, S, S)`` and ``tokens (N, T)``, as in :class:`EncoderStep`.

    Attributes:
        ema: the averaged generator, :class:`EMA`.

    Raises:
        ValueError: the model has no discriminator or no image encoder.

    Source: arXiv 2104.00567, and the published training code.

    Example:
        >>> from t2ilayers import SSAGANConfig
        >>> from t2ilayers.data import BatchDataset, CaptionedShapes
        >>> data = CaptionedShapes(64, image_size=32)
        >>> config = SSAGANConfig(
        ...     32, ngf=4, ndf=4, vocab_size=len(data.vocabulary), image_encoder="conv"
        ... )
        >>> step = SSAGANStep(SSAGAN(config, data.vocabulary), StepConfig())
        >>> losses = step(BatchDataset(data, 8, seed=0)[0], 0)
        >>> [name for name in losses if not name.startswith("encoders/")]
        ['discriminator/real', 'discriminator/fake', 'discriminator/mismatched', 'penalty/matching_aware',
         'generator/adversarial', 'generator/damsm']
        >>> step.load_state_dict(step.state_dict())
    """

    def __init__(self, model: SSAGAN, config: StepConfig, *, processes: Processes | None = None) -> None:
        if model.discriminator is None:
            raise ValueError(
                "training needs a discriminator, got a model without one; load it with discriminator=True"
            )
        self.model = model
        self.encoder_step = EncoderStep(
            model.encoders,
            lr=config.lr_encoders,
            betas=(0.0, 0.9),
            gamma1=5.0,
            words=config.words,
            classes=config.classes,
            precision=config.precision,
            processes=processes,
        )
        encoders = self.encoder_step.encoders
        damsm = DAMSM(encoders, config.damsm_weight, processes, words=config.words)
        super().__init__(
            model.generator,
            model.discriminator,
            lambda batch: encoders.text_encoder(batch["tokens"], batch["lengths"]),
            config,
            text_image_loss=damsm if config.damsm_weight else None,
            processes=processes,
        )

    def __call__(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take iteration ``step`` (from 0) on ``batch``, on the model's device.

        Noise and dropout come from torch's global generator. Returns detached scalars by group and name; the
        penalty only where it was taken.
        """
        losses = self.encoder_step(batch) if self.config.text_encoder == "joint" else {}
        self.encoder_step.encoders.eval()
        return losses | super().__call__(batch, step)

    def _parts(self) -> dict[str, Any]:
        networks = ("generator", "discriminator")  # of which the model's own state has more
        others = {name: part for name, part in super()._parts().items() if name not in networks}
        return {"model": self.model, **others, "encoder_optimizer": self.encoder_step.optimizer}

    def _rates(self) -> list[tuple[torch.optim.Optimizer, float]]:
        return [*super()._rates(), (self.encoder_step.optimizer, self.config.lr_encoders)]
