"""Picture files to square uint8 arrays. Needs Pillow (extra ``train``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Pillow reads more, some of it by starting other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


def read_picture(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """Decode a picture wholly, cut its central square and resize that.

    It is turned upright as its EXIF data says, transparency is flattened on white, 16-bit grey is scaled, and
    of an animation the first frame counts. Bicubic, antialiased.

    Args:
        path: a PNG, JPEG, WebP, BMP, GIF or TIFF file.
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
    from PIL import Image, ImageOps

    if not path.is_file():
        raise ValueError("there is no such file")  # nor a pipe, which would be waited for
    with Image.open(path, formats=_FORMATS) as opened:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and opened.width * opened.height > limit:
            raise ValueError(f"it has {opened.width} x {opened.height} pixels, more than {limit}; scale it down")
        opened.load()
        picture = _rgb(ImageOps.exif_transpose(opened))
    side = min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    square = picture.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.asarray(square)


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
