"""What train_ssagan.py can be told: the flags, their checks, and files of them such as configs/cub.py."""

import argparse
import dataclasses
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from t2ilayers import SSAGANConfig
from t2ilayers.training import StepConfig, fastest_precision


@dataclasses.dataclass
class Config:
    """All flags of ``train_ssagan.py``."""

    config: Path | None = None
    """A file such as configs/cub.py, whose values take the place of the defaults below; flags override both."""
    data: str = "shapes"
    """Drawn shapes ("shapes"), published data ("cub:ROOT", "coco:ROOT"), tar files ("shards:PATTERN"), or a folder
    of pictures with captions. For anything but shapes, run `python -m t2ilayers.data.validate DATA` first."""
    out: Path = Path("runs/ssagan")
    """Where everything is written."""
    image_size: int = 64
    """Side of the pictures in px, a power of two, at least 16; 32, 64 or 128 with the small image encoder."""
    ngf: int = 32
    """Base width of the generator, at least 1."""
    ndf: int = 32
    """Base width of the discriminator, at least 1."""
    mask_channels: int = 100
    """Hidden channels of the mask predictors, at least 1."""
    batch_size: int = 24
    """Pictures a step, over all processes; at least 2."""
    steps: int = 20_000
    """GAN iterations, at least 1."""
    damsm_steps: int = 2_000
    """Iterations of DAMSM pre-training before, at least 0."""
    step: Annotated[StepConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=lambda: StepConfig(precision=fastest_precision())
    )
    image_encoder: Literal["conv", "inception"] = "conv"
    """A small encoder for 32 to 128 px, or Inception-v3 for larger pictures."""
    image_encoder_weights: Path | None = None
    """Published image_encoder*.pth; needed with --image-encoder inception, whose trunk is not trained here."""
    text_encoder_weights: Path | None = None
    """Published text_encoder*.pth, trained with the data's vocabulary; with both weights, --damsm-steps 0."""
    encoders: Path | None = None
    """Folder encoders/ that pretrain_damsm.py wrote for this data: both encoders start from it."""
    class_field: str = "class_id"
    """Field of a folder's rows that names a picture's class; pictures of one class are no negatives."""
    augment: bool = False
    """Crop and mirror training pictures at random, as published for CUB and COCO; drawn shapes stay as they are.
    Mirroring contradicts "left" and "right"."""
    seed: int = 0
    """Of weights, data order, captions, noise and dropout; at least 0."""
    workers: int = 0
    """Processes that load data, at least 0, which loads in the training process."""
    log_every: int = 10
    """Steps between log lines, at least 1."""
    sample_every: int = 500
    """Steps between sample sheets, at least 1."""
    save_every: int = 500
    """Steps between checkpoints, at least 1."""
    resume: bool = False
    """Continue from the newest complete checkpoint in --out, with the flags of the interrupted run."""

    def model(self, vocab_size: int) -> SSAGANConfig:
        """The sizes of the model."""
        return SSAGANConfig(
            image_size=self.image_size,
            ngf=self.ngf,
            ndf=self.ndf,
            mask_channels=self.mask_channels,
            vocab_size=vocab_size,
            image_encoder=self.image_encoder,
        )

    def check(self) -> None:
        """Refuse what would only show after hours."""
        least_of = {"image_size": 16, "batch_size": 2, "damsm_steps": 0, "seed": 0, "workers": 0}
        for name in ("ngf", "ndf", "mask_channels", "steps", "log_every", "sample_every", "save_every"):
            least_of[name] = 1
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(self, name)}")
        files = (self.image_encoder_weights, self.text_encoder_weights)
        if self.encoders is not None:
            if files != (None, None):
                raise ValueError("--encoders holds both encoders; leave --image-encoder-weights and "
                                 "--text-encoder-weights out")  # fmt: skip
            return
        if (self.image_encoder == "inception") != (self.image_encoder_weights is not None):
            raise ValueError(
                "--image-encoder inception needs --image-encoder-weights or --encoders, and conv neither"
            )
        if self.step.text_encoder == "frozen" and self.damsm_steps == 0 and self.text_encoder_weights is None:
            raise ValueError(
                "--text-encoder frozen needs --text-encoder-weights or --encoders, or --damsm-steps to train one"
            )


# What may change when a run is resumed; every other flag would make it another run.
MAY_CHANGE = ("data", "out", "steps", "workers", "log_every", "sample_every", "save_every", "resume",
              "config", "image_encoder_weights", "text_encoder_weights", "encoders",
              "lr_generator", "lr_discriminator", "lr_encoders")  # fmt: skip


def flat_flags(config: Config) -> dict[str, Any]:
    """All flags by name, as plain values."""
    flags = dataclasses.asdict(config)
    flags |= flags.pop("step")
    return {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}


def read_config(arguments: Sequence[str], description: str | None) -> Config:
    """The flags of a command line, over the values of its ``--config`` file, over the defaults.

    Raises:
        ValueError: the file defines no configuration.
        FileNotFoundError: there is no such file.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    path = first.parse_known_args(arguments)[0].config
    values = Config() if path is None else runpy.run_path(str(path)).get("config")
    if not isinstance(values, Config):
        raise ValueError(f"{path} must define config = Config(...), see configs/cub.py")
    return tyro.cli(Config, args=arguments, description=description, default=values)
