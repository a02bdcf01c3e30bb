"""Measure a saved model: what its pictures show, what its masks select, whether they find their captions.

t2ilayers evaluate MODEL --data shapes --out results.json
t2ilayers evaluate MODEL --data cub:data/birds --samples 29330 --protocol clean pytorch-fid \
    --inception-weights pt_inception-2015-12-05-6726825d.pth --out results.json
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import PIL
import torch
import tyro
from tqdm import tqdm

from .. import __version__
from .._files import written_whole
from ..data import Batch, CaptionedDataset, CaptionedShapes, collate, open_dataset
from ..encoders import EncoderPair, Vocabulary
from ..metrics import (
    ATTRIBUTE_CHANCE,
    CLIPEncoder,
    attribute_accuracy,
    r_precision,
    stage_ious,
    train_attribute_classifier,
)
from ..models import SSAGAN, SSAGeneratorOutput
from ._inception import InceptionArguments, measure_inception, open_judges
from ._outside import CANDIDATES, measure_outside, open_outside
from ._script import read_flags, run_script
from ._table import print_table

BATCH_SIZE = 64


@dataclass
class Arguments:
    """Measure what pictures and masks of a saved model show.

    Attributes:
        samples: Pictures to generate for each measure, in passes over the split with one caption per picture
            and pass; by default one for each real picture, up to 1000. At least 1; published numbers are of about
            30000.
        classifier_steps: Training of the classifier that judges drawn shapes, in steps, at least 1; fewer are
            quicker and judge worse.
        judge: Folder of a model, or of encoders that t2ilayers pretrain wrote, which judge R-precision, to compare
            models by one judge. By default the model's own, which it was trained against.
        outside: File of the outside judge's linear map, safetensors: read if it is there, else fitted on the
            training split and written. It adds R-precision and cFreD by encoders that no run has trained, KID,
            density, coverage, diversity, and whether training pictures are copied. Needs the extra judges.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder written by SSAGAN.save_pretrained, or the name of a model of the package."""
    data: str
    """"shapes", "cub:ROOT", "coco:ROOT", or a folder of captioned pictures."""
    samples: int | None = None
    seed: int = 0
    """Of the noise, the drawn scenes, the choice of captions, the candidates and the classifier; at least 0."""
    truncation: float | None = None
    """Cut the noise to [-TRUNCATION, TRUNCATION], above 0, typically 0.5 to 2."""
    captions_split: Literal["train", "test"] = "test"
    """Split that captions and real pictures come from."""
    class_field: str = "class_id"
    """Field of a folder's rows that names a picture's class: candidate captions are of other classes."""
    classifier_steps: int = 800
    inception: Annotated[InceptionArguments, tyro.conf.arg(name="")] = field(default_factory=InceptionArguments)
    judge: Path | None = None
    clip: Path | None = None
    """Folder of a CLIP of transformers, to compute R-precision with as well."""
    outside: Path | None = None
    out: Path | None = None
    """JSON file for the results."""


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return run_script("evaluate", lambda: evaluate(read_flags("evaluate", Arguments, arguments)))


def evaluate(arguments: Arguments) -> None:
    if arguments.samples is not None and arguments.samples < 1:
        raise ValueError(f"--samples must be at least 1, got {arguments.samples}")
    if arguments.truncation is not None and not arguments.truncation > 0:
        raise ValueError(f"--truncation must be > 0, got {arguments.truncation}")
    if arguments.out is not None:
        check_writable(arguments.out)  # learn of it before the work, not after
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    judges = open_judges(arguments.inception, device)
    clip = None if arguments.clip is None else CLIPEncoder(arguments.clip, device)
    model = SSAGAN.from_pretrained(arguments.model, discriminator=False)
    judge: EncoderPair | None = None
    if arguments.judge is not None:
        judge = EncoderPair.from_pretrained(arguments.judge).to(device)
        if judge.image_size not in (None, model.config.image_size):
            raise ValueError(
                f"a judge sees pictures of the model's size, {model.config.image_size} px; {arguments.judge} is "
                f"for {judge.image_size} px"
            )
    elif model.image_encoder is not None:
        judge = model.encoders
    model.to(device)
    size, split, seed = model.config.image_size, arguments.captions_split, arguments.seed
    dataset = open_split(arguments, split, size)
    outside = None
    if arguments.outside is not None:
        outside = open_outside(arguments.outside, lambda: open_split(arguments, "train", size), device, seed)
    samples = arguments.samples or min(len(dataset), 1000)
    results: dict[str, Any] = {
        "command": shlex.join(sys.argv),
        "model": str(arguments.model),
        "data": arguments.data,
        "split": split,
        "samples": samples,
        "seed": seed,
        "truncation": arguments.truncation,
        "machine": torch.cuda.get_device_name() if model.device.type == "cuda" else f"{os.cpu_count()} CPU cores",
        "versions": {
            "t2ilayers": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "python": platform.python_version(),
        },
    }
    print(f"{arguments.model}: {samples} samples, {split} split of {arguments.data}, seed {seed}")
    if arguments.data == "shapes":
        # One object a scene: what a caption says is then said of the only object there is.
        scenes = CaptionedShapes(samples, size, split=split, seed=seed, max_objects=1)
        results |= measure_shapes(model, scenes, samples, arguments)
    if judges:
        pairs = generated_beside_real(model, dataset, samples, arguments, "FID and inception score")
        pictures = ((output.images, real["image"]) for output, real in pairs)
        results["inception"] = measure_inception(judges, pictures, len(dataset))
    else:
        results["inception"] = {"skipped": "there are no --inception-weights"}
    if judge is None:
        results["r_precision"] = {"skipped": "the model has no image encoder"}
    else:
        results["r_precision"] = {"judge": str(arguments.judge or arguments.model)} | measure_r_precision(
            model, dataset, samples, arguments, judge.images, judge.sentences
        )
    if clip is not None:
        results["r_precision_clip"] = {
            "folder": clip.source,
            "sha256": clip.sha256,
            "transformers": importlib.metadata.version("transformers"),
        } | measure_r_precision(model, dataset, samples, arguments, clip.images, clip.sentences)
    if outside is not None and arguments.outside is not None:
        pairs = generated_beside_real(model, dataset, samples, arguments, "by the outside judge")

        def draw(captions: list[str]) -> torch.Tensor:
            z = torch.stack(
                [noise(model.config.z_dim, seed, samples + i, arguments.truncation) for i in range(len(captions))]
            )
            return model.generate(captions, z=z)[0].cpu()

        results["outside"] = measure_outside(
            outside,
            arguments.outside,
            ((output.images, real) for output, real in pairs),
            open_split(arguments, "train", size),
            draw,
            real_pictures=len(dataset),
            seed=seed,
        )
    print_table(results)
    if arguments.out is not None:
        with written_whole(arguments.out) as path:
            path.write_text(json.dumps(results, indent=2) + "\n")


def open_split(arguments: Arguments, split: Literal["train", "test"], size: int) -> CaptionedDataset:
    return open_dataset(
        arguments.data, split, image_size=size, seed=arguments.seed, class_field=arguments.class_field
    )


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written at the end."""
    if path.is_dir():
        raise IsADirectoryError(f"--out must be a file, got the folder {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent) as file:
        file.write(b"room for the results")


def generated_beside_real(
    model: SSAGAN, dataset: CaptionedDataset, samples: int, arguments: Arguments, title: str
) -> Iterator[tuple[SSAGeneratorOutput, Batch]]:
    """Batches of generated pictures, on the CPU, each with the real pictures of the same captions.

    The captions are as the model reads them: of a long one so many words, chosen as in training, and of letters
    those that its vocabulary's rule knows. Sample ``i`` has a caption of picture ``i % len(dataset)``. Caption and
    noise are drawn from ``(seed, i)``, so that they depend neither on the batch size nor on the number of samples.
    """
    vocabulary = cast(Vocabulary, model.vocabulary)
    dataset.vocabulary, dataset.max_words = vocabulary, model.config.max_words  # an unknown word is an error
    seed = arguments.seed
    for start in tqdm(range(0, samples, BATCH_SIZE), desc=title, unit="batch"):
        indices = range(start, min(start + BATCH_SIZE, samples))
        real = collate(
            [dataset.sample(index % len(dataset), np.random.default_rng((seed, index))) for index in indices]
        )
        if not callable(vocabulary.tokenizer):  # only a rule surely finds the same words again
            real["captions"] = [vocabulary.decode(row) for row in real["tokens"].tolist()]
        z = torch.stack([noise(model.config.z_dim, seed, index, arguments.truncation) for index in indices])
        images, masks = model.generate(real["captions"], z=z)
        yield SSAGeneratorOutput(images.cpu(), tuple(mask.cpu() for mask in masks)), real


def noise(z_dim: int, seed: int, index: int, truncation: float | None) -> torch.Tensor:
    # The 1 keeps this stream apart from that of the caption.
    random = torch.Generator().manual_seed(int(np.random.default_rng((seed, index, 1)).integers(2**63)))
    if truncation is None:
        return torch.randn(z_dim, generator=random)
    return torch.nn.init.trunc_normal_(torch.empty(z_dim), a=-truncation, b=truncation, generator=random)


def measure_shapes(model: SSAGAN, scenes: CaptionedShapes, samples: int, arguments: Arguments) -> dict[str, Any]:
    print("training the classifier of drawn shapes ...", file=sys.stderr)
    classifier = train_attribute_classifier(
        scenes.image_size, seed=arguments.seed, steps=arguments.classifier_steps
    )
    pairs = list(generated_beside_real(model, scenes, samples, arguments, "attributes and masks"))
    captions = [caption for _, real in pairs for caption in real["captions"]]
    images = torch.cat([output.images for output, _ in pairs])
    masks = [torch.cat(stage) for stage in zip(*(output.masks for output, _ in pairs), strict=True)]
    generated = attribute_accuracy(classifier, images, captions)
    real = attribute_accuracy(classifier, torch.cat([real["image"] for _, real in pairs]), captions)
    results: dict[str, Any] = {
        "attributes": {
            name: {"generated": generated[name], "real": real[name], "chance": ATTRIBUTE_CHANCE[name]}
            for name in generated
        },
    }
    if masks:  # not every generator has them
        ious = stage_ious(masks, classifier.foreground(images))
        results["masks"] = {
            "stages": [stage._asdict() for stage in ious.stages],
            "best": ious.best._asdict(),
            "constant": ious.constant,
        }
    return results


@torch.no_grad()
def measure_r_precision(
    model: SSAGAN,
    dataset: CaptionedDataset,
    samples: int,
    arguments: Arguments,
    encode_images: Callable[[torch.Tensor], torch.Tensor],
    encode_captions: Callable[[Sequence[str]], torch.Tensor],
) -> dict[str, Any]:
    codes: dict[str, list[torch.Tensor]] = {"generated": [], "real": []}
    sentences, class_ids, captions = [], [], []
    for output, real in generated_beside_real(model, dataset, samples, arguments, "R-precision"):
        for name, images in (("generated", output.images), ("real", real["image"])):
            codes[name].append(encode_images(images.to(model.device)).cpu())
        sentences.append(encode_captions(real["captions"]).cpu())
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
