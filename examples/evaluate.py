"""Measure a saved model: what its pictures show, what its masks select, whether they find their captions.

python examples/evaluate.py MODEL --data shapes --out results.json
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
import tyro
from tqdm import tqdm

import t2ilayers
from t2ilayers import SSAGAN
from t2ilayers.data import Batch, CaptionedDataset, CaptionedShapes, collate, open_dataset
from t2ilayers.encoders import Vocabulary
from t2ilayers.metrics import (
    ATTRIBUTE_CHANCE,
    attribute_accuracy,
    r_precision,
    stage_ious,
    train_attribute_classifier,
)
from t2ilayers.models import SSAGeneratorOutput
from t2ilayers.training import keep_large_blocks

BATCH_SIZE = 64
CANDIDATES = 100


@dataclass
class Arguments:
    """Measure a saved model: what its pictures show, what its masks select, if they find their captions."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder written by SSAGAN.save_pretrained."""
    data: str
    """"shapes", or a folder of captioned pictures."""
    samples: int | None = None
    """Pictures to generate for each measure; by default one for each real picture, up to 1000."""
    seed: int = 0
    """Of the noise, the drawn scenes, the choice of captions, the candidates and the classifier."""
    captions_split: Literal["train", "test"] = "test"
    """Split that captions and real pictures come from."""
    class_field: str = "class_id"
    """Field of a folder's rows that names a picture's class: candidate captions are of other classes."""
    classifier_steps: int = 800
    """Training of the classifier that judges drawn shapes; fewer are quicker and judge worse."""
    out: Path | None = None
    """JSON file for the results."""


def main() -> int:
    arguments = tyro.cli(Arguments)
    keep_large_blocks()
    try:
        evaluate(arguments)
    except (OSError, ValueError) as error:
        print(f"evaluate.py: {textwrap.shorten(str(error), 600)}", file=sys.stderr)
        return 2
    return 0


def evaluate(arguments: Arguments) -> None:
    if arguments.samples is not None and arguments.samples < 1:
        raise ValueError(f"--samples must be at least 1, got {arguments.samples}")
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)  # learn of it before the work, not after
    model = SSAGAN.from_pretrained(arguments.model)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    size, split, seed = model.config.image_size, arguments.captions_split, arguments.seed
    dataset = open_dataset(arguments.data, split, image_size=size, seed=seed, class_field=arguments.class_field)
    samples = arguments.samples or min(len(dataset), 1000)
    results: dict[str, Any] = {
        "command": shlex.join(sys.argv),
        "model": str(arguments.model),
        "data": arguments.data,
        "split": split,
        "samples": samples,
        "seed": seed,
        "machine": torch.cuda.get_device_name() if model.device.type == "cuda" else f"{os.cpu_count()} CPU cores",
        "versions": {
            "t2ilayers": t2ilayers.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    print(f"{arguments.model}: {samples} samples, {split} split of {arguments.data}, seed {seed}")
    if arguments.data == "shapes":
        # One object a scene: what a caption says is then said of the only object there is.
        scenes = CaptionedShapes(samples, size, split=split, seed=seed, max_objects=1)
        results |= measure_shapes(model, scenes, samples, arguments)
    if model.image_encoder is None:
        results["r_precision"] = {"skipped": "the model has no image encoder"}
    else:
        results["r_precision"] = measure_r_precision(model, dataset, samples, arguments)
    print_table(results)
    if arguments.out is not None:
        temporary = arguments.out.with_name(f".{arguments.out.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(results, indent=2) + "\n")
        temporary.replace(arguments.out)


def generated_beside_real(
    model: SSAGAN, dataset: CaptionedDataset, samples: int, seed: int, title: str
) -> Iterator[tuple[SSAGeneratorOutput, Batch]]:
    """Batches of generated pictures, on the CPU, each with the real pictures of the same captions."""
    dataset.vocabulary = cast(Vocabulary, model.vocabulary)  # captions that the model cannot read are an error
    noise = torch.Generator().manual_seed(seed)
    for start in tqdm(range(0, samples, BATCH_SIZE), desc=title, unit="batch"):
        indices = range(start, min(start + BATCH_SIZE, samples))
        real = collate(
            [dataset.sample(index % len(dataset), np.random.default_rng((seed, index))) for index in indices]
        )
        z = torch.randn(len(indices), model.config.z_dim, generator=noise)
        images, masks = model.generate(real["captions"], z=z)
        yield SSAGeneratorOutput(images.cpu(), tuple(mask.cpu() for mask in masks)), real


def measure_shapes(model: SSAGAN, scenes: CaptionedShapes, samples: int, arguments: Arguments) -> dict[str, Any]:
    print("training the classifier of drawn shapes ...", file=sys.stderr)
    classifier = train_attribute_classifier(
        scenes.image_size, seed=arguments.seed, steps=arguments.classifier_steps
    )
    pairs = list(generated_beside_real(model, scenes, samples, arguments.seed, "attributes and masks"))
    captions = [caption for _, real in pairs for caption in real["captions"]]
    images = torch.cat([output.images for output, _ in pairs])
    masks = [torch.cat(stage) for stage in zip(*(output.masks for output, _ in pairs), strict=True)]
    generated = attribute_accuracy(classifier, images, captions)
    real = attribute_accuracy(classifier, torch.cat([real["image"] for _, real in pairs]), captions)
    ious = stage_ious(masks, classifier.foreground(images))
    return {
        "attributes": {
            name: {"generated": generated[name], "real": real[name], "chance": ATTRIBUTE_CHANCE[name]}
            for name in generated
        },
        "masks": {
            "stages": [stage._asdict() for stage in ious.stages],
            "best": ious.best._asdict(),
            "constant": ious.constant,
        },
    }


@torch.no_grad()
def measure_r_precision(
    model: SSAGAN, dataset: CaptionedDataset, samples: int, arguments: Arguments
) -> dict[str, Any]:
    encode_image = cast(torch.nn.Module, model.image_encoder)  # evaluate() saw to it
    codes: dict[str, list[torch.Tensor]] = {"generated": [], "real": []}
    sentences, class_ids, captions = [], [], []
    for output, real in generated_beside_real(model, dataset, samples, arguments.seed, "R-precision"):
        for name, images in (("generated", output.images), ("real", real["image"])):
            codes[name].append(encode_image(images.to(model.device)).code.cpu())
        sentences.append(model.encode(real["captions"]).cpu())
        class_ids.append(real["class_ids"])
        captions += real["captions"]
    result: dict[str, Any] = {}
    for name, parts in codes.items():
        try:
            score = r_precision(
                torch.cat(parts),
                torch.cat(sentences),
                torch.cat(class_ids),
                captions=captions,
                candidates=CANDIDATES,
                seed=arguments.seed,
            )
        except ValueError as error:  # a small split: the other measures stand
            return {"skipped": str(error)}
        result[name] = score._asdict()
    return result | {"chance": 1 / CANDIDATES, "candidates": CANDIDATES}


def print_table(results: dict[str, Any]) -> None:
    def row(title: str, *cells: str | float) -> None:
        texts = (cell if isinstance(cell, str) else f"{cell:.3f}" for cell in cells)
        print(f"{title:<34}" + "".join(f"{text:>16}" for text in texts))

    if "attributes" in results:
        print()
        row("Attributes that captions name", "generated", "real", "chance")
        for name, scores in results["attributes"].items():
            row(f"  {name}", *scores.values())
        masks = results["masks"]
        print()
        row("IoU of masks with the foreground", "mask", "inverted")
        for stage in masks["stages"]:
            best = ", the best" if stage == masks["best"] else ""
            row(f"  {stage['side']} px{best}", stage["iou"], stage["inverted_iou"])
        row("  constant mask", masks["constant"])
    print()
    score = results["r_precision"]
    if "skipped" in score:
        print(f"R-precision: skipped, {score['skipped']}")
    else:
        row("R-precision", "generated", "real", "chance")
        pairs = (f"{score[name]['mean']:.3f} ± {score[name]['std']:.3f}" for name in ("generated", "real"))
        row(f"  of {score['candidates']} captions", *pairs, score["chance"])


if __name__ == "__main__":
    sys.exit(main())
