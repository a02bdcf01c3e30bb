"""The Open Clip Art Library as Debian packages it: drawings in the public domain, with titles and keywords."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .folder import Item
from .package import package_files

_FOLDER = "share/openclipart/svg/"
# Themes of icons, whose titles name the theme; over a thousand stars by numbers; patterns that fill a page.
_LEFT_OUT = ("computer/icons/", "shapes/stars/", "shapes/jigsaw/", "special/", "signs_and_symbols/led/", "logos/")
_TITLE = re.compile(rb"<dc:title[^>]*>(.*?)</dc:title>", re.S)
_KEYWORD = re.compile(rb"<rdf:li[^>]*>(.*?)</rdf:li>", re.S)
_METADATA = re.compile(rb"<metadata.*?</metadata>", re.S)
_AGENT = re.compile(rb"<dc:(?:creator|rights|publisher)\b.*?</dc:(?:creator|rights|publisher)>", re.S)
_PREFIX = re.compile(r"^clip ?art by [\w .]+ - ", re.I)
_OF_A_COLLECTION = re.compile(
    r"\b(collection|theme|clip ?arts?|icons?et|submission|sibmission|aiga|svg|r\d+)\b", re.I
)
_NO_KEYWORDS = {"", "hash", "unsorted", "icon", "icons", "theme", "clipart", "clip art", "svg", "computer", "sign"}
_MOST_OF_A_TITLE = 6


def wanted(name: str) -> bool:
    """Is this file of the package a drawing that is taken, or its licence?

    Example:
        >>> [
        ...     wanted(f"usr/share/openclipart/svg/{place}.svg")
        ...     for place in ("food/cake", "shapes/stars/a")
        ... ]
        [True, False]
    """
    if name.endswith("openclipart-svg/copyright"):
        return True
    place = f"/{name}".partition(_FOLDER)[2]
    return place.endswith(".svg") and not place.startswith(_LEFT_OUT)


def read(package: Path, documents: dict[str, bytes]) -> Iterator[Item]:
    """The drawings whose title says what they show.

    Left out are titles of whole collections, and titles that are the artist's name.
    """
    found = []
    for name, content in package_files(package, wanted):
        if name.endswith("/copyright"):
            documents["COPYRIGHT.txt"] = content
        elif said := describe(content):
            found.append((name, content, *said))
    used = Counter(title for _, _, title, _, _ in found)
    for name, content, title, keywords, artist in sorted(found):
        if used[title] <= _MOST_OF_A_TITLE:
            about = ", ".join([title, *(word for word in keywords if word != title)])
            further = {"source": f"/{name}".partition(_FOLDER)[2], "artist": artist}
            yield Item(name, content, tuple(dict.fromkeys((title, about))), title, further)


def describe(content: bytes) -> tuple[str, list[str], str] | None:
    """Title, keywords and artist of a drawing, from its metadata; None where the title says nothing.

    Example:
        >>> describe(
        ...     b"<metadata><dc:title>Sea_Gull 02</dc:title><rdf:li>bird</rdf:li></metadata>"
        ... )
        ('sea gull', ['bird'], '')
    """
    metadata = _METADATA.search(content)
    if metadata is None:
        return None
    agents = b" ".join(_AGENT.findall(metadata[0]))
    body = _AGENT.sub(b"", metadata[0])
    titles = [_text(part) for part in _TITLE.findall(body)]
    artist = next((text for text in map(_text, _TITLE.findall(agents)) if text), "")
    title = _PREFIX.sub("", titles[0] if titles else "")
    if _OF_A_COLLECTION.search(title):
        return None
    words = re.sub(r"[^\w']|[\d_]", " ", title).lower().split()
    names = set(re.findall(r"\w+", f"{artist} {_text(agents)}".lower()))
    words = [word for word in words if len(word) > 1 or word == "a"]
    if not words or set(words) <= names:
        return None
    keywords = [_text(part).lower() for part in _KEYWORD.findall(body)]
    keywords = [word for word in keywords if word not in _NO_KEYWORDS and len(word) < 25]
    keywords = [word for word in dict.fromkeys(keywords) if not set(re.findall(r"\w+", word)) <= names]
    return " ".join(words), keywords[:5], artist


def _text(content: bytes) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", content.decode("utf-8", "replace"))).split())
