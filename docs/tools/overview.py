"""Write a table of names and first sentences for each page of the API, which the page takes in at its top.

python docs/tools/overview.py docs/api build/docs
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path


def found(path: str) -> object:
    """What a dotted name leads to."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            value = getattr(value, name)
        return value
    raise ValueError(f"{path} must lead to a name of the library, got nothing by it")


def sentence(value: object) -> str:
    """The first sentence of its docstring, without the roles of Sphinx."""
    first = (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")
    first = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", first).replace("``", "`")
    return re.sub(r"(?<=\.) .*", "", first).replace("|", "\\|")


def overview(page: str) -> str:
    """A row per class and function that a page shows; words and constants speak for themselves."""
    lines = ["| | |", "|---|---|"]
    for path in re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE):
        value = found(path)
        if inspect.isclass(value) or inspect.isroutine(value):
            lines.append(f"| [`{path.rpartition('.')[2]}`](#{path}) | {sentence(value)} |")
    return "\n".join(lines) + "\n"


def main(pages: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for page in sorted(pages.glob("*.md")):
        (folder / f"overview_{page.stem}.md").write_text(
            overview(page.read_text(encoding="utf-8")), encoding="utf-8"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
