"""Picture files to uint8 arrays, and crops of these to tensors. Needs Pillow (extra ``train``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Pillow reads more, some of it by starting other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")

Box = tuple[int, int, int, int]


def read_picture(path: Path | BinaryIO, size: int) -> npt.NDArray[np.uint8]:
    """Decode a picture wholly, cut its central square and resize that.

    It is turned upright as its EXIF data says, transparency is flattened on white, 16-bit grey is scaled, and
    of an animation the first frame counts. Bicubic, antialiased.

    Args:
        path: a PNG, JPEG, WebP, BMP, GIF or TIFF file, or one that is open.
        size: side of the result.

    Returns:
        ``(size, size, 3)`` uint8.

    Raises:
        OSError, ValueError, Image.DecompressionBombError: what Pillow raises for a file that is missing,
            damaged, truncated or too large, or a mode without a defined range. Damaged files make Pillow
            raise other exceptions too.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 20), "red").save(f"{folder}/red.png")
        ...     read_picture(Path(folder) / "red.png", 16)[0, 0].tolist()
        [255, 0, 0]
    """
    from PIL import Image

    picture = _decode(path)
    side = min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    square = picture.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.asarray(square)


def read_short_side(path: Path, size: int, box: Box | None = None) -> npt.NDArray[np.uint8]:
    """Decode a picture wholly, cut it about a box where there is one, and resize its short side.

    The cut is the published one for birds: the square of half-side ``int(0.75 * max(w, h))`` about the box's
    centre, as far as the picture goes. Bilinear, antialiased; otherwise as ``read_picture``.

    Args:
        path: as ``read_picture``.
        size: short side of the result.
        box: left, top, width and height in pixels.

    Returns:
        ``(H, W, 3)`` uint8, ``min(H, W) == size``.

    Raises:
        OSError, ValueError, Image.DecompressionBombError: as ``read_picture``; or the box lies outside the
            picture, or the result would be too large because the picture is very thin.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 20), "red").save(f"{folder}/red.png")
        ...     path = Path(folder) / "red.png"
        ...     read_short_side(path, 16).shape, read_short_side(path, 16, (0, 0, 8, 8)).shape
        ((16, 32, 3), (16, 16, 3))
    """
    from PIL import Image

    picture = _decode(path)
    if box is not None:
        left, top, width, height = box
        half = int(0.75 * max(width, height))
        x, y = int((2 * left + width) / 2), int((2 * top + height) / 2)
        cut = (max(0, x - half), max(0, y - half), min(picture.width, x + half), min(picture.height, y + half))
        if cut[0] >= cut[2] or cut[1] >= cut[3]:
            raise ValueError(f"its box {box} lies outside of its {picture.width} x {picture.height} pixels")
        picture = picture.crop(cut)
    short = min(picture.size)
    width, height = (int(size * side / short) for side in picture.size)
    _check_pixels(width, height)
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def crop(picture: npt.NDArray[np.uint8], size: int, rng: np.random.Generator | None) -> Tensor:
    """Cut a square out of a picture: at random and mirrored half of the time, or the centre without ``rng``.

    Args:
        picture: ``(H, W, 3)`` uint8, both sides at least ``size``.
        size: side S of the result.

    Returns:
        ``(3, S, S)`` float32 in [-1, 1].

    Example:
        >>> white = np.full((20, 30, 3), 255, np.uint8)
        >>> crop(white, 16, np.random.default_rng(0)).shape, float(crop(white, 16, None).min())
        (torch.Size([3, 16, 16]), 1.0)
    """
    spare_rows, spare_columns = picture.shape[0] - size, picture.shape[1] - size
    top, left = spare_rows // 2, spare_columns // 2
    if rng is not None:
        top, left = int(rng.integers(spare_rows + 1)), int(rng.integers(spare_columns + 1))
        if rng.random() < 0.5:
            picture = picture[:, ::-1]
    square = picture[top : top + size, left : left + size]
    channels_first = np.ascontiguousarray(square.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(channels_first).div_(127.5).sub_(1.0)


def _decode(path: Path | BinaryIO) -> Image:
    from PIL import Image, ImageOps

    if isinstance(path, Path) and not path.is_file():
        raise ValueError("there is no such file")  # nor a pipe, which would be waited for
    with Image.open(path, formats=_FORMATS) as opened:
        _check_pixels(opened.width, opened.height)
        opened.load()
        return _rgb(ImageOps.exif_transpose(opened))


def _check_pixels(width: int, height: int) -> None:
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ValueError(f"{width} x {height} pixels are more than {limit}; cut it or scale it down")


def _rgb(picture: Image) -> Image:
    from PIL import Image

    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    if picture.mode.startswith("I;16"):
        # Conversion would clip at 255.
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"mode {picture.mode!r} has no defined range; save it with 8 or 16 bits a channel")
    return picture.convert("RGB")
