"""One training iteration of a matching-aware GAN, and its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from ..data import Batch
from ..encoders import TextFeatures
from ..losses import (
    gradient_penalty,
    hinge_discriminator_loss,
    hinge_generator_loss,
    matching_aware_gradient_penalty,
    mismatched_pairs,
    sentence_loss,
)
from .augment import DiffAugment
from .ema import EMA
from .precision import Precision, autocast
from .processes import Processes, synchronize_statistics
from .text_image import TextImageLoss

_PENALTY = "penalty/matching_aware"

Condition = Tensor | TextFeatures
ConfigT = TypeVar("ConfigT", bound="MatchingAwareConfig")


@dataclass(frozen=True)
class MatchingAwareConfig:
    """How an iteration of :class:`MatchingAwareStep` is taken.

    Rates are the published ones of SSA-GAN and DF-GAN. Two defaults differ from SSA-GAN's code: ``penalty``, whose
    joint form saves an optimizer step and is what the same family went over to (DF-GAN's later code), and the
    averaged generator, which the published code does not have.

    Attributes:
        lr_generator: Adam's rate, above 0; betas are (0, 0.9) everywhere.
        lr_discriminator: the same for the discriminator, above 0.
        mismatched: which caption a real picture is shown with and does not fit. "class-aware": see
            mismatched_pairs. Published code asks for no class: "shifted" is the next
            picture's caption, for all but the last picture (SSA-GAN, RAT-GAN, DF-GAN of 2020), "wrapped" the
            same, and for the last picture the first caption (GALIP), "rolled" the caption of the picture before,
            for all (DF-GAN of 2022).
        classes: whether pictures of one class are no negatives of each other, in mismatched pairs and contrastive
            losses. Without, all others of the batch are: where captions tell apart what one class holds, the
            networks learn that.
        penalty: "joint" adds MA-GP to the discriminator's loss; "two-step" takes it as a second
            optimizer step on the updated weights, as the published code does.
        penalty_every: take MA-GP every so many iterations, at least 1, with so many times its weight (lazy
            regularisation, StyleGAN2, arXiv 1912.04958).
        penalty_weight: of MA-GP, at least 0.
        penalty_power: of MA-GP, at least 2.
        contrast_weight: of a contrastive loss, at least 0, which leaves it out. Among all sentences of the batch
            the code of each picture must find its own: of real pictures in the discriminator's loss, of generated
            ones in the generator's (XMC-GAN, arXiv 2101.04702). It needs a discriminator with a projection. With
            a weight of 1, a few thousand pictures are soon learned by heart.
        contrast_queue: how many sentences of earlier batches, at least 0, the code of each picture is told apart
            from too (MoCo, arXiv 1911.05722), but for its own and those of its class. A small batch seldom has
            two captions that differ in one word alone, so that nothing asks for such words.
        diff_augment: random changes of real and generated pictures before the discriminator sees them, for a few
            thousand pictures (DiffAugment, arXiv 2006.10738). "color" contradicts captions that name colours.
        ema: decay of the averaged generator, from 0 to below 1.
        precision: "fp32", or "bf16", which runs generator, discriminator and encoders under autocast.
            Parameters, MA-GP and losses stay in float32. t2ilayers train takes bf16 where the machine has
            units for it.

    Raises:
        ValueError: a setting outside its range.

    Source: arXiv 2104.00567, arXiv 2008.05865 and their published code.

    Example:
        >>> MatchingAwareConfig(penalty="two-step").lr_discriminator
        0.0004
    """

    lr_generator: float = 1e-4
    lr_discriminator: float = 4e-4
    mismatched: Literal["class-aware", "shifted", "wrapped", "rolled"] = "class-aware"
    classes: bool = True
    penalty: Literal["joint", "two-step"] = "joint"
    penalty_every: int = 1
    penalty_weight: float = 2.0
    penalty_power: float = 6.0
    contrast_weight: float = 0.0
    contrast_queue: int = 0
    diff_augment: Literal["none", "translation,cutout", "color,translation,cutout"] = "none"
    ema: float = 0.999
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        self._check_choice("mismatched", ("class-aware", "shifted", "wrapped", "rolled"))
        self._check_choice("penalty", ("joint", "two-step"))
        self._check_choice("diff_augment", ("none", "translation,cutout", "color,translation,cutout"))
        self._check_choice("precision", ("fp32", "bf16"))
        for name in ("lr_generator", "lr_discriminator"):
            self._check_positive(name)
        for name, least in (
            ("penalty_every", 1),
            ("penalty_weight", 0),
            ("penalty_power", 2),
            ("contrast_weight", 0),
            ("contrast_queue", 0),
        ):
            self._check_least(name, least)
        if self.contrast_queue and not self.contrast_weight:
            raise ValueError(
                f"contrast_queue has negatives for the contrastive loss, got {self.contrast_queue} with a "
                "contrast_weight of 0; give that a weight, such as 1, or the queue a length of 0"
            )
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")

    def _check_choice(self, name: str, allowed: tuple[str, ...]) -> None:
        if getattr(self, name) not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")

    def _check_positive(self, name: str) -> None:
        if not getattr(self, name) > 0:
            raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")

    def _check_least(self, name: str, least: float) -> None:
        if not getattr(self, name) >= least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


class _SentenceQueue:
    """The last ``size`` sentences of earlier batches and their class ids, newest first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sentences: Tensor | None = None
        self.class_ids: Tensor | None = None

    def push(self, sentences: Tensor, class_ids: Tensor) -> None:
        if self.sentences is not None and self.class_ids is not None:
            sentences = torch.cat([sentences, self.sentences.to(sentences.device)])
            class_ids = torch.cat([class_ids, self.class_ids.to(class_ids.device)])
        self.sentences, self.class_ids = sentences[: self.size], class_ids[: self.size]

    def state_dict(self) -> dict[str, Tensor | None]:
        return {"sentences": self.sentences, "class_ids": self.class_ids}

    def load_state_dict(self, state: dict[str, Tensor | None]) -> None:
        self.sentences, self.class_ids = state["sentences"], state["class_ids"]


class MatchingAwareStep(Generic[ConfigT]):
    """Iterations of a generator and a matching-aware discriminator; DF-GAN's as it stands.

    The order: discriminator on real, mismatched and fake pairs and its penalty; generator against the updated
    discriminator; average. Real pictures go through the discriminator once, for matched and mismatched pairs and,
    in float32, the joint penalty. Mismatched pairs never share class or caption (see
    :func:`~t2ilayers.losses.mismatched_pairs`). Parameters that require no gradients when the step is made stay as
    they are.

    Args:
        generator: ``generator(z, cond)`` returns a named tuple with ``images (N, 3, S, S)``, and
            ``generator.z_dim`` is the length of its noise.
        discriminator: with ``features(images)`` and ``match(features, cond) -> logits (N,)``, as
            :class:`~t2ilayers.MatchingAwareDiscriminator`; ``forward(images, cond)`` is both.
        condition: ``condition(batch)``, called without gradients, is what pictures are conditioned on: a tensor
            ``(N, D)`` of sentences, embedded classes or other features, or
            :class:`~t2ilayers.encoders.TextFeatures`, of which generator and discriminator see the sentence.
        config: see :class:`MatchingAwareConfig`. With a ``contrast_weight`` the discriminator has
            ``code(features) -> (N, D)`` too.
        encoder: what the discriminator sees of pictures, where it does not see the pictures themselves: a frozen
            ``encoder(images) -> (N, ...)``, differentiable, such as the maps of
            :class:`~t2ilayers.models.CLIPImageEncoder` (GALIP). MA-GP is then taken with respect to that.
        text_image_loss: see :class:`TextImageLoss`; DF-GAN has none.
        processes: those that share a batch, which then is one that :meth:`Processes.join` returned; the
            generator's batch statistics become theirs.

    Shapes:
        A batch with ``image (N, 3, S, S)`` in [-1, 1], ``class_ids (N,)`` and ``tokens (N, T)``; see
        :class:`~t2ilayers.data.Batch`.

    Attributes:
        ema: the averaged generator, :class:`EMA`.

    Source: arXiv 2008.05865, arXiv 2104.00567, and their published training code.

    Example:
        >>> from t2ilayers import MatchingAwareDiscriminator, SSAGenerator
        >>> from t2ilayers.data import BatchDataset, CaptionedShapes
        >>> batch = BatchDataset(CaptionedShapes(64, image_size=32), 8, seed=0)[0]
        >>> colours = nn.Embedding(64, 16)  # instead of a text encoder
        >>> step = MatchingAwareStep(
        ...     SSAGenerator(32, ngf=4, cond_dim=16),
        ...     MatchingAwareDiscriminator(32, ndf=4, cond_dim=16),
        ...     lambda batch: colours(batch["class_ids"] % 64),
        ...     MatchingAwareConfig(),
        ... )
        >>> list(step(batch, 0))
        ['discriminator/real', 'discriminator/fake', 'discriminator/mismatched', 'penalty/matching_aware',
         'generator/adversarial']
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        condition: Callable[[Batch], Condition],
        config: ConfigT,
        *,
        encoder: Callable[[Tensor], Tensor] | None = None,
        text_image_loss: TextImageLoss | None = None,
        processes: Processes | None = None,
    ) -> None:
        if config.contrast_weight and getattr(discriminator, "projection", None) is None:
            raise ValueError(
                "contrast_weight needs a discriminator with a projection, got one without; make it with "
                "projection=True"
            )
        self.generator: Any = generator
        self.discriminator: Any = discriminator
        self.condition = condition
        self.config = config
        self.encoder = encoder
        self.text_image_loss = text_image_loss
        self.processes = Processes() if processes is None else processes
        policy = [] if config.diff_augment == "none" else config.diff_augment.split(",")
        self.augment = DiffAugment(policy)
        g, d = ([p for p in m.parameters() if p.requires_grad] for m in (generator, discriminator))
        betas = (0.0, 0.9)
        self.g_optimizer = torch.optim.Adam(g, lr=config.lr_generator, betas=betas, fused=True)
        self.d_optimizer = torch.optim.Adam(d, lr=config.lr_discriminator, betas=betas, fused=True)
        self.ema: EMA[Any] = EMA(generator, config.ema)
        self._queue = _SentenceQueue(config.contrast_queue)
        synchronize_statistics(generator, self.processes.group)

    def __call__(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take iteration ``step`` (from 0) on ``batch``, on the model's device.

        Noise and dropout come from torch's global generator. Returns detached scalars by group and name; the
        penalty only where it was taken.
        """
        device = batch["image"].device
        self.generator.train()
        self.discriminator.train()
        with torch.no_grad(), autocast(device, self.config.precision):
            given = self.condition(batch)
        cond = given.sentence if isinstance(given, TextFeatures) else given
        cond = cond.float() if cond.dtype in (torch.float16, torch.bfloat16) else cond
        if not self.config.classes:
            batch = {**batch, "class_ids": torch.arange(len(cond), device=batch["class_ids"].device)}
        z = self._noise(len(cond), device)
        with autocast(device, self.config.precision):
            fake = self.generator(self.processes.own(z), self.processes.own(cond)).images
            seen = self._seen(fake, len(cond))
        losses = self._discriminator(batch, cond, seen.detach(), step)
        losses |= self._generator(batch, given, cond, fake, seen)
        if self.config.contrast_queue:
            self._queue.push(cond, batch["class_ids"])
        self.ema.update(self.generator, step)
        return losses

    def _noise(self, count: int, device: torch.device) -> Tensor:
        return torch.randn(count, self.generator.z_dim, device=device)

    def _seen(self, images: Tensor, count: int) -> Tensor:
        """What the discriminator sees of this process's pictures, where all processes have ``count``."""
        if self.augment.policy:
            images = self.augment(images, self.processes.own(self.augment.draw(count, images.device)))
        return images if self.encoder is None else self.encoder(images)

    def _mismatched(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Pictures and, for each, a condition that is not its own."""
        if self.config.mismatched == "class-aware":
            return mismatched_pairs(batch["class_ids"], batch["tokens"])
        every = torch.arange(len(batch["class_ids"]), device=batch["class_ids"].device)
        if self.config.mismatched == "shifted":
            return every[:-1], every[1:]
        return every, every.roll(-1 if self.config.mismatched == "wrapped" else 1)

    def _discriminator(self, batch: Batch, cond: Tensor, fake: Tensor, step: int) -> dict[str, Tensor]:
        config = self.config
        with torch.no_grad(), autocast(fake.device, config.precision):
            images = self._seen(batch["image"], len(cond))
        wrong_image, wrong_cond = self._mismatched(batch)
        # Every picture gets a condition; its own, left out below, where none of the batch mismatches.
        partner = torch.arange(len(cond), device=wrong_image.device).index_copy(0, wrong_image, wrong_cond)
        own, mismatched = self.processes.own(cond), self.processes.own(cond[partner])
        due = step % config.penalty_every == 0
        joint = due and config.penalty == "joint"
        # The joint penalty is one on this pass over the real pictures, unless it runs under autocast.
        shared = joint and config.precision == "fp32"
        if shared:
            images, own = (t.detach().requires_grad_() for t in (images, own))
        with autocast(images.device, config.precision):
            features, drawn = self.discriminator.features(images), self.discriminator.features(fake)
            matched = self.discriminator.match(features, own)
            others = self.discriminator.match(torch.cat([drawn, features]), torch.cat([own, mismatched]))
        logits = torch.cat([matched, others]).view(3, -1).T
        real, fake, mismatched = self.processes.gather(logits).unbind(1)
        hinge = hinge_discriminator_loss(real, fake, mismatched[wrong_image])
        losses: dict[str, Tensor] = {f"discriminator/{name}": loss for name, loss in hinge._asdict().items()}
        total = hinge.total
        if config.contrast_weight:
            losses["discriminator/contrast"] = self._contrast(features, cond, batch)
            total = total + config.contrast_weight * losses["discriminator/contrast"]
        if joint:
            losses[_PENALTY] = self._penalty(images, own, matched if shared else None)
            total = total + config.penalty_every * losses[_PENALTY]
        self._update(self.d_optimizer, total)
        if due and config.penalty == "two-step":
            losses[_PENALTY] = self._penalty(images, own)
            self._update(self.d_optimizer, config.penalty_every * losses[_PENALTY])
        return {name: value.detach() for name, value in losses.items()}

    def _penalty(self, images: Tensor, cond: Tensor, matched: Tensor | None = None) -> Tensor:
        settings = {"weight": self.config.penalty_weight, "power": self.config.penalty_power}
        if matched is None:
            mean = matching_aware_gradient_penalty(self.discriminator, images, cond, **settings)
        else:
            mean = gradient_penalty(matched, (images, cond), **settings)
        return self.processes.gather(mean.expand(len(images))).mean()  # over all pictures, however they are shared

    def _contrast(self, features: Tensor, cond: Tensor, batch: Batch) -> Tensor:
        """Pictures must find their sentences in batch and queue, and sentences their pictures, in the batch.

        Features are this process's.
        """
        with autocast(features.device, self.config.precision):
            codes = self.discriminator.code(features)
        queue = self._queue
        others = None if queue.sentences is None else queue.sentences.to(cond.device)
        return sentence_loss(
            self.processes.gather(codes),
            cond,
            batch["class_ids"],
            others=others,
            others_class_ids=queue.class_ids if self.config.classes else None,
        ).total

    def _generator(
        self, batch: Batch, given: Condition, cond: Tensor, fake: Tensor, seen: Tensor
    ) -> dict[str, Tensor]:
        further = self.text_image_loss
        judges = [*self.discriminator.parameters(), *(further.parameters() if further else ())]
        judges = [p for p in judges if p.requires_grad]
        for p in judges:  # their gradients are not wanted here and cost half of the backward pass
            p.requires_grad_(False)
        try:
            with autocast(fake.device, self.config.precision):
                features = self.discriminator.features(seen)
                logits = self.discriminator.match(features, self.processes.own(cond))
            losses = {"adversarial": hinge_generator_loss(self.processes.gather(logits))}
            total = losses["adversarial"]
            if self.config.contrast_weight:
                losses["contrast"] = self._contrast(features, cond, batch)
                total = total + self.config.contrast_weight * losses["contrast"]
            if further is not None:
                with autocast(fake.device, self.config.precision):
                    losses[further.name] = further(fake, given, batch)
                total = total + further.weight * losses[further.name]
            self._update(self.g_optimizer, total)
        finally:
            for p in judges:
                p.requires_grad_(True)
        return {f"generator/{name}": value.detach() for name, value in losses.items()}

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

    def _parts(self) -> dict[str, Any]:
        """What the next iteration depends on, by its name in a checkpoint."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "ema": self.ema.module,
            "g_optimizer": self.g_optimizer,
            "d_optimizer": self.d_optimizer,
            **({"queue": self._queue} if self.config.contrast_queue else {}),
        }

    def _rates(self) -> list[tuple[torch.optim.Optimizer, float]]:
        return [(self.g_optimizer, self.config.lr_generator), (self.d_optimizer, self.config.lr_discriminator)]

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next iteration depends on: networks, average and optimizers.

        Example: see :meth:`load_state_dict`.
        """
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`, with the learning rates of this config.

        Raises:
            KeyError, RuntimeError: the state is another model's.

        Example:
            >>> from t2ilayers import MatchingAwareDiscriminator, SSAGenerator
            >>> networks = SSAGenerator(16, ngf=4), MatchingAwareDiscriminator(16, ndf=4)
            >>> step = MatchingAwareStep(
            ...     *networks, lambda batch: batch["sentence"], MatchingAwareConfig()
            ... )
            >>> step.load_state_dict(step.state_dict())
        """
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        # An optimizer's state brings its own rate along; the rates of the config are to hold.
        for optimizer, rate in self._rates():
            for group in optimizer.param_groups:
                group["lr"] = rate
