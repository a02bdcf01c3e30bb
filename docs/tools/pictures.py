"""Draw captions, pictures and masks with the model of the package, as HTML figures that pages take in.

    python docs/tools/pictures.py build/docs
    python docs/tools/pictures.py --readme docs/assets/hero.png

A figure is a grid of small images, whose sizes and captions are the page's own: it follows the light and the dark
scheme, and is readable on a phone. The model is the one that readers have, so they can draw the same.
"""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from t2ilayers import SSAGAN
from t2ilayers.figures import save_image, to_picture

HERO = "a big orange star in the centre of a navy background"
SHAPES = (
    "a big red star in the centre of a black background",
    "a big blue ring on an olive background",
    "a big cyan circle on a brown background",
)


class Row(NamedTuple):
    """What stands before a row, its picture ``(3, S, S)`` in [-1, 1], and masks ``(1, s, s)`` in [0, 1]."""

    name: str
    picture: Tensor
    masks: list[Tensor]


def draw(model: SSAGAN, caption: str, masks: list[Tensor] | None = None, *, name: str = "", seed: int = 1) -> Row:
    images, used = model.generate([caption], seed=seed, masks=masks)
    return Row(name or caption, images[0], [mask[0] for mask in used])


def hero(model: SSAGAN) -> str:
    return figure([draw(model, HERO)])


def shapes(model: SSAGAN) -> str:
    return figure([draw(model, caption) for caption in SHAPES])


def steering(model: SSAGAN) -> str:
    """The predicted masks, and three ways to change them."""
    predicted = draw(model, HERO, name="predicted")
    sides = [mask.shape[-1] for mask in predicted.masks]
    half = torch.zeros(1, 1, sides[-1], sides[-1])
    half[..., : sides[-1] // 2] = 1
    changed = {
        "left half": [F.interpolate(half, size=(side, side), mode="area") for side in sides],
        "shifted by a quarter": [mask[None].roll(mask.shape[-1] // 4, dims=-1) for mask in predicted.masks],
        "all black": [torch.zeros(1, 1, side, side) for side in sides],
    }
    return figure([predicted, *(draw(model, HERO, masks, name=name) for name, masks in changed.items())])


def readme(model: SSAGAN, side: int = 130, gap: int = 12) -> Image.Image:
    """The hero row as one picture, for a page that takes no HTML; what is between is transparent."""
    row = draw(model, HERO)
    cells = [row.picture, *(2 * mask.expand(3, -1, -1) - 1 for mask in row.masks)]
    page = Image.new("RGBA", (len(cells) * (side + gap) - gap, side))
    for i, pixels in enumerate(cells):
        page.paste("grey", (i * (side + gap), 0, i * (side + gap) + side, side))  # white masks on a white page
        inner = to_picture(pixels).resize((side - 2, side - 2), Image.Resampling.NEAREST)
        page.paste(inner, (i * (side + gap) + 1, 1))
    return page


FIGURES: dict[str, Callable[[SSAGAN], str]] = {"hero": hero, "shapes": shapes, "steering": steering}


def figure(rows: Iterable[Row]) -> str:
    lines = []
    for row in rows:
        cells = [cell(row.picture, "picture", f"{row.name}: the picture")]
        for mask in row.masks:  # grey as it is: white is 1, black is 0
            side = mask.shape[-1]
            cells.append(
                cell(2 * mask.expand(3, -1, -1) - 1, f"mask {side} px", f"{row.name}: the mask of {side} px")
            )
        lines.append(f'<div class="t2i-row"><p>{escape(row.name)}</p>{"".join(cells)}</div>')
    return f'<div class="t2i-pictures">{"".join(lines)}</div>\n'


def cell(pixels: Tensor, title: str, says: str) -> str:
    file = io.BytesIO()
    to_picture(pixels).save(file, format="png", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    image = f'<img alt="{escape(says)}" src="data:image/png;base64,{data}">'
    return f'<span class="t2i-cell">{image}<small>{title}</small></span>'


def main(arguments: list[str]) -> None:
    model = SSAGAN.from_pretrained("shapes32", discriminator=False, image_encoder=False)
    if arguments[0] == "--readme":
        save_image(readme(model), arguments[1])
        return
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in FIGURES.items():
        (folder / f"{name}.html").write_text(make(model), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
