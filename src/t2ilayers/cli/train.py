"""Train SSA-GAN on captioned pictures.

  t2ilayers pretrain --experiment short --steps 800 --out runs/pretraining
  t2ilayers train --experiment short --steps 1600 --out runs/shapes \\
    --encoders runs/pretraining/encoders
  t2ilayers train --experiment cub --data cub:ROOT
  t2ilayers train ... --resume
  torchrun --nproc-per-node 2 -m t2ilayers train ...

--out receives checkpoints/, samples/ (fixed captions, and the masks),
losses.png, metrics.jsonl, TensorBoard's files and, at the end, model/, which
t2ilayers generate, app and evaluate read. Several processes share each batch
and reach the weights of one, up to rounding; they all see --out, and another
number of them may resume the run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._files import written_whole
from ..data import CaptionedDataset, open_dataset
from ..encoders import EncoderPair, LSTMTextEncoder
from ..figures import mask_sheet, sample_sheet, save_image
from ..interop import official
from ..layers import set_gates, whiten
from ..models import SSAGAN
from ..training import Run, SSAGANStep, join_processes
from ._configs import TrainConfig, read_train_config
from ._script import run_script, some_pictures, steps_or_default


class Samples:
    """Pictures for fixed captions of the held-out split with fixed noise, by the averaged generator."""

    def __init__(self, config: TrainConfig, held_out: CaptionedDataset) -> None:
        self.folder = config.out / "samples"
        spread = np.linspace(0, len(held_out) - 1, min(16, len(held_out))).round().astype(int)
        self.captions = [held_out[int(i)]["caption"] for i in spread]
        self.seed = config.seed

    def draw(self, training: SSAGANStep, step: int, board: Any) -> None:
        model, own = training.model, training.model.generator
        model.generator = training.ema.module
        try:
            images, masks = model.generate(self.captions, seed=self.seed)
        finally:
            model.generator = own
        sheet, rows = sample_sheet(images, self.captions), slice(0, 6)
        save_image(sheet, self.folder / f"step_{step:08d}.png")
        if masks:
            save_image(
                mask_sheet(images[rows], [mask[rows] for mask in masks], self.captions[rows]),
                self.folder / f"masks_{step:08d}.png",
            )
        board.add_image("samples", np.asarray(sheet), step, dataformats="HWC")


def load_text_encoder(weights: Path, data: CaptionedDataset) -> LSTMTextEncoder:
    """A published text encoder, refused where its words cannot be those of the data."""
    encoder = official.load_text_encoder(weights)
    if encoder.embedding.num_embeddings != len(data.vocabulary):
        raise ValueError(
            f"{weights} knows {encoder.embedding.num_embeddings} words, the data's vocabulary has "
            f"{len(data.vocabulary)}; take the captions.pickle the encoder was trained with"
        )
    return encoder


def open_model(config: TrainConfig, data: CaptionedDataset) -> SSAGAN:
    """A new model, with the encoders that the flags name."""
    model = SSAGAN(config.model(len(data.vocabulary), data.max_words), data.vocabulary)
    if config.residual_gate is not None:
        set_gates(model, config.residual_gate)
    if config.whiten and model.discriminator is not None:
        whiten(model.discriminator.from_image, some_pictures(data, config.seed))
    if config.image_encoder_weights is not None:
        model.image_encoder = official.load_image_encoder(config.image_encoder_weights)
    if config.text_encoder_weights is not None:
        model.text_encoder = load_text_encoder(config.text_encoder_weights, data)
    if config.encoders is not None:
        try:
            model.take_encoders(EncoderPair.from_pretrained(config.encoders).train())
        except ValueError as error:
            raise ValueError(f"--encoders {config.encoders}: {error}") from error
    return model


def encoders_said(config: TrainConfig) -> str:
    given = config.encoders or config.text_encoder_weights
    start = "not pre-trained, see t2ilayers pretrain" if given is None else f"from {given}"
    return f"{start}; {'trained along' if config.step.text_encoder == 'joint' else 'frozen'}"


def train(config: TrainConfig) -> None:
    config.check()
    stop = steps_or_default(config.steps, 20_000, "--steps")
    processes, device = join_processes()
    torch.manual_seed(config.seed)
    data, held_out = (
        open_dataset(
            config.data,
            split,
            image_size=config.image_size,
            seed=config.seed,
            class_field=config.class_field,
            augment=config.augment and split == "train",
        )
        for split in ("train", "test")
    )
    model = open_model(config, data).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    training = SSAGANStep(model, config.step, processes=processes)
    samples = Samples(config, held_out)
    shown = {"discriminator/real": "real", "discriminator/fake": "fake", "generator/adversarial": "G"}
    with Run(config, training, model, data, stream=1, processes=processes, device=device, shown=shown) as run:
        run.announce(stop, precision=config.step.precision, encoders=encoders_said(config))
        for step, batch in run.steps(stop):
            run.record(training(batch, step))
            if run.writes and (run.due(config.sample_every) or run.done == stop):
                with run.aside():
                    samples.draw(training, run.done, run.log.board)
                    run.log.draw(config.out / "losses.png")
        if run.writes:
            model.generator = training.ema.module
            model.save_pretrained(config.out / "model")
            with written_whole(config.out / "model" / "captions.txt") as path:  # for the app to try
                path.write_text("".join(f"{' '.join(caption.split())}\n" for caption in samples.captions))
        run.finish({
            "model": f"{config.out / 'model'}, for t2ilayers generate, app and evaluate",
            "samples": samples.folder,
            "losses": f"{config.out / 'losses.png'}, or tensorboard --logdir {config.out}",
        })  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return run_script("train", lambda: train(read_train_config(arguments, __doc__)))
