"""One training iteration of SSA-GAN, and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..data import Batch
from ..losses import (
    damsm_loss,
    gradient_penalty,
    hinge_discriminator_loss,
    hinge_generator_loss,
    matching_aware_gradient_penalty,
    mismatched_pairs,
)
from ..models import SSAGAN
from .ema import EMA
from .encoders import EncoderStep
from .precision import Precision, autocast
from .processes import Processes, synchronize_statistics


@dataclass(frozen=True)
class StepConfig:
    """How an iteration is taken.

    Rates and the weight of DAMSM default to the published ones. Two defaults differ: ``penalty``, whose joint
    form saves an optimizer step and is what the same authors' family went over to (DF-GAN's later code), and
    the averaged generator, which the published code does not have.

    Attributes:
        text_encoder: ``"joint"`` trains both encoders with DAMSM on the real pictures of every iteration, the
            paper's second idea; ``"frozen"`` leaves them as they are.
        lr_generator: Adam's rate, above 0; betas are (0, 0.9) everywhere.
        lr_discriminator: the same for the discriminator, above 0.
        lr_encoders: the same for the encoders, where they are trained; above 0.
        damsm_weight: weight of DAMSM in the generator's loss, at least 0; published 0.1 joint, 0.05 frozen.
        penalty: ``"joint"`` adds MA-GP to the discriminator's loss; ``"two-step"`` takes it as a second
            optimizer step on the updated weights, as the published code does.
        penalty_every: take MA-GP every so many iterations, at least 1, with so many times its weight (lazy
            regularization, StyleGAN2, arXiv 1912.04958).
        penalty_weight: of MA-GP, at least 0.
        penalty_power: of MA-GP, at least 2.
        ema: decay of the averaged generator, from 0 to below 1.
        precision: ``"fp32"``, or ``"bf16"``, which runs generator, discriminator and encoders under autocast.
            Parameters, MA-GP and losses stay in float32. ``train_ssagan.py`` takes bf16 where the machine has
            units for it.

    Raises:
        ValueError: a setting outside its range.

    Source: arXiv 2104.00567 and its published code.

    Example:
        >>> StepConfig(text_encoder="frozen", damsm_weight=0.05).lr_discriminator
        0.0004
    """

    text_encoder: Literal["joint", "frozen"] = "joint"
    lr_generator: float = 1e-4
    lr_discriminator: float = 4e-4
    lr_encoders: float = 4e-5
    damsm_weight: float = 0.1
    penalty: Literal["joint", "two-step"] = "joint"
    penalty_every: int = 1
    penalty_weight: float = 2.0
    penalty_power: float = 6.0
    ema: float = 0.999
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        choices = {
            "text_encoder": ("joint", "frozen"),
            "penalty": ("joint", "two-step"),
            "precision": ("fp32", "bf16"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        for name in ("lr_generator", "lr_discriminator", "lr_encoders"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name, least in (
            ("damsm_weight", 0),
            ("penalty_every", 1),
            ("penalty_weight", 0),
            ("penalty_power", 2),
        ):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")


class SSAGANStep:
    """Iterations of generator, discriminator and, if joint, encoders.

    The order: encoder step on the real pictures; discriminator on real, mismatched and fake pairs and its
    penalty; generator against the updated discriminator, with DAMSM; average. Sentences reach generator and
    discriminator detached. Unlike the published code, they come from the encoder *after* its step and without
    dropout, since that is the encoder which sampling will use.

    Real pictures go through the discriminator once, for matched and mismatched pairs and, in float32, the joint
    penalty. Mismatched pairs never share class or caption (see :func:`~t2ilayers.losses.mismatched_pairs`).

    Args:
        model: an SSAGAN with an image encoder; made to train in place.
        config: see :class:`StepConfig`.
        processes: see :class:`EncoderStep`; the generator's batch statistics become theirs.

    Shapes:
        A batch with ``image (N, 3, S, S)`` and ``tokens (N, T)``, as in :class:`EncoderStep`.

    Attributes:
        ema: the averaged generator, :class:`EMA`.

    Raises:
        ValueError: the model has no image encoder.

    Source: arXiv 2104.00567, and the published training code.

    Example:
        >>> from t2ilayers import SSAGANConfig
        >>> from t2ilayers.data import BatchDataset, CaptionedShapes
        >>> data = CaptionedShapes(64, image_size=32)
        >>> config = SSAGANConfig(32, ngf=4, ndf=4, vocab_size=len(data.vocabulary), image_encoder="conv")
        >>> step = SSAGANStep(SSAGAN(config, data.vocabulary), StepConfig())
        >>> losses = step(BatchDataset(data, 8, seed=0)[0], 0)
        >>> [name for name in losses if not name.startswith(("words", "sentence"))]
        ['d_real', 'd_fake', 'd_mismatched', 'd_penalty', 'g_adversarial', 'g_damsm']
    """

    def __init__(
        self,
        model: SSAGAN,
        config: StepConfig,
        *,
        processes: Processes | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.processes = Processes() if processes is None else processes
        betas = (0.0, 0.9)
        g, d = model.generator.parameters(), model.discriminator.parameters()
        self.g_optimizer = torch.optim.Adam(g, lr=config.lr_generator, betas=betas, fused=True)
        self.d_optimizer = torch.optim.Adam(d, lr=config.lr_discriminator, betas=betas, fused=True)
        self.encoder_step = EncoderStep(
            model,
            lr=config.lr_encoders,
            betas=betas,
            gamma1=5.0,
            precision=config.precision,
            processes=self.processes,
        )
        self.ema = EMA(model.generator, config.ema)
        synchronize_statistics(model.generator, self.processes.group)

    def __call__(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take iteration ``step`` (from 0) on ``batch``, on the model's device.

        Noise and dropout come from torch's global generator. Returns detached scalars by name; ``d_penalty``
        only where the penalty was taken.
        """
        model, config = self.model, self.config
        losses = self.encoder_step(batch) if config.text_encoder == "joint" else {}
        model.text_encoder.eval()
        self.encoder_step.image_encoder.eval()
        model.generator.train()
        images = batch["image"]
        with torch.no_grad(), autocast(images.device, config.precision):
            text = model.text_encoder(batch["tokens"], batch["lengths"])
        sentence = text.sentence.float()
        z = torch.randn(len(sentence), model.generator.z_dim, device=images.device)
        with autocast(images.device, config.precision):
            fake = model.generator(self.processes.own(z), self.processes.own(sentence)).images
        losses |= self._discriminator(batch, sentence, fake.detach(), step)
        losses |= self._generator(batch, sentence, text.words.float(), fake)
        self.ema.update(model.generator, step)
        return losses

    def _discriminator(self, batch: Batch, sentence: Tensor, fake: Tensor, step: int) -> dict[str, Tensor]:
        model, config, images = self.model, self.config, batch["image"]
        wrong_image, wrong_caption = mismatched_pairs(batch["class_ids"], batch["tokens"])
        # Every picture gets a sentence; its own, left out below, where none of the batch mismatches.
        partner = torch.arange(len(sentence), device=wrong_image.device).index_copy(0, wrong_image, wrong_caption)
        own, mismatched = self.processes.own(sentence), self.processes.own(sentence[partner])
        due = step % config.penalty_every == 0
        joint = due and config.penalty == "joint"
        # The joint penalty is one on this pass over the real pictures, unless it runs under autocast.
        shared = joint and config.precision == "fp32"
        if shared:
            images, own = (t.detach().requires_grad_() for t in (images, own))
        with autocast(images.device, config.precision):
            features, drawn = model.discriminator.features(images), model.discriminator.features(fake)
            matched = model.discriminator.match(features, own)
            others = model.discriminator.match(torch.cat([drawn, features]), torch.cat([own, mismatched]))
        logits = torch.cat([matched, others]).float().view(3, -1).T
        real, fake, mismatched = self.processes.gather(logits).unbind(1)
        hinge = hinge_discriminator_loss(real, fake, mismatched[wrong_image])
        losses: dict[str, Tensor] = hinge._asdict()
        total = hinge.total
        if joint:
            losses["penalty"] = self._penalty(images, own, matched if shared else None)
            total = total + config.penalty_every * losses["penalty"]
        self._update(self.d_optimizer, total)
        if due and config.penalty == "two-step":
            losses["penalty"] = self._penalty(images, own)
            self._update(self.d_optimizer, config.penalty_every * losses["penalty"])
        return {f"d_{name}": value.detach() for name, value in losses.items()}

    def _penalty(self, images: Tensor, sentence: Tensor, matched: Tensor | None = None) -> Tensor:
        settings = {"weight": self.config.penalty_weight, "power": self.config.penalty_power}
        if matched is None:
            mean = matching_aware_gradient_penalty(self.model.discriminator, images, sentence, **settings)
        else:
            mean = gradient_penalty(matched, (images, sentence), **settings)
        return self.processes.gather(mean.expand(len(images))).mean()  # over all pictures, however they are shared

    def _generator(self, batch: Batch, sentence: Tensor, words: Tensor, fake: Tensor) -> dict[str, Tensor]:
        model, config = self.model, self.config
        judges = [p for p in (*model.discriminator.parameters(), *self.encoder_step.parameters) if p.requires_grad]
        for p in judges:  # their gradients are not wanted here and cost half of the backward pass
            p.requires_grad_(False)
        try:
            with autocast(fake.device, config.precision):
                logits = model.discriminator(fake, self.processes.own(sentence)).float()
                image = self.encoder_step.image_encoder(fake)
            lengths, class_ids = batch["lengths"], batch["class_ids"]
            regions, code = self.processes.gather(image.regions), self.processes.gather(image.code)
            damsm = damsm_loss(regions, code, words, sentence, lengths, class_ids).total
            adversarial = hinge_generator_loss(self.processes.gather(logits))
            self._update(self.g_optimizer, adversarial + config.damsm_weight * damsm)
        finally:
            for p in judges:
                p.requires_grad_(True)
        return {"g_adversarial": adversarial.detach(), "g_damsm": damsm.detach()}

    def _update(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        parameters = optimizer.param_groups[0]["params"]
        for p in parameters:
            # The penalty has no gradient by a bias. Adam must see zeros, for they age what it keeps.
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        self.processes.average_gradients(parameters)
        optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next iteration depends on: model, average and optimizers.

        Example: see :meth:`load_state_dict`.
        """
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "g_optimizer": self.g_optimizer.state_dict(),
            "d_optimizer": self.d_optimizer.state_dict(),
            "encoder_optimizer": self.encoder_step.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`, with the learning rates of this config.

        Raises:
            KeyError, RuntimeError: the state is another model's.

        Example:
            >>> from t2ilayers import SSAGANConfig
            >>> config = SSAGANConfig(32, ngf=4, ndf=4, vocab_size=9, image_encoder="conv")
            >>> step = SSAGANStep(SSAGAN(config), StepConfig())
            >>> step.load_state_dict(step.state_dict())
        """
        self.model.load_state_dict(state["model"])
        self.ema.module.load_state_dict(state["ema"])
        self.g_optimizer.load_state_dict(state["g_optimizer"])
        self.d_optimizer.load_state_dict(state["d_optimizer"])
        self.encoder_step.optimizer.load_state_dict(state["encoder_optimizer"])
        # An optimizer's state brings its own rate along; the rates of the config are to hold.
        config, encoders = self.config, self.encoder_step.optimizer
        rates = (config.lr_generator, config.lr_discriminator, config.lr_encoders)
        for optimizer, rate in zip((self.g_optimizer, self.d_optimizer, encoders), rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
