"""Draw pictures from captions with a saved model.

t2ilayers generate "a big red star on a black background"
t2ilayers generate MODEL "a large red star on the left" "a small blue ring" --grid
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .._files import some
from .._pretrained import pretrained_names
from ..figures import mask_sheet, sample_sheet, save_image, to_picture
from ..models import SSAGAN
from ..training import say
from ._script import read_flags, run_script

DEFAULT = "shapes32"  # draws where no model is named


@dataclass
class Arguments:
    """Draw pictures from captions with a saved model, one by one or on sheets.

    Attributes:
        truncation: Cut the noise to [-truncation, truncation], above 0, typically 0.5 to 2: smaller is more
            typical and less varied.
    """

    captions: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(name="model", metavar="[MODEL] CAPTION ...", help_behavior_hint="(required)"),
    ]
    """Sentences, each in quotes, of words that the model knows. Before them a folder written by
    SSAGAN.save_pretrained or the name of a model of the package, if it is another one than shapes32."""
    count: int = 1
    """Pictures per caption, at least 1, each of other noise."""
    seed: int = 0
    """Of the noise, at least 0 and below 2^63."""
    truncation: float | None = None
    out: Path = Path("samples")
    """Folder for the pictures."""
    grid: bool = False
    """Write all pictures with their captions on one sheet, sheet.png."""
    masks: bool = False
    """Write the pictures beside the masks of every block, masks.png."""
    overwrite: bool = False
    """Replace files of the same names in --out, which are kept otherwise."""


def split_model(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The model, and the captions behind it; a first word that can be no caption names the model."""
    first = words[0] if words else ""
    if os.sep in first or Path(first).is_dir() or first in pretrained_names():
        return first, words[1:]
    return DEFAULT, words


def draw(arguments: Arguments) -> None:
    folder, sentences = split_model(arguments.captions)
    if not sentences:
        raise ValueError('captions must be at least one sentence, got none; try "a red circle"')
    if not 0 <= arguments.seed < 2**63:
        raise ValueError(f"--seed must be in [0, 2^63), got {arguments.seed}")
    if arguments.count < 1:
        raise ValueError(f"--count must be at least 1, got {arguments.count}")
    count = arguments.count
    captions = [caption for caption in sentences for _ in range(count)]
    sheets = {"sheet.png": arguments.grid, "masks.png": arguments.masks}
    names = [name for name, wanted in sheets.items() if wanted]
    if not names:
        slugs = (re.sub(r"\W+", "-", caption.lower()).strip("-")[:60] for caption in captions)
        names = [f"{number:02d}-{slug}.png" for number, slug in enumerate(slugs)]
    there = [name for name in names if (arguments.out / name).exists()]
    if there and not arguments.overwrite:
        raise ValueError(f"{arguments.out} already has {some(there)}; use another --out, or --overwrite")
    model = SSAGAN.from_pretrained(folder, discriminator=False, image_encoder=False)
    if arguments.masks and not model.mask_sides:
        raise ValueError(f"--masks must be left out: the generator of {folder} has no masks")
    images, masks = model.generate(captions, seed=arguments.seed, truncation=arguments.truncation)
    if not any(sheets.values()):
        pictures = [to_picture(image) for image in images]
    else:
        grid = sample_sheet(images, captions, columns=count if count > 1 else None) if arguments.grid else None
        masked = mask_sheet(images, masks, captions) if arguments.masks else None
        pictures = [sheet for sheet in (grid, masked) if sheet is not None]
    for name, picture in zip(names, pictures, strict=True):
        save_image(picture, arguments.out / name)
        say(str(arguments.out / name))


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return run_script("generate", lambda: draw(read_flags("generate", Arguments, arguments)))
