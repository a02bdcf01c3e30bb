"""Any picture that Pillow reads is read right: bit depths, transparency, palettes, orientation, colour spaces."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from t2ilayers.data.pictures import SUFFIXES, read_picture

S = 16
RED, WHITE = [255, 0, 0], [255, 255, 255]


def read(picture, form="PNG", **options):
    """What is read of a picture that was saved."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    file.seek(0)
    return read_picture(file, S)


def middle(pixels):
    return pixels[S // 2, S // 2].tolist()


# Formats that keep every pixel of an RGB picture, and those that lose a little.
EXACT = ("PNG", "BMP", "DIB", "TIFF", "TGA", "PPM", "PCX", "SGI", "ICNS", "QOI", "DDS")
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000", "GIF", "ICO")


@pytest.mark.parametrize("form", EXACT + LOSSY)
def test_formats(form):
    Image.init()
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {form}")
    picture = Image.new("RGB", (S, S), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, S, S // 2))
    pixels = read(picture, form).astype(int)
    for row, colour in ((S // 4, (0, 0, 255)), (3 * S // 4, (255, 0, 0))):
        assert np.abs(pixels[row, S // 2] - colour).max() <= (0 if form in EXACT else 16)
    assert (
        any(Image.EXTENSION[suffix] == form for suffix in SUFFIXES if suffix in Image.EXTENSION) or form == "MPO"
    )


def test_formats_that_start_programs_or_are_only_recognised_are_not_read():
    file = io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(OSError, match="cannot identify"):
        read_picture(file, S)


def transparent(mode):
    """A picture whose left half is transparent, and whose right half is opaque and red or black."""
    picture = Image.new("RGBA", (S, S), (255, 0, 0, 255))
    picture.paste((0, 255, 0, 0), (0, 0, S // 2, S))
    if mode == "P":
        palette = Image.new("P", (S, S), 1)
        palette.putpalette([0, 255, 0, 255, 0, 0])
        palette.paste(0, (0, 0, S // 2, S))
        return palette
    return picture.convert(mode)


def coloured_key(mode, key):
    if mode == "I;16":
        values = np.zeros((S, S), np.uint16)
        values[:, : S // 2] = key
        return Image.fromarray(values)
    picture = Image.new(mode, (S, S), 0)
    picture.paste(key, (0, 0, S // 2, S))
    return picture


@pytest.mark.parametrize(
    ("picture", "form", "options", "right"),
    [
        (transparent("RGBA"), "PNG", {}, RED),
        (transparent("RGBA"), "TIFF", {}, RED),
        (transparent("RGBA"), "WEBP", {"lossless": True}, RED),
        (transparent("RGBA"), "TGA", {}, RED),
        (transparent("RGBA"), "ICO", {"sizes": [(S, S)]}, RED),
        (transparent("LA"), "PNG", {}, [76] * 3),
        (transparent("LA"), "TIFF", {}, [76] * 3),
        (transparent("P"), "PNG", {"transparency": 0}, RED),
        (transparent("P"), "PNG", {"transparency": bytes([0, 255])}, RED),
        (transparent("P"), "GIF", {"transparency": 0}, RED),
        (coloured_key("RGB", (9, 9, 9)), "PNG", {"transparency": (9, 9, 9)}, [0, 0, 0]),
        (coloured_key("L", 9), "PNG", {"transparency": 9}, [0, 0, 0]),
        (coloured_key("1", 1), "PNG", {"transparency": 1}, [0, 0, 0]),
        (coloured_key("I;16", 900), "PNG", {"transparency": 900}, [0, 0, 0]),
    ],
    ids=lambda value: getattr(value, "mode", None) or (value if isinstance(value, str) else ""),
)
def test_what_is_transparent_is_white(picture, form, options, right):
    pixels = read(picture, form, **options)
    assert pixels[S // 2, 2].tolist() == WHITE
    assert pixels[S // 2, -3].tolist() == right


def test_half_transparent_is_half_white():
    for mode, colour in (("RGBA", (255, 0, 0, 128)), ("LA", (0, 128))):
        red, green, _ = middle(read(Image.new(mode, (S, S), colour)))
        assert (red, green) == ((255, 127) if mode == "RGBA" else (127, 127))


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "LA", "PA", "RGBA", "La"]
)
def test_modes(mode):
    """White stays white and black black, whatever the mode that a reader makes."""
    for colour in ((255, 255, 255), (0, 0, 0)):
        source = Image.new("RGB", (S, S), colour)
        if mode in ("PA", "La"):
            source = source.convert("LA" if mode == "La" else "P")
        form = {"CMYK": "TIFF", "LAB": "TIFF", "YCbCr": "TIFF", "RGBX": "TIFF"}.get(mode)
        if form is None:
            from t2ilayers.data.pictures import _rgb

            pixels = np.asarray(_rgb(source.convert(mode)))
        else:
            pixels = read(source.convert(mode), form)
        assert np.abs(pixels.astype(int) - colour).max() <= 1, mode


def test_cmyk_jpeg_as_adobe_writes_it():
    assert np.abs(np.subtract(middle(read(Image.new("CMYK", (S, S), (0, 255, 255, 0)), "JPEG")), RED)).max() < 6


def tiff(values, bits, photometric, kind="H"):
    """A little TIFF of one strip of grey, by hand: what Pillow does not write."""
    data = np.asarray(values, {"H": "<u2", "B": "u1"}[kind]).tobytes()
    if bits == 12:  # two values in three bytes
        pairs = np.asarray(values).reshape(-1, 2)
        data = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs.tolist())
    tags = [
        (256, S),
        (257, S),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, S),
        (279, len(data)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    return io.BytesIO(head + data + struct.pack("<H", len(tags)) + entries + bytes(4))


@pytest.mark.parametrize(
    ("file", "right"),
    [
        (tiff(np.full((S, S), 0x8000), 16, 1), 128),
        (tiff(np.full((S, S), 0x8000), 16, 0), 127),
        (tiff(np.full((S, S), 65535), 16, 0), 0),
        (tiff(np.full((S, S), 4095), 12, 1), 255),
        (tiff(np.full((S, S), 1024), 12, 1), 64),
        (tiff(np.full((S, S), 200), 8, 1, "B"), 200),
        (tiff(np.full((S, S), 200), 8, 0, "B"), 55),
    ],
)
def test_grey_tiffs_of_any_depth_and_direction(file, right):
    assert middle(read_picture(file, S)) == [right] * 3


@pytest.mark.parametrize(
    ("form", "options"), [("PNG", {}), ("TIFF", {}), ("PPM", {}), ("JPEG2000", {"irreversible": False})]
)
def test_grey_of_16_bits_is_scaled_not_cut(form, options):
    values = np.linspace(0, 65535, S * S).reshape(S, S)
    pixels = read(Image.fromarray(values.astype(np.uint16)), form, **options)
    assert np.abs(pixels[..., 0] - values / 257).max() <= 1


def test_a_16_bit_pgm_of_less_than_the_whole_range():
    values = np.full((S, S), 500, ">u2")
    file = io.BytesIO(f"P5 {S} {S} 1000\n".encode() + values.tobytes())
    assert abs(middle(read_picture(file, S))[0] - 127.5) <= 1


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_without_a_range_are_refused(mode):
    with pytest.raises(ValueError, match="has no defined range"):
        read(Image.new(mode, (S, S), 7), "TIFF")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ("JPEG", "RGB"),
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "I;16"),
        ("PNG", "LA"),
        ("WEBP", "RGB"),
        ("TIFF", "RGB"),
    ],
)
def test_pictures_are_turned_upright(form, mode, orientation):
    """A bright top left corner, stored so that the orientation brings it back."""
    upright = np.zeros((S, S), np.uint8)
    upright[: S // 2, : S // 2] = 255
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
        6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    grey = np.ascontiguousarray(stored)
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "P":
        picture = Image.fromarray((grey > 0).astype(np.uint8), "L").copy()
        picture.putpalette([0, 0, 0, 255, 255, 255])
    else:
        picture = Image.fromarray(grey).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read(picture, form, exif=exif)
    assert np.abs(pixels[2:6, 2:6].astype(int) - 255).max() < 20
    for corner in (pixels[-6:-2, 2:6], pixels[2:6, -6:-2], pixels[-6:-2, -6:-2]):
        assert corner.max() < 20


def test_of_an_animation_the_first_picture_counts():
    frames = [Image.new("RGB", (S, S), colour) for colour in ("red", "lime", "blue")]
    for form, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        pixels = read(frames[0], form, save_all=True, append_images=frames[1:], duration=100, **options)
        assert middle(pixels) == RED, form
