"""Draw pictures from captions with a saved model.

python examples/generate.py MODEL "a large red star on the left" "a small blue ring" --grid
"""

from __future__ import annotations

import openmp

import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from t2ilayers import SSAGAN
from t2ilayers.figures import mask_sheet, sample_sheet, save_image, to_picture
from t2ilayers.training import keep_large_blocks


@dataclass
class Arguments:
    """Draw pictures from captions with a saved model: a PNG a caption, or sheets of all."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder written by SSAGAN.save_pretrained."""
    captions: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CAPTION ...")]
    """Sentences, each in quotes, of words that the model knows."""
    seed: int = 0
    """Of the noise, at least 0 and below 2^63."""
    truncation: float | None = None
    """Cut the noise to [-truncation, truncation], above 0, typically 0.5 to 2: smaller is more typical and less
    varied."""
    out: Path = Path("samples")
    """Folder for the pictures."""
    grid: bool = False
    """Write all pictures with their captions on one sheet, sheet.png."""
    masks: bool = False
    """Write the pictures beside the masks of every block, masks.png."""


def draw(arguments: Arguments) -> None:
    if not arguments.captions:
        raise ValueError('captions must be at least one sentence, got none; try "a red circle"')
    if not 0 <= arguments.seed < 2**63:
        raise ValueError(f"--seed must be in [0, 2^63), got {arguments.seed}")
    captions = arguments.captions
    model = SSAGAN.from_pretrained(arguments.model, discriminator=False, image_encoder=False)
    images, masks = model.generate(captions, seed=arguments.seed, truncation=arguments.truncation)
    pictures = {}
    if arguments.grid:
        pictures["sheet.png"] = sample_sheet(images, captions)
    if arguments.masks:
        pictures["masks.png"] = mask_sheet(images, masks, captions)
    if not pictures:
        for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
            slug = re.sub(r"\W+", "-", caption.lower()).strip("-")[:60]
            pictures[f"{number:02d}-{slug}.png"] = to_picture(image)
    for name, picture in pictures.items():
        save_image(picture, arguments.out / name)
        print(arguments.out / name)


def main() -> int:
    arguments = tyro.cli(Arguments)
    keep_large_blocks()
    try:
        draw(arguments)
    except (OSError, ValueError) as error:
        print(f"generate.py: {textwrap.shorten(str(error), 600)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
