"""Train SSA-GAN on captioned pictures.

  python examples/pretrain_damsm.py --steps 600 --out runs/pretraining
  python examples/train_ssagan.py --steps 1000 --out runs/shapes \\
    --encoders runs/pretraining/encoders
  python examples/train_ssagan.py --experiment cub --data cub:ROOT
  python examples/train_ssagan.py ... --resume
  torchrun --nproc-per-node 2 examples/train_ssagan.py ...

--out receives checkpoints/, samples/ (fixed captions, and the masks),
losses.png, metrics.jsonl, TensorBoard's files and, at the end, model/, which
generate.py and evaluate.py read. Several processes share each batch and reach
the weights of one, up to rounding; they all see --out, and another number of
them may resume the run.
"""

import openmp

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flags import TrainConfig, read_train_config, run_script, steps_or_default
from t2ilayers import SSAGAN
from t2ilayers.data import CaptionedDataset, open_dataset
from t2ilayers.encoders import EncoderPair, LSTMTextEncoder
from t2ilayers.figures import mask_sheet, sample_sheet, save_image
from t2ilayers.interop import official
from t2ilayers.training import Run, SSAGANStep, join_processes


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
    start = "not pre-trained, see pretrain_damsm.py" if given is None else f"from {given}"
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
        run.finish({
            "model": f"{config.out / 'model'}, for generate.py and evaluate.py",
            "samples": samples.folder,
            "losses": f"{config.out / 'losses.png'}, or tensorboard --logdir {config.out}",
        })  # fmt: skip


def main() -> int:
    return run_script("train_ssagan", lambda: train(read_train_config(sys.argv[1:], __doc__)))


if __name__ == "__main__":
    sys.exit(main())
