"""Figures of a run: sheets of pictures, of masks, and curves of the losses. Needs Pillow and Matplotlib."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ._files import written_whole

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

_MARGIN = 12  # px around and between cells
_CAPTION_SIZE, _NOTE_SIZE = 13, 11  # px of the letters
_LEADING = 4  # px between lines
_INK, _FAINT, _PAPER = (25, 25, 25), (110, 110, 110), (255, 255, 255)


def to_picture(image: Tensor) -> Image.Image:
    """One picture ``(3, H, W)`` in [-1, 1] as an RGB ``PIL.Image``; values outside are cut.

    Raises:
        ValueError: another shape.

    Source: this library's own.

    Example:
        >>> to_picture(torch.ones(3, 8, 16)).size
        (16, 8)
    """
    if image.dim() != 3 or len(image) != 3:
        raise ValueError(f"image must be (3, H, W), got {tuple(image.shape)}; a batch is for sample_sheet")
    return _picture(_to_bytes(image[None])[0])


def sample_sheet(
    images: Tensor, captions: Sequence[str], *, columns: int | None = None, min_side: int = 128
) -> Image.Image:
    """Pictures in a grid on white, each with its caption below.

    Args:
        images: ``(N, 3, S, S)`` in [-1, 1]; enlarged by the least whole factor that makes them at least
            ``min_side`` px wide, each pixel a square.
        captions: N captions.
        columns: of the grid; None takes the root of N, rounded up.
        min_side: px, >= 1.

    Returns:
        An RGB ``PIL.Image``.

    Raises:
        ValueError: shapes that do not fit, no pictures, or a number under 1.

    Source: this library's own.

    Example:
        >>> sample_sheet(torch.zeros(4, 3, 32, 32), ["a red star"] * 4).mode
        'RGB'
    """
    _check_images(images, captions, min_side)
    columns = math.ceil(math.sqrt(len(images))) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    columns = min(columns, len(images))
    pictures = _enlarged(_to_bytes(images), min_side)
    side = pictures.shape[1]
    texts = [_wrap(caption, _CAPTION_SIZE, side) for caption in captions]
    rows = [range(start, min(start + columns, len(texts))) for start in range(0, len(texts), columns)]
    heights = [side + _block_height(max(len(texts[i]) for i in row), _CAPTION_SIZE) for row in rows]
    page, draw = _page(_MARGIN + columns * (side + _MARGIN), _MARGIN + sum(heights) + _MARGIN * len(rows))
    y = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            x = _MARGIN + column * (side + _MARGIN)
            page.paste(_picture(pictures[index]), (x, y))
            _write(draw, texts[index], x, y + side, _CAPTION_SIZE, _INK)
        y += height + _MARGIN
    return page


def mask_sheet(
    images: Tensor, masks: Sequence[Tensor], captions: Sequence[str], *, min_side: int = 128
) -> Image.Image:
    """A row per caption: the picture, then the mask of each block from coarse to fine, in grey.

    Black is 0 and white is 1 in all of them, so that masks can be compared; the least and the greatest value of
    each stand below it.

    Args:
        images: ``(N, 3, S, S)`` in [-1, 1].
        masks: each ``(N, 1, s, s)`` in [0, 1], as :class:`~t2ilayers.models.SSAGeneratorOutput` has them.
        captions: N captions.
        min_side: px of the pictures and masks at least, >= 1; enlarged as in :func:`sample_sheet`.

    Returns:
        An RGB ``PIL.Image``.

    Raises:
        ValueError: shapes that do not fit, no pictures, or ``min_side`` under 1.

    Source: the mask figures of arXiv 2104.00567.

    Example:
        >>> masks = [torch.rand(2, 1, side, side) for side in (4, 8, 16, 32)]
        >>> mask_sheet(
        ...     torch.zeros(2, 3, 32, 32), masks, ["a red star", "a blue ring"]
        ... ).width
        712
    """
    _check_images(images, captions, min_side)
    for mask in masks:
        if mask.dim() != 4 or mask.shape[:2] != (len(images), 1):
            raise ValueError(f"masks must be (N, 1, s, s) with N = {len(images)}, got {tuple(mask.shape)}")
    pictures = _enlarged(_to_bytes(images), min_side)
    side = pictures.shape[1]
    width = _MARGIN + (1 + len(masks)) * (side + _MARGIN)
    texts = [_wrap(caption, _CAPTION_SIZE, width - 2 * _MARGIN) for caption in captions]
    note = _block_height(1, _NOTE_SIZE)
    heights = [side + note + _block_height(len(text), _CAPTION_SIZE) for text in texts]
    page, draw = _page(width, note + _MARGIN + sum(heights) + _MARGIN * len(texts))

    titles = ["picture", *(f"mask, {mask.shape[-1]} px" for mask in masks)]
    for column, title in enumerate(titles):
        _write(draw, [title], _MARGIN + column * (side + _MARGIN), _MARGIN // 2, _NOTE_SIZE, _FAINT)
    y = note + _MARGIN
    for index, (text, height) in enumerate(zip(texts, heights, strict=True)):
        page.paste(_picture(pictures[index]), (_MARGIN, y))
        for column, mask in enumerate(masks, start=1):
            grey, low, high = _grey(mask[index], side)
            x = _MARGIN + column * (side + _MARGIN)
            draw.rectangle((x - 1, y - 1, x + side, y + side), outline=_FAINT)  # or a white mask seems missing
            page.paste(_picture(grey), (x, y))
            _write(draw, [f"{low:.2f} to {high:.2f}"], x, y + side, _NOTE_SIZE, _FAINT)
        _write(draw, text, _MARGIN, y + side + note, _CAPTION_SIZE, _INK)
        y += height + _MARGIN
    return page


def loss_curves(
    metrics: str | os.PathLike[str] | Iterable[Mapping[str, Any]], path: str | os.PathLike[str]
) -> None:
    """Draw losses as a PNG: a panel per group, with each of its losses raw and smoothed.

    The group is what stands before the slash of a name: ``discriminator/real`` and ``discriminator/fake`` share a
    panel. A name without a slash has a panel to itself.

    Args:
        metrics: a ``metrics.jsonl``, which holds one JSON object per line, or such objects: each with ``"step"``
            and any number of named numbers; of a step that occurs twice, as after a resumed run, the later counts.
        path: of the PNG; its folder is made if it is missing.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is no such object, or nothing to plot; the message names the line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     loss_curves(
        ...         ({"step": n, "discriminator/real": 1 / n} for n in (1, 2, 3)),
        ...         f"{folder}/curves.png",
        ...     )
        ...     Path(folder, "curves.png").read_bytes()[1:4]
        b'PNG'
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if isinstance(metrics, str | os.PathLike):
        name, rows_of_losses = os.fspath(metrics), _read_rows(Path(metrics))
    else:
        name, rows_of_losses = "metrics", list(metrics)
    groups = _by_group(rows_of_losses)
    if not groups:
        raise ValueError(f"{name} must hold losses to plot, got no losses")
    columns = min(3, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for (group, losses), panel in zip(groups.items(), panels, strict=False):
        for number, (name, points) in enumerate(losses.items()):
            steps, values = (np.array(series) for series in zip(*sorted(points.items()), strict=True))
            few = len(steps) < 20  # too few to smooth: show where they are
            style: dict[str, Any] = {"marker": "o", "ms": 4} if few else {"alpha": 0.25}
            label = {} if len(losses) == 1 else {"label": name}
            panel.plot(steps, values, color=f"C{number}", lw=1.0, **style, **(label if few else {}))
            if not few:
                panel.plot(steps, _smoothed(values), color=f"C{number}", lw=1.8, **label)
        panel.set_title(group if len(losses) > 1 else f"{group}: {next(iter(losses))}", fontsize=10, loc="left")
        if len(losses) > 1:
            panel.legend(fontsize=8, frameon=False)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
        panel.set_xlabel("step", fontsize=8)
    for panel in panels:  # what the groups left of the last row
        panel.set_visible(False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png")


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a picture in the format of the path's suffix; an interrupted write leaves the former file whole.

    Args:
        image: a ``PIL.Image``.
        path: its folder is made if it is missing.

    Raises:
        ValueError: a suffix that Pillow does not know.
        OSError: the disk's own error.

    Source: this library's own.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_image(
        ...         sample_sheet(torch.zeros(1, 3, 16, 16), ["a red star"]),
        ...         f"{folder}/new/sheet.png",
        ...     )
        ...     [file.name for file in Path(folder, "new").iterdir()]
        ['sheet.png']
    """
    from PIL import Image

    path = Path(path)
    formats = Image.registered_extensions()
    if path.suffix.lower() not in formats:
        raise ValueError(f"path must end in a picture's suffix such as .png or .jpg, got {str(path)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        image.save(temporary, format=formats[path.suffix.lower()])


def _check_images(images: Tensor, captions: Sequence[str], min_side: int) -> None:
    if images.dim() != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(f"images must be (N, 3, S, S) with N >= 1, got {tuple(images.shape)}")
    if isinstance(captions, str) or len(captions) != len(images):
        raise ValueError(f"captions must be one per picture, {len(images)}, got {captions!r}")
    if min_side < 1:
        raise ValueError(f"min_side must be at least 1, got {min_side}")


def _to_bytes(images: Tensor) -> npt.NDArray[np.uint8]:
    """``(N, C, H, W)`` in [-1, 1] to ``(N, H, W, C)`` in 0..255."""
    scaled = (images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _enlarged(pictures: npt.NDArray[np.uint8], min_side: int) -> npt.NDArray[np.uint8]:
    factor = math.ceil(min_side / pictures.shape[1])
    return pictures.repeat(factor, axis=1).repeat(factor, axis=2)


def _grey(mask: Tensor, side: int) -> tuple[npt.NDArray[np.uint8], float, float]:
    """One mask ``(1, s, s)`` as grey ``(side, side, 3)``, with its least and greatest value."""
    mask = mask.detach().float().cpu()
    grey = F.interpolate(mask[None], size=(side, side), mode="nearest")
    return _to_bytes(2 * grey - 1)[0].repeat(3, axis=2), mask.min().item(), mask.max().item()


def _page(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    from PIL import Image, ImageDraw

    page = Image.new("RGB", (width, height), _PAPER)
    return page, ImageDraw.Draw(page)


def _picture(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    from PIL import Image

    return Image.fromarray(pixels)


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _wrap(text: str, size: int, width: int) -> list[str]:
    """Lines of at most ``width`` px; a word that is wider has a line to itself."""
    font = _font(size)
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _block_height(lines: int, size: int) -> int:
    return lines * (size + _LEADING) + _LEADING


def _write(
    draw: ImageDraw.ImageDraw, lines: Sequence[str], x: int, y: int, size: int, colour: tuple[int, int, int]
) -> None:
    for number, line in enumerate(lines):
        draw.text((x, y + _LEADING + number * (size + _LEADING)), line, fill=colour, font=_font(size))


def _read_rows(path: Path) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append({name: float(value) for name, value in {"step": None, **json.loads(line)}.items()})
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"every line of {path} must be an object with a step and named numbers, got line {number}: "
                f"{line[:80]!r} ({error})"
            ) from error
    return rows


def _by_group(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[int, float]]]:
    """By group and name, the value at each step, in the order of the first rows; speed comes last."""
    groups: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name == "step":
                continue
            group, _, rest = ("speed/steps per second" if name == "steps_per_second" else name).partition("/")
            groups.setdefault(group, {}).setdefault(rest or group, {})[int(row["step"])] = float(value)
    order = sorted(groups, key=lambda group: group == "speed")
    return {group: groups[group] for group in order}


def _smoothed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A running mean over a twentieth of the curve, over what there is of it at the ends."""
    window = np.ones(max(3, len(values) // 20))
    total = np.convolve(values, window, mode="same")
    count = np.convolve(np.ones_like(values), window, mode="same")
    return total / count
