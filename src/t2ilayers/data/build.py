"""Make a folder of captioned pictures of a package that everybody can install.

    apt-get download openclipart-svg
    python -m t2ilayers.data.build openclipart openclipart-svg_*.deb data/openclipart
    apt-get download tuxpaint-stamps-default
    python -m t2ilayers.data.build stamps tuxpaint-stamps-default_*.deb data/stamps
    npm pack emoji-datasource-google
    python -m t2ilayers.data.build emoji emoji-datasource-google-*.tgz data/emoji

A package may also be the folder that it was installed or unpacked to, such as /usr. The folder that is written has
the pictures as PNG files with their transparency, metadata.jsonl, and the licence. It opens as any folder of one's
own (see ``t2ilayers.data.open_dataset``). Files that cannot be drawn are named and counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .._files import some
from .builders import emoji, openclipart, stamps
from .builders.folder import Built, Item, write_folder

_NOTES = {
    "openclipart": """\
Drawings of the Open Clip Art Library, from Debian's package openclipart-svg, dedicated to the public domain by
their authors (COPYRIGHT.txt). "artist" in metadata.jsonl names the author of each where the drawing does.
""",
    "stamps": """\
Stamps of Tux Paint, from Debian's package tuxpaint-stamps-default: Copyright 2002-2022 Bill Kendrick and
contributors, GPL-2 (COPYRIGHT.txt). What is made of them falls under the same licence.
""",
    "emoji": """\
Emoji of npm's package emoji-datasource-google or -twitter. The list is by Cal Henderson, MIT licence
(LICENSE.txt). Pictures of -google are Noto Emoji, Copyright Google, Apache License 2.0; pictures of -twitter are
Twemoji, Copyright Twitter and contributors, CC BY 4.0 (README.txt of the package).
""",
}
_CHANGES = "Changed: cut to what is visible, resized to fit a square, centred, saved as PNG.\n"


def build(name: str, package: Path, out: Path, *, image_size: int = 128, language: str = "en") -> Built:
    """Make the folder ``out`` of a package.

    Args:
        name: ``"openclipart"``, ``"stamps"`` or ``"emoji"``.
        package: its file, or the folder that it was installed to.
        out: folder to write, which must not be there.
        image_size: side of the pictures, at least 16.
        language: of the captions of ``"stamps"``, by the code that its texts use, such as ``"de"``.

    Raises:
        OSError: the package is not there, or ``out`` is.
        ValueError: an unknown name, a number outside its range, or a package that cannot be read or holds no
            such pictures.
        ImportError: Pillow or resvg_py is not installed (extra ``data``).

    Example:
        >>> build("birds", Path("birds.deb"), Path("birds"))
        Traceback (most recent call last):
            ...
        ValueError: name must be one of openclipart, stamps, emoji, got 'birds'
    """
    if name not in _NOTES:
        raise ValueError(f"name must be one of {', '.join(_NOTES)}, got {name!r}")
    if not 16 <= image_size <= 1024:
        raise ValueError(f"image_size must be 16 to 1024, got {image_size}")
    documents = {"ATTRIBUTION.txt": (_NOTES[name] + _CHANGES).encode()}
    items: Iterator[Item]
    if name == "openclipart":
        items = openclipart.read(package, documents)
    elif name == "stamps":
        items = stamps.read(package, language, documents)
    else:
        items = emoji.read(package, documents)
    return write_folder(out, items, documents, size=image_size)


def main(arguments: Sequence[str] | None = None, *, program: str = "python -m t2ilayers.data.build") -> int:
    """Make what the command line names, print what became of it, and return the exit status."""
    text = __doc__.replace("python -m t2ilayers.data.build", program)
    parser = argparse.ArgumentParser(
        program, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=list(_NOTES))
    parser.add_argument(
        "package", type=Path, help="its .deb, .tgz or .tar file, or the folder it was installed to"
    )
    parser.add_argument("out", type=Path, help="folder to write; it must not be there")
    parser.add_argument("--image-size", type=int, default=128, metavar="PIXELS", help="default: 128")
    parser.add_argument("--language", default="en", metavar="CODE", help="of the captions of stamps; default: en")
    given = parser.parse_args(arguments)
    try:
        built = build(given.name, given.package, given.out, image_size=given.image_size, language=given.language)
    except (OSError, ValueError, ImportError) as error:
        parser.error(str(error))
    for line in built.bad[:20]:
        print(f"left out: {line}")
    if len(built.bad) > 20:
        print(f"left out: {len(built.bad) - 20} more files")
    counts = some([f"{count} for {split}" for split, count in built.pictures.items()])
    print(f"{given.out}: {sum(built.pictures.values())} pictures ({counts}), {built.captions} captions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
