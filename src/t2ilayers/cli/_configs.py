"""The flags of ``t2ilayers train`` and ``t2ilayers pretrain``, and their experiments."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

import tyro

from ..models import SSAGANConfig
from ..training import RunConfig, StepConfig, fastest_precision
from ._script import read_flags, steps_or_default

LR_FLOOR = 2e-4  # of pre-training; published
Config = TypeVar("Config", bound=RunConfig)


@dataclasses.dataclass
class TrainConfig(RunConfig):
    """The flags of ``t2ilayers train``.

    Attributes:
        experiment: Settings that take the place of the defaults below; flags override both. "short" is for minutes
            to hours on small pictures: a narrow model of 32 px, open gates, a whitened discriminator, a light
            contrastive loss, rates of 0.001, and frozen encoders of t2ilayers pretrain --experiment short.
            "cub" and "coco" are as published.
        whiten: Start the discriminator's first convolution as a whitening of training pictures' patches, by which
            it sees edges and textures sooner. Not published.
        augment: Crop and mirror training pictures at random, as published for CUB and COCO; drawn shapes stay as
            they are. Mirroring contradicts "left" and "right".
    """

    may_change: ClassVar = (
        *RunConfig.may_change, "experiment", "steps", "sample_every", "image_encoder_weights",
        "text_encoder_weights", "encoders", "lr_generator", "lr_discriminator", "lr_encoders",
    )  # fmt: skip
    least: ClassVar = {
        **RunConfig.least, "image_size": 16, "batch_size": 2,
        **dict.fromkeys(("ngf", "ndf", "mask_channels", "hidden_dim", "steps", "sample_every"), 1),
    }  # fmt: skip

    experiment: Literal["short", "cub", "coco"] | None = None
    out: Path = Path("runs/ssagan")
    """Folder that everything is written to."""
    image_size: int = 64
    """Side of the pictures in px, a power of two, at least 16; 32, 64 or 128 with the small image encoder."""
    generator: Literal["ssa", "ssa-unmasked", "df", "rat"] = "ssa"
    """SSA-GAN's, the same without masks, DF-GAN's of 2022 or RAT-GAN's; all else stays SSA-GAN's."""
    ngf: int = 32
    """Base width of the generator, at least 1."""
    ndf: int = 32
    """Base width of the discriminator, at least 1."""
    mask_channels: int = 100
    """Hidden channels of the mask predictors, at least 1."""
    hidden_dim: int = 256
    """Width of the MLPs that turn the sentence into affine parameters, at least 1; of SSA-GAN's generator."""
    residual_gate: float | None = None
    """What the learned scalars before the residual branches of generator and discriminator start at, at least 0;
    by default 0, as published. In runs of minutes start at 1: Adam moves a scalar by about its rate a step."""
    whiten: bool = False
    steps: int | None = None
    """GAN iterations, at least 1. By default 20000 on a GPU; on a CPU, where these take days, it must be given."""
    step: Annotated[StepConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=lambda: StepConfig(precision=fastest_precision())
    )
    encoders: Path | None = None
    """Folder encoders/ that t2ilayers pretrain wrote for this data: both encoders start from it."""
    image_encoder: Literal["conv", "inception"] = "conv"
    """A small encoder for 32 to 128 px, or Inception-v3 for larger pictures."""
    image_encoder_weights: Path | None = None
    """Published image_encoder*.pth, for --image-encoder inception, whose trunk is not trained here."""
    text_encoder_weights: Path | None = None
    """Published text_encoder*.pth, trained with the data's vocabulary."""
    class_field: str = "class_id"
    """Field of a folder's rows that names a picture's class; pictures of one class are no negatives."""
    augment: bool = False
    sample_every: int = 500
    """Steps between sample sheets, at least 1."""

    def model(self, vocab_size: int, max_words: int = 18) -> SSAGANConfig:
        """The sizes of the model."""
        return SSAGANConfig(
            image_size=self.image_size,
            ngf=self.ngf,
            ndf=self.ndf,
            mask_channels=self.mask_channels,
            hidden_dim=self.hidden_dim,
            vocab_size=vocab_size,
            max_words=max_words,
            image_encoder=self.image_encoder,
            generator=self.generator,
            projection=self.step.contrast_weight > 0,
        )

    def check(self) -> None:
        """Refuse what would only show after hours."""
        super().check()
        if self.residual_gate is not None and not 0 <= self.residual_gate < math.inf:
            raise ValueError(f"--residual-gate must be at least 0 and finite, got {self.residual_gate}")
        files = (self.image_encoder_weights, self.text_encoder_weights)
        if self.encoders is not None and files != (None, None):
            raise ValueError("--encoders holds both encoders; leave --image-encoder-weights and "
                             "--text-encoder-weights out")  # fmt: skip
        if self.encoders is None and (self.image_encoder == "inception") != (files[0] is not None):
            raise ValueError("--image-encoder inception needs --image-encoder-weights or --encoders, conv neither")
        if self.encoders is None and self.step.text_encoder == "frozen" and files[1] is None:
            raise ValueError(
                "--text-encoder frozen needs --encoders, which t2ilayers pretrain writes, or "
                "--text-encoder-weights"
            )


@dataclasses.dataclass
class PretrainConfig(RunConfig):
    """The flags of ``t2ilayers pretrain``.

    Attributes:
        experiment: Settings that take the place of the defaults below; flags override both. "short" is for minutes
            on small pictures, and for t2ilayers train --experiment short: 32 px, a narrow image encoder, whole
            captions alone in batches of 128.
        freeze_text: Steps before the text encoder is trained too, at least 0 and fewer than there are. Trained at
            once, as published, it gives up words that the image encoder does not see yet, such as textures. Left
            as random as it began, it has all words seen first.
        text_dropout: Probability that a value of a word's embedding is dropped while the text encoder is trained,
            from 0 to below 1. Without, it keeps words further apart that little tells apart.
        image_size: Side of the pictures in px: 32, 64 or 128 with the small encoder, at least 75 with Inception;
            by default 64, or 299 with Inception.
        inception_weights: ImageNet weights of Inception-v3: torchvision's file, with which the encoders were
            published, or pytorch-fid's port of TensorFlow's, whose pooling they do not have.
        epochs: Passes over the training pictures, at least 1. By default 600 on a GPU; on a CPU, where these take
            days, it or --steps must be given.
        batch_size: Pictures per step, over all processes, at least 1; the others of a batch are what a picture is
            told apart from.
    """

    may_change: ClassVar = (
        *RunConfig.may_change, "experiment", "epochs", "steps", "lr", "measure_every", "candidates",
        "inception_weights",
    )  # fmt: skip
    least: ClassVar = {**RunConfig.least, "epochs": 1, "steps": 1, "measure_every": 1, "freeze_text": 0}

    experiment: Literal["short"] | None = None
    out: Path = Path("runs/damsm")
    """Folder that everything is written to."""
    image_encoder: Literal["conv", "inception"] = "conv"
    """A small encoder for 32 to 128 px, or Inception-v3 with learned projections, as published."""
    image_width: int = 64
    """Base width of the small encoder, a multiple of 16, at least 16. Of simple pictures a narrow one learns more
    in the same minutes."""
    embedding_std: float | None = None
    """Standard deviation of the words' embeddings at the start, above 0; by default they are uniform in
    [-0.1, 0.1], as published. In runs of minutes, 1 learns sooner."""
    freeze_text: int = 0
    text_dropout: float = 0.5
    image_size: int | None = None
    inception_weights: Path | None = None
    inception_sha256: str | None = None
    """SHA-256 of that file; the published ones need none."""
    epochs: int | None = None
    steps: int | None = None
    """Steps instead of epochs, at least 1."""
    batch_size: int = 48
    lr: float = 2e-3
    """Adam's rate at the start, at least 2e-4, below which it never falls; it does by 2 % per epoch."""
    words: bool = True
    """Losses of words too, as published. Without, batches four times as large take about as long."""
    classes: bool = True
    """Pictures of one class are no negatives, as published. Without, all others of the batch are: where captions
    tell apart what one class holds, as those of drawn shapes do with backgrounds, the encoders learn that."""
    precision: Literal["fp32", "bf16"] = dataclasses.field(default_factory=fastest_precision)
    """bf16 runs the encoders under autocast; the default is what is faster on this machine."""
    class_field: str = "class_id"
    """Field of a folder's rows that names a picture's class; pictures of one class are no negatives."""
    augment: bool = False
    """Crop and mirror training pictures at random, as published. Mirroring contradicts "left" and "right"."""
    candidates: int | None = None
    """Captions that a held-out picture finds its own among, for R-precision; at least 2. By default 100, or as
    many as the held-out pictures have."""
    measure_every: int = 500
    """Steps between measurements of retrieval, at least 1."""

    def check(self) -> None:
        """Refuse what would only show after hours."""
        super().check()
        if not self.lr >= LR_FLOOR:
            raise ValueError(f"--lr must be at least {LR_FLOOR}, below which it never falls, got {self.lr}")
        if self.embedding_std is not None and not self.embedding_std > 0:
            raise ValueError(f"--embedding-std must be above 0, got {self.embedding_std}")
        if not 0 <= self.text_dropout < 1:
            raise ValueError(f"--text-dropout must be from 0 to below 1, got {self.text_dropout}")
        if (self.image_encoder == "inception") != (self.inception_weights is not None):
            raise ValueError("--image-encoder inception and --inception-weights go together")
        if self.image_width < 16 or self.image_width % 16:
            raise ValueError(f"--image-width must be a positive multiple of 16, got {self.image_width}")
        if self.epochs is not None and self.steps is not None:
            raise ValueError("--epochs and --steps say the same; give one of them")

    @property
    def side(self) -> int:
        """Of the pictures, in px."""
        return self.image_size or (299 if self.image_encoder == "inception" else 64)

    def stop(self, pictures: int) -> int:
        """How many steps the run has."""
        steps = self.steps
        if steps is None:
            epochs = steps_or_default(self.epochs, 600, "--epochs or --steps")
            steps = math.ceil(epochs * pictures / self.batch_size)
        if self.freeze_text >= steps:
            raise ValueError(
                f"--freeze-text must be less than all {steps} steps, or the text encoder learns nothing, got "
                f"{self.freeze_text}; give it fewer, or the run more"
            )
        return steps


# SSA-GAN as published (arXiv 2104.00567 and its code). The generator has 29,494,273 parameters, the discriminator
# 78,280,326. The penalty, 2 mean(||gradient||^6), is a second step of the discriminator. Encoders are published
# ones, pre-trained for 200 epochs (CUB) and 100 (COCO). Not published: an averaged generator, where the last
# weights are sampled from, which is --ema 0. float32 is as published, on every machine.
CUB = TrainConfig(
    experiment="cub",
    data="cub:data/birds",
    out=Path("runs/cub"),
    image_size=256,
    ngf=64,
    ndf=64,
    mask_channels=100,
    image_encoder="inception",
    image_encoder_weights=Path("data/DAMSMencoders/bird/image_encoder200.pth"),
    text_encoder_weights=Path("data/DAMSMencoders/bird/text_encoder200.pth"),
    batch_size=24,
    steps=600 * 8_855 // 24,  # 600 epochs
    augment=True,
    step=StepConfig(
        text_encoder="joint",  # with frozen encoders: --text-encoder frozen --damsm-weight 0.05
        damsm_weight=0.1,
        lr_generator=1e-4,
        lr_discriminator=4e-4,
        lr_encoders=4e-5,
        penalty="two-step",
        penalty_weight=2.0,
        penalty_power=6.0,
        ema=0.999,
        precision="fp32",
    ),
    workers=4,
    sample_every=2_000,
    save_every=2_000,
)
# The encoders are frozen: 0.1, the weight of DAMSM with trained ones, is published for CUB.
COCO = dataclasses.replace(
    CUB,
    experiment="coco",
    data="coco:data/coco",
    out=Path("runs/coco"),
    image_encoder_weights=Path("data/DAMSMencoders/coco/image_encoder100.pth"),
    text_encoder_weights=Path("data/DAMSMencoders/coco/text_encoder100.pth"),
    steps=120 * 82_783 // 24,  # 120 epochs
    step=dataclasses.replace(CUB.step, text_encoder="frozen", damsm_weight=0.05),
)
# Not published: what was found to draw most in minutes of two cores (docs/results.md). A contrastive
# weight of 1 draws shapes sooner, but of a few thousand pictures the discriminator learns that loss by heart.
SHORT = TrainConfig(
    experiment="short",
    image_size=32,
    ngf=16,
    ndf=16,
    mask_channels=32,
    hidden_dim=64,
    residual_gate=1.0,
    whiten=True,
    batch_size=32,
    step=StepConfig(
        text_encoder="frozen",
        damsm_weight=0.0,
        words=False,
        contrast_weight=0.1,
        lr_generator=1e-3,
        lr_discriminator=1e-3,
        penalty_every=4,
        ema=0.998,
        precision=fastest_precision(),
    ),
)
SHORT_PRETRAINING = PretrainConfig(
    experiment="short",
    image_size=32,
    image_width=32,
    embedding_std=1.0,
    batch_size=128,
    words=False,
)


def read_train_config(arguments: Sequence[str], description: str | None) -> TrainConfig:
    """The flags of ``t2ilayers train``, over the values of its ``--experiment``, over the defaults."""
    experiments = {None: TrainConfig(), "short": SHORT, "cub": CUB, "coco": COCO}
    return _read("train", experiments, arguments, description)


def read_pretrain_config(arguments: Sequence[str], description: str | None) -> PretrainConfig:
    """The flags of ``t2ilayers pretrain``, in the same order."""
    return _read("pretrain", {None: PretrainConfig(), "short": SHORT_PRETRAINING}, arguments, description)


def _read(
    name: str, experiments: Mapping[str | None, Config], arguments: Sequence[str], description: str | None
) -> Config:
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--experiment")
    given = first.parse_known_args(arguments)[0].experiment
    default = experiments.get(given, experiments[None])  # tyro refuses an unknown one, by name
    return read_flags(name, type(default), arguments, description, default)
