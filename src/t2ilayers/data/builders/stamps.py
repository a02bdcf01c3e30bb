"""The stamps of Tux Paint: photographs and drawings, cut out, each with a sentence in some 80 languages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from .folder import Item
from .package import package_files

_FOLDER = "share/tuxpaint/stamps/"


def wanted(name: str) -> bool:
    """Is this file of the package a stamp, its sentences or its licence?

    Example:
        >>> [
        ...     wanted(f"usr/share/tuxpaint/stamps/animals/{name}")
        ...     for name in ("dog.png", "dog.ogg")
        ... ]
        [True, False]
    """
    stamp = _FOLDER in f"/{name}" and name.endswith((".png", ".svg", ".txt"))
    return stamp or name.endswith("tuxpaint-stamps-default/copyright")


def read(package: Path, language: str, documents: dict[str, bytes]) -> Iterator[Item]:
    """The stamps with their sentence in a language, such as ``"en"``; ``documents`` receives the licence.

    Example:
        >>> [
        ...     sentence("A dog.\\nde.utf8=Ein Hund.\\n", language)
        ...     for language in ("de", "en", "fr")
        ... ]
        ['Ein Hund', 'A dog', None]
    """
    files = dict(package_files(package, wanted))
    for name, content in files.items():
        if name.endswith("/copyright"):
            documents["COPYRIGHT.txt"] = content
    for name, content in sorted(files.items()):
        stem, _, kind = name.rpartition(".")
        text = files.get(f"{stem}.txt")
        if kind not in ("png", "svg") or text is None or (kind == "svg" and f"{stem}.png" in files):
            continue
        words = text.decode("utf-8", "replace")
        caption, english = sentence(words, language), sentence(words, "en")
        if not caption or not english:
            continue
        source = name.partition(_FOLDER)[2]
        drawn = kind == "svg" or "cartoon" in PurePosixPath(source).parts
        yield Item(
            name, content, (caption,), english.lower(), {"source": source, "style": "drawn" if drawn else ""}
        )


def sentence(text: str, language: str) -> str | None:
    """The line of a stamp's text in a language, without its full stop; None where there is none."""
    lines = text.splitlines()
    found = lines[0] if language == "en" and lines else None
    for line in lines[1:]:
        if line.startswith(f"{language}.utf8="):
            found = line.partition("=")[2]
    found = found and " ".join(found.split()).rstrip(".!")
    return found or None
