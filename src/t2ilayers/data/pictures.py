"""Picture files to uint8 arrays, and crops of these to tensors. Needs Pillow (extra ``train``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .._files import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

# What is taken for a picture by its name. Some of them need a plug-in of Pillow's, and some Pillow cannot read at
# all: where they lie among others, they are named as what cannot be read.
SUFFIXES = (
    *(".apng", ".avif", ".avifs", ".bmp", ".bw", ".cur", ".dcx", ".dds", ".dib", ".dng", ".eps", ".fits", ".gif"),
    *(".heic", ".heics", ".heif", ".heifs", ".hif", ".icns", ".ico", ".im", ".j2c", ".j2k", ".jfif", ".jp2"),
    *(".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".jxl", ".mpo", ".msp", ".pbm", ".pcd", ".pcx", ".pfm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".ras", ".raw", ".rgb", ".rgba", ".sgi", ".svg", ".tga"),
    *(".tif", ".tiff", ".webp", ".xbm", ".xpm"),
)
# Pillow hands EPS to another program, and only knows the heads of the others.
_NOT_READ = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}

Box = tuple[int, int, int, int]


def with_margin(size: int) -> int:
    """The side from which a random crop of ``size`` is taken, as published: ``int(size * 76 / 64)``.

    Example:
        >>> with_margin(64)
        76
    """
    return int(size * 76 / 64)


def read_picture(path: Path | BinaryIO, size: int) -> npt.NDArray[np.uint8]:
    """Decode a picture wholly, cut its central square and resize that.

    It is turned upright as its EXIF data says, transparency is flattened on white, grey of 9 to 16 bits is scaled,
    and of an animation the first frame counts. Bicubic, antialiased.

    Args:
        path: a file in any format that Pillow reads by itself, or one that is open.
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


def read_short_side(path: Path | BinaryIO, size: int, box: Box | None = None) -> npt.NDArray[np.uint8]:
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
        ...     (
        ...         read_short_side(path, 16).shape,
        ...         read_short_side(path, 16, (0, 0, 8, 8)).shape,
        ...     )
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
        >>> (
        ...     crop(white, 16, np.random.default_rng(0)).shape,
        ...     float(crop(white, 16, None).min()),
        ... )
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


def _decode(file: Path | BinaryIO) -> Image:
    from PIL import Image, ImageOps

    if isinstance(file, Path):
        with open_regular(file) as opened:
            return _decode(opened)
    Image.init()
    formats = [name for name in Image.ID if name not in _NOT_READ]  # with those of plug-ins
    with Image.open(file, formats=formats) as picture:
        _check_pixels(picture.width, picture.height)
        picture.load()
        grey_range = _grey_range(picture)
        upright = ImageOps.exif_transpose(picture)
        return _rgb(upright) if grey_range is None else _of_deep_grey(upright, *grey_range)


def _check_pixels(width: int, height: int) -> None:
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ValueError(f"{width} x {height} pixels are more than {limit}; cut it or scale it down")


def _grey_range(picture: Image) -> tuple[int, int] | None:
    """The values of black and white in a grey picture of more than 8 bits; None for all others."""
    if not (picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM"))):
        return None
    if picture.format != "TIFF":
        return 0, 65535
    tags: Any = picture.tag_v2  # type: ignore[attr-defined]  # of TIFF pictures alone
    most = 2 ** min(int(tags.get(258, (16,))[0]), 16) - 1  # by the bits of a sample
    return (most, 0) if tags.get(262) == 0 else (0, most)  # where white is zero, or black


def _rgb(picture: Image) -> Image:
    from PIL import Image

    if picture.mode in ("I", "F"):
        raise ValueError(f"mode {picture.mode!r} has no defined range; save it with 8 or 16 bits a channel")
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _of_deep_grey(picture: Image, black: int, white: int) -> Image:
    """Pillow's own conversion would clip at 255, and knows no transparent value."""
    from PIL import Image

    values = np.asarray(picture).astype(np.int64)
    grey = ((values - black) * 255 / (white - black)).round().clip(0, 255).astype(np.uint8)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")
