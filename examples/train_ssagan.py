"""Train SSA-GAN on captioned pictures: DAMSM pre-training of the encoders, then the GAN.

    python examples/train_ssagan.py --data shapes --image-size 32 --steps 1000 --out runs/shapes
    python examples/train_ssagan.py --data path/to/folder --image-size 64 --out runs/mine
    python examples/train_ssagan.py ... --resume           # continue from the newest checkpoint

A folder holds pictures and their captions; see t2ilayers.data.CaptionFolder. `--out` receives checkpoints/,
samples/ (fixed captions, and the masks), losses.png, metrics.jsonl, TensorBoard's files and, at the end,
model/, which examples/generate.py and examples/evaluate.py read.
"""

import dataclasses
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.data import Batch, BatchDataset, CaptionedDataset, open_dataset
from t2ilayers.training import (
    EncoderStep,
    MetricsLog,
    NonFiniteLossError,
    SSAGANStep,
    StepConfig,
    keep_large_blocks,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from t2ilayers.training.figures import loss_curves, mask_sheet, sample_sheet, save_image


@dataclasses.dataclass
class Config:
    data: str = "shapes"
    """Drawn shapes ("shapes"), or a folder of pictures with captions."""
    out: Path = Path("runs/ssagan")
    """Where everything is written."""
    image_size: int = 64
    """Side of the pictures in px, a power of two; 32, 64 or 128 with the small image encoder."""
    ngf: int = 32
    """Base width of the generator."""
    ndf: int = 32
    """Base width of the discriminator."""
    mask_channels: int = 100
    """Hidden channels of the mask predictors."""
    batch_size: int = 24
    """Pictures a step and process."""
    steps: int = 20_000
    """GAN iterations."""
    damsm_steps: int = 2_000
    """Iterations of DAMSM pre-training before."""
    step: Annotated[StepConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=StepConfig)
    image_encoder: Literal["conv", "inception"] = "conv"
    """A small encoder for 32 to 128 px, or Inception-v3 for larger pictures."""
    class_field: str = "class_id"
    """Field of a folder's rows that names a picture's class; pictures of one class are no negatives."""
    seed: int = 0
    """Of weights, data order, captions, noise and dropout."""
    workers: int = 0
    """Processes that load data; 0 loads in the training process."""
    log_every: int = 10
    """Steps between log lines."""
    sample_every: int = 500
    """Steps between sample sheets."""
    save_every: int = 500
    """Steps between checkpoints."""
    resume: bool = False
    """Continue from the newest complete checkpoint in --out."""


class Interrupt:
    """Turns Ctrl-C and SIGTERM into a flag, so that a step is never left half done."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def _request(self, number: int, frame: object) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C stops at once


class Samples:
    """Pictures for fixed captions of the held-out split with fixed noise, by the averaged generator."""

    def __init__(self, config: Config, held_out: CaptionedDataset) -> None:
        self.folder = config.out / "samples"
        self.folder.mkdir(parents=True, exist_ok=True)
        spread = np.linspace(0, len(held_out) - 1, min(16, len(held_out))).round().astype(int)
        self.captions = [held_out[int(i)]["caption"] for i in spread]
        self.seed = config.seed

    def draw(self, model: SSAGAN, step: int, board: Any) -> None:
        images, masks = model.generate(self.captions, seed=self.seed)
        sheet = sample_sheet(images, self.captions)
        save_image(sheet, self.folder / f"step_{step:08d}.png")
        rows = slice(0, 6)
        save_image(
            mask_sheet(images[rows], [mask[rows] for mask in masks], self.captions[rows]),
            self.folder / f"masks_{step:08d}.png",
        )
        board.add_image("samples", np.asarray(sheet), step, dataformats="HWC")


def seed_step(config: Config, phase: int, step: int, rank: int) -> None:
    """Make noise and dropout of a step depend on nothing but seed, phase, step and rank: resuming is exact."""
    state = np.random.SeedSequence([config.seed, phase, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> 1))


def batches(
    config: Config, data: CaptionedDataset, start: int, stop: int, accelerator: Accelerator
) -> Iterator[Batch]:
    steps = BatchDataset(
        data,
        config.batch_size,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    loader = DataLoader(steps, batch_size=None, sampler=range(start, stop), num_workers=config.workers)
    for batch in loader:
        for name in ("image", "tokens", "class_ids"):  # lengths stay: packing wants them on the CPU
            batch[name] = batch[name].to(accelerator.device, non_blocking=True)
        yield batch


def averaging(accelerator: Accelerator) -> Callable[[Iterable[nn.Parameter]], None]:
    """Mean of the gradients over processes. (A DDP wrapper does not survive the penalty's second backward.)"""

    def average(parameters: Iterable[nn.Parameter]) -> None:
        if accelerator.num_processes == 1:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat: Any = accelerator.reduce(torch.cat([g.flatten() for g in grads]), reduction="mean")
        for grad, mean in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(mean.view_as(grad))

    return average


def damsm_rate(config: Config, data: CaptionedDataset, step: int) -> float:
    """The published schedule: 2e-3, times 0.98 an epoch, not under 2e-4."""
    epoch = step * config.batch_size // len(data)
    return float(max(2e-4, 2e-3 * 0.98**epoch))


def train(config: Config) -> None:
    accelerator = Accelerator()
    torch.manual_seed(config.seed)
    data, held_out = (
        open_dataset(
            config.data,
            split,
            image_size=config.image_size,
            seed=config.seed,
            class_field=config.class_field,
        )
        for split in ("train", "test")
    )
    shape = SSAGANConfig(
        image_size=config.image_size,
        ngf=config.ngf,
        ndf=config.ndf,
        mask_channels=config.mask_channels,
        vocab_size=len(data.vocabulary),
        image_encoder=config.image_encoder,
    )
    model = SSAGAN(shape, data.vocabulary).to(accelerator.device, memory_format=torch.channels_last)
    average = averaging(accelerator)
    pretraining = EncoderStep(model, lr=2e-3, precision=config.step.precision, average_gradients=average)
    training = SSAGANStep(model, config.step, average_gradients=average)
    config.out.mkdir(parents=True, exist_ok=True)
    checkpoints = config.out / "checkpoints"
    identity = {"model_config": shape.to_json(), "vocabulary": list(data.vocabulary.words)}

    phase, start = "damsm", 0
    if not config.resume and any(checkpoints.glob("*.pt")):
        raise ValueError(
            f"{config.out} holds another run's checkpoints; continue it with --resume or use another --out"
        )
    if config.resume:
        path = latest_checkpoint(checkpoints)
        state = load_checkpoint(path)
        for name, value in identity.items():
            if state[name] != value:
                raise ValueError(f"{path} has another {name.replace('_', ' ')} than this run's flags and data")
        phase, start = state["phase"], state["phase_step"]
        if phase == "damsm":
            model.load_state_dict(state["model"])
            pretraining.optimizer.load_state_dict(state["encoder_optimizer"])
        else:
            training.load_state_dict(state)
        if accelerator.is_main_process:
            print(f"resuming {phase} at step {start} from {path}")

    log = MetricsLog(config.out, every=config.log_every, write=accelerator.is_main_process)
    log.start(phase, start)
    interrupt, samples = Interrupt(), Samples(config, held_out)

    def checkpoint(phase: str, step: int) -> None:
        if not accelerator.is_main_process:
            return
        for name, weight in model.named_parameters():
            if not weight.isfinite().all():
                raise NonFiniteLossError(f"weight {name} is not finite after {phase} step {step - 1}")
        state = training.state_dict() if phase == "gan" else {
            "model": model.state_dict(), "encoder_optimizer": pretraining.optimizer.state_dict()
        }  # fmt: skip
        total = step + (config.damsm_steps if phase == "gan" else 0)
        save_checkpoint(checkpoints, total, {"phase": phase, "phase_step": step, **identity, **state})

    def figures(step: int) -> None:
        if not accelerator.is_main_process:
            return
        own = model.generator
        model.generator = training.ema.module
        try:
            samples.draw(model, step, log.board)
        finally:
            model.generator = own
        loss_curves(log.file, config.out / "losses.png")

    def run(phase: str, start: int, stop: int, take: Callable[[Batch, int], dict[str, Tensor]]) -> None:
        name = "DAMSM pre-training" if phase == "damsm" else "GAN training"
        bar = tqdm(total=stop, initial=start, desc=name, disable=not accelerator.is_main_process, mininterval=1)
        stream = batches(config, data, start, stop, accelerator)
        log.restart_clock()
        with bar:
            for step, batch in zip(range(start, stop), stream, strict=True):
                seed_step(config, phase == "gan", step, accelerator.process_index)
                log.add(phase, step, take(batch, step), bar)
                bar.update()
                done = step + 1
                if phase == "gan" and done % config.sample_every == 0:
                    log.flush(phase, bar)
                    figures(done)
                if interrupt.requested or done % config.save_every == 0 or done == stop:
                    log.flush(phase, bar)  # a checkpoint is only written after its losses were found finite
                    checkpoint(phase, done)
                if interrupt.requested:
                    raise KeyboardInterrupt

    def pretrain(batch: Batch, step: int) -> dict[str, Tensor]:
        for group in pretraining.optimizer.param_groups:
            group["lr"] = damsm_rate(config, data, step)
        return pretraining(batch)

    if phase == "damsm":
        run("damsm", start, config.damsm_steps, pretrain)
        start = 0
    run("gan", start, config.steps, training)
    figures(config.steps)
    if accelerator.is_main_process:
        model.generator = training.ema.module
        model.save_pretrained(config.out / "model")
        log.close()
        print(f"model: {config.out / 'model'}   samples: {samples.folder}   losses: {config.out / 'losses.png'}")


def main() -> int:
    config = tyro.cli(Config, description=__doc__)
    keep_large_blocks()
    try:
        train(config)
    except KeyboardInterrupt:
        kept = any((config.out / "checkpoints").glob("*.pt"))
        then = f"continue with --resume --out {config.out}" if kept else "there is no checkpoint yet"
        print(f"\nstopped; {then}", file=sys.stderr)
        return 130
    except NonFiniteLossError as error:
        print(
            f"\n{error}; training stopped. The last good checkpoint is in {config.out / 'checkpoints'}; "
            "try a smaller learning rate or --precision fp32",
            file=sys.stderr,
        )
        return 1
    except (OSError, ValueError) as error:
        print(f"train_ssagan: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
