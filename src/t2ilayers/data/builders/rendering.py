"""Pictures of a package, drawn or decoded, as squares with their transparency. Needs the extra ``data``."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from ..._files import shown

if TYPE_CHECKING:
    from PIL.Image import Image

_MAX_PIXELS = 2**26
# A picture from outside of the drawing: it would be read from this machine's disk.
_OUTSIDE = re.compile(rb"<(?:\w+:)?(?:image|feImage)\b[^>]*?href\s*=\s*[\"'](?!#|data:)([^\"']{0,80})", re.S)


def square(content: bytes, name: str, size: int) -> Image:
    """A drawing (SVG) or picture as a square, resized to fit and centred; its transparency is kept.

    Args:
        content: of the file.
        name: its name, which tells an SVG.
        size: side S of the result in pixels.

    Returns:
        A picture of mode RGBA, S x S.

    Raises:
        ValueError, OSError: it cannot be drawn or decoded, is empty or too large, or an SVG that refers to a
            picture outside of itself.
        ImportError: resvg_py or Pillow is not installed.

    Example:
        >>> bar = b'<rect width="8" height="4"/>'
        >>> drawing = (
        ...     b'<svg xmlns="http://www.w3.org/2000/svg" width="8pt" height="4pt">%b</svg>'
        ...     % bar
        ... )
        >>> picture = square(drawing, "bar.svg", 16)
        >>> picture.size, picture.getpixel((8, 8)), picture.getpixel((8, 1))
        ((16, 16), (0, 0, 0, 255), (0, 0, 0, 0))
    """
    from PIL import Image

    if name.lower().endswith(".svg"):
        content = _draw(content, size)
    with Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
        if opened.width * opened.height > _MAX_PIXELS:
            raise ValueError(f"{opened.width} x {opened.height} pixels are too many")
        picture = opened.convert("RGBA")
    box = picture.getchannel("A").point(lambda value: 255 if value > 8 else 0).getbbox()
    if box is None:
        raise ValueError("there is nothing to be seen in it")
    picture = picture.crop(box)  # an invisible margin is no part of what is shown
    scale = size * 0.94 / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    result = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    result.paste(picture, ((size - width) // 2, (size - height) // 2))
    return result


def _draw(content: bytes, size: int) -> bytes:
    try:
        import resvg_py
    except ImportError as error:
        raise ImportError("drawings need resvg_py; install t2ilayers with its extra data") from error
    if found := _OUTSIDE.search(content):
        raise ValueError(f"it shows a picture from outside of it, {shown(found[1].decode('utf-8', 'replace'))}")
    text = content.decode("utf-8", "replace")
    # Larger than it will be: its margins are cut off, and averaging is smoother than one sample per pixel.
    drawn: bytes = resvg_py.svg_to_bytes(svg_string=text, width=3 * size, dpi=96.0)
    return drawn
