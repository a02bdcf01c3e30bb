"""Emoji of npm's ``emoji-datasource-google`` (Noto Emoji) or ``emoji-datasource-twitter`` (Twemoji), 64 px."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from .folder import Item
from .package import PackageError, package_files


def wanted(name: str) -> bool:
    """Is this file of the package an emoji, their list or a licence?

    Example:
        >>> (
        ...     wanted("package/img/google/64/1f600.png"),
        ...     wanted("package/img/google/sheets/64.png"),
        ... )
        (True, False)
    """
    return ("/64/" in name and name.endswith(".png")) or name.endswith(("emoji.json", "LICENSE", "README.md"))


def read(package: Path, documents: dict[str, bytes]) -> Iterator[Item]:
    """The emoji of the list, without the variants in colours of skin, which look the same but for it."""
    files = dict(package_files(package, wanted))
    pictures: dict[str, tuple[str, bytes]] = {}
    listed: bytes | None = None
    for name, content in files.items():
        base = name.rpartition("/")[2]
        if base == "emoji.json":
            listed = content
        elif base.endswith(".png"):
            pictures[base] = name, content
        else:
            documents[f"{base.removesuffix('.md')}.txt"] = content
    if listed is None:
        raise PackageError(f"{package!s:.300}: there is no emoji.json; is it emoji-datasource-google?")
    for row in json.loads(listed):
        if row["image"] not in pictures or row["subcategory"] == "skin-tone":
            continue
        title = row["name"].lower().removeprefix("flag: ")
        others = [text.replace("_", " ").replace("-", " ") for text in row["short_names"]]
        kind = row["subcategory"].replace("-", " ")
        texts = (title, f"an emoji of {title}", *others, f"{title}, {kind}")
        name, content = pictures[row["image"]]
        further = {"source": name, "category": row["category"]}
        yield Item(name, content, tuple(dict.fromkeys(texts)), row["unified"], further)
