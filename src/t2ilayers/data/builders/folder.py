"""The folder that a builder writes: pictures, ``metadata.jsonl``, and whose pictures they are."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..._files import shown
from .rendering import square

_TEST = 0.1


@dataclass(frozen=True)
class Item:
    """A picture to be built: its file's name, its content, what it shows, and what else is known of it.

    Attributes:
        name: of the file in the package.
        content: of that file.
        captions: at least one.
        group: pictures of one group are of one class, and in one split.
        further: fields of its rows.
    """

    name: str
    content: bytes
    captions: tuple[str, ...]
    group: str
    further: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Built:
    """What became of the items: pictures by split, captions, and a line for each file that is left out."""

    pictures: dict[str, int]
    captions: int
    bad: list[str]


def write_folder(out: Path, items: Iterable[Item], documents: Mapping[str, bytes], *, size: int) -> Built:
    """Draw all items and write the folder, whole or not at all.

    Pictures are PNG files with their transparency, which readers show on white and which is a mask of what is
    shown. A tenth of the groups, by a hash of their names, is held out for testing.

    Raises:
        FileExistsError: ``out`` is there already.
        ValueError: there is no picture among the items that can be drawn.

    Example:
        >>> import tempfile
        >>> bar = b'<rect width="4" height="4"/>'
        >>> drawing = (
        ...     b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4">%b</svg>'
        ...     % bar
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     out = Path(folder, "squares")
        ...     items = [
        ...         Item("a.svg", drawing, ("a square",), "square"),
        ...         Item("b.svg", b"", ("air",), "air"),
        ...     ]
        ...     built = write_folder(out, items, {"LICENSE.txt": b"free"}, size=16)
        ...     (
        ...         sorted(path.name for path in out.iterdir()),
        ...         built.captions,
        ...         len(built.bad),
        ...     )
        (['LICENSE.txt', 'images', 'metadata.jsonl'], 1, 1)
    """
    if out.exists() or out.is_symlink():
        raise FileExistsError(f"{shown(os.fspath(out), 300)} is there already; remove it, or name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        (part / "images").mkdir(parents=True)
        built = _write(part, items, size)
        if not sum(built.pictures.values()):
            first = f"; the first: {built.bad[0]}" if built.bad else ""
            raise ValueError(f"no picture of the package could be taken{first}")
        for name, content in documents.items():
            (part / name).write_bytes(content)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return built


def _write(part: Path, items: Iterable[Item], size: int) -> Built:
    built = Built({"train": 0, "test": 0}, 0, [])
    with (part / "metadata.jsonl").open("w", encoding="utf-8", newline="\n") as rows:
        for number, item in enumerate(items):
            try:
                picture = square(item.content, item.name, size)
            except ImportError:
                raise
            except Exception as error:  # damaged files make the renderers raise nearly anything
                built.bad.append(f"{shown(item.name, 200)}: {type(error).__name__}: {error!s:.300}")
                continue
            file = f"images/{number:05}.png"
            picture.save(part / file, optimize=False)
            split = "test" if _place(item.group) < _TEST else "train"
            for caption in item.captions:
                row = {"file_name": file, "text": caption, "split": split, "class_id": item.group, **item.further}
                rows.write(json.dumps(row, ensure_ascii=False) + "\n")
            built.pictures[split] += 1
            built.captions += len(item.captions)
    return built


def _place(group: str) -> float:
    """A number in [0, 1] that depends on the group's name alone."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
