"""Pre-train the text and the image encoder with DAMSM, by the published recipe, measuring retrieval as it goes.

    python examples/pretrain_damsm.py --data path/to/folder --image-size 64 --epochs 40 --out runs/encoders
    python examples/pretrain_damsm.py --data cub:data/birds --image-encoder inception --augment \
        --inception-weights inception_v3_google-0cc3c7bd.pth --out runs/bird-encoders
    python examples/pretrain_damsm.py ... --resume         # continue from the newest checkpoint

`--out` receives checkpoints/, metrics.jsonl, TensorBoard's files, results.json and, with every checkpoint,
encoders/: a folder as EncoderPair.from_pretrained reads it, with vocabulary, text encoder and image encoder.
Beside these lie text_encoder.pth and, of Inception, image_encoder.pth as they are published, for other projects.
"""

import openmp

import dataclasses
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch.utils.data import DataLoader
from tqdm import tqdm

import t2ilayers
from t2ilayers._files import written_whole
from t2ilayers.data import Batch, BatchDataset, CaptionedDataset, collate, open_dataset
from t2ilayers.encoders import ConvImageEncoder, EncoderPair, InceptionImageEncoder, LSTMTextEncoder, tokenize
from t2ilayers.interop import official
from t2ilayers.metrics import r_precision
from t2ilayers.training import (
    EncoderStep,
    MetricsLog,
    NonFiniteLossError,
    keep_large_blocks,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)

PHASE = "damsm"
LR_DECAY, LR_FLOOR = 0.98, 2e-4  # an epoch; published
MOST_HELD_OUT = 1000  # pictures that retrieval is measured on


@dataclasses.dataclass
class Config:
    data: str = "shapes"
    """"shapes", "cub:ROOT", "coco:ROOT", "shards:PATTERN", or a folder of captioned pictures."""
    out: Path = Path("runs/damsm")
    """Where everything is written."""
    image_encoder: Literal["conv", "inception"] = "conv"
    """A small encoder for 32 to 128 px, or Inception-v3 with learned projections, as published."""
    image_size: int | None = None
    """Side of the pictures in px: 32, 64 or 128 with the small encoder, at least 75 with Inception; by default 64,
    or 299 with Inception."""
    inception_weights: Path | None = None
    """ImageNet weights of Inception-v3: torchvision's file, with which the encoders were published, or
    pytorch-fid's port of TensorFlow's, whose pooling they do not have."""
    inception_sha256: str | None = None
    """SHA-256 of that file; the published ones need none."""
    epochs: int = 600
    """Passes over the training pictures, at least 1."""
    batch_size: int = 48
    """Pictures a step, at least 1; the others of a batch are what a picture is told apart from."""
    lr: float = 2e-3
    """Adam's rate at the start, at least 2e-4, below which it never falls; it does by 2 % an epoch."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the encoders under autocast."""
    class_field: str = "class_id"
    """Field of a folder's rows that names a picture's class; pictures of one class are no negatives."""
    augment: bool = False
    """Crop and mirror training pictures at random, as published. Mirroring contradicts "left" and "right"."""
    candidates: int = 100
    """Captions that a held-out picture finds its own among, for R-precision; at least 2."""
    seed: int = 0
    """Of weights, data order, captions, dropout and candidates; at least 0."""
    workers: int = 0
    """Processes that load data, at least 0; 0 loads in the training process."""
    log_every: int = 10
    """Steps between log lines, at least 1."""
    measure_every: int = 500
    """Steps between measurements of retrieval, at least 1."""
    save_every: int = 500
    """Steps between checkpoints, at least 1."""
    resume: bool = False
    """Continue from the newest complete checkpoint in --out, with the flags of the interrupted run."""

    def check(self) -> None:
        for name in ("epochs", "batch_size", "log_every", "measure_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if not self.lr >= LR_FLOOR:
            raise ValueError(f"--lr must be at least {LR_FLOOR}, below which it never falls, got {self.lr}")
        if (self.image_encoder == "inception") != (self.inception_weights is not None):
            raise ValueError("--image-encoder inception and --inception-weights go together")

    @property
    def side(self) -> int:
        return self.image_size or (299 if self.image_encoder == "inception" else 64)


# What may change when a run is resumed; every other flag would make it another run.
MAY_CHANGE = ("data", "out", "epochs", "lr", "workers", "log_every", "measure_every", "save_every", "resume",
              "inception_weights")  # fmt: skip


def open_encoders(config: Config, data: CaptionedDataset) -> EncoderPair:
    """The encoders to train."""
    text_encoder = LSTMTextEncoder(len(data.vocabulary))
    if config.inception_weights is None:
        return EncoderPair(text_encoder, ConvImageEncoder(config.side), data.vocabulary)
    image_encoder = InceptionImageEncoder()
    image_encoder.load_trunk(config.inception_weights, sha256=config.inception_sha256)
    return EncoderPair(text_encoder, image_encoder, data.vocabulary)


def batches(
    config: Config, data: CaptionedDataset, start: int, stop: int, device: torch.device
) -> Iterator[Batch]:
    steps = BatchDataset(data, config.batch_size, seed=config.seed)
    for batch in DataLoader(steps, batch_size=None, sampler=range(start, stop), num_workers=config.workers):
        for name in ("image", "tokens", "class_ids"):  # lengths stay: packing wants them on the CPU
            batch[name] = batch[name].to(device, non_blocking=True)
        yield batch


def save_encoders(pair: EncoderPair, folder: Path) -> None:
    pair.save_pretrained(folder)
    for name, encoder in (("text_encoder", pair.text_encoder), ("image_encoder", pair.image_encoder)):
        if isinstance(encoder, LSTMTextEncoder | InceptionImageEncoder):  # the small one was never published
            with written_whole(folder / f"{name}.pth") as path:
                torch.save(official.export(encoder), path)


@torch.no_grad()
def retrieval(pair: EncoderPair, held_out: CaptionedDataset, config: Config) -> dict[str, float]:
    """How well held-out pictures and captions find each other; a caption a picture, the same ones each time.

    R-precision, and recall@1 among all of them from picture to caption and back. Captions of the same words count
    as one, since nothing tells them apart.
    """
    pair.eval()
    spread = np.linspace(0, len(held_out) - 1, min(MOST_HELD_OUT, len(held_out))).round().astype(int)
    codes, sentences, class_ids, captions = [], [], [], []
    for rows in np.array_split(spread, math.ceil(len(spread) / config.batch_size)):
        batch = collate([held_out[int(row)] for row in rows])
        codes.append(pair.images(batch["image"]).cpu())
        sentences.append(pair.text_encoder(batch["tokens"].to(pair.device), batch["lengths"]).sentence.cpu())
        class_ids.append(batch["class_ids"])
        captions += batch["captions"]
    images, texts = (torch.nn.functional.normalize(torch.cat(parts)) for parts in (codes, sentences))
    score = r_precision(
        images,
        texts,
        torch.cat(class_ids),
        captions=captions,
        candidates=config.candidates,
        folds=1,
        seed=config.seed,
    )
    words = [tokenize(caption) for caption in captions]
    found = {"recall_i2t": (images @ texts.T).argmax(1), "recall_t2i": (texts @ images.T).argmax(1)}
    recalls = {
        name: sum(words[i] == words[j] for i, j in enumerate(nearest.tolist())) / len(words)
        for name, nearest in found.items()
    }
    return {"r_precision": score.mean, **recalls}


def learning_rate(config: Config, epoch: int) -> float:
    return max(LR_FLOOR, config.lr * LR_DECAY**epoch)


def seed_step(config: Config, step: int) -> None:
    """Make the dropout of a step depend on nothing but seed and step: resuming is exact."""
    state = np.random.SeedSequence([config.seed, step]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0] >> 1))


def check_same_run(path: Path, state: dict[str, Any], flags: dict[str, Any], vocabulary: list[str]) -> None:
    for name, value in flags.items():
        if name not in MAY_CHANGE and state["flags"][name] != value:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{path} was trained with {flag} {state['flags'][name]}, this run has {value}")
    if state["vocabulary"] != vocabulary:
        raise ValueError(f"{path} was trained with another vocabulary than that of {flags['data']}")


def train(config: Config) -> None:
    began = time.monotonic()
    config.check()
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    torch.manual_seed(config.seed)
    data, held_out = (
        open_dataset(
            config.data,
            split,
            image_size=config.side,
            seed=config.seed,
            class_field=config.class_field,
            augment=config.augment and split == "train",
        )
        for split in ("train", "test")
    )
    pair = open_encoders(config, data).to(device)
    take = EncoderStep(pair, lr=config.lr, precision=config.precision)
    checkpoints, vocabulary = config.out / "checkpoints", list(data.vocabulary.words)
    flags = {n: str(v) if isinstance(v, Path) else v for n, v in dataclasses.asdict(config).items()}
    stop = math.ceil(config.epochs * len(data) / config.batch_size)

    start = 0
    if config.resume:
        path = latest_checkpoint(checkpoints)
        state = load_checkpoint(path)
        check_same_run(path, state, flags, vocabulary)
        pair.load_state_dict(state["model"])
        take.optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        print(f"resuming at step {start} from {path}")
    elif any(checkpoints.glob("*.pt")):
        raise ValueError(
            f"{config.out} holds another run's checkpoints; continue it with --resume or use another --out"
        )
    log = MetricsLog(config.out, every=config.log_every)
    log.start(PHASE, start)

    def checkpoint(step: int) -> None:
        for name, weight in pair.named_parameters():
            if not weight.isfinite().all():
                raise NonFiniteLossError(f"weight {name} is not finite after step {step - 1}")
        state = {"model": pair.state_dict(), "optimizer": take.optimizer.state_dict()}
        save_checkpoint(checkpoints, step, state | {"flags": flags, "vocabulary": vocabulary})
        save_encoders(pair, config.out / "encoders")

    with tqdm(total=stop, initial=start, desc="DAMSM pre-training", mininterval=1) as bar:
        log.restart_clock()
        for step, batch in zip(range(start, stop), batches(config, data, start, stop, device), strict=True):
            measured = {}
            if step % config.measure_every == 0:
                log.flush(PHASE, bar)
                measured = retrieval(pair, held_out, config)
                bar.write(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in measured.items()))
                log.restart_clock()
            seed_step(config, step)
            for group in take.optimizer.param_groups:
                group["lr"] = learning_rate(config, step * config.batch_size // len(data))
            losses = take(batch)
            # Measured before the step, and so the state after as many steps as the line's number says.
            log.add(PHASE, step, losses | {name: torch.tensor(value) for name, value in measured.items()}, bar)
            bar.update()
            if (step + 1) % config.save_every == 0 or step + 1 == stop:
                log.flush(PHASE, bar)  # a checkpoint is only written after its losses were found finite
                checkpoint(step + 1)
                log.restart_clock()
    log.close()
    results = {
        "command": shlex.join(sys.argv),
        "flags": flags,
        "steps": stop,
        "held_out": {"pictures": min(MOST_HELD_OUT, len(held_out)), **retrieval(pair, held_out, config)},
        "seconds": round(time.monotonic() - began),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "versions": {
            "t2ilayers": t2ilayers.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    with written_whole(config.out / "results.json") as path:
        path.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results["held_out"]))
    print(f"encoders: {config.out / 'encoders'}   results: {config.out / 'results.json'}")


def main() -> int:
    try:
        config = tyro.cli(Config, description=__doc__)
        keep_large_blocks()
        return guarded(config)
    except (OSError, ValueError) as error:
        print(f"pretrain_damsm: {error}", file=sys.stderr)
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
        print(f"\n{error}; training stopped, {last_checkpoint()}; resume with a smaller --lr", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
