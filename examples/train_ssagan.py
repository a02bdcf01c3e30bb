"""Train SSA-GAN on captioned pictures: DAMSM pre-training of the encoders, then the GAN.

    python examples/train_ssagan.py --data shapes --image-size 32 --steps 1000 --out runs/shapes
    python examples/train_ssagan.py --data path/to/folder --image-size 64 --out runs/mine
    python examples/train_ssagan.py --config configs/cub.py --data cub:ROOT    # the published experiment
    python examples/train_ssagan.py ... --resume           # continue from the newest checkpoint
    torchrun --nproc-per-node 2 examples/train_ssagan.py ...        # or: accelerate launch --multi_gpu

A folder holds pictures and their captions; see t2ilayers.data.CaptionFolder. Several processes share each
batch and reach the weights of one, up to rounding; another number of them may resume a run. `--out` is on a disk
that all of them see and receives checkpoints/, samples/ (fixed captions, and the masks), losses.png,
metrics.jsonl, TensorBoard's files and, at the end, model/, which examples/generate.py and examples/evaluate.py
read.
"""

import openmp

import json
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

import t2ilayers
from t2ilayers import SSAGAN
from t2ilayers.data import Batch, BatchDataset, CaptionedDataset, open_dataset
from t2ilayers.encoders import EncoderPair, LSTMTextEncoder
from t2ilayers.figures import loss_curves, mask_sheet, sample_sheet, save_image
from t2ilayers.interop import official
from t2ilayers.training import (
    EncoderStep,
    MetricsLog,
    NonFiniteLossError,
    Processes,
    SSAGANStep,
    keep_large_blocks,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from training_config import MAY_CHANGE, Config, flat_flags, read_config


class Interrupt:
    """Turns Ctrl-C and SIGTERM into a flag, so that a step is never left half done."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def anywhere(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop: all of them must stop at the same step."""
        if accelerator.num_processes == 1:
            return self.requested
        count: Any = accelerator.reduce(torch.tensor(float(self.requested), device=accelerator.device), "sum")
        return bool(count > 0)

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


def seed_step(config: Config, phase: int, step: int) -> None:
    """Make noise and dropout of a step depend on nothing but seed, phase and step.

    So resuming is exact, and all processes draw the same for the whole batch.
    """
    state = np.random.SeedSequence([config.seed, phase, step]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> 1))


def batches(
    config: Config, data: CaptionedDataset, start: int, stop: int, processes: Processes, device: torch.device
) -> Iterator[Batch]:
    steps = BatchDataset(
        data, config.batch_size, seed=config.seed, rank=processes.rank, world_size=processes.count
    )
    loader = DataLoader(steps, batch_size=None, sampler=range(start, stop), num_workers=config.workers)
    for batch in loader:
        for name in ("image", "tokens", "class_ids"):  # lengths stay: packing wants them on the CPU
            batch[name] = batch[name].to(device, non_blocking=True)
        yield processes.join(batch)


def load_text_encoder(weights: Path, data: CaptionedDataset) -> LSTMTextEncoder:
    """A published text encoder, refused where its words cannot be those of the data."""
    encoder = official.load_text_encoder(weights)
    if encoder.embedding.num_embeddings != len(data.vocabulary):
        raise ValueError(
            f"{weights} knows {encoder.embedding.num_embeddings} words, the data's vocabulary has "
            f"{len(data.vocabulary)}; take the captions.pickle the encoder was trained with"
        )
    return encoder


def start_from(folder: Path, model: SSAGAN) -> None:
    """Take both encoders from what pretrain_damsm.py wrote, refused where they were made for something else."""
    try:
        model.take_encoders(EncoderPair.from_pretrained(folder).train())
    except ValueError as error:
        raise ValueError(f"--encoders {folder}: {error}") from error


def damsm_rate(data: CaptionedDataset, pictures: int) -> float:
    """The published schedule after so many pictures: 2e-3, times 0.98 an epoch, not under 2e-4."""
    epoch = pictures // len(data)
    return float(max(2e-4, 2e-3 * 0.98**epoch))


def check_same_run(path: Path, state: dict[str, Any], flags: dict[str, Any], vocabulary: list[str]) -> None:
    for name, value in flags.items():
        if name not in MAY_CHANGE and state["flags"][name] != value:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{path} was trained with {flag} {state['flags'][name]}, this run has {value}")
    if state["vocabulary"] != vocabulary:
        raise ValueError(f"{path} was trained with another vocabulary than that of {flags['data']}")


def describe_run(flags: dict[str, Any], accelerator: Accelerator, seconds: float) -> str:
    """What it takes to repeat the run, as JSON."""
    return json.dumps(
        {
            "command": shlex.join(sys.argv),
            "flags": flags,
            "seconds": round(seconds),
            "device": str(accelerator.device),
            "processes": accelerator.num_processes,
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "versions": {
                "t2ilayers": t2ilayers.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        },
        indent=2,
    )


def train(config: Config) -> None:
    began = time.monotonic()
    config.check()
    # Without cpu=True, Accelerate overlooks torchrun's other processes where there is no accelerator.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
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
    model = SSAGAN(config.model(len(data.vocabulary)), data.vocabulary)
    if config.image_encoder_weights is not None:
        model.image_encoder = official.load_image_encoder(config.image_encoder_weights)
    if config.text_encoder_weights is not None:
        model.text_encoder = load_text_encoder(config.text_encoder_weights, data)
    if config.encoders is not None:
        start_from(config.encoders, model)
    model.to(accelerator.device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    processes = Processes(dist.group.WORLD if accelerator.num_processes > 1 else None)
    pretraining = EncoderStep(model.encoders, lr=2e-3, precision=config.step.precision, processes=processes)
    training = SSAGANStep(model, config.step, processes=processes)
    config.out.mkdir(parents=True, exist_ok=True)
    checkpoints = config.out / "checkpoints"
    vocabulary, flags = list(data.vocabulary.words), flat_flags(config)

    phase, start = "damsm", 0
    if not config.resume and any(checkpoints.glob("*.pt")):
        raise ValueError(
            f"{config.out} holds another run's checkpoints; continue it with --resume or use another --out"
        )
    if config.resume:
        path = latest_checkpoint(checkpoints)
        state = load_checkpoint(path)
        check_same_run(path, state, flags, vocabulary)
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
        state |= {"phase": phase, "phase_step": step, "flags": flags, "vocabulary": vocabulary}
        save_checkpoint(checkpoints, step + (config.damsm_steps if phase == "gan" else 0), state)

    def figures(step: int) -> None:
        if not accelerator.is_main_process:
            return
        own = model.generator
        model.generator = training.ema.module
        try:
            samples.draw(model, step, log.boards["gan"])
        finally:
            model.generator = own
        loss_curves(log.file, config.out / "losses.png")

    def run(phase: str, start: int, stop: int, take: Callable[[Batch, int], dict[str, Tensor]]) -> None:
        name = "DAMSM pre-training" if phase == "damsm" else "GAN training"
        bar = tqdm(total=stop, initial=start, desc=name, disable=not accelerator.is_main_process, mininterval=1)
        stream = batches(config, data, start, stop, processes, accelerator.device)
        log.restart_clock()
        with bar:
            for step, batch in zip(range(start, stop), stream, strict=True):
                seed_step(config, phase == "gan", step)
                log.add(phase, step, take(batch, step), bar)
                bar.update()
                done = step + 1
                if phase == "gan" and done % config.sample_every == 0:
                    log.flush(phase, bar)
                    figures(done)
                    log.restart_clock()
                stopping = interrupt.anywhere(accelerator)
                if stopping or done % config.save_every == 0 or done == stop:
                    log.flush(phase, bar)  # a checkpoint is only written after its losses were found finite
                    checkpoint(phase, done)
                    log.restart_clock()
                if stopping:
                    raise KeyboardInterrupt

    def pretrain(batch: Batch, step: int) -> dict[str, Tensor]:
        for group in pretraining.optimizer.param_groups:
            group["lr"] = damsm_rate(data, step * config.batch_size)
        return pretraining(batch)

    if phase == "damsm":
        run("damsm", start, config.damsm_steps, pretrain)
        start = 0
    run("gan", start, config.steps, training)
    if config.steps % config.sample_every:
        figures(config.steps)
    if accelerator.is_main_process:
        model.generator = training.ema.module
        model.save_pretrained(config.out / "model")
        log.close()
        (config.out / "run.json").write_text(describe_run(flags, accelerator, time.monotonic() - began) + "\n")
        print(f"model: {config.out / 'model'}   samples: {samples.folder}   losses: {config.out / 'losses.png'}")


def main() -> int:
    try:
        config = read_config(sys.argv[1:], __doc__)
        keep_large_blocks()
        return guarded(config)
    except (OSError, ValueError) as error:
        print(f"train_ssagan: {error}", file=sys.stderr)
        return 2


def guarded(config: Config) -> int:
    def last_checkpoint() -> str:
        kept = sorted((config.out / "checkpoints").glob("*.pt"))
        return f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"

    try:
        train(config)
    except KeyboardInterrupt:
        print(f"\nstopped; {last_checkpoint()}; the same flags and --resume continue", file=sys.stderr)
        return 130
    except NonFiniteLossError as error:
        advice = "resume with smaller learning rates, or start again with --precision fp32"
        print(f"\n{error}; training stopped, {last_checkpoint()}; {advice}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
